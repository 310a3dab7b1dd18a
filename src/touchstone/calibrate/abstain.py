"""Answering only where it is safe: "of what I answer, at most a share r is wrong", promised with confidence 1 - delta.

The threshold is found by testing, not by reading it off the rows. Each threshold of a list has the hypothesis "above it, more than r is
wrong"; one that is rejected may be used. From the strictest on, each is tested with the share of delta that it has of its own and, if the
one before was rejected, with all that one had (the fallback procedure; with all of delta at the first threshold it is fixed-sequence
testing). The chance that any threshold too loose is rejected is then at most delta, however risk and confidence hang together.

That holds if rows are independent draws of what will be met later, and if list and shares were fixed before these rows were seen:
`standard_thresholds`, or `share_thresholds` of other rows. The number answered above a threshold is random, but given it, the wrong ones
are binomial, which is what the tests use. Nothing may be promised; the record then answers nothing, and says so.
Sources: Angelopoulos, Bates, Candes, Jordan & Lei 2021 (Learn then Test; Hoeffding-Bentkus); Geifman & El-Yaniv 2017 (selection with
guaranteed risk); Wiens 2003 (fallback procedure); Clopper & Pearson 1934; Massart 1990 (the interval of the coverage).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import numpy as np
from jaxtyping import Bool, Float
from pydantic import Field, model_validator

from touchstone.calibrate.arrays import Correct, array_of, check_count, check_share, checked_applied, checked_scores, is_number, numbers
from touchstone.calibrate.record import Record
from touchstone.config import Config
from touchstone.errors import ConfigError, DataError
from touchstone.stats import Interval

__all__ = [
    "Abstention",
    "Ladder",
    "TestedThreshold",
    "binomial_p_value",
    "hoeffding_bentkus_p_value",
    "share_thresholds",
    "standard_thresholds",
]

RiskTest = Literal["clopper-pearson", "hoeffding-bentkus"]
Bounds = Annotated[tuple[float, ...], Field(min_length=2, max_length=2)]  # low and high

N_THRESHOLDS = 64


@dataclass(frozen=True, slots=True)
class Ladder:
    """Thresholds to test, the strictest first, and the share of delta that each has of its own."""

    thresholds: tuple[float, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        steps, shares = numbers(self.thresholds, "`thresholds`"), numbers(self.shares, "`shares`")
        if steps.ndim != 1 or not steps.size or not np.isfinite(steps).all() or not (np.diff(steps) < 0).all():
            raise DataError("`thresholds` must be finite and fall, the strictest first, each once.")
        if shares.shape != steps.shape or not (shares >= 0).all() or not 0 < shares.sum() <= 1 + 1e-12:
            raise DataError(f"`shares` must be 0 or more for each of {steps.size} thresholds, and 1 in all at most.")


def standard_thresholds(max_risk: float) -> Ladder:
    """For confidences in 0 to 1: 63 from 0.9999 to 0.05, evenly spaced in log-odds, and then 0, which answers everything.

    Half of delta is at 1 - max_risk: above it an honest confidence keeps the promise with most rows to show it. An eighth each is at
    a fourth and a sixteenth of that risk, for a model that is too sure of itself, and at 0.5 and 0, for one that is not sure enough.
    """
    check_share("max_risk", max_risk)
    top, bottom = (math.log(p / (1 - p)) for p in (0.9999, 0.05))
    thresholds = (*(1 / (1 + np.exp(-np.linspace(top, bottom, N_THRESHOLDS - 1)))).tolist(), 0.0)
    shares = np.zeros(N_THRESHOLDS)
    for start, share in ((1 - max_risk / 16, 1 / 8), (1 - max_risk / 4, 1 / 8), (1 - max_risk, 1 / 2), (0.5, 1 / 8), (0.0, 1 / 8)):
        shares[max(0, sum(threshold >= start for threshold in thresholds) - 1)] += share  # the loosest that is strict enough
    return Ladder(thresholds, tuple(shares.tolist()))


def share_thresholds(scores: Float[np.ndarray, " N"], n: int = N_THRESHOLDS) -> Ladder:
    """Thresholds that answer 1/n, 2/n, … and all of these rows; delta is spread evenly over the shares 1/8, 2/8, … 1.

    For scores that are no probabilities, or that crowd together. No labels are needed, but the rows must not be those that are tested.
    """
    found, _ = checked_scores(scores, np.zeros(array_of(scores, "`scores`").shape))
    check_count("n", n, 8)
    quantiles = np.quantile(found, 1 - np.arange(1, n + 1) / n, method="lower")
    thresholds, place = np.unique(-quantiles, return_inverse=True)
    starts = [math.ceil(n * eighth / 8) - 1 for eighth in range(1, 9)]
    shares = np.bincount(place[starts], np.full(8, 1 / 8), len(thresholds))
    return Ladder(tuple((-thresholds).tolist()), tuple(shares.tolist()))


class TestedThreshold(Config):
    """One test: what lay above the threshold, and how well it fits with more than the promised risk."""

    __test__ = False  # no test case, whatever its name says to pytest

    threshold: float
    n_answered: int = Field(ge=0)
    n_wrong: float = Field(ge=0)  # a sum of losses, where answers are graded
    p_value: float = Field(ge=0, le=1)
    strength: float = Field(gt=0, lt=1)  # of delta, what the test had: the p-value at which it rejects
    rejected: bool  # "more than r is wrong" was rejected, so this threshold keeps the promise


class Abstention(Record):
    """Answer where confidence is at least `threshold`; of those answers a share of `max_risk` at most is wrong, so the promise."""

    method: Literal["abstention"] = "abstention"
    max_risk: float = Field(gt=0, lt=1)  # r: the share of given answers that may be wrong
    delta: float = Field(gt=0, lt=1)  # the probability, over calibration sets, that the promise does not hold
    test: RiskTest
    n: int = Field(ge=1)  # rows tested on
    threshold: float | None  # None: nothing can be promised, so nothing is answered
    risk: float | None  # share wrong among the rows answered; None where none are promised
    coverage: float = Field(ge=0, le=1)  # share of the rows that is answered
    coverage_interval: Bounds  # holds for every threshold at once, so for the one that was found too
    level: float = Field(gt=0, lt=1)  # of the interval
    tested: tuple[TestedThreshold, ...]  # in the order of the tests; thresholds with nothing of delta are not tested

    @model_validator(mode="after")
    def _promises_what_was_tested(self) -> Self:
        kept = [test.threshold for test in self.tested if test.rejected]
        if self.threshold != (min(kept) if kept else None):
            raise ValueError(f"`threshold` ({self.threshold}) must be the loosest that was `rejected`, or None if none was")
        return self

    @classmethod
    def fit(
        cls,
        confidence: Float[np.ndarray, " N"],
        correct: Correct,
        *,
        max_risk: float,
        delta: float = 0.1,
        ladder: Ladder | None = None,
        test: RiskTest = "clopper-pearson",
        level: float = 0.95,
    ) -> Self:
        """Find the loosest threshold that keeps the promise.

        correct: with Hoeffding-Bentkus also a grade between 0 and 1, whose shortfall from 1 is the loss.
        ladder: made without these rows; None = `standard_thresholds`, which are for confidences in 0 to 1.
        """
        graded = test == "hoeffding-bentkus"
        sure, right = checked_scores(confidence, correct, graded=graded, what="`confidence`")
        _check(max_risk, delta, test, level)
        if ladder is None:
            checked_scores(confidence, correct, low=0, high=1, graded=graded, what="`confidence`")
            ladder = standard_thresholds(max_risk)
        elif not isinstance(ladder, Ladder):
            raise ConfigError(f"`ladder` must be a `Ladder`, as `share_thresholds` makes one, not a {type(ladder).__name__}.")
        tests = _tests(sure, right, ladder, max_risk, delta, hoeffding_bentkus_p_value if graded else binomial_p_value)
        kept = [each for each in tests if each.rejected]
        best = min(kept, key=lambda each: each.threshold, default=None)
        coverage = 0.0 if best is None else best.n_answered / len(sure)
        half = math.sqrt(math.log(2 / (1 - level)) / (2 * len(sure)))  # Dvoretzky, Kiefer, Wolfowitz; Massart's constant
        return cls(
            max_risk=max_risk,
            delta=delta,
            test=test,
            n=len(sure),
            threshold=None if best is None else best.threshold,
            risk=None if best is None else best.n_wrong / best.n_answered,
            coverage=coverage,
            coverage_interval=(0.0, 0.0) if best is None else (max(0.0, coverage - half), min(1.0, coverage + half)),
            level=level,
            tested=tuple(tests),
        )

    @property
    def coverage_bounds(self) -> Interval:
        """The share answered, with its interval."""
        low, high = self.coverage_interval
        return Interval(self.coverage, low, high, self.level, self.n, "Dvoretzky-Kiefer-Wolfowitz, for all thresholds at once")

    def apply(self, confidence: Float[np.ndarray, "..."]) -> Bool[np.ndarray, "..."]:
        """True where to answer: nowhere, if nothing can be promised. Of `standard_thresholds`, confidences must lie in 0 to 1."""
        is_standard = {test.threshold for test in self.tested} <= set(standard_thresholds(self.max_risk).thresholds)
        low, high = (0.0, 1.0) if is_standard else (-math.inf, math.inf)
        sure = checked_applied(confidence, "`confidence`", low=low, high=high)
        return sure >= self.threshold if self.threshold is not None else np.zeros(sure.shape, dtype=bool)


def binomial_p_value(n_wrong: float, n: int, max_risk: float) -> float:
    """P(at most n_wrong of n are wrong) where a share of max_risk is.

    It is at most delta just where Clopper and Pearson's upper bound of the share, at 1 - delta, is at most max_risk.
    """
    _check_counts("n_wrong", n_wrong, n, max_risk)
    if n_wrong >= n:
        return 1.0
    i = np.arange(1, int(n_wrong) + 1)
    odds = math.log(max_risk) - math.log1p(-max_risk)
    terms = np.concatenate([[0.0], np.cumsum(np.log((n - i + 1) / i) + odds)])
    return min(1.0, float(np.exp(np.logaddexp.reduce(terms) + n * math.log1p(-max_risk))))


def hoeffding_bentkus_p_value(loss: float, n: int, max_risk: float) -> float:
    """A p-value for "the mean loss is above max_risk", of n losses within 0 to 1 whose sum is `loss`.

    Where losses are 0 or 1 it is never below the binomial one.
    """
    _check_counts("loss", loss, n, max_risk)
    if n == 0 or loss >= n * max_risk:
        return 1.0
    mean = loss / n
    exponent = (mean * math.log(mean / max_risk) if mean > 0 else 0.0) + (1 - mean) * math.log((1 - mean) / (1 - max_risk))
    bentkus = math.e * binomial_p_value(math.ceil(loss), n, max_risk)
    return min(1.0, math.exp(-n * exponent), bentkus)


def _tests(
    sure: np.ndarray, right: np.ndarray, ladder: Ladder, max_risk: float, delta: float, p_value: Callable[[float, int, float], float]
) -> list[TestedThreshold]:
    """The fallback procedure."""
    order = np.argsort(-sure, kind="stable")
    n_above = np.searchsorted(-sure[order], -np.array(ladder.thresholds), side="right")  # rows at or above each threshold
    loss_above = np.concatenate([[0.0], np.cumsum(1 - right[order])])[n_above]
    tests, strength = [], 0.0
    for threshold, share, n_answered, loss in zip(ladder.thresholds, ladder.shares, n_above.tolist(), loss_above.tolist(), strict=True):
        strength = min(delta, strength + share * delta)  # sums of shares may round above 1
        if strength == 0:
            continue
        p = p_value(loss, n_answered, max_risk)
        tests.append(
            TestedThreshold(threshold=threshold, n_answered=n_answered, n_wrong=loss, p_value=p, strength=strength, rejected=p <= strength)
        )
        if p > strength:
            strength = 0.0
    return tests


def _check_counts(name: str, wrong: float, n: int, max_risk: float) -> None:
    check_count("n", n, 0)
    check_share("max_risk", max_risk)
    if not is_number(wrong) or not 0 <= wrong <= n * (1 + 1e-9):  # a sum of losses may round above n
        raise ConfigError(f"`{name}` must lie in 0 to `n` ({n}), not {wrong!r}.")


def _check(max_risk: float, delta: float, test: str, level: float) -> None:
    for name, value in (("max_risk", max_risk), ("delta", delta), ("level", level)):
        check_share(name, value)
    if test not in ("clopper-pearson", "hoeffding-bentkus"):
        raise ConfigError(f"`test` must be `clopper-pearson` or `hoeffding-bentkus`, not `{test}`.")
