"""Conformal sets: of the answers, those that cannot be ruled out, so that the right one is among them with probability 1 - alpha.

The promise needs only that calibration rows and later rows are exchangeable; it is one over both together. For one calibration set of n
rows the coverage itself is random, as `coverage_law` says. The promise is about all rows; `by_class` makes it for each class alone.

How unlikely an answer is, u being a row's own random number in 0 to 1 (0 where sets are not randomised):
- LAC: 1 - p. The smallest sets on average; a hard row's may be empty.
- APS: the probability of all likelier answers, plus (1 - u) p. Sets grow where a row is hard.
- RAPS: APS plus a penalty for each rank beyond `k_reg`, which cuts long tails of unlikely answers.
A set holds the answers that are at most as unlikely as the ceil((n + 1)(1 - alpha))-th least unlikely label of the calibration rows.
Too few rows for such a rank leave the set with every answer, and the record says so. Answers of equal probability share their rank, so
no set hangs on the order of the answers. Randomised scores have no ties, and the coverage is as promised. Not randomised, the least
likely answer of every row scores 1: where the right answer often is the least likely one, the threshold is 1 and nothing is ruled out.
Sources: Sadinle, Lei & Wasserman 2019 (LAC); Romano, Sesia & Candes 2020 (APS); Angelopoulos et al. 2021 (RAPS); Vovk 2012
(class-conditional sets; the law of the coverage).
"""

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, Self

import numpy as np
from jaxtyping import Bool, Float, Float64, Integer
from pydantic import Field, model_validator

from touchstone.calibrate.arrays import array_of, check_count, check_share, checked_distributions, checked_labels, is_number, numbers
from touchstone.calibrate.record import Record, method_of
from touchstone.config import Config
from touchstone.errors import ConfigError, DataError
from touchstone.stats import Interval, clopper_pearson

__all__ = [
    "APS",
    "LAC",
    "RAPS",
    "ConformalSets",
    "CoverageLaw",
    "SetQuality",
    "SetThreshold",
    "conformal_from_dict",
    "coverage_law",
    "set_quality",
]

Probabilities = Float[np.ndarray, "N V"]
Labels = Integer[np.ndarray, " N"]
_DIGITS = 12  # of scores: sums that are equal on paper are then equal here, and no set hangs on their last bit
Chance = Float[np.ndarray, " N"]  # one number a row, drawn uniformly from 0 to 1 and used for nothing else


@dataclass(frozen=True, slots=True)
class CoverageLaw:
    """Beta(a, b): how the coverage of a conformal set is spread over the calibration sets that might have been drawn.

    b is 0 where there are too few rows: every answer is in every set and the coverage is 1.
    """

    a: int
    b: int

    def __post_init__(self) -> None:
        check_count("a", self.a)
        check_count("b", self.b, 0)

    @property
    def mean(self) -> float:
        """The coverage that is promised, at least 1 - alpha."""
        return self.a / (self.a + self.b)

    @property
    def sd(self) -> float:
        """How far one calibration set's coverage lies from it."""
        total = self.a + self.b
        return math.sqrt(self.a * self.b / (total**2 * (total + 1)))


def coverage_law(n: int, alpha: float) -> CoverageLaw:
    """The law for n calibration rows, exact where their scores have no ties."""
    check_count("n", n, 0)
    n_above = _n_above(n, alpha)
    return CoverageLaw(n + 1 - n_above, n_above)


class SetThreshold(Config):
    """The most unlikely that an answer in a set may be, and what it was read from."""

    value: float | None  # None: the rank lies beyond the rows, so every answer is in
    n: int = Field(ge=0)  # calibration rows
    rank: int = Field(ge=1)  # of the score that is the threshold, the smallest being 1

    @model_validator(mode="after")
    def _has_its_row(self) -> Self:
        if (self.value is None) != (self.rank > self.n):
            raise ValueError(f"`value` must be None if and only if `rank` ({self.rank}) is beyond `n` ({self.n})")
        return self


class ConformalSets(Record):
    """What LAC, APS and RAPS share."""

    alpha: float = Field(gt=0, lt=1)  # the share of rows whose right answer may be missing
    n_classes: int = Field(ge=1)
    by_class: bool  # whether the promise holds for each class alone
    randomised: bool  # whether `apply` takes a random number a row
    thresholds: tuple[SetThreshold, ...]  # one, or one a class

    @model_validator(mode="after")
    def _one_threshold_or_one_a_class(self) -> Self:
        if len(self.thresholds) != (self.n_classes if self.by_class else 1):
            raise ValueError(f"`thresholds` ({len(self.thresholds)}) must be one, with `by_class` one for each of {self.n_classes} classes")
        return self

    @property
    def too_small(self) -> tuple[int, ...]:
        """The classes for which there were too few calibration rows, so that they are in every set."""
        return tuple(k for k, threshold in enumerate(self._of_each()) if threshold.value is None)

    @property
    def laws(self) -> tuple[CoverageLaw, ...]:
        """The law of the coverage, for all rows or of each class."""
        return tuple(coverage_law(threshold.n, self.alpha) for threshold in self.thresholds)

    @abstractmethod
    def scores(self, probabilities: Probabilities, chance: Chance | None = None) -> Float64[np.ndarray, "N V"]:
        """How unlikely each answer is."""

    def apply(self, probabilities: Probabilities, chance: Chance | None = None) -> Bool[np.ndarray, "N V"]:
        """True where an answer is in the row's set.

        chance: given if and only if the sets are randomised; the same numbers give the same sets.
        """
        rows = checked_distributions(probabilities)
        if rows.shape[1] != self.n_classes:
            raise DataError(f"These sets were fitted for {self.n_classes} classes, not {rows.shape[1]}.")
        if (chance is not None) != self.randomised:
            remedy = "give one number a row as" if self.randomised else "leave out"
            raise ConfigError(f"These sets are {'' if self.randomised else 'not '}randomised: {remedy} `chance`.")
        most = np.array([np.inf if threshold.value is None else threshold.value for threshold in self._of_each()])
        return self.scores(rows, chance) <= most

    def _of_each(self) -> tuple[SetThreshold, ...]:
        return self.thresholds if self.by_class else self.thresholds * self.n_classes

    def _fitted(self, probabilities: Probabilities, labels: Labels, chance: Chance | None) -> Self:
        """A copy with the thresholds that these rows give."""
        rows = checked_distributions(probabilities)
        classes = checked_labels(labels, *rows.shape)
        own = self.scores(rows, chance)[np.arange(len(rows)), classes]
        groups = [own[classes == k] for k in range(rows.shape[1])] if self.by_class else [own]
        return self.replace(thresholds=tuple(_threshold(group, self.alpha) for group in groups))


class LAC(ConformalSets):
    """Least ambiguous sets: the answers above one probability."""

    method: Literal["lac"] = "lac"
    randomised: Literal[False] = False

    @classmethod
    def fit(cls, probabilities: Probabilities, labels: Labels, alpha: float, *, by_class: bool = False) -> Self:
        """On held-out rows, which the probabilities must not have been fitted to."""
        return cls(**_blank(probabilities, alpha, by_class))._fitted(probabilities, labels, None)

    def scores(self, probabilities: Probabilities, chance: Chance | None = None) -> Float64[np.ndarray, "N V"]:
        """1 - p; there is nothing to randomise."""
        if chance is not None:
            raise ConfigError("LAC sets are not randomised: leave `chance` out.")
        return np.round(1 - _normalised(probabilities), _DIGITS)


class APS(ConformalSets):
    """Adaptive sets: the likeliest answers, until they hold enough probability."""

    method: Literal["aps"] = "aps"

    @classmethod
    def fit(
        cls, probabilities: Probabilities, labels: Labels, alpha: float, *, chance: Chance | None = None, by_class: bool = False
    ) -> Self:
        """On held-out rows; chance makes the sets randomised."""
        blank = cls(**_blank(probabilities, alpha, by_class), randomised=chance is not None)
        return blank._fitted(probabilities, labels, chance)

    def scores(self, probabilities: Probabilities, chance: Chance | None = None) -> Float64[np.ndarray, "N V"]:
        """Probability of the likelier answers, plus (1 - u) p."""
        return np.round(_accumulated(_normalised(probabilities), chance)[0], _DIGITS)


class RAPS(ConformalSets):
    """Regularised adaptive sets: APS with a price on every rank beyond `k_reg`."""

    method: Literal["raps"] = "raps"
    penalty: float = Field(ge=0)  # added for each rank beyond k_reg
    k_reg: int = Field(ge=0)  # ranks that cost nothing

    @classmethod
    def fit(
        cls,
        probabilities: Probabilities,
        labels: Labels,
        alpha: float,
        *,
        penalty: float,
        k_reg: int,
        chance: Chance | None = None,
        by_class: bool = False,
    ) -> Self:
        """On held-out rows; penalty and k_reg must be chosen on others. chance makes the sets randomised."""
        blank = cls(**_blank(probabilities, alpha, by_class), randomised=chance is not None, penalty=penalty, k_reg=k_reg)
        return blank._fitted(probabilities, labels, chance)

    def scores(self, probabilities: Probabilities, chance: Chance | None = None) -> Float64[np.ndarray, "N V"]:
        """The score of APS, plus penalty * max(0, rank - k_reg)."""
        sums, rank = _accumulated(_normalised(probabilities), chance)
        return np.round(sums + self.penalty * np.maximum(0, rank - self.k_reg), _DIGITS)


_SETS: dict[str, type[LAC] | type[APS] | type[RAPS]] = {"lac": LAC, "aps": APS, "raps": RAPS}


def conformal_from_dict(record: Mapping[str, Any]) -> LAC | APS | RAPS:
    """The conformal sets that a record describes, by its `method`; UnknownName if there is no such method."""
    return _SETS[method_of(record, "conformal method", _SETS)].from_dict(record)


@dataclass(frozen=True, slots=True)
class SetQuality:
    """What sets turned out to be on labelled rows that they were not fitted to.

    coverage: share of sets with the right answer. by_class: the same of each class; None for one without rows. mean_size: answers a set.
    sizes: share of sets of each size, 0 (empty) to V (all answers: nothing was ruled out).
    """

    coverage: Interval
    by_class: tuple[Interval | None, ...]
    mean_size: float
    sizes: tuple[float, ...]
    n: int


def set_quality(sets: Bool[np.ndarray, "N V"], labels: Labels, *, level: float = 0.95) -> SetQuality:
    """Coverage and size of sets, intervals by Clopper and Pearson: as if rows were independent."""
    check_share("level", level)
    held = array_of(sets, "Sets")
    if held.ndim != 2 or held.size == 0 or held.dtype != np.bool_:
        raise DataError(f"Sets must be a row of True and False for each item, (N, V), not {held.dtype} of shape {held.shape}.")
    classes = checked_labels(labels, *held.shape)
    hit, sizes = held[np.arange(len(held)), classes], held.sum(axis=1)
    groups = [hit[classes == k] for k in range(held.shape[1])]
    return SetQuality(
        coverage=clopper_pearson(int(hit.sum()), len(hit), level),
        by_class=tuple(clopper_pearson(int(group.sum()), len(group), level) if len(group) else None for group in groups),
        mean_size=float(sizes.mean()),
        sizes=tuple((np.bincount(sizes, minlength=held.shape[1] + 1) / len(held)).tolist()),
        n=len(held),
    )


def _n_above(n: int, alpha: float) -> int:
    """floor((n + 1) alpha), alpha being the decimal that was written: 30 * 0.1 is 3, and not a hair above."""
    if not is_number(alpha) or not 0 < alpha < 1:
        raise ConfigError(f"`alpha`, the share of sets that may miss the right answer, must lie between 0 and 1, not {alpha!r}.")
    return math.floor((n + 1) * Fraction(repr(float(alpha))))


def _threshold(scores: np.ndarray, alpha: float) -> SetThreshold:
    n, rank = len(scores), len(scores) + 1 - _n_above(len(scores), alpha)
    return SetThreshold(value=float(np.sort(scores)[rank - 1]) if rank <= n else None, n=n, rank=rank)


def _blank(probabilities: np.ndarray, alpha: float, by_class: bool) -> dict[str, Any]:
    """The fields that all share, before any row was seen."""
    n_classes = checked_distributions(probabilities).shape[1]
    empty = _threshold(np.zeros(0), alpha)
    return {"alpha": float(alpha), "n_classes": n_classes, "by_class": by_class, "thresholds": (empty,) * (n_classes if by_class else 1)}


def _normalised(probabilities: np.ndarray) -> np.ndarray:
    rows = checked_distributions(probabilities)
    return np.asarray(rows / rows.sum(axis=1, keepdims=True))


def _accumulated(rows: np.ndarray, chance: Chance | None) -> tuple[np.ndarray, np.ndarray]:
    """Of each answer: the probability of all likelier ones plus (1 - u) times its own, and its rank, the likeliest having 1."""
    n, n_classes = rows.shape
    order = np.argsort(-rows, axis=1, kind="stable")
    down = np.take_along_axis(rows, order, axis=1)
    sums = np.concatenate([np.zeros((n, 1)), np.cumsum(down, axis=1)[:, :-1]], axis=1)
    starts = np.concatenate([np.ones((n, 1), dtype=bool), down[:, 1:] < down[:, :-1]], axis=1)
    first = np.maximum.accumulate(np.where(starts, np.arange(n_classes), 0), axis=1)  # of the answers as likely as this one
    scores, ranks = np.empty_like(rows), np.empty(rows.shape, dtype=np.int64)
    own = down * (1 - _chances(chance, n))[:, None]
    np.put_along_axis(scores, order, np.take_along_axis(sums, first, axis=1) + own, axis=1)
    np.put_along_axis(ranks, order, first + 1, axis=1)
    return scores, ranks


def _chances(chance: Chance | None, n: int) -> np.ndarray:
    if chance is None:
        return np.zeros(n)
    found = numbers(chance, "`chance`")
    if found.shape != (n,) or not ((found >= 0) & (found <= 1)).all():
        raise DataError(f"`chance` must be a number in 0 to 1 for each of {n} rows, not of shape {found.shape}.")
    return found
