"""Rows of scores, probabilities and answers: checked once, as float64, before anything is computed from them."""

import numpy as np
from jaxtyping import Bool, Float, Num

from touchstone.errors import DataError

__all__ = [
    "Confidence",
    "Correct",
    "checked_distributions",
    "checked_labels",
    "checked_logits",
    "checked_scores",
    "log_softmax",
    "sigmoid",
    "softmax",
]

Confidence = Float[np.ndarray, " N"]
Correct = Bool[np.ndarray, " N"] | Num[np.ndarray, " N"]  # True or 1 where the answer was right


def log_softmax(z: np.ndarray) -> np.ndarray:
    """Over the last axis; an answer at -inf stays there."""
    return np.asarray(z - np.logaddexp.reduce(z, axis=-1, keepdims=True))


def softmax(z: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    weights = np.exp(z - z.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + e^-x), with no overflow."""
    return np.asarray(np.exp(-np.logaddexp(0, -x)))


def checked_logits(logits: np.ndarray, *, what: str = "Logits") -> np.ndarray:
    """(N, V) scores, finite, or -inf for an answer that cannot be given."""
    z = np.asarray(logits, dtype=np.float64)
    if z.ndim != 2 or z.size == 0:
        raise DataError(f"{what} must be a row of scores for each item, (N, V) and none empty, not of shape {z.shape}.")
    if np.isnan(z).any() or (z == np.inf).any():
        raise DataError(f"{what} must be finite, or -inf for an answer that cannot be given.")
    return z


def checked_labels(labels: np.ndarray, n: int, n_classes: int) -> np.ndarray:
    """(N,) numbers of classes, one for each of n rows."""
    found = np.asarray(labels)
    if found.shape != (n,) or found.dtype.kind not in "iu":
        raise DataError(f"Labels must be whole numbers, one for each of {n} rows, not {found.dtype} of shape {found.shape}.")
    if not ((found >= 0) & (found < n_classes)).all():
        raise DataError(f"Labels must lie in 0 to {n_classes - 1}; these span {found.min()} to {found.max()}.")
    return found


def checked_distributions(probabilities: np.ndarray) -> np.ndarray:
    """(N, V) rows in 0 to 1 that sum to 1; rounding just above 1 is taken as 1."""
    rows = np.asarray(probabilities, dtype=np.float64)
    if rows.ndim != 2 or rows.size == 0:
        raise DataError(f"Probabilities must be a row for each item, (N, V) and none empty, not of shape {rows.shape}.")
    if not ((rows >= 0) & (rows <= 1 + 1e-6)).all() or not (np.abs(rows.sum(axis=1) - 1) < 1e-3).all():
        raise DataError("Each row of probabilities must lie in 0 to 1 and sum to 1; give a softmax, not logits.")
    return np.minimum(rows, 1.0)


def checked_scores(
    scores: np.ndarray, correct: np.ndarray, low: float = -np.inf, high: float = np.inf, *, graded: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """(N,) scores within low to high, and whether each answer was right: 0 or 1, or anything between where answers are graded."""
    s, right = np.asarray(scores, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if s.ndim != 1 or s.shape != right.shape or s.size == 0:
        raise DataError(f"Scores and answers must be non-empty rows of one length, not of shapes {s.shape} and {right.shape}.")
    if not np.isfinite(s).all() or s.min() < low or s.max() > high:
        raise DataError(f"Scores must be finite{f' and lie in {low:g} to {high:g}' if high < np.inf else ''}.")
    if graded and not ((right >= 0) & (right <= 1)).all():
        raise DataError("Each answer's grade must lie in 0 (wrong) to 1 (right).")
    if not graded and not ((right == 0) | (right == 1)).all():
        raise DataError("Each answer must be right (True, 1) or wrong (False, 0).")
    return s, right
