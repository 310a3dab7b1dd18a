"""How far a model's confidence in its answers can be believed: calibration, ranking, and a promise, with error bars.

Answers are divided in halves by a hash of their questions. A calibration and a promise are made on one half and measured on the other.
The promise is made for the model's raw confidence: a calibrated one has seen the labels that it is tested with. Ranking figures (AURC,
AUROC, the risk-coverage curve) fit nothing and use all answers.
"""

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from touchstone.calibrate.abstain import Abstention
from touchstone.calibrate.choose import choose_confidence
from touchstone.calibrate.measure import Resampling, aurc, auroc, ece_equal_width
from touchstone.errors import DataError
from touchstone.flows.calibrating import LEAST_ROWS, reliability_curve
from touchstone.flows.comparison import interval_dict, measurement_dict
from touchstone.flows.measuring import ECE_BINS
from touchstone.stats import clopper_pearson

__all__ = ["DELTA", "MAX_RISK", "calibration_data", "confidence_data", "is_enough", "promise_data", "risk_coverage_points", "trust_data"]

MAX_RISK = 0.05
"""Of what is answered, the share that may be wrong."""

DELTA = 0.1
"""The probability that the promise does not hold: 90 % confidence."""

_POINTS = 120  # of a risk-coverage curve: more than a screen shows

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def is_enough(first: Bools) -> bool:
    """Whether either half has the answers to say anything by."""
    return min(int(first.sum()), int((~first).sum())) >= LEAST_ROWS


def confidence_data(sure: Floats, correct: Bools, first: Bools) -> dict[str, Any]:
    """Everything about the confidence of answers of which only one number is known; its calibration is chosen by cross-validation."""
    if not is_enough(first):
        return trust_data(sure, None, correct, first)
    choice = choose_confidence(sure[first], correct[first])
    return {**trust_data(sure, choice.apply(sure), correct, first), "method": choice.choice}


def trust_data(sure: Floats, calibrated: Floats | None, correct: Bools, first: Bools) -> dict[str, Any]:
    """Plain data of calibration, ranking and promise.

    sure: the model's own confidence. calibrated: by what was fitted on the first half; None where there are too few answers to fit.
    """
    return {
        "n": len(sure),
        "method": None,
        **calibration_data(sure, calibrated, correct, first),
        "aurc": measurement_dict(aurc(sure, correct)),
        "auroc": _auroc(sure, correct),
        "risk_coverage": risk_coverage_points(sure, correct),
        "promise": promise_data(sure, correct, first) if calibrated is not None else None,
    }


def calibration_data(
    sure: Floats, calibrated: Floats | None, correct: Bools, first: Bools, clusters: NDArray[np.int64] | None = None
) -> dict[str, Any]:
    """The error before and after on the second half; of all answers, and before only, where nothing was fitted."""
    seen = np.zeros(len(sure), dtype=bool) if calibrated is None else first
    resampling = Resampling(clusters=None if clusters is None else clusters[~seen])

    def of(confidence: Floats | None) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        if confidence is None:
            return None, None
        found = ece_equal_width(confidence[~seen], correct[~seen], ECE_BINS, resampling=resampling)
        return measurement_dict(found), asdict(reliability_curve(confidence[~seen], correct[~seen]))

    (before, curve_before), (after, curve_after) = of(sure), of(calibrated)
    return {
        "n_fitted": int(seen.sum()),
        "ece_before": before,
        "ece_after": after,
        "curves": {"before": curve_before, "after": curve_after},
    }


def promise_data(sure: Floats, correct: Bools, first: Bools) -> dict[str, Any]:
    """The promise made on the first half, and whether the second half keeps it.

    outcome: impossible (nothing can be promised), unused (no answer of the second half is sure enough), held (no more wrong than promised),
    chance (more, but chance explains it), broken (more than chance explains).
    """
    rule = Abstention.fit(sure[first], correct[first], max_risk=MAX_RISK, delta=DELTA)
    answered = rule.apply(sure[~first])
    n_answered, n_wrong = int(answered.sum()), int((~correct[~first][answered]).sum())
    risk = clopper_pearson(n_wrong, n_answered) if n_answered else None
    if rule.threshold is None:
        outcome = "impossible"
    elif risk is None:
        outcome = "unused"
    elif risk.value <= MAX_RISK:
        outcome = "held"
    else:
        outcome = "broken" if risk.low > MAX_RISK else "chance"
    return {
        "max_risk": MAX_RISK,
        "delta": DELTA,
        "threshold": rule.threshold,
        "n_fitted": rule.n,
        "coverage_fitted": rule.coverage,
        "n_measured": int((~first).sum()),
        "n_answered": n_answered,
        "n_wrong": n_wrong,
        "coverage": n_answered / int((~first).sum()),
        "risk": None if risk is None else interval_dict(risk),
        "outcome": outcome,
    }


def risk_coverage_points(sure: Floats, correct: Bools) -> dict[str, list[float]]:
    """The share wrong among the most confident answers, at every share answered; answers of equal confidence are answered together."""
    order = np.argsort(-sure, kind="stable")
    n_wrong, ranked = np.cumsum(~correct[order]), sure[order]
    ends = np.flatnonzero(np.r_[ranked[1:] != ranked[:-1], True])
    if len(ends) > _POINTS:
        ends = ends[np.unique(np.linspace(0, len(ends) - 1, _POINTS).round().astype(np.int64))]
    return {"coverage": ((ends + 1) / len(sure)).tolist(), "risk": (n_wrong[ends] / (ends + 1)).tolist()}


def _auroc(sure: Floats, correct: Bools) -> dict[str, Any] | None:
    """None where all answers are right, or all wrong."""
    try:
        return measurement_dict(auroc(sure, correct))
    except DataError:
        return None
