"""Metrics: how the scores of examples become one figure with its interval, its standard error, and its difference from another's.

A metric is data - its kind, the columns of the scores it reads, its options - so that a stored result can be compared with another
without the code of its task. Kinds: a share of right answers; a mean; a ratio of sums and exp of one; what is made of sums of counts
(F1, BLEU, chrF); what is made of all rows at once (correlations, the Matthews correlation, macro-F1). Scores are a matrix (N, C), a row
an example; rows of one cluster are resampled together.
Sources of the standard errors: Miller 2024, "Adding error bars to evals" (by cluster, paired); Efron & Tibshirani 1993 §11 (jackknife).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64
from pydantic import model_validator

from touchstone.config import Config, unknown_name
from touchstone.errors import DataError
from touchstone.evaluate.classification import matthews
from touchstone.evaluate.correlation import pearson, spearman
from touchstone.evaluate.entities import f1_of
from touchstone.evaluate.labels import SpanCounts, macro_f1
from touchstone.evaluate.overlap import BLEU_COUNTS, CHRF_COUNTS, bleu_of, chrf_of
from touchstone.stats import (
    Interval,
    bootstrap_mean,
    bootstrap_statistic,
    bootstrap_sums,
    clopper_pearson,
    mcnemar_exact,
    paired_difference,
    sign_flip_test,
)

__all__ = [
    "BLEU_COLUMNS",
    "CHRF_COLUMNS",
    "KINDS",
    "SPAN_COLUMNS",
    "Metric",
    "PairedFigure",
    "figure_of",
    "paired_figure",
    "standard_error",
]

Rows = Float64[np.ndarray, "N C"]
Clusters = Sequence[str] | None

SPAN_COLUMNS = ("n_right", "n_found", "n_there")
BLEU_COLUMNS = tuple(f"bleu_{name}" for name in BLEU_COUNTS)
CHRF_COLUMNS = tuple(f"chrf_{name}" for name in CHRF_COUNTS)

_GROUPS = 100  # of the jackknife: with more, the standard error changes in its second digit and costs more
_RESAMPLES = 1000
_AVERAGES = ("share", "mean")


class Metric(Config):
    """A named figure. columns: of the scores, in the order that its kind reads them."""

    name: str
    kind: str
    columns: tuple[str, ...]
    higher_is_better: bool = True
    language: str = "en"  # of the texts; only BLEU asks

    @model_validator(mode="after")
    def _known(self) -> "Metric":
        if self.kind not in KINDS:
            raise ValueError(str(unknown_name("kind of metric", self.kind, KINDS)))
        n = KINDS[self.kind].n_columns
        if len(self.columns) != n:
            raise ValueError(f"a metric of kind `{self.kind}` reads {n} columns, not {len(self.columns)} ({', '.join(self.columns)})")
        return self


@dataclass(frozen=True)
class PairedFigure:
    """One metric of two models on the same examples: a, b and a - b. p_value: that they are exchangeable; None where no test is exact.

    test: its name, or why there is none.
    """

    metric: Metric
    a: float
    b: float
    difference: Interval
    standard_error: float
    p_value: float | None
    test: str

    @property
    def verdict(self) -> Literal["better", "worse", "tie"]:
        """What may be said of a: a difference whose interval holds 0 is a tie."""
        if not self.difference.excludes_zero:
            return "tie"
        return "better" if (self.difference.value > 0) == self.metric.higher_is_better else "worse"


def figure_of(metric: Metric, rows: Rows, clusters: Clusters = None, *, level: float = 0.95) -> Interval:
    """The metric over all rows; raises DataError where it is not defined, such as a correlation with a constant."""
    return KINDS[metric.kind].interval(metric, rows, clusters, level)


def standard_error(metric: Metric, rows: Rows, clusters: Clusters = None) -> float:
    """The standard error: of means and ratios in closed form, by cluster; of the rest by the jackknife over at most 100 groups.

    NaN for a single cluster.
    """
    if metric.kind in _AVERAGES:
        return _linear_error(rows[:, 0], np.ones(len(rows)), clusters)
    if metric.kind in ("ratio", "exp_ratio"):
        error = _linear_error(rows[:, 0], rows[:, 1], clusters)
        return error * math.exp(rows[:, 0].sum() / rows[:, 1].sum()) if metric.kind == "exp_ratio" else error
    return _jackknife(lambda kept: _value(metric, kept), rows, clusters)


def paired_figure(metric: Metric, a: Rows, b: Rows, clusters: Clusters = None, *, level: float = 0.95) -> PairedFigure:
    """Two models' rows of the same examples, in the same order."""
    if len(a) != len(b):
        raise DataError(f"Paired scores must be of the same examples; these are {len(a)} and {len(b)}.")
    first, second = _value(metric, a), _value(metric, b)
    if metric.kind in _AVERAGES:
        difference = paired_difference(a[:, 0], b[:, 0], level=level, clusters=clusters)
        p_value, test = _test_of_averages(metric, a[:, 0], b[:, 0], clusters)
        error = _linear_error(a[:, 0] - b[:, 0], np.ones(len(a)), clusters)
        return PairedFigure(metric, first, second, difference, error, p_value, test)
    n = a.shape[1]

    def gap(both: Rows) -> float:
        return _value(metric, both[:, :n]) - _value(metric, both[:, n:])

    both = np.concatenate([a, b], axis=1)
    difference = bootstrap_statistic(gap, both, level=level, n_resamples=_RESAMPLES, clusters=clusters)
    error = _jackknife(gap, both, clusters)
    return PairedFigure(metric, first, second, difference, error, None, "interval of the paired bootstrap")


def _test_of_averages(metric: Metric, a: Float64[np.ndarray, " N"], b: Float64[np.ndarray, " N"], clusters: Clusters) -> tuple[float, str]:
    if metric.kind == "share" and clusters is None and _is_right_or_wrong(a) and _is_right_or_wrong(b):
        return mcnemar_exact(int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())), "McNemar, exact"
    by_cluster = _sums(np.stack([a, b], axis=1), clusters)
    return sign_flip_test(by_cluster[:, 0], by_cluster[:, 1]), f"sign flips{' by cluster' if clusters is not None else ''}"


# How each kind is computed. `interval` is the figure with its error bar.


@dataclass(frozen=True)
class _Kind:
    n_columns: int
    interval: Callable[[Metric, Rows, Clusters, float], Interval]
    value: Callable[[Metric, Rows], float]


def _mean(metric: Metric, rows: Rows, clusters: Clusters, level: float) -> Interval:
    return bootstrap_mean(rows[:, 0], level=level, clusters=clusters)


def _share(metric: Metric, rows: Rows, clusters: Clusters, level: float) -> Interval:
    """Exact where each example is right or wrong; the bootstrap's by cluster, and for what guessing scores on average."""
    if clusters is not None or not _is_right_or_wrong(rows[:, 0]):
        return bootstrap_mean(rows[:, 0], level=level, clusters=clusters)
    return clopper_pearson(int(rows[:, 0].sum()), len(rows), level)


def _is_right_or_wrong(column: Float64[np.ndarray, " N"]) -> bool:
    return bool(np.isin(column, (0, 1)).all())


def _ratio(metric: Metric, rows: Rows, clusters: Clusters, level: float) -> Interval:
    """Of sums: one example may add nothing below, such as one that is in scope to a share of those out of it."""
    if not rows[:, 1].sum() > 0:
        raise DataError(f"`{metric.name}` divides by the sum of `{metric.columns[1]}`, which is {rows[:, 1].sum():g} here.")
    return bootstrap_sums(_divided, rows, level=level, clusters=clusters)


def _exp_ratio(metric: Metric, rows: Rows, clusters: Clusters, level: float) -> Interval:
    found = _ratio(metric, rows, clusters, level)
    return replace(found, value=math.exp(found.value), low=math.exp(found.low), high=math.exp(found.high))


def _span_f1(metric: Metric, rows: Rows, clusters: Clusters, level: float) -> Interval:
    return f1_of([SpanCounts(*map(int, row)) for row in rows.tolist()], clusters, level=level)


def _bleu(metric: Metric, rows: Rows, clusters: Clusters, level: float) -> Interval:
    return bleu_of(rows, clusters, language=metric.language, level=level)


def _chrf(metric: Metric, rows: Rows, clusters: Clusters, level: float) -> Interval:
    return chrf_of(rows, clusters, level=level)


def _of_columns(figure: Callable[..., Interval]) -> Callable[[Metric, Rows, Clusters, float], Interval]:
    """A figure of (predicted, expected)."""

    def interval(metric: Metric, rows: Rows, clusters: Clusters, level: float) -> Interval:
        return figure(rows[:, 0], rows[:, 1], clusters, level=level)

    return interval


def _divided(sums: Float64[np.ndarray, "*B 2"]) -> Float64[np.ndarray, "*B"]:
    """0 where a resample has nothing below."""
    return np.divide(sums[..., 0], sums[..., 1], out=np.zeros_like(sums[..., 0]), where=sums[..., 1] > 0)


def _ratio_value(metric: Metric, rows: Rows) -> float:
    return float(_divided(rows.sum(axis=0)))


def _span_f1_value(metric: Metric, rows: Rows) -> float:
    right, found, there = rows.sum(axis=0)
    return float(2 * right / (found + there)) if found + there else 0.0


def _one_resample(figure: Callable[..., Interval]) -> Callable[[Metric, Rows], float]:
    """The value of a figure whose module gives it with an interval only; 0 where it is not defined, as in a constant resample."""

    def value(metric: Metric, rows: Rows) -> float:
        try:
            return figure(rows[:, 0], rows[:, 1], n_resamples=1).value
        except DataError:
            return 0.0

    return value


KINDS: Mapping[str, _Kind] = {
    "share": _Kind(1, _share, lambda metric, rows: float(rows[:, 0].mean())),
    "mean": _Kind(1, _mean, lambda metric, rows: float(rows[:, 0].mean())),
    "ratio": _Kind(2, _ratio, _ratio_value),
    "exp_ratio": _Kind(2, _exp_ratio, lambda metric, rows: math.exp(_ratio_value(metric, rows))),
    "span_f1": _Kind(3, _span_f1, _span_f1_value),
    "bleu": _Kind(len(BLEU_COLUMNS), _bleu, lambda m, rows: bleu_of(rows.sum(axis=0)[None], language=m.language, n_resamples=1).value),
    "chrf": _Kind(len(CHRF_COLUMNS), _chrf, lambda metric, rows: chrf_of(rows.sum(axis=0)[None], n_resamples=1).value),
    "matthews": _Kind(2, _of_columns(matthews), _one_resample(matthews)),
    "macro_f1": _Kind(2, _of_columns(macro_f1), _one_resample(macro_f1)),
    "pearson": _Kind(2, _of_columns(pearson), _one_resample(pearson)),
    "spearman": _Kind(2, _of_columns(spearman), _one_resample(spearman)),
}
"""What a metric can be."""


def _value(metric: Metric, rows: Rows) -> float:
    return KINDS[metric.kind].value(metric, rows)


def _linear_error(above: Float64[np.ndarray, " N"], below: Float64[np.ndarray, " N"], clusters: Clusters) -> float:
    """Of a ratio of sums, from the residuals of each cluster; with ones below and no clusters it is s / sqrt(n)."""
    residuals = _sums((above - above.sum() / below.sum() * below)[:, None], clusters)[:, 0]
    n = len(residuals)
    return math.sqrt(n / (n - 1) * float(residuals @ residuals)) / float(below.sum()) if n > 1 else math.nan


def _jackknife(statistic: Callable[[Rows], float], rows: Rows, clusters: Clusters) -> float:
    numbers = _numbers(clusters, len(rows))
    n = int(numbers.max()) + 1
    if n < 2:
        return math.nan
    groups = min(n, _GROUPS)
    group_of = np.random.default_rng(0).permutation(n) % groups  # files are often sorted: neighbours go into different groups
    without = np.array([statistic(rows[group_of[numbers] != group]) for group in range(groups)])
    return math.sqrt((groups - 1) / groups * float(((without - without.mean()) ** 2).sum()))


def _sums(rows: Rows, clusters: Clusters) -> Rows:
    """The sum of the rows of each cluster."""
    if clusters is None:
        return rows
    numbers = _numbers(clusters, len(rows))
    return np.stack([np.bincount(numbers, weights=column) for column in rows.T], axis=1)


def _numbers(clusters: Clusters, n: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The number of each row's cluster, in the order in which they come."""
    if clusters is None:
        return np.arange(n)
    known: dict[str, int] = {}
    return np.array([known.setdefault(name, len(known)) for name in clusters], dtype=np.int64)
