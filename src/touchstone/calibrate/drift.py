"""Whether the confidences a model gives now are still like those its calibration was measured on.

A calibration holds for questions like those it was fitted on. Whether new ones are like them shows, without labels, in the confidences: if
old and new ones come from one distribution, the rank of each new one among all before it is uniform. Ranks are taken in a histogram of
fixed bins, ties broken at random, so that memory is bounded and the ranks are exactly uniform and independent; a bet against that, in the
form of the Simple Jumper martingale, then wins much with a probability that Ville's inequality bounds, at whatever moment one looks.
Unusual here: two more bets, on ranks that spread or gather; and play begins anew after every `ROUND` answers with a stricter bound, so that
a long quiet time costs little of what is later needed to tell.
What an alarm does not say is that the calibration is wrong - that takes labels; and errors can change where confidences do not. Questions
that come sorted by kind change by this measure, too.
Sources: Vovk, Nouretdinov & Gammerman 2003, "Testing exchangeability on-line" (ranks with random ties); Vovk, Petej, Nouretdinov,
Ahlberg, Carlsson & Gammerman 2021, "Retrain or not retrain: conformal test martingales for change-point detection" (algorithm 1).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from touchstone.calibrate.arrays import check_count, check_share, numbers, sigmoid
from touchstone.errors import ConfigError, DataError

__all__ = ["N_BINS", "DriftAlarm", "DriftCheck", "Jumper", "confidence_counts"]

EDGES = sigmoid(np.linspace(-8, 8, 63))
"""Even steps of log odds: most confidences are near 1, and differ there. Fixed, as bins made from one side's values would favour it."""

N_BINS = len(EDGES) + 1

ROUND = 1000
"""Answers after which the bets begin anew."""

LEAST_FITTED = 20
"""Confidences without which there is nothing to compare with."""

_BETS: tuple[Callable[[float], float], ...] = (
    lambda p: 1.0,
    lambda p: 1 + (p - 0.5),
    lambda p: 1 - (p - 0.5),
    lambda p: 1 + (12 * (p - 0.5) ** 2 - 1) / 4,
    lambda p: 1 - (12 * (p - 0.5) ** 2 - 1) / 4,
)
"""What one unit staked returns if the rank is p: on no change, on higher, lower, more spread, more gathered ranks. Each has mean 1."""

_SWITCHING = 0.01  # J of Vovk et al. 2021: the share of the capital that is spread anew over the bets before each


def confidence_counts(confidences: Float[np.ndarray, " N"]) -> tuple[int, ...]:
    """How many fall into each of the N_BINS bins: what is kept of those that a calibration was measured on."""
    return tuple(np.bincount(_bins(confidences), minlength=N_BINS).tolist())


@dataclass(frozen=True, slots=True)
class DriftAlarm:
    """After how many live confidences it was raised, and by how much the distributions differed then (Kolmogorov-Smirnov distance)."""

    n: int
    distance: float


class Jumper:
    """The capital of bets on ranks that are uniform if nothing has changed; it begins at 1."""

    def __init__(self, bets: Sequence[Callable[[float], float]] = _BETS, switching: float = _SWITCHING) -> None:
        self._bets, self._switching = tuple(bets), switching
        self._staked = np.full(len(self._bets), 1 / len(self._bets))

    @property
    def capital(self) -> float:
        return float(self._staked.sum())

    def bet(self, p: float) -> float:
        """The capital after the rank p, of 0 to 1."""
        spread = (1 - self._switching) * self._staked + self._switching * self.capital / len(self._bets)
        self._staked = spread * [bet(p) for bet in self._bets]
        return self.capital


class DriftCheck:
    """Live confidences beside those of the fit, one at a time and for as long as one likes.

    fitted: `confidence_counts` of answers that were not fitted to, one a question. false_alarm_rate: the probability that an alarm is ever
    raised while live confidences are exchangeable with those; later alarms than the first are not raised.
    Raises ConfigError for counts that are none, too few, or of other bins; DataError for what is no number.
    """

    def __init__(self, fitted: Sequence[int], *, false_alarm_rate: float = 0.01, seed: int = 0) -> None:
        check_share("false_alarm_rate", false_alarm_rate)
        check_count("seed", seed, 0)
        counts = numbers(fitted, "`fitted`")
        are_counts = counts.shape == (N_BINS,) and np.isfinite(counts).all() and (counts >= 0).all() and not (counts % 1).any()
        if not are_counts or counts.sum() < LEAST_FITTED:
            raise ConfigError(
                f"`fitted` must be {N_BINS} counts, together {LEAST_FITTED} or more, not of shape {counts.shape}, sum {counts.sum():g}."
            )
        self.false_alarm_rate = false_alarm_rate
        self.alarm: DriftAlarm | None = None
        self.n = 0  # live confidences so far
        self._fitted = counts.astype(np.int64)
        self._live = np.zeros(N_BINS, dtype=np.int64)
        self._rng = np.random.default_rng(seed)
        self._jumper, self._highest = Jumper(), 1.0

    @property
    def distance(self) -> float:
        """The largest difference of the two cumulative distributions, 0 to 1; 0 before the first live confidence."""
        if not self.n:
            return 0.0
        return float(np.abs(np.cumsum(self._fitted) / self._fitted.sum() - np.cumsum(self._live) / self.n).max())

    @property
    def evidence(self) -> float:
        """The highest capital of this round's bets over the bound that raises the alarm, so an alarm is at 1."""
        return self._highest / self._bound

    def observe(self, confidences: Float[np.ndarray, " N"]) -> DriftAlarm | None:
        """Take in live confidences, one a question, in their order; the alarm, if one of these raised it."""
        quiet = self.alarm is None
        for place in _bins(confidences).tolist():
            self._take(place)
        return self.alarm if quiet else None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for metrics."""
        return {
            "n_fitted": int(self._fitted.sum()),
            "n_live": self.n,
            "distance": self.distance,
            "evidence": self.evidence,
            "false_alarm_rate": self.false_alarm_rate,
            "alarm_at": None if self.alarm is None else self.alarm.n,
        }

    @property
    def _bound(self) -> float:
        """Of the k-th round: its share 6 / (pi k)^2 of the rate, turned round; all shares sum to 1."""
        number = max(0, self.n - 1) // ROUND + 1
        return (math.pi * number) ** 2 / 6 / self.false_alarm_rate

    def _take(self, place: int) -> None:
        if self.n % ROUND == 0 and self.alarm is None:
            self._jumper, self._highest = Jumper(), 1.0
        self.n += 1
        self._live[place] += 1
        if self.alarm is None:
            self._highest = max(self._highest, self._jumper.bet(self._rank(place)))
            if self._highest >= self._bound:
                self.alarm = DriftAlarm(self.n, self.distance)

    def _rank(self, place: int) -> float:
        """The rank of the newest, of this bin, among all so far: 0 to 1, its place among equals drawn at random."""
        seen = self._fitted + self._live
        return float((seen[:place].sum() + self._rng.random() * seen[place]) / seen.sum())


def _bins(confidences: np.ndarray) -> np.ndarray:
    values = numbers(confidences, "Confidences")
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise DataError(f"Confidences must be a row of numbers from 0 to 1, not of shape {values.shape} or beyond.")
    return np.searchsorted(EDGES, values, side="right")
