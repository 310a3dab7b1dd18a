"""What is asked of the engine and what comes back: requests, sampling settings, completions, stream events.

A sampling field left at None is unset: the engine fills it from its defaults (a model's `generation_config.json`), else from the
plain distribution. So every setting has an explicit value that turns it off: temperature 1, top_k 0, top_p 1, min_p 0, penalties 1 or
0, lists of tokens ().
"""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Self, TypeGuard

from pydantic import Field, ValidationInfo, field_validator, model_validator

from touchstone.config import Config
from touchstone.errors import ConfigError
from touchstone.infer.rules import Rule

__all__ = ["Completion", "Confidence", "Fault", "FinishReason", "Request", "RuleFactory", "Sampling", "TokenEvent", "TokenLogprob"]

FinishReason = Literal["stop", "length", "cancelled", "error"]
Fault = Literal["request", "model"]  # whose an error is
RuleFactory = Callable[["Request"], Rule]  # makes the rule of one choice; called once for each, or for each beam

DEFAULT_MAX_NEW_TOKENS = 256  # where neither request nor model says: ends soon even if the model never emits an end token
MAX_STOPS = 64
MAX_STOP_CHARS = 1000
MAX_BIASED_TOKENS = 1024
MAX_LISTED_TOKENS = 2**16  # in one of the lists of tokens that are banned or forced

# Lowest and highest value. Lengths and counts are capped so that one request cannot ask for the machine.
_RANGES: dict[str, tuple[float, float]] = {
    "max_new_tokens": (1, 1_000_000),
    "min_new_tokens": (0, 1_000_000),
    "temperature": (0.0, 100.0),
    "top_k": (0, 2**31 - 1),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (0.01, 100.0),
    "presence_penalty": (-2.0, 2.0),  # the range of the OpenAI API
    "frequency_penalty": (-2.0, 2.0),
    "seed": (0, 2**63 - 1),
    "n": (1, 128),
    "top_logprobs": (0, 128),
    "num_beams": (1, 128),
    "length_penalty": (-30.0, 30.0),  # a million tokens to this power still is a finite number
    "no_repeat_ngram_size": (0, 1_000_000),
}
_BEAM_SETTINGS = ("length_penalty", "early_stopping", "renormalize_logits")
_TOKEN_LISTS = ("suppress_tokens", "begin_suppress_tokens", "forced_bos_ids", "forced_eos_ids")
_MIN_TEMPERATURE = 1e-3  # below it the division leaves fp32's range; 0 says greedy
_MAX_BIAS = 100.0  # as in the OpenAI API; -100 bans a token in effect


class Sampling(Config):
    """How tokens are chosen; None = unset."""

    max_new_tokens: int | None = None  # unset in request and model = DEFAULT_MAX_NEW_TOKENS
    min_new_tokens: int | None = None  # end tokens and stop strings do not end a shorter completion
    temperature: float | None = None  # 0 = greedy: the likeliest token after penalties and bias
    top_k: int | None = None  # 0 = off
    top_p: float | None = None  # 1 = off
    min_p: float | None = None  # relative to the likeliest token; 0 = off
    repetition_penalty: float | None = None  # CTRL's, over prompt and completion; 1 = off
    presence_penalty: float | None = None  # OpenAI's, over the completion; 0 = off
    frequency_penalty: float | None = None  # OpenAI's, over the completion; 0 = off
    logit_bias: dict[int, float] | None = None  # token id -> what is added to its logit
    stop: tuple[str, ...] | None = None  # the text ends before the first of these; one string or a list is taken too
    ignore_eos: bool | None = None  # go on after an end token
    seed: int | None = None  # None = one is drawn, and returned in the completion
    n: int | None = None  # choices a prompt
    top_logprobs: int | None = None  # how many of the likeliest tokens to report at each step
    num_beams: int | None = (
        None  # above 1: the n best of a beam search; temperature unset or 0 keeps the likeliest beams, else they are drawn
    )
    length_penalty: float | None = None  # a beam's score is its log-probability over its length to this power; unset = 1
    early_stopping: bool | Literal["never"] | None = None  # end with the n-th finished beam; "never" = only when no beam can improve
    renormalize_logits: bool | None = None  # beams add up log-probabilities made whole again after bans and penalties
    no_repeat_ngram_size: int | None = None  # no run of so many tokens comes twice, prompt included; 0 = off
    bad_words_ids: tuple[tuple[int, ...], ...] | None = None  # runs of tokens that never come
    suppress_tokens: tuple[int, ...] | None = None  # tokens that never come
    begin_suppress_tokens: tuple[int, ...] | None = None  # tokens that never come first
    forced_bos_ids: tuple[int, ...] | None = None  # one of these comes first if one token stood before, as in an encoder-decoder
    forced_eos_ids: tuple[int, ...] | None = None  # one of these comes last if the completion is as long as it may be
    constraint: RuleFactory | None = Field(default=None, exclude=True)  # what else limits the next token, such as a grammar

    @field_validator(*_RANGES, mode="before")
    @classmethod
    def _in_range(cls, value: Any, info: ValidationInfo) -> Any:
        name = str(info.field_name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return value  # the strict types say what is wrong
        low, high = _RANGES[name]
        inside = low < value <= high if name == "top_p" else low <= value <= high
        if name == "temperature" and 0 < value < _MIN_TEMPERATURE:
            inside = False
        if not inside:
            raise ValueError(f"must be {_range_of(name)}, not {_shown(value)}")
        return value

    @field_validator("stop", mode="before")
    @classmethod
    def _stops(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = (value,)
        if isinstance(value, list):
            value = tuple(value)
        if isinstance(value, tuple) and all(isinstance(stop, str) for stop in value):
            if len(value) > MAX_STOPS:
                raise ValueError(f"must be at most {MAX_STOPS} strings, not {len(value)}")
            if any(not 0 < len(stop) <= MAX_STOP_CHARS for stop in value):
                raise ValueError(f"each string must have from 1 to {MAX_STOP_CHARS} characters; one has {_odd_length(value)}")
        return value

    @field_validator(*_TOKEN_LISTS, "bad_words_ids", mode="before")
    @classmethod
    def _token_lists(cls, value: Any, info: ValidationInfo) -> Any:
        if info.field_name == "bad_words_ids":
            value = tuple(tuple(word) if isinstance(word, list) else word for word in value) if isinstance(value, (list, tuple)) else value
            found = [token for word in value for token in word] if _is_nested(value) else []
            if isinstance(value, tuple) and () in value:
                raise ValueError("each entry must be a list of one token id or more")
        else:
            value = (value,) if _is_id(value) else tuple(value) if isinstance(value, list) else value
            found = list(value) if isinstance(value, tuple) else []
        if len(found) > MAX_LISTED_TOKENS:
            raise ValueError(f"must hold at most {MAX_LISTED_TOKENS} tokens, not {len(found)}")
        wrong = [token for token in found if _is_id(token) and token < 0]
        if wrong:
            raise ValueError(f"token ids are 0 or more, not {_shown(wrong[0])}")
        return value

    @field_validator("logit_bias")
    @classmethod
    def _biases(cls, value: dict[int, float] | None) -> dict[int, float] | None:
        if value is not None:
            if len(value) > MAX_BIASED_TOKENS:
                raise ValueError(f"must name at most {MAX_BIASED_TOKENS} tokens, not {len(value)}")
            wrong = {token: bias for token, bias in value.items() if token < 0 or not -_MAX_BIAS <= bias <= _MAX_BIAS}
            if wrong:
                token, bias = next(iter(wrong.items()))
                raise ValueError(f"token ids are 0 or more and biases from {-_MAX_BIAS:g} to {_MAX_BIAS:g}, not {_shown(token)}: {bias}")
        return value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.min_new_tokens is not None and self.max_new_tokens is not None and self.min_new_tokens > self.max_new_tokens:
            raise ValueError(f"`min_new_tokens` ({self.min_new_tokens}) must be at most `max_new_tokens` ({self.max_new_tokens}).")
        beams = [name for name in _BEAM_SETTINGS if getattr(self, name) is not None]
        if beams and (self.num_beams or 1) == 1:
            raise ValueError(f"{' and '.join(f'`{name}`' for name in beams)} belong to beam search; set `num_beams` above 1 or remove.")
        if 1 < (self.num_beams or 1) < (self.n or 1):
            raise ValueError(f"`n` ({self.n}) must be at most `num_beams` ({self.num_beams}): a beam search returns the best of its beams.")
        return self

    def given(self) -> dict[str, Any]:
        """The fields that are set."""
        return {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}

    def over(self, defaults: "Sampling") -> "Sampling":
        """These settings, with those that are unset taken from `defaults`; ConfigError if the two do not fit each other.

        Defaults give way where a setting leaves them no meaning: beam settings to one beam, a least length to a shorter greatest one.
        """
        fallback = defaults.given()
        if self.num_beams == 1:
            fallback = {name: value for name, value in fallback.items() if name not in _BEAM_SETTINGS}
        if self.max_new_tokens is not None and "min_new_tokens" in fallback:
            fallback["min_new_tokens"] = min(fallback["min_new_tokens"], self.max_new_tokens)
        return Sampling(**{**fallback, **self.given()})

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed (None unsets one), validated as if newly made."""
        return type(self)(**{**self.given(), **changes})


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt and how to continue it.

    prompt: text, or token ids which go to the model as they are. An encoder-decoder reads it as its source.
    id: by which a running request is cancelled; drawn if not given.
    salt: whose it is; what was computed of a prompt is used again only for requests of the same salt.
    end_ids: tokens that end this completion, beside those of the model, such as the end of a turn.
    """

    prompt: str | Sequence[int]
    sampling: Sampling = field(default_factory=Sampling)
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    salt: str = ""
    end_ids: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if isinstance(self.prompt, str):
            return
        if isinstance(self.prompt, bytes) or not isinstance(self.prompt, Sequence):
            raise ConfigError(f"`prompt` must be text or a list of token ids, not a {type(self.prompt).__name__}.")
        wrong = [token for token in self.prompt if isinstance(token, bool) or not isinstance(token, int)]
        if wrong:
            raise ConfigError(f"`prompt` as token ids must hold whole numbers only, not {_shown(wrong[0])}.")
        object.__setattr__(self, "prompt", tuple(self.prompt))


class TokenLogprob(NamedTuple):
    """A token and its log-probability in nats."""

    token_id: int
    logprob: float


@dataclass(frozen=True, slots=True)
class Confidence:
    """Calibrated probabilities, one a token or the one of a label, by the calibration stored with the model."""

    value: tuple[float, ...]
    method: str
    target: str


@dataclass(frozen=True, slots=True)
class Completion:
    """One finished choice of one request.

    text: the completion before the stop string or end token; None without a tokenizer.
    token_ids: every token that was sampled, those that spelled the stop string and the end token included; one entry of `logprobs`
        (and of `top_logprobs`, if asked for) for each.
    logprobs: nats, of the model's own distribution, before penalties, bias, temperature and truncation.
    top_logprobs: at each step the likeliest tokens, likeliest first, and the sampled one; None if not asked for.
    prompt_token_ids: of an encoder-decoder, the source.
    confidence: None where the model has no calibration that holds for it; `confidence_reason` then says why.
    error: what went wrong if finish_reason is "error". fault: whose it is then: the request's, such as a constraint that cannot be followed
        to its end, or the model's.
    score: what a beam search ranked it by: the sum of its tokens' scores over its length to the power of `length_penalty`; completions
        of a search come best first. None without beams.
    """

    request_index: int
    index: int
    text: str | None
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    top_logprobs: tuple[tuple[TokenLogprob, ...], ...] | None
    finish_reason: FinishReason
    prompt_token_ids: tuple[int, ...]
    seed: int
    confidence: Confidence | None = None
    confidence_reason: str | None = None
    error: str | None = None
    fault: Fault | None = None
    score: float | None = None


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One sampled token of a stream, or the end of a choice that was cut off without one (token_id None).

    A beam search does not know its first token before it knows its last: its events come all at the end.
    text: what became certain with this token; may be empty while a character or a possible stop string is incomplete. The texts of
        one choice, joined, are the completion's text.
    finish_reason: set in the last event of a choice, which also carries the whole `completion`.
    """

    request_index: int
    index: int
    token_id: int | None
    text: str
    logprob: float | None = None
    top_logprobs: tuple[TokenLogprob, ...] | None = None
    finish_reason: FinishReason | None = None
    completion: Completion | None = None


def _range_of(name: str) -> str:
    low, high = _RANGES[name]
    if name == "temperature":
        return f"0 (greedy) or from {_MIN_TEMPERATURE:g} to {high:g}"
    return f"above {low:g} and at most {high:g}" if name == "top_p" else f"from {_shown(low)} to {_shown(high)}"


def _is_id(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_nested(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(word, tuple) for word in value)


def _shown(value: object) -> str:
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a number of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) < 80 else text[:77] + "…"


def _odd_length(stops: tuple[str, ...]) -> int:
    return next(len(stop) for stop in stops if not 0 < len(stop) <= MAX_STOP_CHARS)
