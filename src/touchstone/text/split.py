"""Divide documents into a part to learn from, one to choose by and one to judge by, without leakage.

Near-copies form groups (near_copies.py) and a group goes to one side as a whole, chosen by a hash of its content: the order and
the names of the files do not matter. A document too long for a held-out side is cut into blocks first.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from touchstone.errors import ConfigError, DataError
from touchstone.text.cuts import cut_place
from touchstone.text.document import Document
from touchstone.text.near_copies import NEAR_COPY_SHARE, near_duplicate_groups
from touchstone.text.permute import permutation_key, permute

__all__ = [
    "MIN_BLOCK_CHARS",
    "SIDES",
    "Mixture",
    "Picks",
    "Splits",
    "assign_sides",
    "block_chars",
    "content_key",
    "cut_blocks",
    "cut_long",
    "split_documents",
]

SIDES = ("train", "valid", "test")
"""The sides of a split; a side is stored as its place in this tuple."""

MIN_BLOCK_CHARS = 512
"""Shortest block a text is cut into; a shorter one says too little of its own to be judged by."""


@dataclass(frozen=True, slots=True)
class Splits:
    """Documents by side, each side in the order given.

    groups: for each side, the group number of each of its documents; no number occurs on two sides.
    n_near_copies: documents that share their group with an earlier one.
    """

    train: list[Document]
    valid: list[Document]
    test: list[Document]
    groups: dict[str, NDArray[np.int64]]
    n_near_copies: int


def split_documents(
    documents: Iterable[Document], valid_fraction: float, test_fraction: float, seed: int = 0, threshold: float = NEAR_COPY_SHARE
) -> Splits:
    """Split documents that fit in memory by near-copy group; the fractions are of bytes, met as nearly as whole groups allow.

    Raises DataError when there are too few independent documents for a side that is asked for.
    """
    documents = list(documents)
    groups = near_duplicate_groups(documents, threshold)
    sides = assign_sides(
        groups,
        np.array([document.n_bytes for document in documents], dtype=np.int64),
        [content_key(document.text) for document in documents],
        valid_fraction=valid_fraction,
        test_fraction=test_fraction,
        seed=seed,
    )
    train, valid, test = ([document for document, side in zip(documents, sides, strict=True) if side == place] for place in range(3))
    groups_of = {name: groups[sides == place] for place, name in enumerate(SIDES)}
    return Splits(train, valid, test, groups_of, len(groups) - len(np.unique(groups)))


def content_key(text: str) -> bytes:
    """What stands for a text in the choice of its side."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def assign_sides(
    groups: NDArray[np.int64],
    n_bytes: NDArray[np.int64],
    keys: Sequence[bytes],
    *,
    valid_fraction: float,
    test_fraction: float,
    seed: int = 0,
) -> NDArray[np.int8]:
    """The side of each document, as its place in SIDES: whole groups in order of a hash of (seed, content), until a side is full.

    groups, n_bytes, keys: number, size and content key of each document.
    A side is full within a tenth of its share of the bytes; where every group is larger than that, it gets the smallest one.
    """
    _check_fractions(valid_fraction, test_fraction)
    n_groups = int(groups.max()) + 1 if len(groups) else 0
    wanted = {2: test_fraction, 1: valid_fraction}
    n_needed = 1 + sum(fraction > 0 for fraction in wanted.values())
    if n_groups < n_needed:
        raise DataError(
            f"too little text to split: {len(groups)} documents in {n_groups} groups of near-copies, {n_needed} groups are needed;"
            " give more text, or set `valid_fraction` and `test_fraction` to 0."
        )
    sizes = np.bincount(groups, weights=n_bytes, minlength=n_groups).astype(np.int64)
    left = _hash_order(groups, keys, seed)
    side_of_group = np.zeros(n_groups, dtype=np.int8)
    for side, fraction in wanted.items():
        if fraction > 0:
            n_needed -= 1  # groups that must be left for the sides still to come
            chosen = _fill(left, sizes, fraction * float(sizes.sum()), len(left) - n_needed)
            side_of_group[chosen] = side
            left = [group for group in left if side_of_group[group] == 0]
    return side_of_group[groups]


def block_chars(n_chars: int, valid_fraction: float, test_fraction: float) -> tuple[int, int]:
    """How long a document may be, and how long its blocks are if it is longer, for a corpus of `n_chars`.

    A document longer than a whole held-out side cannot stand on it, so it is cut; sixteen blocks fill a side, enough for an error bar.
    Raises DataError when the corpus is too small to be cut into a block for every side.
    """
    _check_fractions(valid_fraction, test_fraction)
    fractions = [fraction for fraction in (valid_fraction, test_fraction) if fraction > 0]
    if not fractions:
        return n_chars + 1, n_chars + 1
    needed = MIN_BLOCK_CHARS * (1 + len(fractions)) * 2
    if n_chars < needed:
        raise DataError(
            f"too little text to split: {n_chars} characters, at least {needed} are needed; give more text, or set `valid_fraction` and"
            " `test_fraction` to 0."
        )
    longest = max(MIN_BLOCK_CHARS, int(min(fractions) * n_chars))
    return longest, max(MIN_BLOCK_CHARS, longest // 16)


def cut_blocks(document: Document, target_chars: int) -> list[Document]:
    """A long document as blocks of about `target_chars`, cut at blank lines, else lines, else spaces; joined they are its text.

    Blocks have half to all of the target; the last one up to one and a half.
    """
    if target_chars < 1:
        raise ConfigError(f"`target_chars` ({target_chars}) must be at least 1.")
    text, blocks = document.text, []
    line, start = document.line or 1, 0
    while len(text) - start > target_chars + target_chars // 2:
        end = cut_place(text, start + target_chars // 2, start + target_chars)
        blocks.append(replace(document, text=text[start:end], line=line))
        line += text.count("\n", start, end)
        start = end
    return [*blocks, replace(document, text=text[start:], line=line if blocks else document.line)]


def cut_long(documents: Iterable[Document], longest_chars: int, target_chars: int) -> Iterator[Document]:
    """The documents, those longer than `longest_chars` as blocks; blocks that are only white space are left out."""
    for document in documents:
        if len(document.text) <= longest_chars:
            yield document
        else:
            yield from (block for block in cut_blocks(document, target_chars) if block.text.strip())


@dataclass(frozen=True, slots=True)
class Picks:
    """Which example of which source: places in `Mixture.names`, and example numbers within each source."""

    sources: NDArray[np.int64]
    examples: NDArray[np.int64]


class Mixture:
    """Examples of named sources in fixed proportions, as a pure function of (seed, index): nothing to store, nothing to replay.

    In every `period` examples each source has its exact quota, in an order drawn anew for each period. A source's examples come in
    random order, each once before any comes again, so a small source with a large weight repeats and a large one is cut short.
    """

    def __init__(self, n_examples: Mapping[str, int], weights: Mapping[str, float], *, seed: int = 0, period: int = 1000) -> None:
        """n_examples: the size of each source; weights: their shares, on any scale; period: the resolution of the shares."""
        _check_mixture(n_examples, weights, period)
        self.names = tuple(n_examples)
        self.seed, self.period = seed, period
        self.sizes = np.array([n_examples[name] for name in self.names], dtype=np.int64)
        self.quotas = _quotas(np.array([weights[name] for name in self.names], dtype=np.float64), period)

    def at(self, indices: NDArray[np.int64]) -> Picks:
        """The examples at these places of the endless mixed stream."""
        rounds, slots = np.divmod(np.asarray(indices, dtype=np.int64), self.period)
        sources, nth = np.empty_like(slots), np.empty_like(slots)
        for number in np.unique(rounds):
            here = rounds == number
            sources_here, n_before = self._round(int(number))
            sources[here] = sources_here[slots[here]]
            nth[here] = number * self.quotas[sources[here]] + n_before[slots[here]]
        epochs, places = np.divmod(nth, self.sizes[sources])
        examples = np.empty_like(places)
        for source, epoch in {(int(s), int(e)) for s, e in zip(sources, epochs, strict=True)}:
            here = (sources == source) & (epochs == epoch)
            key = permutation_key(self.seed, self.names[source], epoch)
            examples[here] = permute(places[here], int(self.sizes[source]), key)
        return Picks(sources, examples)

    def _round(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The source in each slot of one period, and how many slots before it have the same."""
        shuffled = permute(np.arange(self.period), self.period, permutation_key(self.seed, "slots", number))
        sources = np.searchsorted(np.cumsum(self.quotas), shuffled, side="right")
        n_before = np.empty_like(sources)
        n_before[np.argsort(sources, kind="stable")] = np.concatenate([np.arange(quota) for quota in self.quotas])
        return sources, n_before


def _check_fractions(valid_fraction: float, test_fraction: float) -> None:
    if not (0 <= valid_fraction < 1 and 0 <= test_fraction < 1 and valid_fraction + test_fraction < 1):
        raise ConfigError(
            f"`valid_fraction` ({valid_fraction}) and `test_fraction` ({test_fraction}) must be at least 0 and together below 1."
        )


def _hash_order(groups: NDArray[np.int64], keys: Sequence[bytes], seed: int) -> list[int]:
    """Group numbers in order of a hash of the seed and the group's smallest content key."""
    smallest: dict[int, bytes] = {}
    for group, key in zip(groups.tolist(), keys, strict=True):
        if group not in smallest or key < smallest[group]:
            smallest[group] = key
    salt = f"touchstone split {seed} ".encode()
    return sorted(smallest, key=lambda group: hashlib.sha256(salt + smallest[group]).digest())


def _fill(order: list[int], sizes: NDArray[np.int64], target: float, n_most: int) -> list[int]:
    """Groups from the front of the order that come within a tenth of the target; one too large for what is left is passed over."""
    chosen: list[int] = []
    filled = 0
    for group in order:
        if len(chosen) == n_most:
            break
        if filled + sizes[group] <= 1.1 * target:
            chosen.append(group)
            filled += int(sizes[group])
        if filled >= 0.9 * target:
            break
    return chosen or [min(order, key=lambda group: sizes[group])]


def _check_mixture(n_examples: Mapping[str, int], weights: Mapping[str, float], period: int) -> None:
    if set(n_examples) != set(weights) or not n_examples:
        raise ConfigError(f"a mixture needs one weight for each source; sources {sorted(n_examples)}, weights {sorted(weights)}.")
    for name in n_examples:
        if n_examples[name] < 1 or not (0 < weights[name] < float("inf")):
            raise ConfigError(f"source `{name}`: {n_examples[name]} examples with weight {weights[name]}; both must be above 0.")
    if period < len(n_examples):
        raise ConfigError(f"`period` ({period}) must be at least the number of sources ({len(n_examples)}).")


def _quotas(weights: NDArray[np.float64], period: int) -> NDArray[np.int64]:
    """Whole shares of a period by largest remainder, at least 1 each."""
    exact = weights / weights.sum() * period
    quotas = np.maximum(np.floor(exact).astype(np.int64), 1)
    while quotas.sum() != period:
        gap = exact - quotas
        quotas[np.argmax(gap) if quotas.sum() < period else np.argmin(np.where(quotas > 1, gap, np.inf))] += np.sign(period - quotas.sum())
    return quotas
