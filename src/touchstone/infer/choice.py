"""One choice of one request while it is generated: its rules, its random numbers, its tokens and its text."""

from collections.abc import Collection, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from touchstone.errors import ConfigError
from touchstone.infer.request import Completion, Confidence, FinishReason, Request, Sampling, TokenEvent, TokenLogprob
from touchstone.infer.rules import FrequencyPenalty, LogitBias, MinNewTokens, RepetitionPenalty, Rule
from touchstone.infer.sampling import Uniforms
from touchstone.infer.stop import CompletionText

__all__ = ["Choice", "Sampled", "build_rules"]


class Sampled:
    """What one step brought for one choice."""

    __slots__ = ("confidence", "logprob", "token_id", "top")

    def __init__(self, token_id: int, logprob: float, top: tuple[TokenLogprob, ...] | None, confidence: float | None) -> None:
        self.token_id = token_id
        self.logprob = logprob
        self.top = top
        self.confidence = confidence


class Choice:
    """A completion in the making.

    sampling: with defaults filled in, seed and max_new_tokens set.
    place: index of the request and of the choice within it.
    confidence_label: method and target of the calibration that the steps' confidence comes from.
    """

    def __init__(
        self,
        request: Request,
        sampling: Sampling,
        prompt: tuple[int, ...],
        place: tuple[int, int],
        rules: Sequence[Rule],
        text: CompletionText | None,
        eos_ids: Collection[int],
        confidence_label: tuple[str, str] | None = None,
    ) -> None:
        assert sampling.seed is not None
        assert sampling.max_new_tokens is not None
        self.request = request
        self.sampling = sampling
        self.prompt = prompt
        self.request_index, self.index = place
        self.seed = sampling.seed
        self.finish_reason: FinishReason | None = None
        self._rules = rules
        self._text = text
        self._eos_ids = frozenset() if sampling.ignore_eos else frozenset(eos_ids)
        self._uniforms = Uniforms(self.seed, self.index)
        self._confidence_label = confidence_label
        self._sampled: list[Sampled] = []
        self._error: str | None = None

    @property
    def has_rules(self) -> bool:
        return bool(self._rules)

    @property
    def n_top(self) -> int | None:
        return self.sampling.top_logprobs

    @property
    def max_length(self) -> int:
        """Tokens of prompt and completion at most."""
        assert self.sampling.max_new_tokens is not None
        return len(self.prompt) + self.sampling.max_new_tokens

    def uniform(self) -> float:
        """The random number of the next step."""
        return self._uniforms.at(len(self._sampled))

    def shape(self, logits: Float[Tensor, " V"]) -> Float[Tensor, " V"]:
        """The logits after the rules; a rule that fails ends this choice alone."""
        shaped = logits
        try:
            for rule in self._rules:
                shaped = rule.apply(shaped)
        except Exception as error:  # a constraint is foreign code; its failure must not end the neighbours in the batch
            self._fail(f"A sampling rule failed: {type(error).__name__}: {error}")
        if shaped.shape != logits.shape:
            self._fail(f"A sampling rule returned logits of shape {list(shaped.shape)} where {list(logits.shape)} went in.")
        return logits if self._error else shaped

    def accept(self, step: Sampled, *, possible: bool) -> TokenEvent:
        """Take in a sampled token; the event it makes, the last one if this ended the choice.

        possible: False if no token had a finite score.
        """
        if self._error is None and not possible:
            self._fail("No token has a finite score: the model's logits are not finite, or the rules ban every token.")
        if self._error is not None:
            return self.end("error")
        self._sampled.append(step)
        return self._event(step, self._reason_after(step.token_id))

    def end(self, reason: FinishReason) -> TokenEvent:
        """Cut the choice off without a new token."""
        return self._event(None, reason)

    def _reason_after(self, token_id: int) -> FinishReason | None:
        if token_id in self._eos_ids:
            return "stop"
        stops = self._accept_by_rules(token_id)
        if self._error is not None:
            return "error"
        if stops:
            return "stop"
        return "length" if len(self._sampled) == self.sampling.max_new_tokens else None

    def _accept_by_rules(self, token_id: int) -> bool:
        if self._text is not None:
            self._text.accept(token_id)
        try:
            for rule in self._rules:
                rule.accept(token_id)
            return any(rule.must_stop for rule in self._rules) or (self._text is not None and self._text.must_stop)
        except Exception as error:  # as in `shape`
            self._fail(f"A sampling rule failed: {type(error).__name__}: {error}")
            return True

    def _fail(self, message: str) -> None:
        self._error = self._error or message

    def _event(self, step: Sampled | None, reason: FinishReason | None) -> TokenEvent:
        self.finish_reason = reason
        if reason is not None and self._text is not None:
            self._text.finish()
        return TokenEvent(
            request_index=self.request_index,
            index=self.index,
            token_id=step.token_id if step else None,
            text=self._text.take() if self._text is not None else "",
            logprob=step.logprob if step else None,
            top_logprobs=step.top if step else None,
            finish_reason=reason,
            completion=self._completion(reason) if reason is not None else None,
        )

    def _completion(self, reason: FinishReason) -> Completion:
        confidence = None
        if self._confidence_label is not None:
            confidence = Confidence(
                tuple(step.confidence for step in self._sampled if step.confidence is not None), *self._confidence_label
            )
        return Completion(
            request_index=self.request_index,
            index=self.index,
            text=self._text.text if self._text is not None else None,
            token_ids=tuple(step.token_id for step in self._sampled),
            logprobs=tuple(step.logprob for step in self._sampled),
            top_logprobs=None if self.n_top is None else tuple(step.top or () for step in self._sampled),
            finish_reason=reason,
            prompt_token_ids=self.prompt,
            seed=self.seed,
            confidence=confidence,
            error=self._error,
        )


def build_rules(
    request: Request, sampling: Sampling, prompt: Sequence[int], eos_ids: Collection[int], vocab_size: int, device: torch.device
) -> list[Rule]:
    """The rules of one choice, in the order they are applied: bias, penalties, end-token ban, then the caller's constraint."""
    rules: list[Rule] = []
    if sampling.logit_bias:
        beyond = max(sampling.logit_bias)
        if beyond >= vocab_size:
            raise ConfigError(f"`logit_bias` names token {beyond}; the model's tokens are 0 to {vocab_size - 1}.")
        rules.append(LogitBias(sampling.logit_bias, device))
    if (sampling.repetition_penalty or 1.0) != 1.0:
        assert sampling.repetition_penalty is not None
        rules.append(RepetitionPenalty(sampling.repetition_penalty, prompt, vocab_size, device))
    frequency, presence = sampling.frequency_penalty or 0.0, sampling.presence_penalty or 0.0
    if frequency or presence:
        rules.append(FrequencyPenalty(frequency, presence, vocab_size, device))
    if sampling.min_new_tokens and eos_ids and not sampling.ignore_eos:
        rules.append(MinNewTokens(sampling.min_new_tokens, eos_ids, device))
    if sampling.constraint is not None:
        rules.append(sampling.constraint(request))
    return rules
