"""How much of each evaluation text stands in the training text, where that is known: words in common runs of n.

Words are runs of letters and digits in lower case; in scripts without spaces, such as Chinese, each character is one. White space and
punctuation count for nothing. An n-gram is n words in a row within one text; it is shared if it stands in a training document. Of each
example: the share of its n-grams that are shared (PaLM calls an example contaminated from 0.7 on, with n = 8), the share of its words
that lie in a shared one, and so whether any is shared (GPT-3's rule, with n = 13, or less where the examples are short: `ngram_size`).
An example of less than n words has no n-gram: its shares are None, and all that can be seen is whether a training document says the same
from end to end.

Only the n-grams of the examples are kept, as 64-bit hashes, however long the training text: it is read once, a document at a time.
Two different n-grams with one hash would report one that is not there: for 10^7 n-grams against 10^10, about one chance in 200.
Sources: Brown et al. 2020 appendix C; Chowdhery et al. 2022 §8; Touvron et al. 2023 (Llama 2) A.6 (share of words covered).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt64

from touchstone.errors import ConfigError, DataError
from touchstone.evaluate.overlap import words_of
from touchstone.files import sha256_bytes
from touchstone.stats import Interval, clopper_pearson
from touchstone.text.document import Document

__all__ = ["ExampleOverlap", "TrainingOverlap", "ngram_size", "share_contaminated", "training_overlap"]

MAX_NGRAMS = 50_000_000
"""n-grams of all examples together: 1.2 GB with their places."""

_SLICE_WORDS = 1 << 18  # of a document at once: some tens of megabytes
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that it has an inverse modulo 2^64


@dataclass(frozen=True, slots=True)
class ExampleOverlap:
    """What one example shares with the training text.

    first_place: of the first document with one of its n-grams, or that says the same as a whole; None for none.
    """

    n_words: int
    n_ngrams: int
    n_shared: int
    n_covered: int
    first_place: str | None

    @property
    def is_seen(self) -> bool:
        """Whether a training document has one of its n-grams, or is the same where it is too short to have one."""
        return self.first_place is not None

    @property
    def share_of_ngrams(self) -> float | None:
        """The n-grams that are shared; None where the example is too short to have one."""
        return self.n_shared / self.n_ngrams if self.n_ngrams else None

    @property
    def share_of_words(self) -> float | None:
        """The words that lie in a shared n-gram; None as above."""
        return self.n_covered / self.n_words if self.n_ngrams else None


def training_overlap(examples: Sequence[str], training: Iterable[Document], *, n: int = 13) -> tuple[ExampleOverlap, ...]:
    """The overlap of each example with all training documents, which are read once and not kept."""
    overlap = TrainingOverlap(examples, n=n)
    for document in training:
        overlap.add(document)
    return overlap.of_examples()


def ngram_size(examples: Sequence[str]) -> int:
    """GPT-3's choice of n: the number of words that one example in twenty falls short of, but 8 to 13."""
    if not examples:
        raise DataError("the size of n-grams is chosen by examples; give at least one.")
    return int(np.clip(np.percentile([len(words_of(example)) for example in examples], 5), 8, 13))


def share_contaminated(overlaps: Sequence[ExampleOverlap], *, from_share: float = 0.0, level: float = 0.95) -> Interval:
    """The share of judged examples that are contaminated, with its exact interval.

    from_share: of the n-grams, above 0 in any case; 0 is GPT-3's rule, 0.7 PaLM's. Raises DataError where every example is too short.
    """
    if not 0 <= from_share <= 1:
        raise ConfigError(f"`from_share` must lie between 0 and 1, not {from_share}.")
    shares = [overlap.share_of_ngrams for overlap in overlaps if overlap.share_of_ngrams is not None]
    if not shares:
        raise DataError(f"none of the {len(overlaps)} examples is long enough to be judged; choose a smaller `n`.")
    return clopper_pearson(sum(share > 0 and share >= from_share for share in shares), len(shares), level)


class TrainingOverlap:
    """Gathers which n-grams of the examples the training documents have, one document after the other."""

    def __init__(self, examples: Sequence[str], *, n: int = 13) -> None:
        if n < 1:
            raise ConfigError(f"`n` must be at least 1, not {n}.")
        self._n = n
        self._n_words: list[int] = []
        self._keys: list[str | None] = []  # of the examples without an n-gram
        hashes: list[UInt64[np.ndarray, " G"]] = []
        n_ngrams = 0
        for example in examples:
            words = words_of(example)
            self._n_words.append(len(words))
            hashes.append(_ngram_hashes(words, n))
            self._keys.append(None if len(hashes[-1]) else _key(example, words))
            n_ngrams += len(hashes[-1])
            if n_ngrams > MAX_NGRAMS:
                raise DataError(f"the first {len(hashes)} examples have more than {MAX_NGRAMS} {n}-grams; give them in parts.")
        self._short: dict[str, str | None] = {key: None for key in self._keys if key is not None}  # where each stands as a whole
        everything = np.concatenate([np.empty(0, np.uint64), *hashes])
        self._known, self._places = np.unique(everything, return_inverse=True)  # sorted; where each n-gram of each example is in it
        self._starts = np.cumsum([0, *map(len, hashes)])
        self._seen_in: Int64[np.ndarray, " K"] = np.full(len(self._known), -1, dtype=np.int64)
        self._documents: list[str] = []  # places of documents that have any

    def add(self, document: Document) -> None:
        """Take in a training document."""
        words = words_of(document.text)
        if len(words) < self._n:
            key = _key(document.text, words)
            if key in self._short and self._short[key] is None:
                self._short[key] = document.place
            return
        if not len(self._known):
            return
        found = [
            self._found(_ngram_hashes(words[start : start + _SLICE_WORDS + self._n - 1], self._n))
            for start in range(0, max(1, len(words) - self._n + 1), _SLICE_WORDS)
        ]
        new = np.concatenate(found)
        new = new[self._seen_in[new] < 0]
        if len(new):
            self._seen_in[new] = len(self._documents)
            self._documents.append(document.place)

    def of_examples(self) -> tuple[ExampleOverlap, ...]:
        """What each example shares with the documents so far."""
        return tuple(self._of(number) for number in range(len(self._n_words)))

    def _of(self, number: int) -> ExampleOverlap:
        seen_in = self._seen_in[self._places[self._starts[number] : self._starts[number + 1]]]
        n_words, shared = self._n_words[number], np.flatnonzero(seen_in >= 0)
        edges = np.zeros(n_words + 1, dtype=np.int64)  # +1 where a shared n-gram begins, -1 behind its end
        np.add.at(edges, shared, 1)
        np.add.at(edges, shared + self._n, -1)
        key = self._keys[number]
        whole = None if key is None else self._short[key]
        first = self._documents[int(seen_in[shared].min())] if len(shared) else whole
        return ExampleOverlap(n_words, len(seen_in), len(shared), int((np.cumsum(edges) > 0).sum()), first)

    def _found(self, hashes: UInt64[np.ndarray, " G"]) -> Int64[np.ndarray, " F"]:
        """Places in the known n-grams of those that are."""
        places = np.minimum(np.searchsorted(self._known, hashes), len(self._known) - 1)
        return places[self._known[places] == hashes]


def _key(text: str, words: Sequence[str]) -> str:
    """The same for texts of the same words; where there are none, for the same signs."""
    return sha256_bytes((" ".join(words) or text.strip()).encode())


def _ngram_hashes(words: Sequence[str], n: int) -> UInt64[np.ndarray, " G"]:
    """A hash of every n-gram, from its UTF-8 bytes: the sum of byte_i B^(i - start), modulo 2^64, by differences of one running sum."""
    if len(words) < n:
        return np.empty(0, dtype=np.uint64)
    parts = [word.encode() for word in words]
    data = np.frombuffer(b" ".join(parts), dtype=np.uint8).astype(np.uint64) + np.uint64(1)
    lengths = np.array([len(part) for part in parts])
    ends = np.cumsum(lengths + 1) - 1  # byte behind each word
    first, last = (ends - lengths)[: len(words) - n + 1], ends[n - 1 :]
    powers, inverses = (np.cumprod(np.r_[np.uint64(1), np.full(len(data), base)], dtype=np.uint64) for base in (_BASE, _INVERSE))
    running = np.r_[np.uint64(0), np.cumsum(data * powers[:-1], dtype=np.uint64)]
    return _mixed((running[last] - running[first]) * inverses[first])


def _mixed(hashes: UInt64[np.ndarray, " G"]) -> UInt64[np.ndarray, " G"]:
    """High bits into low ones and back, so that sorted hashes are spread evenly; one to one."""
    hashes = (hashes ^ (hashes >> np.uint64(32))) * _BASE
    return hashes ^ (hashes >> np.uint64(29))


_INVERSE = np.uint64(pow(int(_BASE), -1, 1 << 64))
