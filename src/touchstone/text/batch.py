"""Examples for training and scoring: fixed windows of packed text or padded rows, as plain arrays.

Every kind of example has `n_examples`, a `fingerprint` and `batch(example_ids)`; one that is made anew each time it is seen says
`corrupts = True` and has `batch(example_ids, keys)`, one key a row (corrupted.py). Which examples form a step is the business of
Plan. Targets are the next tokens; `counts` says which of them are scored, so a loss is summed over exactly those.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from touchstone.errors import ConfigError, DataError
from touchstone.files import hash_of
from touchstone.text.permute import PERMUTATION_VERSION, Plan, permute
from touchstone.text.shards import TokenShards, open_shards, write_shards

__all__ = [
    "PERMUTATION_VERSION",
    "PackedWindows",
    "PaddedRows",
    "Plan",
    "TokenBatch",
    "TokenShards",
    "checked_ids",
    "group_by_token_budget",
    "open_shards",
    "pad_rows",
    "permute",
    "write_shards",
]


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """B examples of T tokens.

    token_ids (B, T): what the model reads; targets (B, T): the token after each.
    counts (B, T): True where the target is scored; padding, and what crosses into another document, is not.
    mask (B, T): True for tokens that are there, False for padding; None when all are.
    segments (B, T): the number of each token's document, for attention that stays inside it; None when it need not.
    example_ids (B,): which examples these are.
    token_types (B, T): which of a pair of texts each token belongs to; None where there are no pairs.
    source_ids, source_mask (B, S): what an encoder reads, and which of it is there; None without one. The tokens are then the target's.
    Where one answer is given for a whole text, targets and counts are (B,); where a span of it is, (B, 2): its first and last token.
    """

    token_ids: NDArray[np.int64]
    targets: NDArray[np.int64]
    counts: NDArray[np.bool_]
    mask: NDArray[np.bool_] | None
    segments: NDArray[np.int64] | None
    example_ids: NDArray[np.int64]
    token_types: NDArray[np.int64] | None = None
    source_ids: NDArray[np.int64] | None = None
    source_mask: NDArray[np.bool_] | None = None


class PackedWindows:
    """A corpus cut into windows of `context` tokens, one after the other, borders of documents inside.

    Window i reads the tokens from i * context on and predicts the ones behind them, so every token but the very first is a target
    exactly once. The last window may be shorter and is padded with 0.
    """

    def __init__(self, shards: TokenShards, context: int, *, isolate_documents: bool = False) -> None:
        """isolate_documents: give `segments`, and do not score the first token of a document from the end of another."""
        if context < 1:
            raise ConfigError(f"`context` ({context}) must be at least 1.")
        if context > shards.n_tokens - 1:
            raise DataError(
                f"`context` ({context}) is longer than the data: {shards.n_tokens} tokens in {shards.folder.name};"
                f" give more text, or a context of at most {max(1, shards.n_tokens - 1)}."
            )
        self.shards, self.context, self.isolate_documents = shards, context, isolate_documents
        self.n_examples = -(-(shards.n_tokens - 1) // context)

    @property
    def fingerprint(self) -> str:
        """A hash of everything the examples depend on."""
        return hash_of(["packed windows", self.shards.fingerprint, self.context, self.isolate_documents])

    def batch(self, example_ids: ArrayLike) -> TokenBatch:
        """The windows with these numbers, in this order."""
        ids = checked_ids(example_ids, self.n_examples)
        tokens = np.zeros((len(ids), self.context + 1), dtype=np.int64)
        places = ids[:, None] * self.context + np.arange(self.context + 1)
        for row, start in zip(tokens, places[:, 0].tolist(), strict=True):
            found = self.shards.read(start, start + self.context + 1)
            row[: len(found)] = found
        is_there = places < self.shards.n_tokens
        mask, counts = is_there[:, :-1], is_there[:, 1:]
        segments = None
        if self.isolate_documents:
            documents = self.shards.documents_at(np.minimum(places, self.shards.n_tokens - 1))
            segments = documents[:, :-1]
            counts = counts & (documents[:, 1:] == segments)
        return TokenBatch(tokens[:, :-1], tokens[:, 1:], counts, None if mask.all() else mask, segments, ids)


class PaddedRows:
    """Rows of different lengths, each padded on the right to the longest of its batch."""

    def __init__(self, rows: Sequence[Sequence[int]], *, pad_id: int = 0, counts: Sequence[Sequence[bool]] | None = None) -> None:
        """rows: token ids, at least two each; counts: for each token of each row, whether it is scored as a target (None: all).

        pad_id fills what is masked and never scored.
        """
        self.rows = [np.asarray(row, dtype=np.int64) for row in rows]
        self.counts = [np.ones(len(row), dtype=bool) for row in rows] if counts is None else [np.asarray(row, dtype=bool) for row in counts]
        self.pad_id = pad_id
        self.n_examples = len(self.rows)
        if not self.rows:
            raise DataError("no rows: at least one is needed.")
        for number, (row, scored) in enumerate(zip(self.rows, self.counts, strict=True)):
            if len(row) < 2 or len(scored) != len(row):
                raise DataError(
                    f"row {number} has {len(row)} tokens and {len(scored)} counts; at least two tokens, and one count for each."
                )

    @property
    def fingerprint(self) -> str:
        """A hash of everything the examples depend on."""
        return hash_of(["padded rows", self.pad_id, [row.tolist() for row in self.rows], [row.tolist() for row in self.counts]])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens that each row makes the model read."""
        return np.array([len(row) - 1 for row in self.rows], dtype=np.int64)

    def batch(self, example_ids: ArrayLike) -> TokenBatch:
        """The rows with these numbers, in this order."""
        ids = checked_ids(example_ids, self.n_examples)
        lengths = self.lengths[ids]
        tokens = np.full((len(ids), int(lengths.max()) + 1), self.pad_id, dtype=np.int64)
        counts = np.zeros_like(tokens, dtype=bool)
        for place, number in enumerate(ids.tolist()):
            tokens[place, : len(self.rows[number])] = self.rows[number]
            counts[place, : len(self.rows[number])] = self.counts[number]
        mask = np.arange(tokens.shape[1] - 1) < lengths[:, None]
        token_ids = np.where(mask, tokens[:, :-1], self.pad_id)  # the last token of a shorter row is a target only
        return TokenBatch(token_ids, tokens[:, 1:], counts[:, 1:], None if mask.all() else mask, None, ids)


def pad_rows(rows: Sequence[NDArray[np.int64]], fill: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Rows of different lengths as one array (B, T), filled on the right, and which of it was there."""
    lengths = np.array([len(row) for row in rows])
    is_there = np.arange(lengths.max()) < lengths[:, None]
    padded = np.full(is_there.shape, fill, dtype=np.int64)
    padded[is_there] = np.concatenate(rows)
    return padded, is_there


def group_by_token_budget(lengths: ArrayLike, max_tokens: int) -> list[NDArray[np.int64]]:
    """Rows in groups of similar length, longest first, none over `max_tokens` when padded to its longest row.

    Longest first, so that what does not fit in memory fails at once and not after hours.
    Raises ConfigError when one row alone is over the budget.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    if sizes.size and sizes.max() > max_tokens:
        longest = int(sizes.argmax())
        raise ConfigError(f"row {longest} has {sizes[longest]} tokens, `max_tokens` is {max_tokens}; raise it or shorten the row.")
    order = np.argsort(-sizes, kind="stable")
    groups, start = [], 0
    while start < len(order):
        stop = start + max(1, max_tokens // max(1, int(sizes[order[start]])))
        groups.append(order[start:stop])
        start = stop
    return groups


def checked_ids(example_ids: ArrayLike, n_examples: int) -> NDArray[np.int64]:
    """The ids as an array; ConfigError unless they are a row of numbers below n_examples."""
    ids = np.asarray(example_ids, dtype=np.int64)
    if ids.ndim != 1 or not ids.size or ids.min() < 0 or ids.max() >= n_examples:
        raise ConfigError(f"example ids must be a row of numbers from 0 to {n_examples - 1}; given {ids.tolist()[:8]}.")
    return ids
