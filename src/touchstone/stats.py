"""Error bars and exact tests: bootstrap intervals, paired and by cluster, and p-values that assume nothing they need not.

Intervals read the bootstrap distribution a little further out than the plain percentiles, as Student's t does against the normal
distribution: with 20 to 40 skewed files that covers the truth about as often as it says, where plain percentiles and BCa fall short.
No scipy: the one special function needed is here.
Sources: Hesterberg 2015, "What teachers should know about the bootstrap" (expanded percentile interval); Clopper & Pearson 1934; the
continued fraction of the incomplete beta function is DLMF 8.17.22; (count + 1)/(n + 1) for permutation p-values: Phipson & Smyth 2010.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from touchstone.errors import ConfigError, DataError

__all__ = [
    "Interval",
    "bootstrap_mean",
    "bootstrap_ratio",
    "bootstrap_statistic",
    "bootstrap_sums",
    "clopper_pearson",
    "mcnemar_exact",
    "paired_difference",
    "paired_ratio_difference",
    "permutation_test",
    "sign_flip_test",
    "sign_test",
]

Floats = NDArray[np.float64]

MAX_DRAWS = 50_000_000
"""Resampled units beyond which the delta method takes over: there it agrees with the bootstrap, which would take minutes."""

MIN_UNITS = 8
"""Units below which the delta method takes over: so few have too few different resamples to read a tail from."""


@dataclass(frozen=True)
class Interval:
    """A figure with its error bar. `n` counts what was resampled (units or clusters); low and high are NaN where n is 1."""

    value: float
    low: float
    high: float
    level: float
    n: int
    method: str

    def __str__(self) -> str:
        """Like "1.453 [1.414, 1.492]": value and bounds to two digits of half the width."""
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            return f"{self.value:.3f} [n = {self.n}: no interval]"
        half = (self.high - self.low) / 2
        digits = max(0, 1 - math.floor(math.log10(half))) if half > 0 else 3
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"

    @property
    def excludes_zero(self) -> bool:
        """Whether a difference with this interval is more than a tie."""
        return self.low > 0 or self.high < 0


def bootstrap_mean(
    values: ArrayLike, *, level: float = 0.95, n_resamples: int = 2000, seed: int = 0, clusters: Sequence[Any] | None = None
) -> Interval:
    """The mean over units, resampling units, or whole clusters where `clusters` names the cluster of each unit."""
    column = _column("values", values)
    return _ratio_interval(column, np.ones_like(column), level, n_resamples, seed, clusters)


def bootstrap_ratio(
    numerators: ArrayLike,
    denominators: ArrayLike,
    *,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
    clusters: Sequence[Any] | None = None,
) -> Interval:
    """The ratio of the sums, such as bits over bytes by file; a mean of ratios would weigh a short file like a long one.

    Denominators must be above 0.
    """
    above, below = _column("numerators", numerators), _positive("denominators", denominators)
    return _ratio_interval(above, below, level, n_resamples, seed, clusters)


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    *,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
    clusters: Sequence[Any] | None = None,
) -> Interval:
    """The mean of a - b over the same units."""
    first, second = _column("a", a), _column("b", b)
    _same_length(first, second)
    return bootstrap_mean(first - second, level=level, n_resamples=n_resamples, seed=seed, clusters=clusters)


def paired_ratio_difference(
    numerators_a: ArrayLike,
    numerators_b: ArrayLike,
    denominators: ArrayLike,
    *,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
    clusters: Sequence[Any] | None = None,
) -> Interval:
    """Ratio of a minus ratio of b over the same units and denominators, such as two models' bits per byte on the same files."""
    first, second = _column("numerators_a", numerators_a), _column("numerators_b", numerators_b)
    _same_length(first, second)
    return bootstrap_ratio(first - second, denominators, level=level, n_resamples=n_resamples, seed=seed, clusters=clusters)


def bootstrap_statistic(
    statistic: Callable[..., float],
    *arrays: ArrayLike,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
    clusters: Sequence[Any] | None = None,
) -> Interval:
    """Any statistic of parallel arrays, which are resampled together along their first axis, for what is no mean or ratio (ECE, AUROC)."""
    _check(level, n_resamples)
    columns = [np.asarray(array) for array in arrays]
    _same_length(*columns)
    groups = _members(clusters, len(columns[0]))
    value = float(statistic(*columns))
    method = f"expanded percentile bootstrap, {n_resamples} resamples{_of(clusters)}"
    if len(groups) < 2:
        return Interval(value, math.nan, math.nan, level, len(groups), method)
    rng = np.random.default_rng(seed)
    drawn = np.empty(n_resamples)
    for place in range(n_resamples):
        picks = rng.integers(len(groups), size=len(groups))
        rows = picks if clusters is None else np.concatenate([groups[pick] for pick in picks])
        drawn[place] = statistic(*(column[rows] for column in columns))
    low, high = np.quantile(drawn, _expanded(level, len(groups)))
    return Interval(value, float(low), float(high), level, len(groups), method)


def bootstrap_sums(
    statistic: Callable[[Floats], ArrayLike],
    rows: ArrayLike,
    *,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
    clusters: Sequence[Any] | None = None,
) -> Interval:
    """A statistic of the column sums of `rows` (units, C), such as F1 of counts or BLEU of a corpus, resampling units.

    statistic: (..., C) sums to (...) values. One is made of all sums at once, so none is a mean of ratios.
    """
    counts = np.asarray(rows, dtype=np.float64)
    if counts.ndim != 2 or not counts.size or not np.isfinite(counts).all():
        raise DataError(f"`rows` must be finite numbers, a row of them for each of one unit or more, not of shape {counts.shape}.")
    return _sums_interval(lambda sums: np.asarray(statistic(sums), dtype=np.float64), counts, level, n_resamples, seed, clusters)


def clopper_pearson(k: int, n: int, level: float = 0.95) -> Interval:
    """The exact interval of a share, k of n; it holds its level for every true share, so it is rather wide."""
    _check(level, 1)
    if not 0 <= k <= n or n < 1:
        raise ConfigError(f"A share needs 0 <= k <= n and n >= 1, not k={k}, n={n}.")
    tail = (1 - level) / 2
    low = 0.0 if k == 0 else _beta_quantile(tail, k, n - k + 1)
    high = 1.0 if k == n else _beta_quantile(1 - tail, k + 1, n - k)
    return Interval(k / n, low, high, level, n, "Clopper-Pearson")


def sign_test(wins: int, losses: int) -> float:
    """Two-sided exact p-value that wins and losses are equally likely; ties are left out by the caller."""
    if wins < 0 or losses < 0:
        raise ConfigError(f"Counts must be 0 or more, not {wins} and {losses}.")
    fewer, n = min(wins, losses), wins + losses
    if 2 * fewer >= n - 1:
        return 1.0
    return min(1.0, 2 * _beta_cdf(0.5, n - fewer, fewer + 1))  # P(X <= fewer) of a fair coin


def mcnemar_exact(b: int, c: int) -> float:
    """Two-sided exact p-value for two classifiers on the same items: b right only by the first, c only by the second."""
    return sign_test(b, c)


def sign_flip_test(a: ArrayLike, b: ArrayLike, *, n_resamples: int = 9999, seed: int = 0) -> float:
    """Two-sided p-value that a and b, measured on the same units, are exchangeable: signs of a - b are flipped at random.

    All sign patterns are tried where there are no more than `n_resamples` of them.
    """
    first, second = _column("a", a), _column("b", b)
    _same_length(first, second)
    differences = first - second
    n = len(differences)
    observed = abs(differences.sum())
    if n < 60 and 2**n <= n_resamples:
        bits = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
        return float(np.mean(_at_least(np.abs((1 - 2 * bits) @ differences), observed)))
    rng = np.random.default_rng(seed)
    count = sum(int(_at_least(abs((1 - 2 * rng.integers(0, 2, n)) @ differences), observed)) for _ in range(n_resamples))
    return (count + 1) / (n_resamples + 1)


def permutation_test(a: ArrayLike, b: ArrayLike, *, n_resamples: int = 9999, seed: int = 0) -> float:
    """Two-sided p-value that two independent groups have the same distribution, by the difference of their means.

    For measurements on the same units, `sign_flip_test` is the sharper test.
    """
    first, second = _column("a", a), _column("b", b)
    both, n = np.concatenate([first, second]), len(first)
    total, observed = both.sum(), abs(first.mean() - second.mean())
    rng = np.random.default_rng(seed)
    count = 0
    for _ in range(n_resamples):
        part = rng.permutation(both)[:n].sum()
        count += int(_at_least(abs(part / n - (total - part) / len(second)), observed))
    return (count + 1) / (n_resamples + 1)


def _ratio_interval(above: Floats, below: Floats, level: float, n_resamples: int, seed: int, clusters: Sequence[Any] | None) -> Interval:
    _same_length(above, below)
    return _sums_interval(_ratio, np.stack([above, below], axis=1), level, n_resamples, seed, clusters)


def _sums_interval(
    statistic: Callable[[Floats], Floats], rows: Floats, level: float, n_resamples: int, seed: int, clusters: Sequence[Any] | None
) -> Interval:
    """A statistic of sums; a resample is a row of counts, so that many are one matrix product."""
    _check(level, n_resamples)
    sums = _sum_by_cluster(rows, clusters)  # (units, C)
    n, total = len(sums), sums.sum(axis=0)
    value = float(statistic(total))
    if n < 2:
        return Interval(value, math.nan, math.nan, level, n, f"one unit{_of(clusters)}")
    if n < MIN_UNITS or n * n_resamples > MAX_DRAWS:
        without = statistic(total - sums)  # each unit left out once
        half = _t_quantile(level, n - 1) * math.sqrt((n - 1) / n * float(((without - without.mean()) ** 2).sum()))
        return Interval(value, value - half, value + half, level, n, f"jackknife with Student's t{_of(clusters)}")
    rng = np.random.default_rng(seed)
    most = max(1, 4_000_000 // n)  # bounds the memory of the counts
    sizes = [min(most, n_resamples - done) for done in range(0, n_resamples, most)]
    drawn = np.concatenate([statistic(rng.multinomial(n, np.full(n, 1 / n), size=size) @ sums) for size in sizes])
    low, high = np.quantile(drawn, _expanded(level, n))
    return Interval(value, float(low), float(high), level, n, f"expanded percentile bootstrap, {n_resamples} resamples{_of(clusters)}")


def _expanded(level: float, n: int) -> tuple[float, float]:
    """The quantiles to read so that n units give an interval as wide as Student's t would."""
    tail = NormalDist().cdf(-_t_quantile(level, n - 1) * math.sqrt(n / (n - 1)))
    return tail, 1 - tail


def _t_quantile(level: float, n_free: int) -> float:
    """t such that Student's distribution holds `level` between -t and t."""
    x = _beta_quantile(1 - level, n_free / 2, 0.5)
    return math.sqrt(n_free * (1 - x) / x)


def _ratio(sums: Floats) -> Floats:
    return np.asarray(sums[..., 0] / sums[..., 1])


def _sum_by_cluster(rows: Floats, clusters: Sequence[Any] | None) -> Floats:
    if clusters is None:
        return rows
    groups = _members(clusters, len(rows))
    return np.stack([rows[members].sum(axis=0) for members in groups])


def _members(clusters: Sequence[Any] | None, n: int) -> list[NDArray[np.int64]]:
    """The rows of each cluster, clusters in the order of their first row."""
    if clusters is None:
        return list(np.arange(n)[:, None])
    if len(clusters) != n:
        raise DataError(f"`clusters` names {len(clusters)} units; there are {n}.")
    members: dict[Any, list[int]] = {}
    for row, name in enumerate(clusters):
        members.setdefault(name, []).append(row)
    return [np.array(rows) for rows in members.values()]


def _of(clusters: Sequence[Any] | None) -> str:
    return "" if clusters is None else ", by cluster"


def _column(name: str, values: ArrayLike) -> Floats:
    column = np.asarray(values, dtype=np.float64)
    if column.ndim != 1 or len(column) == 0:
        raise DataError(f"`{name}` must be a non-empty row of numbers, not of shape {column.shape}.")
    bad = int((~np.isfinite(column)).sum())
    if bad:
        raise DataError(f"`{name}` must be finite; {bad} of {len(column)} are not.")
    return column


def _positive(name: str, values: ArrayLike) -> Floats:
    column = _column(name, values)
    if column.min() <= 0:
        raise DataError(f"`{name}` must be above 0; the least is {column.min():g}.")
    return column


def _same_length(*columns: NDArray[Any]) -> None:
    if len({len(column) for column in columns}) != 1:
        raise DataError(f"Parallel rows must have one length, not {', '.join(str(len(column)) for column in columns)}.")


def _check(level: float, n_resamples: int) -> None:
    if not 0 < level < 1:
        raise ConfigError(f"`level` must lie between 0 and 1, such as 0.95, not {level}.")
    if n_resamples < 1:
        raise ConfigError(f"`n_resamples` must be at least 1, not {n_resamples}.")


def _at_least(found: Any, observed: float) -> Any:
    """found >= observed, where rounding may have made equal sums differ in their last bits."""
    return found >= observed * (1 - 1e-12)


def _beta_quantile(p: float, a: float, b: float) -> float:
    """x where the regularised incomplete beta function is p, by bisection to the last bit."""
    low, high = 0.0, 1.0
    while True:
        middle = (low + high) / 2
        if middle in (low, high):
            return middle
        low, high = (middle, high) if _beta_cdf(middle, a, b) < p else (low, middle)


def _beta_cdf(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    if x > (a + 1) / (a + b + 2):  # the fraction converges quickly on the other side only
        return 1 - front * _beta_fraction(1 - x, b, a) / b
    return front * _beta_fraction(x, a, b) / a


def _beta_fraction(x: float, a: float, b: float) -> float:
    """DLMF 8.17.22 by Lentz's method; the number of terms grows with the root of a and b."""
    tiny = 1e-300
    c, d = 1.0, 1 / _off_zero(1 - (a + b) * x / (a + 1), tiny)
    value = d
    for m in range(1, 100_000):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _off_zero(1 + term * d, tiny)
            c = _off_zero(1 + term / c, tiny)
            value *= c * d
        if abs(c * d - 1) < 1e-15:
            return value
    raise AssertionError(f"the fraction did not converge at {x}, {a}, {b}")


def _off_zero(value: float, tiny: float) -> float:
    return value if abs(value) > tiny else tiny
