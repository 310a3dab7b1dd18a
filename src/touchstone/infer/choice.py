"""One choice of one request while it is generated: its rules, its random numbers, its tokens and its text."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from touchstone.errors import ShapeError, TouchstoneError
from touchstone.infer.asked import Asked
from touchstone.infer.request import Completion, Confidence, Fault, FinishReason, Sampling, TokenEvent
from touchstone.infer.rules import Rule
from touchstone.infer.sampled import Sampled
from touchstone.infer.sampling import Uniforms
from touchstone.infer.stop import CompletionText

__all__ = ["NOT_FINITE", "Choice", "Failure", "apply_rules", "failure"]

NOT_FINITE = "No token has a finite score: the model's logits are not finite, or the rules ban every token."


class Failure(NamedTuple):
    """What ended a completion before its end, and whose fault it is."""

    message: str
    fault: Fault = "model"


class Choice:
    """A completion in the making.

    index: which choice of its request.
    confidence_label: method and target of the calibration that the steps' confidence comes from.
    """

    n_rows = 1

    def __init__(
        self, asked: Asked, index: int, rules: Sequence[Rule], text: CompletionText | None, confidence_label: tuple[str, str] | None = None
    ) -> None:
        self.asked = asked
        self.index = index
        self.finish_reason: FinishReason | None = None
        self._rules = rules
        self._text = text
        self._uniforms = Uniforms(asked.seed, index)
        self._confidence_label = confidence_label
        self._sampled: list[Sampled] = []
        self._error: Failure | None = None

    @property
    def is_over(self) -> bool:
        return self.finish_reason is not None

    @property
    def sampling(self) -> Sampling:
        return self.asked.sampling

    @property
    def has_rules(self) -> bool:
        return bool(self._rules)

    @property
    def n_top(self) -> int | None:
        return self.sampling.top_logprobs

    def uniform(self, n_ahead: int = 0) -> float:
        """The random number of the next step, or of one further ahead."""
        return self._uniforms.at(len(self._sampled) + n_ahead)

    def shape(self, logits: Float[Tensor, " V"]) -> Float[Tensor, " V"]:
        """The logits after the rules; a rule that fails ends this choice alone."""
        try:
            return apply_rules(self._rules, logits)
        except Exception as error:  # a constraint is foreign code; its failure must not end the neighbours in the batch
            self._fail(failure(error))
            return logits

    def accept(self, step: Sampled, problem: str | None = None) -> TokenEvent:
        """Take in a sampled token; the event it makes, the last one if this ended the choice.

        problem: what is known of the cause where the model's logits are no numbers.
        """
        if not math.isfinite(step.score):
            self._fail(Failure(problem or NOT_FINITE, "model" if math.isnan(step.logprob) else "request"))
        if self._error is not None:
            return self.end("error")
        self._sampled.append(step)
        return self._event(step, self._reason_after(step.token_id))

    def end(self, reason: FinishReason, error: Failure | None = None) -> TokenEvent:
        """Cut the choice off without a new token."""
        self._error = self._error or error
        return self._event(None, reason)

    def cancel(self) -> Iterator[TokenEvent]:
        """End before the next token."""
        yield self.end("cancelled")

    def replay(self, steps: Sequence[Sampled], reason: FinishReason, score: float) -> Iterator[TokenEvent]:
        """The events of a completion that was found whole; an end token has no text."""
        for n_left, step in zip(range(len(steps) - 1, -1, -1), steps, strict=True):
            self._sampled.append(step)
            if self._text is not None and (n_left or step.token_id not in self.asked.end_ids):
                self._text.accept(step.token_id)
            yield self._event(step, None if n_left else reason, score)

    def _reason_after(self, token_id: int) -> FinishReason | None:
        if token_id in self.asked.end_ids:
            return "stop"
        stops = self._accept_by_rules(token_id)
        if self._error is not None:
            return "error"
        if stops:
            return "stop"
        return "length" if len(self._sampled) == self.asked.max_new_tokens else None

    def _accept_by_rules(self, token_id: int) -> bool:
        if self._text is not None:
            self._text.accept(token_id)
        try:
            for rule in self._rules:
                rule.accept(token_id)
            return any(rule.must_stop for rule in self._rules) or (self._text is not None and self._text.must_stop)
        except Exception as error:  # as in `shape`
            self._fail(failure(error))
            return True

    def _fail(self, failure: Failure) -> None:
        self._error = self._error or failure

    def _event(self, step: Sampled | None, reason: FinishReason | None, score: float | None = None) -> TokenEvent:
        self.finish_reason = reason
        if reason is not None and self._text is not None:
            self._text.finish()
        return TokenEvent(
            request_index=self.asked.index,
            index=self.index,
            token_id=step.token_id if step else None,
            text=self._text.take() if self._text is not None else "",
            logprob=step.logprob if step else None,
            top_logprobs=step.top if step else None,
            finish_reason=reason,
            completion=self._completion(reason, score) if reason is not None else None,
        )

    def _completion(self, reason: FinishReason, score: float | None) -> Completion:
        confidence = None
        if self._confidence_label is not None:
            confidence = Confidence(
                tuple(step.confidence for step in self._sampled if step.confidence is not None), *self._confidence_label
            )
        return Completion(
            request_index=self.asked.index,
            index=self.index,
            text=self._text.text if self._text is not None else None,
            token_ids=tuple(step.token_id for step in self._sampled),
            logprobs=tuple(step.logprob for step in self._sampled),
            top_logprobs=None if self.n_top is None else tuple(step.top or () for step in self._sampled),
            finish_reason=reason,
            prompt_token_ids=self.asked.prompt,
            seed=self.asked.seed,
            confidence=confidence,
            error=None if self._error is None else self._error.message,
            fault=None if self._error is None else self._error.fault,
            score=score,
        )


def apply_rules(rules: Sequence[Rule], logits: Float[Tensor, " V"]) -> Float[Tensor, " V"]:
    """The logits after all rules; raises what a rule raises, and ShapeError for one that changes the shape."""
    shaped = logits
    for rule in rules:
        shaped = rule.apply(shaped)
    if shaped.shape != logits.shape:
        raise ShapeError(f"it returned logits of shape {list(shaped.shape)} where {list(logits.shape)} went in.")
    return shaped


def failure(error: Exception) -> Failure:
    """What a completion says of a rule that raised: an error of ours is about what was asked."""
    if isinstance(error, TouchstoneError):
        return Failure(str(error), "request")
    return Failure(f"A sampling rule failed: {type(error).__name__}: {error}")
