"""Calibrations of prompts, with no labels needed: what the prompt itself makes likely is taken out of the answers' log-probabilities.

A language model favours an answer for its wording, its place among the examples or its frequency, whatever the question. All three
methods divide by such a prior and differ in where they read it:
- contextual: from inputs without content ("N/A", "", "[MASK]"), each made a distribution over the answers, then averaged;
- batch: from the mean over a batch of real questions. It takes out the share of each class too, so it fails where one class rules;
- PMI: from the tail of the prompt alone ("Answer:"), the answers' log-probabilities as they are.
Which of them helps, or whether any does, cannot be seen without labels: see `choose`.
Log-probabilities in nats over closed answers, (N, K). -inf marks an answer that cannot be given, and stays.
Sources: Zhao et al. 2021 (contextual; the variant for generation is in its section 5 and code); Zhou et al. 2023 (batch; with labels);
Holtzman et al. 2021 (PMI, there "domain conditional").
"""

from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np
from jaxtyping import Float, Float64, Integer
from pydantic import Field, model_validator

from touchstone.calibrate.arrays import checked_distributions, checked_labels, checked_logits, log_softmax, numbers
from touchstone.calibrate.record import Record, method_of
from touchstone.errors import DataError

__all__ = ["Batch", "Contextual", "Pmi", "first_token_scores", "prior_from_dict"]

LogProbs = Float[np.ndarray, "N K"]
Doubt = Literal["none", "few rows", "one answer", "one label"]

MOSTLY_ONE = 0.9
"""Share of a batch with the same likeliest answer from which batch calibration is doubted: it will give away half of them even so."""

_STRENGTHS = np.linspace(-5, 5, 201)  # of batch calibration, the range that Zhou et al. search


class _Prior(Record):
    """What the three share: a log prior of each answer."""

    log_prior: tuple[float, ...] = Field(min_length=1)  # nats, of each answer
    n: int = Field(ge=1)  # inputs it was read from

    def _rows(self, logprobs: np.ndarray) -> np.ndarray:
        rows = numbers(logprobs, "Log-probabilities (`logprobs`)")
        if rows.ndim < 1 or rows.shape[-1] != len(self.log_prior):
            raise DataError(f"This prior is of {len(self.log_prior)} answers; `logprobs` has the shape {rows.shape}.")
        if np.isnan(rows).any() or (rows == np.inf).any():
            raise DataError("`logprobs` must be finite, or -inf for an answer that cannot be given.")
        return rows


class Contextual(_Prior):
    """log p - log p_cf, made a distribution again: an input without content gets the same probability for every answer."""

    method: Literal["contextual"] = "contextual"

    @classmethod
    def fit(cls, content_free: LogProbs) -> Self:
        """content_free: log-probabilities of the answers after each of N inputs without content, three of them in the paper."""
        return cls(log_prior=_log_mean(content_free, "content_free"), n=len(content_free))

    def apply(self, logprobs: Float[np.ndarray, "... K"]) -> Float64[np.ndarray, "... K"]:
        """The calibrated log-probabilities; they sum to one."""
        return log_softmax(self._rows(logprobs) - np.array(self.log_prior))


class Batch(_Prior):
    """log p - strength * log mean p over a batch, made a distribution again."""

    method: Literal["batch"] = "batch"
    strength: float = 1.0  # 1: all of the prior is taken out; 0: none of it
    n_labelled: int = Field(0, ge=0)  # labels that the strength was fitted on; 0: it was not
    top_share: float = Field(ge=0, le=1)  # share of the batch with the commonest likeliest answer
    doubt: Doubt = "none"
    # few rows: fewer than answers, so some cannot be among the right ones. one answer: MOSTLY_ONE or more of the batch had the same
    # likeliest one, from the prompt's bias or because it is right; then this calibration ruins them. one label: it is right for all.

    @classmethod
    def fit(cls, logprobs: LogProbs) -> Self:
        """logprobs: of a batch of real questions, from the same prompt and the same mixture of classes as what will be asked."""
        rows = _distributions(logprobs, "logprobs")
        best = np.bincount(rows.argmax(axis=1))
        top_share = float(best.max() / len(rows))
        doubt: Doubt = "few rows" if len(rows) < rows.shape[1] else "one answer" if top_share >= MOSTLY_ONE else "none"
        return cls(log_prior=_log_mean(logprobs, "logprobs"), n=len(rows), top_share=top_share, doubt=doubt)

    @classmethod
    def fit_labelled(cls, logprobs: LogProbs, labels: Integer[np.ndarray, " N"]) -> Self:
        """With the strength, of -5 to 5, that gives the most right answers; of those the one of least NLL."""
        plain = cls.fit(logprobs)
        rows = _distributions(logprobs, "logprobs")
        classes = checked_labels(labels, *rows.shape)
        if not np.isfinite(rows[np.arange(len(rows)), classes]).all():
            raise DataError("A label's log-probability is -inf: an answer that cannot be given is no label.")

        def merit(strength: float) -> tuple[int, float]:
            tried = log_softmax(rows - strength * np.array(plain.log_prior))
            return int((tried.argmax(axis=1) == classes).sum()), float(tried[np.arange(len(rows)), classes].sum())

        best = max(_STRENGTHS.tolist(), key=merit)
        doubt = "one label" if len(np.unique(classes)) == 1 and rows.shape[1] > 1 else plain.doubt
        return plain.replace(strength=best, n_labelled=len(rows), doubt=doubt)

    def apply(self, logprobs: Float[np.ndarray, "... K"]) -> Float64[np.ndarray, "... K"]:
        """The calibrated log-probabilities; they sum to one."""
        return log_softmax(self._rows(logprobs) - self.strength * np.array(self.log_prior))


class Pmi(_Prior):
    """log P(answer | question) - log P(answer | domain): how much likelier the question makes an answer."""

    method: Literal["pmi"] = "pmi"

    @model_validator(mode="after")
    def _one_domain(self) -> Self:
        if self.n != 1:
            raise ValueError(f"`n` ({self.n}) must be 1: the domain is one text")
        return self

    @classmethod
    def fit(cls, domain: Float[np.ndarray, " K"]) -> Self:
        """domain: log P of each answer after the tail of the prompt alone, such as "Answer:"; need not sum to one."""
        row = numbers(domain, "The domain's log-probabilities")
        if row.ndim != 1 or row.size == 0 or not np.isfinite(row).all():
            raise DataError("The domain's log-probabilities must be one finite number for each answer; leave out answers at -inf.")
        return cls(log_prior=tuple(row.tolist()), n=1)

    def apply(self, logprobs: Float[np.ndarray, "... K"]) -> Float64[np.ndarray, "... K"]:
        """The scores in nats, 0 where the question adds nothing; their softmax is a distribution over the answers."""
        return self._rows(logprobs) - np.array(self.log_prior)


_METHODS: dict[str, type[Contextual] | type[Batch] | type[Pmi]] = {"contextual": Contextual, "batch": Batch, "pmi": Pmi}


def prior_from_dict(record: Mapping[str, Any]) -> Contextual | Batch | Pmi:
    """The prompt calibration that a record describes, by its `method`; UnknownName if there is no such method."""
    return _METHODS[method_of(record, "prompt calibration", _METHODS)].from_dict(record)


def first_token_scores(probabilities: Float[np.ndarray, "N V"], content_free: Float[np.ndarray, "M V"]) -> Float64[np.ndarray, "N V"]:
    """Contextual calibration of a generated answer's first token, over the vocabulary: p - p_cf, the largest being the token to take.

    A difference and not a ratio: over a vocabulary most of p_cf is nearly 0, and a ratio would pick its noise. Later tokens stay
    as they are.
    content_free: next-token probabilities after each of M inputs without content.
    """
    rows, free = checked_distributions(probabilities), checked_distributions(content_free, what="`content_free`")
    if rows.shape[1] != free.shape[1]:
        raise DataError(f"`probabilities` and `content_free` need one vocabulary; they have {rows.shape[1]} and {free.shape[1]} tokens.")
    return np.asarray(rows - free.mean(axis=0))


def _distributions(logprobs: np.ndarray, name: str) -> np.ndarray:
    rows = checked_logits(logprobs, what=f"Log-probabilities (`{name}`)")
    if not np.isfinite(rows).any(axis=1).all():
        raise DataError(f"Each row of `{name}` needs an answer that can be given; one has -inf for all.")
    return log_softmax(rows)


def _log_mean(logprobs: np.ndarray, name: str) -> tuple[float, ...]:
    """Log of the mean over rows of their distributions over the answers."""
    rows = _distributions(logprobs, name)
    prior = np.logaddexp.reduce(rows, axis=0) - np.log(len(rows))
    if not np.isfinite(prior).all():
        raise DataError(
            f"Answer {int(np.argmin(np.isfinite(prior)))} has probability 0 in all rows of `{name}`: it has no prior, leave it out."
        )
    return tuple(prior.tolist())
