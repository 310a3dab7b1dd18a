"""What clients may ask, field by field, as OpenAI's API names it; with what is ours beside.

Strict: an unknown field is an error that names the nearest known one. Fields of OpenAI's API that cannot change an answer here are taken
and have no effect; `NO_EFFECT` lists them with the reason. A value that asks for what we do not do is an error, never passed over.
Source: OpenAI API reference (completions, chat, embeddings, models); field names of what is ours follow vLLM's where it has them.
"""

import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema, field_validator, model_validator

from touchstone.errors import printable
from touchstone.serve.api_error import ApiError
from touchstone.serve.refusals import shown, told, unknown_field

__all__ = [
    "NO_EFFECT",
    "ClassifyRequest",
    "CompletionRequest",
    "DetokenizeRequest",
    "EmbeddingRequest",
    "Generating",
    "Name",
    "ScoreRequest",
    "TokenizeRequest",
    "read_request",
]

MAX_PROMPTS = 128
MAX_CHOICES = 256  # prompts times n
MAX_TOKENS = 1_000_000
MAX_LOGPROBS = 20
MAX_CONTINUATIONS = 256
MAX_INPUTS = 1024
MAX_TEXT_IDS = 1 << 20
DEFAULT_COMPLETION_TOKENS = 16  # OpenAI's, for /v1/completions alone

NO_EFFECT = {
    "user": "names the end user; nothing is kept by user",
    "safety_identifier": "names the end user; nothing is kept by user",
    "metadata": "belongs to stored answers, and none are stored",
    "service_tier": "there is one tier",
    "prompt_cache_key": "prompts that begin alike share their cache by themselves, within one API key",
}
"""Fields of OpenAI's API that are taken and have no effect, each with the reason."""


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    model: str | None = None


class StreamOptions(BaseModel):
    """What a stream tells beside its text."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    include_usage: bool = False
    include_obfuscation: Literal[False] | None = None


class TextForm(BaseModel):
    """A `response_format` of any text."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    type: Literal["text"]


class JsonForm(BaseModel):
    """A `response_format` of some JSON object."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    type: Literal["json_object"]


Name = Annotated[
    str,
    Field(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_-]+$", description="text of 1 to 64 letters (a-z, A-Z), digits, `_` and `-`"),
]


class NamedSchema(BaseModel):
    """A JSON Schema. name, description: the client's own. strict: taken; an answer fits the schema always."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: Name | None = None
    description: str | None = None
    schema_: dict[str, Any] | bool = Field(alias="schema")
    strict: bool | None = None


class SchemaForm(BaseModel):
    """A `response_format` of JSON that fits a schema."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    type: Literal["json_schema"]
    json_schema: NamedSchema


_TOKEN_ID = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
TokenIds = Annotated[list[Annotated[int, Field(ge=0, le=2**31 - 1)]], Field(fail_fast=True)]  # each of a million may be wrong
_ID_LIST = {"type": "array", "items": _TOKEN_ID, "minItems": 1}


def _texts_schema(most: int) -> WithJsonSchema:
    lists = {"type": "array", "items": {"anyOf": [{"type": "string"}, _ID_LIST]}, "minItems": 1, "maxItems": most}
    return WithJsonSchema({"anyOf": [{"type": "string"}, _ID_LIST, lists]})


_STOP = {"type": "string", "minLength": 1, "maxLength": 1000}
Stops = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=1000)]] | None,
    Field(max_length=64, description="text, or a list of at most 64 texts of 1 to 1000 characters"),
    WithJsonSchema({"anyOf": [_STOP, {"type": "array", "items": _STOP, "maxItems": 64}, {"type": "null"}]}),
]
_BIAS_KEY = re.compile(r"0|[1-9][0-9]{0,8}")
Biases = Annotated[
    dict[str, Annotated[float, Field(ge=-100, le=100)]] | None,
    Field(max_length=1024),
    WithJsonSchema(
        {
            "anyOf": [
                {
                    "type": "object",
                    "propertyNames": {"pattern": f"^({_BIAS_KEY.pattern})$"},
                    "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
                    "maxProperties": 1024,
                },
                {"type": "null"},
            ]
        }
    ),
]
Range = Annotated[float, Field(ge=-2, le=2)]
MIN_TEMPERATURE = 0.001  # the engine's
Temperature = Annotated[
    float,
    Field(ge=0, le=100),
    WithJsonSchema({"anyOf": [{"const": 0}, {"type": "number", "minimum": MIN_TEMPERATURE, "maximum": 100}]}),
]
Count = Annotated[int, Field(ge=0, le=MAX_TOKENS)]


class Generating(_Asked):
    """The fields of /v1/completions and /v1/chat/completions alike; those from `top_k` on are ours."""

    temperature: Temperature | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stop: Stops = None
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] | None = None
    presence_penalty: Range | None = None
    frequency_penalty: Range | None = None
    logit_bias: Biases = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    top_k: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    min_tokens: Count | None = None
    ignore_eos: bool | None = None
    response_format: Annotated[TextForm | JsonForm | SchemaForm, Field(discriminator="type")] | None = None
    regex: str | None = None
    grammar: str | None = None
    choice: Annotated[list[str], Field(min_length=1, fail_fast=True)] | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("temperature")
    @classmethod
    def _bearable(cls, value: float | None) -> float | None:
        if value is not None and 0 < value < MIN_TEMPERATURE:
            raise ValueError(f"must be 0 (greedy) or from {MIN_TEMPERATURE} to 100, not {value}")
        return value

    @field_validator("logit_bias")
    @classmethod
    def _biased(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        wrong = next((key for key in value or {} if not _BIAS_KEY.fullmatch(key)), None)
        if wrong is not None:
            raise ValueError(f"must have token ids as keys, written as `42` is, not `{printable(wrong, 40)}`")
        return value

    @model_validator(mode="after")
    def _fits(self) -> "Generating":
        if self.stream_options is not None and not self.stream:
            raise ValueError("`stream_options` belongs to a stream; set `stream` to true, or leave it out.")
        named = [name for name in ("response_format", "regex", "grammar", "choice") if getattr(self, name) is not None]
        named = [name for name in named if not isinstance(getattr(self, name), TextForm)]
        if len(named) > 1:
            raise ValueError(f"{' and '.join(f'`{name}`' for name in named)} exclude each other; give one.")
        clash = [name for name in ("stop", "ignore_eos", "min_tokens") if named and getattr(self, name)]
        if clash:
            raise ValueError(f"`{clash[0]}` could end an answer where it does not fit `{named[0]}`, or go on behind it; leave one out.")
        return self

    @property
    def constraint(self) -> dict[str, Any] | None:
        """What an answer must fit, as the engine process takes it."""
        if isinstance(self.response_format, SchemaForm):
            return {"kind": "json_schema", "value": self.response_format.json_schema.schema_}
        if isinstance(self.response_format, JsonForm):
            return {"kind": "json_object"}
        for kind in ("regex", "grammar", "choice"):
            if getattr(self, kind) is not None:
                return {"kind": kind, "value": getattr(self, kind)}
        return None

    def sampling(self) -> dict[str, Any]:
        """The settings by our names; those that are unset are left to the model."""
        wanted: dict[str, Any] = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "n": self.n,
            "stop": self.stop or None,
            "seed": self.seed,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "top_k": self.top_k,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "min_new_tokens": self.min_tokens,
            "ignore_eos": self.ignore_eos,
        }
        if self.logit_bias:
            wanted["logit_bias"] = self.logit_bias
        return {name: value for name, value in wanted.items() if value is not None}


class CompletionRequest(Generating):
    """POST /v1/completions. prompt: text, token ids, or a list of either. return_token_ids: the new tokens' ids, too; as vLLM has it."""

    prompt: Annotated[Any, _texts_schema(MAX_PROMPTS)]
    max_tokens: Count | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    echo: bool | None = None
    best_of: Annotated[int, Field(ge=1, le=128)] | None = None
    suffix: None = None
    return_token_ids: bool | None = None

    @field_validator("prompt")
    @classmethod
    def _prompts(cls, value: Any) -> list[str | list[int]]:
        return _texts(value, MAX_PROMPTS)

    @model_validator(mode="after")
    def _bounded(self) -> "CompletionRequest":
        if len(self.prompt) * (self.n or 1) > MAX_CHOICES:
            raise ValueError(f"`prompt` and `n` ask for {len(self.prompt) * (self.n or 1)} choices; at most {MAX_CHOICES} at once.")
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise ValueError(f"`best_of` ({self.best_of}) must equal `n` ({self.n or 1}): all that is generated is returned.")
        if (self.min_tokens or 0) > self.n_tokens:
            raise ValueError(f"`min_tokens` ({self.min_tokens}) must be at most `max_tokens` ({self.n_tokens}).")
        return self

    @property
    def n_tokens(self) -> int:
        """The most tokens of a completion."""
        return DEFAULT_COMPLETION_TOKENS if self.max_tokens is None else self.max_tokens


class EmbeddingRequest(_Asked):
    """POST /v1/embeddings."""

    input: Annotated[Any, _texts_schema(MAX_INPUTS)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: None = None

    @field_validator("input")
    @classmethod
    def _inputs(cls, value: Any) -> list[str | list[int]]:
        return _texts(value, MAX_INPUTS)


class ClassifyRequest(_Asked):
    """POST /v1/classify."""

    input: Annotated[Any, _texts_schema(MAX_INPUTS)]

    @field_validator("input")
    @classmethod
    def _inputs(cls, value: Any) -> list[str | list[int]]:
        return _texts(value, MAX_INPUTS)


class ScoreRequest(_Asked):
    """POST /v1/score: how likely each continuation is after the context.

    closed: the continuations are all the answers there are, and each gets its probability among them. task: whose calibration holds.
    """

    context: str | TokenIds = Field(description="text or a list of token ids")
    continuations: Annotated[list[str], Field(fail_fast=True)] | Annotated[list[TokenIds], Field(fail_fast=True)] = Field(
        min_length=1, max_length=MAX_CONTINUATIONS, description=f"a list of 1 to {MAX_CONTINUATIONS} texts or lists of token ids"
    )
    closed: bool = False
    task: str | None = None

    @model_validator(mode="after")
    def _alike(self) -> "ScoreRequest":
        if any(isinstance(each, str) != isinstance(self.context, str) for each in self.continuations):
            raise ValueError("`context` and `continuations` must all be text or all be token ids.")
        if self.closed and len(self.continuations) < 2:
            raise ValueError("`closed` needs at least two `continuations` to choose from.")
        if self.task is not None and not self.closed:
            raise ValueError("`task` names the calibration of a closed set of answers; set `closed` to true.")
        return self


class TokenizeRequest(_Asked):
    """POST /tokenize, in llama.cpp's form (content, add_special, with_pieces) or vLLM's (prompt, add_special_tokens)."""

    content: str | None = None
    prompt: str | None = None
    add_special: bool | None = None
    add_special_tokens: bool | None = None
    with_pieces: bool = False

    @model_validator(mode="after")
    def _one(self) -> "TokenizeRequest":
        if (self.content is None) == (self.prompt is None):
            raise ValueError("Give the text as `content` or as `prompt`.")
        if self.add_special is not None and self.add_special_tokens is not None:
            raise ValueError("`add_special` and `add_special_tokens` mean the same; give one.")
        return self

    @property
    def text(self) -> str:
        return self.content if self.content is not None else self.prompt or ""

    @property
    def adds_special(self) -> bool:
        """As asked, else as whichever of the two servers does whose form it is."""
        asked = self.add_special if self.add_special is not None else self.add_special_tokens
        return asked if asked is not None else self.prompt is not None


class DetokenizeRequest(_Asked):
    """POST /detokenize."""

    tokens: TokenIds = Field(max_length=MAX_TEXT_IDS)


A = TypeVar("A", bound=_Asked)


def read_request(kind: type[A], data: Any) -> A:
    """A request as it was asked; ApiError (400) names the field and what it may be."""
    if not isinstance(data, dict):
        raise ApiError(400, "The body must be a JSON object.")
    unknown = next((key for key in data if key not in kind.model_fields and key not in NO_EFFECT), None)
    if unknown is not None:
        raise unknown_field((unknown,), [*kind.model_fields, *NO_EFFECT])
    try:
        return kind.model_validate({key: value for key, value in data.items() if key in kind.model_fields})
    except ValidationError as error:
        raise told(error, kind) from None
    except RecursionError:
        raise ApiError(400, "The request is nested too deep.") from None


def _texts(value: Any, most: int) -> list[str | list[int]]:
    """A text, token ids, or a list of either, as a list; ValueError for anything else."""
    if isinstance(value, str) or (isinstance(value, list) and value and _is_id(value[0])):
        value = [value]
    if not isinstance(value, list):
        raise ValueError(f"must be text, token ids, or a list of either, not {shown(value)}")
    if not 1 <= len(value) <= most:
        raise ValueError(f"must be text, token ids, or a list of 1 to {most} of them, not of {len(value)}")
    for number, item in enumerate(value):
        if isinstance(item, list):
            if not item:
                raise ValueError(f"number {number} must hold at least one token id")
            if wrong := [token for token in item if not (_is_id(token) and 0 <= token < 2**31)]:
                raise ValueError(f"number {number} must hold token ids, whole numbers from 0 to {2**31 - 1}, not {shown(wrong[0])}")
        elif not isinstance(item, str):
            raise ValueError(f"number {number} must be text or token ids, not {shown(item)}")
    return value


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
