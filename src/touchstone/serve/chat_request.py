"""What clients may ask of POST /v1/chat/completions: turns, tools, and the fields that all generation has.

Source: OpenAI API reference (chat).
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from touchstone.errors import printable
from touchstone.serve.api_error import ApiError
from touchstone.serve.limits import read_json_body
from touchstone.serve.protocol import MAX_LOGPROBS, MAX_TOKENS, Generating, Name

__all__ = ["ChatMessage", "ChatRequest", "Tool", "ToolCall"]

MAX_MESSAGES = 1024
MAX_TOOLS = 128
MAX_ARGUMENT_DEPTH = 64  # as of a body
MAX_CALLS = 128  # in one turn of the assistant


class TextPart(BaseModel):
    """A part of a message's content."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    type: Literal["text"]
    text: str


class CalledFunction(BaseModel):
    """What an assistant's turn called. arguments: a JSON object, as text."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: str
    arguments: str


class ToolCall(BaseModel):
    """A call in an assistant's turn."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    id: str
    type: Literal["function"]
    function: CalledFunction
    index: int | None = None  # left over from the pieces of a stream


def _of_role(role: str, then: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    return {"if": {"properties": {"role": {"const": role}}, "required": ["role"]}, "then": then, "else": other}


_SAID: dict[str, Any] = {"properties": {"content": {"type": ["string", "array"]}}, "required": ["content"]}
_CALLED: dict[str, Any] = {"properties": {"tool_calls": {"type": "array", "minItems": 1}}, "required": ["tool_calls"]}
_ANSWERS: dict[str, Any] = {"properties": {"tool_call_id": {"type": "string"}}, "required": ["tool_call_id"]}
_BY_ROLE: dict[str, Any] = {
    "allOf": [
        _of_role("tool", _ANSWERS, {"properties": {"tool_call_id": {"type": "null"}}}),
        _of_role("assistant", {"anyOf": [_SAID, _CALLED]}, {**_SAID, "properties": {**_SAID["properties"], "tool_calls": {"maxItems": 0}}}),
    ]
}
"""What `ChatMessage` checks between its fields, as JSON Schema says it."""


class ChatMessage(BaseModel):
    """One turn. name: of who speaks; only a tool's reaches the template. tool_call_id: the call that a tool's turn answers."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, json_schema_extra=_BY_ROLE)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[TextPart], Field(fail_fast=True)] | None = Field(None, description="text or a list of parts")
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[ToolCall] | None = Field(None, max_length=MAX_CALLS, fail_fast=True)
    refusal: None = None
    function_call: None = None  # as clients send back what they were answered: an SDK's message has all its fields
    audio: None = None
    annotations: list[Any] | None = Field(None, max_length=0)

    @field_validator("content", mode="before")
    @classmethod
    def _parts(cls, value: Any) -> Any:
        kinds = [part.get("type") for part in value if isinstance(part, dict)] if isinstance(value, list) else []
        wrong = next((kind for kind in kinds if isinstance(kind, str) and kind != "text"), None)
        if wrong is not None:
            raise ValueError(f"has a part of type `{printable(wrong, 40)}`, which is not supported; parts are of type `text`")
        return value

    @model_validator(mode="after")
    def _fits_role(self) -> "ChatMessage":
        if self.tool_calls and self.role != "assistant":
            raise ValueError(f"`tool_calls` belong to the assistant's turns, not to the {self.role}'s.")
        if self.role == "tool" and self.tool_call_id is None:
            raise ValueError("a tool's turn needs `tool_call_id`, which names the call that it answers.")
        if self.role != "tool" and self.tool_call_id is not None:
            raise ValueError(f"`tool_call_id` belongs to a tool's turns, not to the {self.role}'s.")
        if self.content is None and not self.tool_calls:
            raise ValueError("`content` must be text.")
        return self

    def plain(self) -> dict[str, Any]:
        """Role, text and calls, as the engine process takes them; a developer is the system. ApiError for arguments that are no JSON."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content or ())
        told: dict[str, Any] = {"role": "system" if self.role == "developer" else self.role, "content": text}
        if self.tool_calls:
            told["tool_calls"] = [{"id": call.id, "name": call.function.name, "arguments": _arguments(call)} for call in self.tool_calls]
        if self.role == "tool":
            told |= {key: value for key in ("name", "tool_call_id") if (value := getattr(self, key)) is not None}
        return told


class ToolFunction(BaseModel):
    """A function that the model may call. parameters: a JSON Schema of an object. strict: taken; arguments fit the schema always."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(BaseModel):
    """One tool."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    type: Literal["function"]
    function: ToolFunction


class NamedFunction(BaseModel):
    """The function that must be called."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: str


class NamedTool(BaseModel):
    """A `tool_choice` that names a function."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    type: Literal["function"]
    function: NamedFunction


class ChatRequest(Generating):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    tools: list[Tool] | None = Field(None, max_length=MAX_TOOLS, fail_fast=True)
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    modalities: Annotated[list[Literal["text"]], Field(min_length=1, fail_fast=True)] | None = None
    store: Literal[False] | None = None

    @model_validator(mode="after")
    def _answers_calls(self) -> "ChatRequest":
        called: set[str] = set()
        for place, message in enumerate(self.messages):
            if message.tool_call_id is not None and message.tool_call_id not in called:
                name = printable(message.tool_call_id, 60)
                raise ValueError(f"`messages.{place}.tool_call_id`: no earlier turn of the assistant made a call with the id `{name}`.")
            called |= {call.id for call in message.tool_calls or ()}
        return self

    @model_validator(mode="after")
    def _possible(self) -> "ChatRequest":
        if not self.tools and self.tool_choice not in (None, "none", "auto"):
            raise ValueError("`tool_choice` needs `tools`.")
        names = [tool.function.name for tool in self.tools or ()]
        if len(set(names)) < len(names):
            raise ValueError("`tools` name a function twice.")
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise ValueError("`tool_choice` names a function that is not among `tools`.")
        if self.tools and self.tool_choice != "none" and self.constraint is not None:
            raise ValueError("`tools` and a form for the answer (`response_format`, `regex`, …) exclude each other; give one.")
        cuts = [name for name in ("stop", "ignore_eos", "min_tokens") if self.forces_calls and getattr(self, name)]
        if cuts:
            raise ValueError(f"`{cuts[0]}` cannot be combined with calls that `tool_choice` forces; leave one out.")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("`top_logprobs` needs `logprobs`; set it to true.")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise ValueError("`max_tokens` and `max_completion_tokens` differ; give one.")
        if self.n_tokens is not None and (self.min_tokens or 0) > self.n_tokens:
            raise ValueError(f"`min_tokens` ({self.min_tokens}) must be at most `max_completion_tokens` ({self.n_tokens}).")
        return self

    @property
    def forces_calls(self) -> bool:
        """Whether the answer is held to calls of tools."""
        return bool(self.tools) and self.tool_choice not in (None, "none", "auto")

    def tool_use(self) -> dict[str, Any]:
        """The tools, which of them to call, and whether several at once, as the engine process takes them; nothing where there are none."""
        if not self.tools:
            return {}
        choice = self.tool_choice or "auto"
        named = choice.function.name if isinstance(choice, NamedTool) else None
        tools = [{"type": "function", "function": tool.function.model_dump(exclude_none=True, exclude={"strict"})} for tool in self.tools]
        wanted = {"mode": "named" if named else choice, "name": named, "parallel": self.parallel_tool_calls is not False}
        return {"tools": tools, "tool_choice": wanted}

    @property
    def n_tokens(self) -> int | None:
        """The most tokens of an answer; None = as many as fit the context."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens


def _arguments(call: ToolCall) -> dict[str, Any]:
    try:
        found = read_json_body((call.function.arguments or "{}").encode(), MAX_ARGUMENT_DEPTH)
    except ApiError:  # it speaks of a body
        found = None
    if not isinstance(found, dict):
        name = printable(call.function.name, 60)
        raise ApiError(400, f"`messages`: the arguments of the call of `{name}` must be a JSON object, as text.", param="messages")
    return found
