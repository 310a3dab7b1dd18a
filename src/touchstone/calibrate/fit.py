"""Calibrations fitted on held-out answers: temperature, vector scaling, Platt, histogram binning, isotonic. float64, no scipy.

Each is a frozen record of its parameters with `fit`, `apply`, `to_dict` and `from_dict`. Of logits, temperature and vector scaling
give better logits; of one confidence an answer, the other three give a better confidence.

The loss is convex in the inverse temperature b = 1/T: with E over softmax(b z), its slope is E[z] - z_label and its curvature Var[z].
Newton on b inside a bracket needs only their sums, so logits too big to keep are streamed: see `Temperature.fit_streamed`.
Sources: Guo et al. 2017 (temperature, vector scaling, histogram binning); Platt 1999 and Lin, Lin & Weng 2007 (Platt's targets and a
stable Newton); Ayer et al. 1955 and Zadrozny & Elkan 2002 (isotonic).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from jaxtyping import Float, Float64, Integer
from pydantic import Field, model_validator

from touchstone.calibrate.arrays import (
    Confidence,
    Correct,
    checked_applied,
    checked_labels,
    checked_logits,
    checked_scores,
    is_number,
    numbers,
    sigmoid,
    softmax,
)
from touchstone.calibrate.measure import Binning, bin_tops
from touchstone.calibrate.record import Record, method_of
from touchstone.errors import ConfigError, DataError

__all__ = [
    "MAX_CLASSES",
    "Calibration",
    "HistogramBinning",
    "Isotonic",
    "Platt",
    "Temperature",
    "TemperatureLoss",
    "VectorScaling",
    "calibration_from_dict",
    "temperature_loss",
]

MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-3, 1e3
"""Where the search ends: beyond, a softmax of ordinary logits is one-hot or uniform in float64 already."""

MAX_CLASSES = 2048
"""Of vector scaling: it solves a dense system of twice this size, 128 MB."""


@dataclass(frozen=True, slots=True)
class TemperatureLoss:
    """Sums over items at one temperature; chunks add up with `+`.

    nll: nats. slope, curvature: derivatives of nll by 1/T. margin: logit of the label minus the mean logit. n_wrong: items whose
    label does not have the largest logit.
    """

    nll: float
    slope: float
    curvature: float
    margin: float
    n: int
    n_wrong: int

    def __add__(self, other: "TemperatureLoss") -> "TemperatureLoss":
        return TemperatureLoss(
            self.nll + other.nll,
            self.slope + other.slope,
            self.curvature + other.curvature,
            self.margin + other.margin,
            self.n + other.n,
            self.n_wrong + other.n_wrong,
        )


def temperature_loss(logits: Float[np.ndarray, "N V"], labels: Integer[np.ndarray, " N"], temperature: float) -> TemperatureLoss:
    """What one chunk of logits adds to the loss at a temperature; -inf marks an answer that cannot be given."""
    if not is_number(temperature) or not 0 < temperature < np.inf:
        raise ConfigError(f"`temperature` must be above 0 and finite, not {temperature!r}.")
    z, labels = _logits(logits, labels)
    beta, rows = 1 / temperature, np.arange(len(z))
    z = z - z.max(axis=1, keepdims=True)
    possible = np.isfinite(z)
    weights = np.exp(beta * z)
    total = weights.sum(axis=1)
    z = np.where(possible, z, 0.0)
    mean = np.einsum("nv,nv->n", weights, z) / total
    variance = np.einsum("nv,nv,nv->n", weights, z, z) / total - mean**2
    chosen = z[rows, labels]
    return TemperatureLoss(
        nll=float((np.log(total) - beta * chosen).sum()),
        slope=float((mean - chosen).sum()),
        curvature=float(variance.sum()),
        margin=float((chosen - z.sum(axis=1) / possible.sum(axis=1)).sum()),
        n=len(z),
        n_wrong=int(np.count_nonzero(chosen < 0)),
    )


class Temperature(Record):
    """softmax(z / T) with the T of least NLL: a confidence for every answer, the order of the answers unchanged."""

    method: Literal["temperature"] = "temperature"
    temperature: float = Field(gt=0)  # above 1 softens, below 1 sharpens
    n: int = Field(ge=1)  # items fitted on
    nll_before: float  # nats per item at T = 1
    nll_after: float  # nats per item at T; never above nll_before
    guard: Literal["none", "all correct", "bound"] = "none"
    # all correct: NLL alone would send T to 0, so the targets keep 1/(n+1) for all answers alike (Laplace) and T stays at most 1.
    # bound: the labels ask for a T beyond MIN_TEMPERATURE or MAX_TEMPERATURE; the logits say nothing about them.

    @classmethod
    def fit(cls, logits: Float[np.ndarray, "N V"], labels: Integer[np.ndarray, " N"]) -> "Temperature":
        """Fit on held-out logits that fit in memory."""
        return cls.fit_streamed(lambda temperature: temperature_loss(logits, labels, temperature))

    @classmethod
    def fit_streamed(cls, loss_at: Callable[[float], TemperatureLoss], *, tolerance: float = 1e-10) -> "Temperature":
        """Fit with one pass over the data for each temperature that is asked for, five or six of them.

        loss_at: the sum of `temperature_loss` over all chunks, or the same sums by other means.
        tolerance: relative step of T at which the search ends; 1e-4 saves about one pass.
        """
        if not is_number(tolerance) or not 0 < tolerance < 1:
            raise ConfigError(f"`tolerance`, a relative step, must lie between 0 and 1, not {tolerance!r}.")
        start = at = best = loss_at(1.0)
        if start.n < 1:
            raise DataError("A temperature needs at least one item to fit on.")
        smooth = start.margin / (start.n + 1) if start.n_wrong == 0 else 0.0
        beta = best_beta = 1.0
        low, high = 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE
        at_bound = False
        while not at_bound:
            slope = at.slope + smooth
            low, high = (beta, high) if slope < 0 else (low, beta)
            step = beta - slope / at.curvature if at.curvature > 0 else beta if slope == 0 else np.inf
            if abs(step - beta) <= tolerance * beta or high - low <= tolerance * low:
                break
            if not low < step < high:  # outside what is known: halve the bracket, in ratio
                step = float(np.sqrt(low * high))
            beta = float(step)
            at = loss_at(1 / beta)
            if at.nll + smooth * beta <= (best.nll + smooth * best_beta) * (1 + 1e-14):  # the later of equals has the smaller slope
                best, best_beta = at, beta
            at_bound = not 1.01 / MAX_TEMPERATURE < beta < 0.99 / MIN_TEMPERATURE
        if start.n_wrong == 0 and best_beta < 1:
            best, best_beta = start, 1.0
        guard: Literal["none", "all correct", "bound"] = "all correct" if start.n_wrong == 0 else "bound" if at_bound else "none"
        return cls(temperature=1 / best_beta, n=start.n, nll_before=start.nll / start.n, nll_after=best.nll / start.n, guard=guard)

    def apply(self, logits: Float[np.ndarray, "... V"]) -> Float64[np.ndarray, "... V"]:
        """The calibrated logits."""
        return _applied_logits(logits) / self.temperature


class VectorScaling(Record):
    """softmax(w z + b), a weight and a bias for each class; may change which answer is best."""

    method: Literal["vector"] = "vector"
    weights: tuple[float, ...]
    biases: tuple[float, ...]
    l2: float = Field(ge=0)  # the penalty it was fitted with
    n: int = Field(ge=1)  # items fitted on
    nll_before: float  # nats per item of the logits as they are
    nll_after: float  # nats per item, penalty left out; never above nll_before

    @model_validator(mode="after")
    def _one_bias_for_each_weight(self) -> Self:
        if len(self.weights) != len(self.biases):
            raise ValueError(f"`weights` ({len(self.weights)}) and `biases` ({len(self.biases)}) must be one for each class")
        return self

    @classmethod
    def fit(cls, logits: Float[np.ndarray, "N V"], labels: Integer[np.ndarray, " N"], *, l2: float = 1e-3) -> "VectorScaling":
        """Minimise mean NLL + l2/2 (|w - 1|^2 + |b|^2) by Newton; the penalty holds classes that were hardly seen where they were."""
        z, labels = _logits(logits, labels)
        n, n_classes = z.shape
        if n_classes > MAX_CLASSES or not np.isfinite(z).all() or not is_number(l2) or not 0 < l2 < np.inf:
            raise ConfigError(f"Vector scaling takes finite logits of up to {MAX_CLASSES} classes ({n_classes}) and `l2` above 0 ({l2!r}).")
        target = np.eye(n_classes)[labels]
        identity = np.repeat([1.0, 0.0], n_classes)

        def probs_at(theta: np.ndarray) -> np.ndarray:
            return softmax(z * theta[:n_classes] + theta[n_classes:])

        def nll_at(theta: np.ndarray) -> float:
            scaled = z * theta[:n_classes] + theta[n_classes:]
            return float((np.logaddexp.reduce(scaled, axis=1) - scaled[np.arange(n), labels]).mean())

        def objective(theta: np.ndarray) -> float:
            return nll_at(theta) + l2 / 2 * float(((theta - identity) ** 2).sum())

        def derivatives(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            probs = probs_at(theta)
            gap = probs - target
            gradient = np.concatenate([(gap * z).mean(axis=0), gap.mean(axis=0)]) + l2 * (theta - identity)
            joint = np.hstack([probs * z, probs])  # (N, 2V)
            hessian = -joint.T @ joint / n + l2 * np.eye(2 * n_classes)
            diagonal = np.arange(n_classes)
            own, cross = (probs * z**2).mean(axis=0), (probs * z).mean(axis=0)
            hessian[diagonal, diagonal] += own
            hessian[diagonal + n_classes, diagonal + n_classes] += probs.mean(axis=0)
            hessian[diagonal, diagonal + n_classes] += cross
            hessian[diagonal + n_classes, diagonal] += cross
            return gradient, hessian

        theta = _newton(objective, derivatives, identity)
        weights, biases = theta[:n_classes].tolist(), theta[n_classes:].tolist()
        return cls(weights=tuple(weights), biases=tuple(biases), l2=l2, n=n, nll_before=nll_at(identity), nll_after=nll_at(theta))

    def apply(self, logits: Float[np.ndarray, "... V"]) -> Float64[np.ndarray, "... V"]:
        """The calibrated logits; an answer at -inf stays there."""
        z = _applied_logits(logits)
        if z.shape[-1] != len(self.weights):
            raise DataError(f"Logits must be of the {len(self.weights)} classes that were fitted, not of {z.shape[-1]} (shape {z.shape}).")
        scaled = np.where(np.isneginf(z), 0.0, z) * np.array(self.weights) + np.array(self.biases)
        return np.where(np.isneginf(z), -np.inf, scaled)


class Platt(Record):
    """sigma(slope * score + intercept) of a score that may be any number; the order is kept where the slope is above 0."""

    method: Literal["platt"] = "platt"
    slope: float
    intercept: float
    n: int = Field(ge=1)  # answers fitted on
    n_correct: int = Field(ge=0)

    @classmethod
    def fit(cls, scores: Float[np.ndarray, " N"], correct: Correct) -> "Platt":
        """Maximum likelihood with Platt's targets (N+ + 1)/(N+ + 2) and 1/(N- + 2), which keep separable data finite."""
        s, right = checked_scores(scores, correct)
        n_correct = int(right.sum())
        target = np.where(right == 1, (n_correct + 1) / (n_correct + 2), 1 / (len(s) - n_correct + 2))
        centre, width = float(s.mean()), float(s.std()) or 1.0
        design = np.stack([(s - centre) / width, np.ones(len(s))], axis=1)

        def objective(theta: np.ndarray) -> float:
            logit = design @ theta
            return float((np.logaddexp(0, logit) - target * logit).mean())

        def derivatives(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            probs = sigmoid(design @ theta)
            ridge = 1e-12 * np.eye(2)  # scores that are all alike leave the slope at 0
            return design.T @ (probs - target) / len(s), (design * (probs * (1 - probs))[:, None]).T @ design / len(s) + ridge

        slope, intercept = _newton(objective, derivatives, np.array([0.0, float(np.log(target.mean() / (1 - target.mean())))])).tolist()
        return cls(slope=slope / width, intercept=intercept - slope * centre / width, n=len(s), n_correct=n_correct)

    def apply(self, scores: Float[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
        """The calibrated confidences."""
        return sigmoid(self.slope * checked_applied(scores, "`scores`") + self.intercept)


class HistogramBinning(Record):
    """Each confidence becomes the accuracy of its bin; a bin that held nothing keeps its middle."""

    method: Literal["histogram"] = "histogram"
    tops: tuple[float, ...] = Field(min_length=1)  # upper edge of each bin (lo, hi], ascending
    values: tuple[float, ...]
    n: int = Field(ge=1)  # answers fitted on

    @model_validator(mode="after")
    def _one_value_for_each_bin(self) -> Self:
        if len(self.tops) != len(self.values) or list(self.tops) != sorted(self.tops):
            raise ValueError(f"`tops` ({len(self.tops)}) must be ascending, with one of `values` ({len(self.values)}) for each")
        return self

    @classmethod
    def fit(cls, confidence: Confidence, correct: Correct, bins: int = 15, *, binning: Binning = "equal width") -> "HistogramBinning":
        """Accuracy of every bin."""
        sure, right = checked_scores(confidence, correct, low=0, high=1, what="`confidence`")
        tops = bin_tops(sure, bins, binning)
        place = np.searchsorted(tops, sure)
        hits, counts = np.bincount(place, right, bins), np.bincount(place, minlength=bins)
        values = (np.concatenate([[0.0], tops[:-1]]) + tops) / 2
        np.divide(hits, counts, out=values, where=counts > 0)
        return cls(tops=tuple(tops.tolist()), values=tuple(values.tolist()), n=len(sure))

    def apply(self, confidence: Float[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
        """The calibrated confidences; one above every bin takes the last."""
        place = np.searchsorted(self.tops, checked_applied(confidence, "`confidence`", low=0, high=1))
        return np.array(self.values)[np.minimum(place, len(self.values) - 1)]


class Isotonic(Record):
    """The non-decreasing function of the score with the least squared error; straight lines join its steps."""

    method: Literal["isotonic"] = "isotonic"
    scores: tuple[float, ...] = Field(min_length=1)  # both ends of each pooled block, ascending
    values: tuple[float, ...]
    n: int = Field(ge=1)  # answers fitted on

    @model_validator(mode="after")
    def _both_ascend(self) -> Self:
        if len(self.scores) != len(self.values):
            raise ValueError(f"`scores` ({len(self.scores)}) and `values` ({len(self.values)}) must be of one length")
        if list(self.scores) != sorted(set(self.scores)) or list(self.values) != sorted(self.values):
            raise ValueError("`scores` must ascend and `values` must not fall")
        return self

    @classmethod
    def fit(cls, scores: Float[np.ndarray, " N"], correct: Correct) -> "Isotonic":
        """Pool adjacent violators: neighbouring blocks merge while a later mean is not above an earlier one."""
        s, right = checked_scores(scores, correct)
        levels, place = np.unique(s, return_inverse=True)
        blocks: list[tuple[float, int, int]] = []  # sum, count, index of the first level
        for first, (sum_, count) in enumerate(zip(np.bincount(place, right).tolist(), np.bincount(place).tolist(), strict=True)):
            while blocks and blocks[-1][0] * count >= sum_ * blocks[-1][1]:
                sum_, count, first = sum_ + blocks[-1][0], count + blocks[-1][1], blocks[-1][2]
                blocks.pop()
            blocks.append((sum_, count, first))
        firsts = [first for _, _, first in blocks]
        lasts = [first - 1 for first in firsts[1:]] + [len(levels) - 1]
        ends = [(i, sum_ / n) for (sum_, n, first), last in zip(blocks, lasts, strict=True) for i in sorted({first, last})]
        return cls(scores=tuple(levels[[i for i, _ in ends]].tolist()), values=tuple(value for _, value in ends), n=len(s))

    def apply(self, scores: Float[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
        """The calibrated confidences; beyond the fitted scores the end values hold."""
        return np.interp(checked_applied(scores, "`scores`"), self.scores, self.values)


Calibration = Temperature | VectorScaling | Platt | HistogramBinning | Isotonic
_METHODS: dict[str, type[Calibration]] = {
    "temperature": Temperature,
    "vector": VectorScaling,
    "platt": Platt,
    "histogram": HistogramBinning,
    "isotonic": Isotonic,
}


def calibration_from_dict(record: Mapping[str, Any]) -> Calibration:
    """The calibration that a record describes, by its `method`; UnknownName if there is no such method."""
    return _METHODS[method_of(record, "calibration method", _METHODS)].from_dict(record)


def _newton(
    objective: Callable[[np.ndarray], float], derivatives: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]], theta: np.ndarray
) -> np.ndarray:
    """Minimum of a smooth convex function: Newton steps, halved until they descend enough."""
    value = objective(theta)
    for _ in range(100):
        gradient, hessian = derivatives(theta)
        step = -np.linalg.solve(hessian, gradient)
        descent = float(gradient @ step)
        if -descent < 1e-22:  # twice what is left to gain
            break
        scale = 1.0
        while scale > 1e-10 and not objective(theta + scale * step) <= value + 1e-4 * scale * descent:
            scale /= 2
        if scale <= 1e-10:  # no descent left that float64 can show
            break
        theta = theta + scale * step
        value = objective(theta)
    return theta


def _applied_logits(logits: Any) -> np.ndarray:
    z = numbers(logits, "Logits")
    if z.ndim < 1 or np.isnan(z).any() or (z == np.inf).any():
        raise DataError(f"Logits must be rows of numbers, finite, or -inf for an answer that cannot be given; their shape is {z.shape}.")
    return z


def _logits(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    z = checked_logits(logits)
    labels = checked_labels(labels, *z.shape)
    if not np.isfinite(z[np.arange(len(z)), labels]).all():
        raise DataError("A label's logit is -inf: an answer that cannot be given is no label.")
    return z, labels
