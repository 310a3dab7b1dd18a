"""Figures of answers that are classes: balanced accuracy, F1 over all answers, the Matthews correlation, and the tables behind them.

A label may be any value that can be hashed; one that stands for "no class could be read" is a label like the others, and always wrong.
Sources: Brodersen et al. 2010 (balanced accuracy); Gorodkin 2004 (R_K, the Matthews correlation of many classes); a statistic that is
0/0 is 0, as scikit-learn has it.
"""

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64

from touchstone.errors import DataError
from touchstone.stats import Interval, bootstrap_statistic

__all__ = ["ClassScore", "Confusion", "balanced_accuracy", "class_scores", "commonest", "confusion", "matthews", "micro_f1"]

Codes = Int64[np.ndarray, " N"]


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One class. n_right: answered and right; n_found: answered; n_there: expected. What is 0/0 is 0."""

    label: Hashable
    n_right: int
    n_found: int
    n_there: int

    @property
    def precision(self) -> float:
        return self.n_right / self.n_found if self.n_found else 0.0

    @property
    def recall(self) -> float:
        return self.n_right / self.n_there if self.n_there else 0.0

    @property
    def f1(self) -> float:
        return 2 * self.n_right / (self.n_found + self.n_there) if self.n_found + self.n_there else 0.0


@dataclass(frozen=True, eq=False)
class Confusion:
    """How often each class (row) was answered as each (column)."""

    labels: tuple[Hashable, ...]
    counts: Int64[np.ndarray, "C C"]


def confusion(predicted: Iterable[Hashable], expected: Iterable[Hashable]) -> Confusion:
    """The table of expected against answered classes, for all classes that occur in either."""
    labels, ours, right = _codes(predicted, expected)
    counts = np.bincount(right * len(labels) + ours, minlength=len(labels) ** 2).reshape(len(labels), -1)
    return Confusion(labels, counts.astype(np.int64))


def class_scores(predicted: Iterable[Hashable], expected: Iterable[Hashable]) -> tuple[ClassScore, ...]:
    """Precision, recall and F1 of every class that occurs in either."""
    labels, ours, right = _codes(predicted, expected)
    columns = zip(*(column.tolist() for column in _by_class(ours, right, len(labels))), strict=True)
    return tuple(ClassScore(label, *counts) for label, counts in zip(labels, columns, strict=True))


def commonest(expected: Iterable[Hashable]) -> Hashable:
    """The class that is right most often, the first to occur of equals: always answering it is the baseline beside every figure."""
    counts = Counter(_plain(expected))
    if not counts:
        raise DataError("the commonest of no labels: give at least one.")
    return max(counts, key=lambda label: counts[label])


def balanced_accuracy(
    predicted: Iterable[Hashable],
    expected: Iterable[Hashable],
    clusters: Sequence[Any] | None = None,
    *,
    level: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """The mean over the expected classes of the share answered right; 1/C for one who always answers the same."""

    def statistic(n_right: Codes, n_found: Codes, n_there: Codes) -> float:
        is_there = n_there > 0
        return float((n_right[is_there] / n_there[is_there]).mean())

    return _resampled(statistic, predicted, expected, clusters, level, n_resamples, seed)


def micro_f1(
    predicted: Iterable[Hashable],
    expected: Iterable[Hashable],
    clusters: Sequence[Any] | None = None,
    *,
    without: Collection[Hashable] = (),
    level: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """F1 of the counts of all classes together, but for those in `without`, such as a class that means "none".

    With no class left out it is the accuracy. Raises DataError if every label is left out.
    """
    predicted, expected = _plain(predicted), _plain(expected)
    labels = _codes(predicted, expected)[0]
    counts = np.array([label not in without for label in labels])
    if not counts.any():
        raise DataError(f"`without` leaves out all {len(labels)} classes that occur; nothing is left to score.")

    def statistic(n_right: Codes, n_found: Codes, n_there: Codes) -> float:
        both = int(n_found[counts].sum() + n_there[counts].sum())
        return 2 * int(n_right[counts].sum()) / both if both else 0.0

    return _resampled(statistic, predicted, expected, clusters, level, n_resamples, seed)


def matthews(
    predicted: Iterable[Hashable],
    expected: Iterable[Hashable],
    clusters: Sequence[Any] | None = None,
    *,
    level: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """The Matthews correlation: 1 all right, 0 no better than any constant answer; CoLA's figure. 0 where one side is constant."""

    def statistic(n_right: Codes, n_found: Codes, n_there: Codes) -> float:
        n = int(n_there.sum())
        found, there = n_found / n, n_there / n
        spread = (1 - found @ found) * (1 - there @ there)
        return float((n_right.sum() / n - found @ there) / np.sqrt(spread)) if spread > 1e-15 else 0.0

    return _resampled(statistic, predicted, expected, clusters, level, n_resamples, seed)


def _resampled(
    statistic: Callable[[Codes, Codes, Codes], float],
    predicted: Iterable[Hashable],
    expected: Iterable[Hashable],
    clusters: Sequence[Any] | None,
    level: float,
    n_resamples: int,
    seed: int,
) -> Interval:
    labels, ours, right = _codes(predicted, expected)
    return bootstrap_statistic(
        lambda p, e: statistic(*_by_class(p, e, len(labels))),
        ours,
        right,
        level=level,
        n_resamples=n_resamples,
        seed=seed,
        clusters=clusters,
    )


def _by_class(predicted: Codes, expected: Codes, n_classes: int) -> tuple[Codes, Codes, Codes]:
    """For each class: answered and right, answered, expected."""
    right = expected[predicted == expected]
    return (
        np.bincount(right, minlength=n_classes),
        np.bincount(predicted, minlength=n_classes),
        np.bincount(expected, minlength=n_classes),
    )


def _codes(predicted: Iterable[Hashable], expected: Iterable[Hashable]) -> tuple[tuple[Hashable, ...], Codes, Codes]:
    """The classes in a fixed order, and the place of each label among them."""
    ours, right = _plain(predicted), _plain(expected)
    if len(ours) != len(right) or not ours:
        raise DataError(f"`predicted` ({len(ours)}) and `expected` ({len(right)}) must be labels of the same examples, one or more.")
    labels = tuple(
        sorted({*ours, *right}, key=lambda label: (type(label).__name__, label if isinstance(label, int | str) else repr(label)))
    )
    places = {label: place for place, label in enumerate(labels)}
    return labels, np.array([places[label] for label in ours]), np.array([places[label] for label in right])


def _plain(labels: Iterable[Hashable]) -> list[Hashable]:
    return list(labels.tolist() if isinstance(labels, np.ndarray) else labels)
