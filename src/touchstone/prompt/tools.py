"""Tool calls: in which form a model writes them, answers held to that form, and calls read from what it wrote.

The form is asked of the chat template, never of the model's name: a call with made-up words is rendered, and what stands around those words
is the form. So a template that writes its calls as JSON, whatever the marks around them (Hermes and Qwen: `<tool_call>`; Llama 3: none, the
arguments are `parameters`; Mistral: `[TOOL_CALLS]` and a list), needs no code of its own; one that writes no JSON is refused.
"""

import json
import math
import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from touchstone.errors import ConfigError, Unsupported
from touchstone.infer.request import RuleFactory
from touchstone.prompt.constrain import MAX_CHARS, MAX_NESTING, Constrainer
from touchstone.prompt.formats import rewritten
from touchstone.prompt.schema import check_schema
from touchstone.text.conversation import ChatFormat
from touchstone.text.document import Message, ToolCall

__all__ = ["CallReader", "ToolFormat"]

_SAID, _NAME, _KEY, _VALUE = "zqsaid", "zqname", "zqkey", "zqvalue"
_ID = "zqid000zq"  # nine characters, which Mistral's templates insist on
_PROBE_TOOL = {
    "type": "function",
    "function": {"name": _NAME, "description": "", "parameters": {"type": "object", "properties": {_KEY: {"type": "string"}}}},
}
_BEGUN = re.compile(r'[\s;]*\[?\s*\{\s*"name"\s*:\s*"([^"]*)')  # a call without marks around it
_LEAST_SIGN = 2  # characters of a mark that a text must end with to be taken for the beginning of one
_COMPACT = {"x-guidance": {"whitespace_flexible": False, "lenient": False, "coerce_one_of": False}}


@dataclass(frozen=True)
class ToolFormat:
    """How one model writes calls.

    begin, end: what stands before and behind the JSON of a call, special tokens spelt out. arguments_key: what it calls the arguments.
    is_list: whether calls are the entries of one list; else each has its own marks. needs_id: whether a call has an id among its keys.
    special_ids: the special tokens by their texts.
    """

    begin: str
    end: str
    arguments_key: str
    is_list: bool
    needs_id: bool
    special_ids: Mapping[str, int]

    @classmethod
    def of(cls, chat: ChatFormat) -> "ToolFormat":
        """The form that a model's chat template teaches. Raises Unsupported where it has no place for tools, or writes calls otherwise."""
        if not chat.takes_tools:
            raise Unsupported("This model's chat template has no place for tools.")
        call = ToolCall(_NAME, {_KEY: _VALUE}, _ID)
        asked = Message("user", "?")
        try:
            before = chat.written([asked], [_PROBE_TOOL], asks=True)
            whole = chat.written([asked, Message("assistant", _SAID, (call,))], [_PROBE_TOOL], asks=False)
            if _SAID not in whole:  # what is said beside a call is left out
                whole = chat.written([asked, Message("assistant", "", (call,))], [_PROBE_TOOL], asks=False)
        except ConfigError as error:
            raise Unsupported(f"How this model's chat template writes tool calls cannot be told: {error}") from None
        common = whole.index(_SAID) + len(_SAID) if _SAID in whole else _common(before, whole)
        begin_at, found, after = _json_around(whole, whole.index(_NAME, common) if _NAME in whole[common:] else -1)
        entry = found[0] if isinstance(found, list) and len(found) == 1 else found
        if not isinstance(entry, dict) or entry.get("name") != _NAME:
            raise Unsupported("This model's chat template writes tool calls in a form that is not known here; ask for JSON instead.")
        key = next((key for key, value in entry.items() if value == {_KEY: _VALUE}), None)
        if key is None:
            raise Unsupported("This model's chat template writes the arguments of tool calls in a form that is not known here.")
        specials = chat.special_ids
        return cls(
            whole[common:begin_at].lstrip("\n"), _end(whole[after:], specials), key, isinstance(found, list), "id" in entry, specials
        )

    def rule(
        self, constrainer: Constrainer, tools: Sequence[Mapping[str, Any]], *, name: str | None = None, parallel: bool = True
    ) -> RuleFactory:
        """What holds an answer to calls of these tools, with arguments that their schemas accept; name: of this one alone.

        Raises ConfigError or Unsupported for parameters that no constraint can be made of.
        """
        chosen = [tool["function"] for tool in tools if name in (None, tool["function"]["name"])]
        if not chosen:
            raise ConfigError(f"There is no tool named `{name}`.")
        entries = [self._schema(function, f"t{number}") for number, function in enumerate(chosen)]
        schema: dict[str, Any] = {"anyOf": entries} if len(entries) > 1 else entries[0]
        schema["$defs"] = {name: part for entry in entries for name, part in entry.pop("$defs").items()}
        if self.is_list:
            listed = {"type": "array", "items": schema, "minItems": 1, **({} if parallel else {"maxItems": 1})}
            listed["$defs"] = schema.pop("$defs")
            return constrainer.grammar(f"start: {self._marks(self.begin)} call {self._marks(self.end)}\ncall: %json {_dumped(listed)}\n")
        more = f" ({self._marks(self.between)} one)*" if parallel and self.begin.strip() else ""
        one = f"{self._marks(self.begin)} call {self._marks(self.end)}"
        return constrainer.grammar(f"start: one{more}\none: {one}\ncall: %json {_dumped(schema)}\n")

    @property
    def between(self) -> str:
        """What stands between two calls that have marks of their own."""
        return "\n" if self.begin.endswith("\n") or self.end.startswith("\n") else ""

    @property
    def sign(self) -> str:
        """The beginning of a call as it is seen in a text without special tokens; empty where nothing is seen."""
        return _without(self.begin, self.special_ids).strip()

    @property
    def tail(self) -> str:
        """The end of a call, likewise."""
        return _without(self.end, self.special_ids).strip()

    def parse(self, text: str) -> tuple[str, list[ToolCall]]:
        """What was said and what was called; a text that holds no whole call is all said. Never raises for what a model writes."""
        calls: list[ToolCall] = []
        said: list[str] = []
        place = 0
        while (start := self._next_start(text, place)) is not None:
            value, after = _decoded(text, start)
            entries = value if isinstance(value, list) else [value]
            found = [call for entry in entries if (call := self._call(entry)) is not None]
            if not found or len(found) < len(entries):
                break
            begun = start - self._n_sign(text, place, start)
            said.append(text[place:begun])
            calls += found
            rest = text[after:]
            tail = self.tail
            place = after + (len(rest) - len(rest.lstrip()) + len(tail) if tail and rest.lstrip().startswith(tail) else 0)
        said.append(text[place:])
        return ("".join(said).strip() if calls else text), calls

    def reader(self, names: Collection[str] = (), *, only_calls: bool = False) -> "CallReader":
        """For a text that comes piece by piece. names: of the tools. only_calls: it was held to calls and holds nothing else."""
        return CallReader(self, names, only_calls=only_calls)

    def without_cut_call(self, text: str, names: Collection[str]) -> str:
        """What was said in a text that ended too early: a call of one of these tools that had begun is left out, for half is of no use."""
        if not self.sign:
            begun = _BEGUN.match(text)
            return "" if begun and any(name.startswith(begun[1]) for name in names) else text
        at = text.find(self.sign)
        while at >= 0:
            if text[at + len(self.sign) :].lstrip()[:1] in ("", "{", "["):
                return text[:at]
            at = text.find(self.sign, at + 1)
        ends = (n for n in range(len(self.sign) - 1, _LEAST_SIGN - 1, -1) if text.endswith(self.sign[:n]))
        return text[: len(text) - next(ends, 0)]

    def _next_start(self, text: str, place: int) -> int | None:
        """Where the JSON of the next call begins."""
        if self.sign:
            at = text.find(self.sign, place)
            if at < 0:
                return None
            at += len(self.sign)
            return at + len(text[at:]) - len(text[at:].lstrip())
        at = place + len(text[place:]) - len(text[place:].lstrip(" \n;"))
        return at if text[at : at + 1] in ("{", "[") else None

    def _n_sign(self, text: str, place: int, start: int) -> int:
        return start - text.rfind(self.sign, place, start) if self.sign else start - place

    def _call(self, entry: Any) -> ToolCall | None:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            return None
        arguments = entry.get(self.arguments_key)
        if isinstance(arguments, str):  # some models write them as a text of JSON
            arguments, _ = _decoded(arguments, 0)
        given = entry.get("id")
        return ToolCall(entry["name"], arguments, given if isinstance(given, str) else None) if isinstance(arguments, dict) else None

    def _schema(self, function: Mapping[str, Any], place: str) -> dict[str, Any]:
        """Of one call; the parameters stand under `$defs` by this name, where what they refer to in themselves is found again."""
        wanted = function.get("parameters") or {"type": "object", "properties": {}, "additionalProperties": False}
        parameters = _moved(rewritten(check_schema(wanted, max_chars=MAX_CHARS, max_nesting=MAX_NESTING)), f"#/$defs/{place}")
        properties: dict[str, Any] = {"name": {"const": function["name"]}, self.arguments_key: {"$ref": f"#/$defs/{place}"}}
        if self.needs_id:
            properties["id"] = {"type": "string", "pattern": "^[a-zA-Z0-9]{9}$"}
        whole = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
        return {**whole, "$defs": {place: parameters}}

    def _marks(self, text: str) -> str:
        """A mark as a grammar has it: texts in quotes, special tokens by their ids."""
        parts: list[str] = []
        place = 0
        while place < len(text):
            special = max((each for each in self.special_ids if each and text.startswith(each, place)), key=len, default=None)
            if special is not None:
                parts.append(f"<[{self.special_ids[special]}]>")
                place += len(special)
                continue
            ends = [at for each in self.special_ids if each and (at := text.find(each, place)) >= 0]
            end = min(ends, default=len(text))
            parts.append(json.dumps(text[place:end], ensure_ascii=False))
            place = end
        return " ".join(parts)


class CallReader:
    """Tells apart, while a text comes, what is said and what is called. What could be the beginning of a call waits until it is clear."""

    def __init__(self, form: ToolFormat, names: Collection[str], *, only_calls: bool = False) -> None:
        self._form = form
        self._names = names
        self._only_calls = only_calls
        self._text = ""
        self._n_told = 0

    def push(self, piece: str) -> str:
        """What of the text so far is surely said and was not told yet."""
        self._text += piece
        if self._only_calls:
            return ""
        sure = self._n_sure()
        told = self._text[self._n_told : sure]
        self._n_told = max(self._n_told, sure)
        return told

    def finish(self, *, is_cut: bool = False) -> tuple[str, list[ToolCall]]:
        """The rest of what is said, and all whole calls, each with an id. is_cut: whether the text ended too early."""
        said, calls = self._form.parse(self._text[self._n_told :])
        if self._only_calls and (calls or is_cut):
            said = ""
        elif is_cut:
            said = self._form.without_cut_call(said, self._names)
        return said, [ToolCall(call.name, call.arguments, call.id or f"call_{secrets.token_hex(12)}") for call in calls]

    def _n_sure(self) -> int:
        sign = self._form.sign
        if not sign:
            begun = self._text.lstrip()
            return self._n_told if not begun or begun[0] in "{[" else len(self._text)
        at = self._text.find(sign, self._n_told)
        if at >= 0:
            return at
        held = max((n for n in range(1, len(sign)) if self._text.endswith(sign[:n])), default=0)
        return len(self._text) - held


def _common(a: str, b: str) -> int:
    """How far two texts are the same."""
    return next((place for place, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _json_around(text: str, place: int) -> tuple[int, Any, int]:
    """The outermost JSON list or object that holds this place, where it begins and where it ends; nothing if there is none."""
    for start in range(max(0, place - 200), place):
        if text[start] in "[{":
            value, end = _decoded(text, start)
            if value is not None and end > place:
                return start, value, end
    return 0, None, 0


def _decoded(text: str, start: int) -> tuple[Any, int]:
    """The JSON value that begins there and where it ends; None for what is none, `NaN` and numbers beyond a float included."""
    try:
        value, end = json.JSONDecoder(parse_float=_finite, parse_constant=_finite).raw_decode(text, start)
    except (ValueError, RecursionError):
        return None, start
    return value, end


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _end(text: str, specials: Mapping[str, int]) -> str:
    """What closes a call: up to the last special token, which ends the turn."""
    places = [at for special in specials if special and (at := text.rfind(special)) >= 0]
    return text[: max(places, default=len(text))].rstrip("\n")


def _without(text: str, specials: Mapping[str, int]) -> str:
    for special in sorted(filter(None, specials), key=len, reverse=True):
        text = text.replace(special, "")
    return text


def _moved(schema: Any, place: str) -> Any:
    """A schema that is now part of another one: references to its own parts lead to where they are now."""
    if isinstance(schema, Mapping):
        return {
            key: place + part[1:] if key == "$ref" and isinstance(part, str) and part[:1] == "#" else _moved(part, place)
            for key, part in schema.items()
        }
    return [_moved(part, place) for part in schema] if isinstance(schema, list) else schema


def _dumped(schema: Mapping[str, Any]) -> str:
    return json.dumps({**schema, **_COMPACT})
