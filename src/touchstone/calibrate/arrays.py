"""Rows of scores, probabilities and answers: checked once, as float64, before anything is computed from them; settings likewise."""

from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Num

from touchstone.errors import ConfigError, DataError
from touchstone.stats import Interval

__all__ = [
    "Confidence",
    "Correct",
    "array_of",
    "bounded",
    "check_count",
    "check_share",
    "checked_applied",
    "checked_distributions",
    "checked_labels",
    "checked_logits",
    "checked_scores",
    "is_number",
    "log_softmax",
    "numbers",
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


def bounded(interval: Interval, low: float, high: float) -> Interval:
    """The interval of a quantity that cannot be below low or above high; one that is none stays none."""
    if np.isnan(interval.low):
        return interval
    return replace(interval, low=max(interval.low, low), high=min(interval.high, high))


def array_of(values: Any, what: str) -> np.ndarray:
    """The values as an array of whatever they are; DataError if their rows differ in length."""
    try:
        return np.asarray(values)
    except ValueError:
        raise DataError(f"{what} must be an array: rows of one length.") from None


def numbers(values: Any, what: str) -> np.ndarray:
    """The values as float64; DataError if they are no real numbers."""
    found = array_of(values, what)
    if found.dtype.kind not in "biuf":
        raise DataError(f"{what} must be numbers, not {type(values).__name__ if found.dtype == object else found.dtype}.")
    return found.astype(np.float64)


def is_number(value: Any) -> bool:
    """Whether it is one real number."""
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def check_share(name: str, value: Any) -> None:
    """Raises ConfigError if the setting is no number between 0 and 1."""
    if not is_number(value) or not 0 < value < 1:
        raise ConfigError(f"`{name}` must lie between 0 and 1, not {value!r}.")


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Raises ConfigError if the setting is no whole number or too small."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise ConfigError(f"`{name}` must be a whole number and at least {least}, not {value!r}.")


def checked_applied(values: Any, what: str, *, low: float = -np.inf, high: float = np.inf) -> np.ndarray:
    """Numbers of any shape, finite and within low to high, to which something that was fitted is applied."""
    found = numbers(values, what)
    if not (np.isfinite(found) & (found >= low) & (found <= high + 1e-6)).all():  # rounding just above 1 is taken as 1
        raise DataError(f"{what} must be finite{f' and lie in {low:g} to {high:g}' if high < np.inf else ''}.")
    return np.minimum(found, high)


def checked_logits(logits: Any, *, what: str = "Logits") -> np.ndarray:
    """(N, V) scores, finite, or -inf for an answer that cannot be given."""
    z = numbers(logits, what)
    if z.ndim != 2 or z.size == 0:
        raise DataError(f"{what} must be a row of scores for each item, (N, V) and none empty, not of shape {z.shape}.")
    if np.isnan(z).any() or (z == np.inf).any():
        raise DataError(f"{what} must be finite, or -inf for an answer that cannot be given.")
    return z


def checked_labels(labels: np.ndarray, n: int, n_classes: int) -> np.ndarray:
    """(N,) numbers of classes, one for each of n rows."""
    found = array_of(labels, "Labels")
    if found.shape != (n,) or found.dtype.kind not in "iu":
        raise DataError(f"Labels must be whole numbers, one for each of {n} rows, not {found.dtype} of shape {found.shape}.")
    if not ((found >= 0) & (found < n_classes)).all():
        raise DataError(f"Labels must lie in 0 to {n_classes - 1}; these span {found.min()} to {found.max()}.")
    return found


def checked_distributions(probabilities: Any, *, what: str = "Probabilities") -> np.ndarray:
    """(N, V) rows in 0 to 1 that sum to 1; rounding just above 1 is taken as 1."""
    rows = numbers(probabilities, what)
    if rows.ndim != 2 or rows.size == 0:
        raise DataError(f"{what} must be a row for each item, (N, V) and none empty, not of shape {rows.shape}.")
    if not ((rows >= 0) & (rows <= 1 + 1e-6)).all() or not (np.abs(rows.sum(axis=1) - 1) < 1e-3).all():
        raise DataError(f"{what}: each row must lie in 0 to 1 and sum to 1; give a softmax, not logits.")
    return np.minimum(rows, 1.0)


def checked_scores(
    scores: Any, correct: Any, low: float = -np.inf, high: float = np.inf, *, graded: bool = False, what: str = "`scores`"
) -> tuple[np.ndarray, np.ndarray]:
    """(N,) scores within low to high, and whether each answer was right: 0 or 1, or anything between where answers are graded."""
    s, right = numbers(scores, what), numbers(correct, "`correct`")
    if s.ndim != 1 or s.shape != right.shape or s.size == 0:
        raise DataError(f"{what} and `correct` must be non-empty rows of one length, not of shapes {s.shape} and {right.shape}.")
    if not np.isfinite(s).all() or s.min() < low or s.max() > high:
        raise DataError(f"{what} must be finite{f' and lie in {low:g} to {high:g}' if high < np.inf else ''}.")
    if graded and not ((right >= 0) & (right <= 1)).all():
        raise DataError("`correct`: each answer's grade must lie in 0 (wrong) to 1 (right).")
    if not graded and not ((right == 0) | (right == 1)).all():
        raise DataError("`correct`: each answer must be right (True, 1) or wrong (False, 0).")
    return s, right
