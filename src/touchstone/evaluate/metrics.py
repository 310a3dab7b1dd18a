"""Figures of held-out text with their error bars: bits per byte and perplexity, each document one unit of the bootstrap.

Bits per byte compares models across tokenizers and with compressors; perplexity depends on the tokenizer and is given beside it.
Losses are nats, -log P, summed over a document; the unit is the document because its tokens rise and fall together.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Integer, Num

from touchstone.errors import DataError, ShapeError
from touchstone.stats import Interval, bootstrap_ratio, paired_ratio_difference

__all__ = ["bits_per_byte", "bits_per_byte_difference", "document_nats", "perplexity"]

Nats = Float[np.ndarray, " D"] | Sequence[float]
Sizes = Num[np.ndarray, " D"] | Sequence[int]


def document_nats(log_probs: Float[np.ndarray, " N"], starts: Integer[np.ndarray, " S"] | Sequence[int]) -> Float64[np.ndarray, " D"]:
    """Loss of each document in nats, from the log P of every token of a stream.

    starts: offset of each document's first token, ascending from 0; an entry equal to the length ends the last one. An empty
    document has loss 0.
    """
    scores, offsets = np.asarray(log_probs, dtype=np.float64), np.asarray(starts, dtype=np.int64)
    if (
        scores.ndim != 1
        or offsets.ndim != 1
        or not offsets.size
        or offsets[0] != 0
        or (np.diff(offsets) < 0).any()
        or offsets[-1] > len(scores)
    ):
        raise ShapeError(f"`starts` must be ascending offsets that begin with 0 and end within the {scores.size} tokens.")
    total = np.concatenate([[0.0], np.cumsum(-scores)])
    ends = offsets[1:] if offsets[-1] == len(scores) and offsets.size > 1 else np.append(offsets[1:], len(scores))
    return total[ends] - total[offsets[: len(ends)]]


def bits_per_byte(
    nats: Nats, n_bytes: Sizes, *, level: float = 0.95, n_resamples: int = 2000, seed: int = 0, clusters: Sequence[Any] | None = None
) -> Interval:
    """Bits needed for each byte of UTF-8 text: the losses of all documents over their bytes, resampling documents.

    clusters: names the group of each document where near-copies belong together.
    """
    bits = _losses("nats", nats) / math.log(2)
    return bootstrap_ratio(bits, n_bytes, level=level, n_resamples=n_resamples, seed=seed, clusters=clusters)


def bits_per_byte_difference(
    nats_a: Nats,
    nats_b: Nats,
    n_bytes: Sizes,
    *,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
    clusters: Sequence[Any] | None = None,
) -> Interval:
    """Bits per byte of a minus those of b on the same documents; an interval that holds 0 is a tie."""
    a, b = _losses("nats_a", nats_a) / math.log(2), _losses("nats_b", nats_b) / math.log(2)
    return paired_ratio_difference(a, b, n_bytes, level=level, n_resamples=n_resamples, seed=seed, clusters=clusters)


def perplexity(
    nats: Nats, n_tokens: Sizes, *, level: float = 0.95, n_resamples: int = 2000, seed: int = 0, clusters: Sequence[Any] | None = None
) -> Interval:
    """exp of the mean loss of a token, infinity beyond the largest number; comparable only between models that share a tokenizer."""
    mean = bootstrap_ratio(_losses("nats", nats), n_tokens, level=level, n_resamples=n_resamples, seed=seed, clusters=clusters)
    with np.errstate(over="ignore"):
        value, low, high = np.exp([mean.value, mean.low, mean.high]).tolist()
    return replace(mean, value=value, low=low, high=high)


def _losses(name: str, nats: Nats) -> np.ndarray:
    losses = np.asarray(nats, dtype=np.float64)
    if losses.size and losses.min() < -1e-9:
        raise DataError(
            f"`{name}` are losses, -log P, and so at least 0; the least is {losses.min():g}. Give the negated log-probabilities."
        )
    return losses
