"""How far predicted numbers go with expected ones: Pearson's r and Spearman's rho, as for STS-B.

Spearman's rho is Pearson's r of the ranks, equal values sharing the mean of their ranks.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike

from touchstone.errors import DataError
from touchstone.stats import Interval, bootstrap_statistic

__all__ = ["pearson", "ranks", "spearman"]

Row = Float64[np.ndarray, " N"]


def pearson(
    predicted: ArrayLike,
    expected: ArrayLike,
    clusters: Sequence[Any] | None = None,
    *,
    level: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Pearson's r. Raises DataError where either side is constant: there it is 0/0; a resample that is constant counts as 0."""
    ours, right = _columns(predicted, expected)
    return bootstrap_statistic(_pearson, ours, right, level=level, n_resamples=n_resamples, seed=seed, clusters=clusters)


def spearman(
    predicted: ArrayLike,
    expected: ArrayLike,
    clusters: Sequence[Any] | None = None,
    *,
    level: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Spearman's rho; every resample is ranked anew. Errors as for `pearson`."""
    ours, right = _columns(predicted, expected)
    return bootstrap_statistic(
        lambda a, b: _pearson(ranks(a), ranks(b)), ours, right, level=level, n_resamples=n_resamples, seed=seed, clusters=clusters
    )


def ranks(values: ArrayLike) -> Row:
    """The rank of each value from 1 up, equal ones sharing the mean of theirs."""
    _, places, counts = np.unique(np.asarray(values, dtype=np.float64), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((last - counts + 1 + last) / 2)[places]


def _pearson(a: Row, b: Row) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = np.sqrt(a @ a) * np.sqrt(b @ b)
    return float(np.clip(a @ b / size, -1, 1)) if size > 0 else 0.0


def _columns(predicted: ArrayLike, expected: ArrayLike) -> tuple[Row, Row]:
    ours, right = np.asarray(predicted, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    if ours.ndim != 1 or ours.shape != right.shape or len(ours) < 2:
        raise DataError(f"A correlation needs two rows of numbers of one length above 1, not of shapes {ours.shape} and {right.shape}.")
    for name, column in (("predicted", ours), ("expected", right)):
        if not np.isfinite(column).all():
            raise DataError(f"`{name}` must be finite; {int((~np.isfinite(column)).sum())} of {len(column)} are not.")
        if (column == column[0]).all():
            raise DataError(f"`{name}` is {column[0]:g} throughout; a correlation with a constant is not defined.")
    return ours, right
