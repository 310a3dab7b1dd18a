"""Which stored calibration holds for a model, and what it makes of next-token logits.

A record holds only for the very weights and the number type it was fitted with; otherwise there is no confidence, and a reason.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from touchstone.calibrate.arrays import log_softmax
from touchstone.calibrate.fit import Temperature, VectorScaling, calibration_from_dict
from touchstone.calibrate.prior import Batch, Contextual, Pmi, prior_from_dict
from touchstone.errors import ConfigError
from touchstone.files import hash_of
from touchstone.models.card import Calibration

__all__ = [
    "Calibrated",
    "CalibratedAnswers",
    "CalibratedClasses",
    "NotCalibrated",
    "answer_calibration",
    "class_calibration",
    "labels_hash",
    "next_token_calibration",
]


_OfAnswers = Temperature | VectorScaling | Contextual | Batch | Pmi


@dataclass(frozen=True)
class Calibrated:
    """A calibration ready to apply: `probability(logits, token_ids)` of the model's raw next-token logits."""

    method: str
    target: str
    probability: Callable[[Float[Tensor, "N V"], Int[Tensor, " N"]], Float[Tensor, " N"]]


@dataclass(frozen=True)
class CalibratedClasses:
    """A calibration of a classifier: `confidence(logits, label)` of its raw scores of one text and the number of a label."""

    method: str
    target: str
    confidence: Callable[[Float[np.ndarray, " L"], int], float]
    record: Calibration


@dataclass(frozen=True)
class CalibratedAnswers:
    """A calibration of closed answers: `logprobs(shares)` of log P(answer | legal answers), in the order it was fitted for."""

    method: str
    target: str
    logprobs: Callable[[Float[np.ndarray, " K"]], Float[np.ndarray, " K"]]
    record: Calibration


@dataclass(frozen=True)
class NotCalibrated:
    """Why there is no confidence."""

    reason: str


def next_token_calibration(
    records: Sequence[Calibration], weights_hash: Callable[[], str], numeric_scheme: str
) -> Calibrated | NotCalibrated:
    """The newest record for next-token probabilities that holds for these weights and this number type.

    weights_hash: called only if there is a record to check.
    """
    candidates = [record for record in records if record.target == "next-token"]
    if not candidates:
        return NotCalibrated("No next-token calibration is stored with this model.")
    reason = ""
    for record in reversed(candidates):
        reason = _mismatch(record, weights_hash, numeric_scheme)
        if not reason:
            return Calibrated(record.method, record.target, _probability(float(record.params["temperature"])))
    return NotCalibrated(reason)


def class_calibration(
    records: Sequence[Calibration], weights_hash: Callable[[], str], numeric_scheme: str, labels: Sequence[str]
) -> CalibratedClasses | NotCalibrated:
    """The newest record for a classifier's labels that holds for these weights, this number type and these labels."""
    candidates = [record for record in records if record.target == "class"]
    if not candidates:
        return NotCalibrated("No calibration of its labels is stored with this model.")
    reason = ""
    for record in reversed(candidates):
        try:
            confidence = _class_confidence(record)
        except ConfigError as error:
            reason = f"The stored calibration cannot be read: {error}"
            continue
        reason = _stale(record, weights_hash, numeric_scheme)
        if not reason and record.labels_hash not in (None, labels_hash(labels)):
            reason = "The stored calibration was fitted for other labels; fit it again."
        if not reason:
            return CalibratedClasses(record.method, record.target, confidence, record)
    return NotCalibrated(reason)


def answer_calibration(
    records: Sequence[Calibration], weights_hash: Callable[[], str], numeric_scheme: str, answers: Sequence[str], task: str
) -> CalibratedAnswers | NotCalibrated:
    """The newest record for a task's closed answers that holds for these weights, this number type and these answers in this order."""
    candidates = [record for record in records if record.target == "answer-set" and record.task == task]
    if not candidates:
        return NotCalibrated(f"No calibration of the answers of `{task}` is stored with this model.")
    reason = ""
    for record in reversed(candidates):
        try:
            fitted = _fitted_answers(record)
        except ConfigError as error:
            reason = f"The stored calibration cannot be read: {error}"
            continue
        reason = _stale(record, weights_hash, numeric_scheme)
        if not reason and record.labels_hash != labels_hash(answers):
            reason = f"The stored calibration of `{task}` was fitted for other answers, or another order of them; fit it again."
        if not reason:
            return CalibratedAnswers(record.method, record.target, _answer_logprobs(fitted), record)
    return NotCalibrated(reason)


def _answer_logprobs(
    fitted: Temperature | VectorScaling | Contextual | Batch | Pmi,
) -> Callable[[Float[np.ndarray, " K"]], Float[np.ndarray, " K"]]:
    return lambda shares: log_softmax(fitted.apply(shares[None]))[0]


def _fitted_answers(record: Calibration) -> _OfAnswers:
    """What changes the scores of all answers together."""
    plain = {"method": record.method, **record.params}
    if record.method in ("contextual", "batch", "pmi"):
        return prior_from_dict(plain)
    fitted = calibration_from_dict(plain)
    if not isinstance(fitted, Temperature | VectorScaling):
        raise ConfigError(f"`{record.method}` corrects one number an answer; a set of answers takes one that changes all.")
    return fitted


def labels_hash(labels: Sequence[str]) -> str:
    """What a record keeps of the labels, their order included."""
    return hash_of(list(labels))


def _class_confidence(record: Calibration) -> Callable[[Float[np.ndarray, " L"], int], float]:
    """Of the label's calibrated probability; the methods that know one number only get the plain probability of the label."""
    fitted = calibration_from_dict({"method": record.method, **record.params})

    def confidence(logits: Float[np.ndarray, " L"], label: int) -> float:
        if isinstance(fitted, Temperature | VectorScaling):
            return float(_softmax(fitted.apply(logits))[label])
        return float(fitted.apply(_softmax(logits)[label : label + 1])[0])

    return confidence


def _softmax(logits: Float[np.ndarray, " L"]) -> Float[np.ndarray, " L"]:
    weights = np.exp(logits - logits.max())
    return np.asarray(weights / weights.sum())


def _mismatch(record: Calibration, weights_hash: Callable[[], str], numeric_scheme: str) -> str:
    if record.method != "temperature":
        return f"The stored calibration uses the method `{record.method}`; next-token confidence is made by `temperature` only."
    temperature = record.params.get("temperature")
    if isinstance(temperature, bool) or not isinstance(temperature, (int, float)) or not 0 < temperature < math.inf:
        return f"The stored calibration has no usable `temperature` ({temperature!r}); fit it again."
    return _stale(record, weights_hash, numeric_scheme)


def _stale(record: Calibration, weights_hash: Callable[[], str], numeric_scheme: str) -> str:
    if record.numeric_scheme != numeric_scheme:
        return f"The stored calibration was fitted in {record.numeric_scheme} and the model runs in {numeric_scheme}; fit it again."
    if record.weights_hash != weights_hash():
        return "The stored calibration was fitted for other weights; fit it again."
    return ""


def _probability(temperature: float) -> Callable[[Float[Tensor, "N V"], Int[Tensor, " N"]], Float[Tensor, " N"]]:
    def probability(logits: Float[Tensor, "N V"], token_ids: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        return (logits / temperature).softmax(dim=-1).gather(1, token_ids[:, None]).squeeze(1)

    return probability
