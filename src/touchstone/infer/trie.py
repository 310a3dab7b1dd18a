"""Rows of tokens as tries, so that what several of them begin with is read once: a context with its answers, answers that begin alike.

A trie is packed like a text: its tokens lie side by side, and each sees the tokens on its way from the root. No torch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

__all__ = ["Trie", "grow_tries"]

Tokens = NDArray[np.int64]

_SLOWER = 3  # how much longer an operation takes in attention than in the large products


@dataclass(eq=False)
class Trie:
    """Rows that begin with the same token.

    token_ids: one a node, each behind those on its way from the root. rows: numbers of the rows; paths: the nodes of each, in order.
    """

    token_ids: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    paths: list[Tokens] = field(default_factory=list)

    @property
    def n_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def is_text(self) -> bool:
        """Whether its nodes are one path: each token sees all before it."""
        return any(len(path) == self.n_tokens for path in self.paths)

    @property
    def positions(self) -> Int[np.ndarray, " T"]:
        """How deep each node is."""
        depth = np.empty(self.n_tokens, dtype=np.int64)
        for path in self.paths:
            depth[path] = np.arange(len(path))
        return depth

    def distance(self) -> Int[np.ndarray, "T T"]:
        """How many tokens each node stands behind each other, below 0 where that is not on its way from the root."""
        apart = np.full((self.n_tokens, self.n_tokens), -1, dtype=np.int64)
        for path in self.paths:
            depth = np.arange(len(path))
            apart[np.ix_(path, path)] = depth[:, None] - depth
        return apart

    def add(self, row: int, tokens: Tokens, n_shared: int) -> None:
        """A row whose first n_shared tokens are those of the row that was added last."""
        new = np.arange(self.n_tokens, self.n_tokens + len(tokens) - n_shared)
        self.token_ids += tokens[n_shared:].tolist()
        self.rows.append(row)
        self.paths.append(np.concatenate([self.paths[-1][:n_shared], new]) if self.paths else new)


def grow_tries(rows: Sequence[Tokens], *, d_model: int, most: int) -> Iterator[Trie]:
    """Tries that hold every row once. Rows share what they begin with where that costs less than reading it again.

    d_model: a token's products take 12 d_model² multiplications a layer, a pair of tokens in attention 2 d_model; in a trie all pairs are
        computed, the unseen ones too. most: tokens of a trie of several rows.
    """
    order = sorted(range(len(rows)), key=lambda row: rows[row].tolist())  # neighbours share the longest beginnings
    trie = Trie()
    for before, row in zip([-1, *order], order, strict=False):
        tokens = rows[row]
        n_shared = _n_shared(rows[before], tokens) if trie.rows else 0
        n_new = len(tokens) - n_shared
        added = _SLOWER * n_new * (2 * trie.n_tokens + n_new)
        if trie.rows and (added > 6 * d_model * n_shared or trie.n_tokens + n_new > most):
            yield trie
            trie, n_shared = Trie(), 0
        trie.add(row, tokens, n_shared)
    if trie.rows:
        yield trie


def _n_shared(a: Tokens, b: Tokens) -> int:
    """How many tokens two rows have in common from the first on."""
    n = min(len(a), len(b))
    apart = np.flatnonzero(a[:n] != b[:n])
    return int(apart[0]) if len(apart) else n
