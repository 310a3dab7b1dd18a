"""Two language models mixed token by token: P = w P_a + (1 - w) P_b, the weight fitted on validation text.

A neural model and an n-gram err on different tokens, so their mixture is often well below both; a report shows it to say how much of
the text is verbatim repetition. Both must score the same tokens. The loss is convex in w, so bisection on its slope is enough.
Source: Jelinek & Mercer 1980 (linear interpolation).
"""

import numpy as np
from jaxtyping import Float, Float64
from pydantic import Field

from touchstone.config import Config
from touchstone.errors import DataError, ShapeError

__all__ = ["ModelMixture"]


class ModelMixture(Config):
    """A fitted weight and what it gained."""

    weight: float = Field(ge=0, le=1)  # of the first model
    n: int = Field(ge=1)  # tokens fitted on
    nats: float  # mean loss of a token of the mixture on them
    nats_a: float | None  # of the first model alone; None where it calls some token impossible
    nats_b: float | None  # of the second

    @classmethod
    def fit(cls, log_probs_a: Float[np.ndarray, " N"], log_probs_b: Float[np.ndarray, " N"]) -> "ModelMixture":
        """The weight of least loss on validation tokens, to 1e-12.

        Raises DataError if both models call a token impossible: no mixture can repair that.
        """
        a, b = _log_probs(log_probs_a, log_probs_b)
        top = np.maximum(a, b)
        if a.size == 0 or not np.isfinite(top).all():
            raise DataError("A mixture is fitted on one token or more, each possible for at least one of its two models.")
        p, q = np.exp(a - top), np.exp(b - top)  # the same ratios, safe from underflow

        def slope(weight: float) -> float:
            with np.errstate(divide="ignore"):
                return float(np.mean((q - p) / (weight * p + (1 - weight) * q)))

        low, high = 0.0, 1.0
        if slope(low) >= 0:
            weight = low
        elif slope(high) <= 0:
            weight = high
        else:
            while high - low > 1e-12:
                middle = (low + high) / 2
                low, high = (middle, high) if slope(middle) < 0 else (low, middle)
            weight = (low + high) / 2
        nats = -float(np.mean(_mixed(weight, a, b)))
        alone = [-float(scores.mean()) if np.isfinite(scores).all() else None for scores in (a, b)]
        return cls(weight=weight, n=a.size, nats=nats, nats_a=alone[0], nats_b=alone[1])

    def log_probs(self, log_probs_a: Float[np.ndarray, "..."], log_probs_b: Float[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
        """log P of the mixture in nats: of tokens (N,), or of whole distributions (B, V), which stay normalised."""
        return _mixed(self.weight, *_log_probs(log_probs_a, log_probs_b))


def _mixed(weight: float, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):  # a weight of 0 or 1 leaves one model out
        return np.logaddexp(np.log(weight) + a, np.log1p(-weight) + b)


def _log_probs(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise ShapeError(f"Both models must score the same tokens; the shapes are {first.shape} and {second.shape}.")
    for scores in (first, second):
        if scores.size and not scores.max() <= 1e-6:
            raise DataError(f"Log-probabilities must be numbers of at most 0; the largest is {scores.max()}.")
    return first, second
