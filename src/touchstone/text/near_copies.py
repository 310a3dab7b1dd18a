"""Which documents are near-copies of each other, so that no split puts one where the model learns and its twin where it is judged.

Each text is reduced to fingerprints by winnowing: hashes of all windows of 32 bytes, of which the smallest in every 16 neighbours
is kept. Any passage of 47 bytes that two texts share leaves a fingerprint in both, wherever it stands, so the share of common
fingerprints estimates the share of common text. Only fingerprints are kept in memory, and a bounded number of them: past the bound
all those above a falling limit are dropped, the same ones for every order of the documents.
Source: Schleimer, Wilkerson & Aiken 2003 (Winnowing, SIGMOD).
"""

import hashlib
from array import array
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from touchstone.text.document import Document

__all__ = ["NEAR_COPY_SHARE", "Fingerprints", "fingerprints_of", "near_duplicate_groups"]

NEAR_COPY_SHARE = 0.3
"""Documents are near-copies when this share of the shorter one stands in the other. In the Python library this joins the modules
that were copied (tokenize, the wave formats, the MSVC compilers); from 0.2 down, files begin to be joined by licence texts."""

_WINDOW_BYTES = 32  # about five words of code or prose, ten Chinese characters
_NEIGHBOURS = 16
_MAX_FINGERPRINTS = 4 << 20  # 50 MB; three times that while they are sorted
_MAX_OWNERS = 12  # a passage in more documents than this is a licence or a phrase; it joins only texts that are alike as a whole
_MIN_SHARED = 4  # common fingerprints below this are chance
_FAMILY_SHARE = 0.5  # of all fingerprints of both texts, for those joined by passages with many owners
_SLICE_BYTES = 1 << 20
_MULTIPLIER = 0x9E3779B97F4A7C15  # odd, bits well mixed: the golden ratio in 64 bits


def near_duplicate_groups(documents: Iterable[Document], threshold: float = NEAR_COPY_SHARE) -> NDArray[np.int64]:
    """A group number for each document, counted from 0 in order of appearance; near-copies, and their near-copies, share one.

    threshold: the share of the shorter text that must stand in the other.
    The documents are read once and not kept.
    """
    fingerprints = Fingerprints()
    for document in documents:
        fingerprints.add(document.text)
    return fingerprints.groups(threshold)


def fingerprints_of(text: str) -> NDArray[np.uint64]:
    """The sorted distinct fingerprints of a text, blind to letter case and to the amount of white space; at least one."""
    data = np.frombuffer(_normalised(text), dtype=np.uint8)
    if len(data) < _WINDOW_BYTES:
        return np.array([_whole_hash(data.tobytes())], dtype=np.uint64)
    overlap = _WINDOW_BYTES + _NEIGHBOURS - 2
    starts = range(0, max(1, len(data) - overlap), _SLICE_BYTES)
    kept = [_winnow(data[start : start + _SLICE_BYTES + overlap]) for start in starts]
    return np.unique(np.concatenate(kept))


class Fingerprints:
    """The fingerprints of many documents, in bounded memory; gathers them, then says which documents are near-copies."""

    def __init__(self, max_fingerprints: int = _MAX_FINGERPRINTS) -> None:
        self._max = max_fingerprints
        self._limit = 1 << 64  # fingerprints from here on are dropped
        self._hashes: list[NDArray[np.uint64]] = []
        self._owners: list[NDArray[np.int32]] = []
        self._n = 0
        self._wholes = array("Q")  # a hash of each document as a whole

    def add(self, text: str) -> None:
        """Take in the next document."""
        hashes = self._below(fingerprints_of(text))
        self._hashes.append(hashes)
        self._owners.append(np.full(len(hashes), len(self._wholes), dtype=np.int32))
        self._n += len(hashes)
        self._wholes.append(_whole_hash(_normalised(text)))
        if self._n > self._max or len(self._hashes) >= 4096:
            self._merge()

    def groups(self, threshold: float = NEAR_COPY_SHARE) -> NDArray[np.int64]:
        """The group number of each document, as `near_duplicate_groups` gives it."""
        self._merge()
        forest = _Forest(len(self._wholes))
        if self._wholes:
            forest.join_equal(np.array(self._wholes, dtype=np.uint64))
            for left, right in _Pairs(self._hashes[0], self._owners[0], len(self._wholes)).similar(threshold):
                forest.join(left, right)
        return forest.numbers()

    def _below(self, hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
        return hashes if self._limit >= 1 << 64 else hashes[hashes < np.uint64(self._limit)]

    def _merge(self) -> None:
        """One array each; then the limit halves until few enough are left, which depends on the documents, not on their order."""
        if not self._hashes:
            return
        hashes, owners = np.concatenate(self._hashes), np.concatenate(self._owners)
        while len(hashes) > self._max:
            self._limit //= 2
            keep = hashes < np.uint64(self._limit)
            hashes, owners = hashes[keep], owners[keep]
        self._hashes, self._owners, self._n = [hashes], [owners], len(hashes)


class _Pairs:
    """Documents that share fingerprints."""

    def __init__(self, hashes: NDArray[np.uint64], owners: NDArray[np.int32], n_documents: int) -> None:
        self.n_documents = n_documents
        self.starts = np.concatenate([[0], np.cumsum(np.bincount(owners, minlength=n_documents))])
        self.hashes = hashes  # by document, sorted within each
        order = np.argsort(hashes, kind="stable")
        self.owners = owners[order]  # by fingerprint, in document order within each
        ranked = hashes[order]
        del order
        is_first = np.ones(len(ranked), dtype=bool)
        np.not_equal(ranked[1:], ranked[:-1], out=is_first[1:])
        del ranked
        self.runs = np.flatnonzero(is_first)
        self.n_owners = np.diff(np.append(self.runs, len(is_first)))
        is_shared = self.n_owners > 1
        self.n_alone = np.bincount(self.owners[self.runs[~is_shared]], minlength=n_documents)
        self.runs, self.n_owners = self.runs[is_shared], self.n_owners[is_shared]

    def similar(self, threshold: float) -> list[tuple[int, int]]:
        """Pairs that are near-copies, each once."""
        rare, counts = np.unique(self._rare_pairs(), return_counts=True)
        left, right = np.divmod(rare, self.n_documents)
        sizes = self._rare_sizes()
        shorter = np.minimum(sizes[left], sizes[right])
        found = (counts >= _MIN_SHARED) & (counts >= threshold * shorter)
        pairs = list(zip(left[found].tolist(), right[found].tolist(), strict=True))
        common = np.unique(self._common_pairs())
        return pairs + [divmod(int(pair), self.n_documents) for pair in common if self._is_family(*divmod(int(pair), self.n_documents))]

    def _rare_sizes(self) -> NDArray[np.int64]:
        """How many fingerprints of each document have few owners."""
        few = self.n_owners <= _MAX_OWNERS
        places = _spans(self.runs[few], self.n_owners[few])
        return self.n_alone + np.bincount(self.owners[places], minlength=self.n_documents)

    def _rare_pairs(self) -> NDArray[np.int64]:
        """left * n + right for every two owners of every fingerprint that has few."""
        found = [np.zeros(0, dtype=np.int64)]
        for n_owners in range(2, _MAX_OWNERS + 1):
            runs = self.runs[self.n_owners == n_owners]
            owners = self.owners[runs[:, None] + np.arange(n_owners)].astype(np.int64)
            left, right = np.triu_indices(n_owners, k=1)
            found.append((owners[:, left] * self.n_documents + owners[:, right]).ravel())
        return np.concatenate(found)

    def _common_pairs(self) -> NDArray[np.int64]:
        """left * n + right for neighbours among the owners of every fingerprint that has many: a chain joins a whole family."""
        many = self.n_owners > _MAX_OWNERS
        second = _spans(self.runs[many] + 1, self.n_owners[many] - 1)
        return self.owners[second - 1].astype(np.int64) * self.n_documents + self.owners[second]

    def _is_family(self, left: int, right: int) -> bool:
        mine, yours = (self.hashes[self.starts[one] : self.starts[one + 1]] for one in (left, right))
        n_shared = len(np.intersect1d(mine, yours, assume_unique=True))
        return n_shared >= _FAMILY_SHARE * (len(mine) + len(yours) - n_shared)


class _Forest:
    """Union-find; the smallest member stands for its group."""

    def __init__(self, n: int) -> None:
        self.parents = list(range(n))

    def root(self, item: int) -> int:
        while self.parents[item] != item:
            self.parents[item] = self.parents[self.parents[item]]
            item = self.parents[item]
        return item

    def join(self, left: int, right: int) -> None:
        left, right = self.root(left), self.root(right)
        self.parents[max(left, right)] = min(left, right)

    def join_equal(self, keys: NDArray[np.uint64]) -> None:
        _, first = np.unique(keys, return_inverse=True)
        seen: dict[int, int] = {}
        for item, key in enumerate(first.tolist()):
            self.join(seen.setdefault(key, item), item)

    def numbers(self) -> NDArray[np.int64]:
        roots = np.array([self.root(item) for item in range(len(self.parents))], dtype=np.int64)
        return np.unique(roots, return_inverse=True)[1].astype(np.int64)


def _spans(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """All places start, start + 1, … of spans, one after the other."""
    before = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) + np.repeat(starts - before, lengths)


def _normalised(text: str) -> bytes:
    return " ".join(text.split()).lower().encode("utf-8", "surrogatepass")


def _whole_hash(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _winnow(data: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The smallest hash of each run of neighbouring windows, consecutive repeats once."""
    hashes = _window_hashes(data)
    reach = 1
    while reach < _NEIGHBOURS and len(hashes) > reach:  # minima over 2, 4, 8 … neighbours
        hashes = np.minimum(hashes[:-reach], hashes[reach:])
        reach *= 2
    return hashes[np.concatenate([[True], hashes[1:] != hashes[:-1]])]


def _window_hashes(data: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """A hash of every 32 consecutive bytes: a polynomial, doubled in width five times, then mixed so that small is random."""
    hashes = data.astype(np.uint64) + np.uint64(1)
    width, power = 1, _MULTIPLIER
    while width < _WINDOW_BYTES:
        hashes = hashes[:-width] * np.uint64(power) + hashes[width:]
        width, power = width * 2, power * power % (1 << 64)
    for _ in range(2):  # the finaliser of MurmurHash3's kind: shift, multiply
        hashes = (hashes ^ (hashes >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    return hashes ^ (hashes >> np.uint64(32))
