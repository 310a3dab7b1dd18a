"""Interpolated Kneser-Ney n-gram model over token ids: the baseline every report shows. NumPy only.

    P_k(w | h) = (c(hw) - D(c(hw))) / sum_w c(hw) + gamma(h) P_{k-1}(w | h'),    gamma(h) = sum_w D(c(hw)) / sum_w c(hw)

h' is h without its first token; a context that was never seen passes straight to the next shorter one. The highest order counts
occurrences, lower orders count continuations: how many different tokens come before the n-gram, the start of a document being one
more of them. P_0 is uniform over the vocabulary, so no token is impossible. Contexts never reach across a document's start.

Discounts come from n_j, the number of n-grams counted exactly j times at that order: "modified" has D1, D2, D3+ (Chen & Goodman
1998, eq. 26: D_j = j - (j+1) Y n_{j+1}/n_j, Y = n1/(n1 + 2 n2)), "single" has D = Y (Kneser & Ney 1995). Tiny data can leave an n_j
empty or push D_j out of (0, j); then the order takes 0.5, 1, 1.5 (single: 0.5), as KenLM's `--discount_fallback` does.

Each order is one sorted array of packed (context's row in the order below, token) keys, so there is no loop over tokens and no limit
on order times vocabulary. Memory: the model takes about 26 bytes a distinct n-gram (`nbytes`), fitting up to 120 bytes a token beside
it, scoring a fixed amount beside its result.
Source: Chen & Goodman 1998 (TR-10-98), sections 3.1 and 4.1.6; Heafield et al. 2013 for the fallback.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64, Integer
from pydantic import Field

from touchstone.config import Config
from touchstone.errors import DataError, ModelFolderError, ShapeError

__all__ = ["Discounts", "NgramModel", "NgramSpec"]

_CHUNK = 1 << 18  # tokens scored at once: bounds the temporary arrays to tens of megabytes
_FALLBACK = (0.5, 1.0, 1.5)  # KenLM's discounts for counts 1, 2 and 3 or more where the data cannot give them


class NgramSpec(Config):
    """Shape and discounting of an n-gram model."""

    vocab_size: int = Field(ge=1, le=2**31 - 1)  # rows of the distribution; ids lie in [0, vocab_size)
    order: int = Field(default=5, ge=1, le=32)  # longest n-gram; 5 is where Kneser-Ney stops gaining on a few megabytes
    discounts: Literal["modified", "single"] = "modified"  # three discounts an order, better than one in every test of the source


@dataclass(frozen=True, slots=True)
class Discounts:
    """What is taken off counts 1, 2 and 3 or more at one order; `fallback` where the counts could not give it."""

    values: tuple[float, float, float]
    fallback: bool


@dataclass(frozen=True, slots=True)
class _Order:
    """The n-grams of one order, sorted by (context, token)."""

    keys: np.ndarray  # (n,) int64: row of the context in the order below * vocab_size + token
    counts: np.ndarray  # (n,) int32: occurrences at the highest order, continuations below
    probs: np.ndarray  # (n,) float64: interpolated P(token | context)
    gammas: np.ndarray  # (n of the order below,) float64: weight that each context leaves to the shorter one


class NgramModel:
    """A fitted model; make one with `fit` or `from_arrays`."""

    def __init__(
        self, spec: NgramSpec, unigram_counts: np.ndarray, keys: list[np.ndarray], counts: list[np.ndarray], suffixes: list[np.ndarray]
    ):
        """keys, counts, suffixes: one array for each order from 2 up; suffixes are rows of each n-gram's tail in the order below."""
        self.spec = spec
        self._unigram_counts = unigram_counts
        first = _discounts(unigram_counts, spec)
        self.discounts: list[Discounts] = [first]  # one for each order from 1 up
        taken = _taken(unigram_counts, first)
        total = unigram_counts.sum(dtype=np.float64)
        self._unigram_probs = (unigram_counts - taken) / total + taken.sum() / total / spec.vocab_size
        self._orders: list[_Order] = []
        below = self._unigram_probs
        for key, count, suffix in zip(keys, counts, suffixes, strict=True):
            discounts = _discounts(count, spec)
            order = _interpolate(key, count, suffix, below, discounts, spec.vocab_size)
            self.discounts.append(discounts)
            self._orders.append(order)
            below = order.probs

    @classmethod
    def fit(
        cls, spec: NgramSpec, token_ids: Integer[np.ndarray, " N"], boundaries: Sequence[int] | Integer[np.ndarray, " D"] = (0,)
    ) -> "NgramModel":
        """Count and discount a token stream.

        boundaries: offset of each document's first token, ascending, beginning with 0; an entry equal to the length is harmless.
        Raises DataError if there is no token or an id lies outside the vocabulary.
        """
        tokens = _checked(token_ids, spec).astype(np.int32)
        if not 0 < tokens.size < 2**31:
            raise DataError(f"An n-gram model is fitted on 1 to 2147483647 tokens; these are {tokens.size}.")
        starts = _starts(boundaries, tokens.size)
        lengths = np.diff(starts, append=tokens.size)
        reach = _reach(starts, 0, tokens.size, spec.order)
        rows = tokens  # row, in the current order, of the n-gram that ends at each token; -1 where the document is too short
        keys: list[np.ndarray] = []
        suffixes: list[np.ndarray] = []
        opening = [_opening(rows, starts, lengths, 1)]
        counts = np.bincount(tokens, minlength=spec.vocab_size)
        for k in range(2, spec.order + 1):
            key, counts, suffix, rows = _count(tokens, rows, np.flatnonzero(reach >= k - 1), spec.vocab_size)
            keys.append(key)
            suffixes.append(suffix)
            opening.append(_opening(rows, starts, lengths, k))
        sizes = [spec.vocab_size, *(key.size for key in keys)]
        continuations = [_continuations(suffixes[k], sizes[k], opening[k]) for k in range(spec.order - 1)]
        every = [count.astype(np.int32) for count in [*continuations, counts]]
        return cls(spec, every[0], keys, every[1:], suffixes)

    @property
    def context_length(self) -> int:
        """How many preceding tokens the next one depends on: all that has to be kept to go on."""
        return self.spec.order - 1

    @property
    def n_ngrams(self) -> list[int]:
        """Distinct n-grams of each order from 1 up."""
        return [int(np.count_nonzero(self._unigram_counts)), *(order.keys.size for order in self._orders)]

    @property
    def nbytes(self) -> int:
        """Memory of the arrays, in bytes."""
        held = [array.nbytes for order in self._orders for array in (order.keys, order.counts, order.probs, order.gammas)]
        return sum(held, self._unigram_counts.nbytes + self._unigram_probs.nbytes)

    def token_log_probs(
        self, token_ids: Integer[np.ndarray, " N"], boundaries: Sequence[int] | Integer[np.ndarray, " D"] | None = None
    ) -> Float64[np.ndarray, " N"]:
        """log P of every token, in nats, given up to `context_length` tokens before it in its document; any length.

        boundaries: as in `fit`; None means one document.
        """
        tokens = _checked(token_ids, self.spec)
        starts = _starts((0,) if boundaries is None else boundaries, tokens.size)
        result = np.empty(tokens.size)
        for low in range(0, tokens.size, _CHUNK):
            high = min(low + _CHUNK, tokens.size)
            first = max(0, low - self.context_length)
            reach = _reach(starts, first, high, self.spec.order)
            result[low:high] = self._chunk_probs(tokens[first:high].astype(np.int64), reach)[low - first :]
        return np.log(result, out=result)

    def next_log_probs(self, context_ids: Sequence[int] | Integer[np.ndarray, " T"]) -> Float64[np.ndarray, " V"]:
        """log P of every possible next token, in nats, after a context of any length, empty included."""
        return self.next_log_probs_batch([context_ids])[0]

    def next_log_probs_batch(self, contexts: Sequence[Sequence[int] | Integer[np.ndarray, " _"]]) -> Float64[np.ndarray, "B V"]:
        """`next_log_probs` of several contexts, which may differ in length."""
        size = self.spec.vocab_size
        tails = np.full((len(contexts), self.context_length), -1, dtype=np.int64)  # right-aligned, -1 before the beginning
        for tail, context in zip(tails, contexts, strict=True):
            kept = _checked(np.asarray(context, dtype=np.int64), self.spec)[max(0, len(context) - tail.size) :]
            tail[tail.size - kept.size :] = kept
        probs = np.tile(self._unigram_probs, (len(contexts), 1))  # (B, V)
        for depth, order in enumerate(self._orders, start=1):
            context = self._rows(tails[:, self.context_length - depth :])
            seen = np.flatnonzero(context >= 0)
            probs[seen] *= order.gammas[context[seen], None]
            low = np.searchsorted(order.keys, context[seen] * size)
            n_children = np.searchsorted(order.keys, (context[seen] + 1) * size) - low
            child = np.arange(n_children.sum()) + np.repeat(low - np.cumsum(n_children) + n_children, n_children)
            probs[np.repeat(seen, n_children), order.keys[child] % size] = order.probs[child]
        return np.log(probs, out=probs)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The counts as int32 arrays, all that `from_arrays` needs beside the spec; probabilities are derived, not stored."""
        arrays = {"order1.counts": self._unigram_counts}
        n_contexts = self.spec.vocab_size
        for k, order in enumerate(self._orders, start=2):
            parents, tokens = np.divmod(order.keys, self.spec.vocab_size)
            arrays[f"order{k}.tokens"] = tokens.astype(np.int32)
            arrays[f"order{k}.offsets"] = np.searchsorted(parents, np.arange(n_contexts + 1)).astype(np.int32)
            arrays[f"order{k}.counts"] = order.counts
            n_contexts = order.keys.size
        return arrays

    @classmethod
    def from_arrays(cls, spec: NgramSpec, arrays: Mapping[str, np.ndarray]) -> "NgramModel":
        """The model whose `to_arrays` gave these; it scores bit for bit the same.

        Raises ModelFolderError if an array is missing, unknown, misshapen or holds an n-gram whose tail is not there.
        """
        _check_names(spec, arrays)
        unigrams = arrays["order1.counts"]
        _require(unigrams.shape == (spec.vocab_size,) and (unigrams >= 0).all() and unigrams.any(), "order1.counts")
        keys: list[np.ndarray] = []
        counts: list[np.ndarray] = []
        suffixes: list[np.ndarray] = []
        n_contexts = spec.vocab_size
        for k in range(2, spec.order + 1):
            tokens, offsets, count = (arrays[f"order{k}.{part}"] for part in ("tokens", "offsets", "counts"))
            whole = offsets.shape == (n_contexts + 1,) and offsets[0] == 0 and offsets[-1] == tokens.size and (np.diff(offsets) >= 0).all()
            _require(whole, f"order{k}.offsets")
            _require(count.shape == tokens.shape and (count >= 1).all(), f"order{k}.counts")
            parents = np.repeat(np.arange(n_contexts), np.diff(offsets))
            key = parents * spec.vocab_size + tokens
            in_range = ((tokens >= 0) & (tokens < spec.vocab_size)).all()
            _require(tokens.ndim == 1 and in_range and (np.diff(key) > 0).all(), f"order{k}.tokens")
            suffix = tokens.astype(np.int64) if k == 2 else _find(keys[-1], suffixes[-1][parents] * spec.vocab_size + tokens)
            _require(suffix.min(initial=0) >= 0, f"order{k}.tokens")
            keys.append(key)
            counts.append(count)
            suffixes.append(suffix)
            n_contexts = key.size
        return cls(spec, unigrams, keys, counts, suffixes)

    def _chunk_probs(self, tokens: np.ndarray, reach: np.ndarray) -> np.ndarray:
        probs = self._unigram_probs[tokens]
        rows = tokens
        for k, order in enumerate(self._orders, start=2):
            context = np.concatenate([[-1], rows[:-1]])
            context[reach < k - 1] = -1
            rows = _find(order.keys, context * self.spec.vocab_size + tokens)
            seen = context >= 0
            probs[seen] *= order.gammas[context[seen]]
            found = rows >= 0
            probs[found] = order.probs[rows[found]]
        return probs

    def _rows(self, ngrams: np.ndarray) -> np.ndarray:
        """Row of each whole n-gram (B, k) in order k, -1 where it was never seen or begins before the beginning."""
        rows = ngrams[:, 0]
        for place in range(1, ngrams.shape[1]):
            rows = _find(self._orders[place - 1].keys, rows * self.spec.vocab_size + ngrams[:, place])
        return rows


def _count(
    tokens: np.ndarray, rows: np.ndarray, ends: np.ndarray, vocab_size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """From the rows of one order to the next: its sorted keys, their occurrences, rows of their tails, row at every token."""
    key = rows[ends - 1].astype(np.int64) * vocab_size + tokens[ends]
    by_key = np.argsort(key)
    key = key[by_key]
    new = np.empty(key.size, dtype=bool)
    new[:1] = True
    np.not_equal(key[1:], key[:-1], out=new[1:])
    first = np.flatnonzero(new)
    ends = ends[by_key]
    longer = np.full(tokens.size, -1, dtype=np.int32)
    longer[ends] = np.cumsum(new, dtype=np.int32) - 1
    return key[first], np.diff(first, append=key.size), rows[ends[first]], longer


def _opening(rows: np.ndarray, starts: np.ndarray, lengths: np.ndarray, k: int) -> np.ndarray:
    """Rows of the k-grams that open a document."""
    return np.unique(rows[starts[lengths >= k] + k - 1])


def _continuations(suffixes: np.ndarray, size: int, opening: np.ndarray) -> np.ndarray:
    counts = np.bincount(suffixes, minlength=size)
    counts[opening] += 1
    return counts


def _discounts(counts: np.ndarray, spec: NgramSpec) -> Discounts:
    n1, n2, n3, n4 = (int(np.count_nonzero(counts == j)) for j in (1, 2, 3, 4))
    y = n1 / (n1 + 2 * n2) if n1 else 0.0
    if spec.discounts == "single":
        usable = 0 < y < 1
        return Discounts((y,) * 3 if usable else (_FALLBACK[0],) * 3, fallback=not usable)
    if n1 and n2 and n3:
        values = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
        if all(0 < value < j for j, value in enumerate(values, start=1)):
            return Discounts(values, fallback=False)
    return Discounts(_FALLBACK, fallback=True)


def _taken(counts: np.ndarray, discounts: Discounts) -> np.ndarray:
    return np.array([0.0, *discounts.values])[np.minimum(counts, 3)]


def _interpolate(
    keys: np.ndarray, counts: np.ndarray, suffixes: np.ndarray, below: np.ndarray, discounts: Discounts, vocab_size: int
) -> _Order:
    parents = keys // vocab_size
    taken = _taken(counts, discounts)
    totals = np.bincount(parents, weights=counts, minlength=below.size)
    left = np.bincount(parents, weights=taken, minlength=below.size)
    gammas = np.ones(below.size)  # stays 1 for a context only ever seen at a document's end: as good as unseen
    np.divide(left, totals, out=gammas, where=totals > 0)
    return _Order(keys, counts, (counts - taken) / totals[parents] + gammas[parents] * below[suffixes], gammas)


def _find(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Index of each wanted key in a sorted array, -1 where it is not there (a key below 0 never is)."""
    places = np.full(wanted.size, -1, dtype=np.int64)
    asked = np.flatnonzero(wanted >= 0)
    if keys.size and asked.size:
        asked = asked[np.argsort(wanted[asked])]  # in order, the search walks memory forwards: ten times faster on millions
        key = wanted[asked]
        place = np.minimum(np.searchsorted(keys, key), keys.size - 1)
        places[asked] = np.where(keys[place] == key, place, -1)
    return places


def _reach(starts: np.ndarray, low: int, high: int, cap: int) -> np.ndarray:
    """How many tokens precede each of [low, high) in its document, up to cap."""
    places = np.arange(low, high)
    return np.minimum(places - starts[np.searchsorted(starts, places, side="right") - 1], cap).astype(np.int8)


def _starts(boundaries: Sequence[int] | np.ndarray, n_tokens: int) -> np.ndarray:
    starts = np.asarray(boundaries, dtype=np.int64)
    if starts.ndim != 1 or starts.size == 0 or starts[0] != 0 or (np.diff(starts) < 0).any() or starts[-1] > n_tokens:
        raise ShapeError(
            f"`boundaries` must be ascending offsets that begin with 0 and end within the {n_tokens} tokens, not {starts[:5]}…."
        )
    return np.unique(starts[starts < n_tokens])


def _checked(token_ids: np.ndarray, spec: NgramSpec) -> np.ndarray:
    tokens = np.asarray(token_ids)
    if tokens.ndim != 1:
        raise ShapeError(f"`token_ids` must have one axis, not the shape {tokens.shape}.")
    if tokens.size and not (tokens.min() >= 0 and tokens.max() < spec.vocab_size):
        raise DataError(f"Token ids must lie in 0 to {spec.vocab_size - 1} (`vocab_size`); these span {tokens.min()} to {tokens.max()}.")
    return tokens


def _check_names(spec: NgramSpec, arrays: Mapping[str, np.ndarray]) -> None:
    expected = {"order1.counts"} | {f"order{k}.{part}" for k in range(2, spec.order + 1) for part in ("tokens", "offsets", "counts")}
    wrong = sorted(expected ^ set(arrays))
    if wrong:
        raise ModelFolderError(f"An order-{spec.order} n-gram model holds {len(expected)} arrays; missing or unknown: {', '.join(wrong)}.")
    not_counts = sorted(name for name, array in arrays.items() if array.dtype != np.int32)
    if not_counts:
        raise ModelFolderError(f"N-gram arrays must be int32; these are not: {', '.join(not_counts)}.")


def _require(holds: bool | np.bool_, name: str) -> None:
    if not holds:
        raise ModelFolderError(f"The n-gram array `{name}` is damaged: shape, order or values do not fit the others; save the model again.")
