"""Conversations as tokens, by the model's own chat template; what somebody said can never become a special token.

Before a template sees a message, every character of it with which a special token could begin is replaced by a random character of
private use, another one in each call. So what the rendered text has of special tokens is the template's own. The text is cut there;
the characters come back in what lies between, which is encoded as plain text. That holds for any role, and for a token that is spelled
in pieces over several messages. Where a template ends a text of its own within a special token's name ("<|" + role + "|>"), a message
could finish it: there every character that occurs in such a name is replaced.
Of tools, the keys that templates look up by name (`parameters`) stay as they are, and the values never do.
A template may look for tags in a message (`</think>`): those that it holds itself stay readable, as they are no special tokens.
"""

import functools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from touchstone.errors import ConfigError, NoTokenizer, Unsupported
from touchstone.text.chat_template import RenderLimits, Template
from touchstone.text.document import Conversation, Message
from touchstone.text.tokenizer import Tokenizer

__all__ = ["ROLES", "ChatFormat", "ChatTokens"]

ROLES = ("system", "user", "assistant", "tool")
_KEYS = frozenset(("type", "function", "name", "description", "parameters", "arguments", "id", "properties", "required", "items", "enum"))
_PRIVATE = (range(0xE000, 0xF900), range(0xF0000, 0xFFFFE))  # the private use areas of Unicode


@dataclass(frozen=True, slots=True)
class ChatTokens:
    """A conversation as a model reads it; is_answer: which tokens the assistant writes, the end of its turn included."""

    token_ids: tuple[int, ...]
    is_answer: tuple[bool, ...]


class ChatFormat:
    """How one model writes conversations.

    template: Jinja, as `chat_template.jinja` of the model folder holds it.
    Raises ConfigError for a template that cannot be parsed.
    """

    def __init__(self, template: str, tokenizer: Tokenizer, limits: RenderLimits | None = None) -> None:
        self._template = Template(template, limits)
        self._tokenizer = tokenizer
        self._disguise = _Disguise(tokenizer.special_texts, self._template.texts)

    @classmethod
    def of(cls, template: str | None, tokenizer: Tokenizer | None) -> "ChatFormat":
        """By the template of the folder, else by that of tokenizer_config.json; ConfigError where there is none."""
        if tokenizer is None:
            raise NoTokenizer("This model has no tokenizer, so conversations cannot be read.")
        found = template if template is not None else _default(tokenizer.chat_template)
        if found is None:
            raise ConfigError("This model has no chat template, so it knows no conversations; give it a plain prompt to continue.")
        return cls(found, tokenizer)

    @property
    def takes_tools(self) -> bool:
        """Whether the template has a place for tools."""
        return "tools" in self._template.variables

    def prompt(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> tuple[int, ...]:
        """The conversation so far and the beginning of the assistant's turn.

        tools: what the assistant may call, each as OpenAI's API has it: `{"type": "function", "function": {"name": …, …}}`.
        Raises ConfigError for a role that does not exist, no message, or messages that the template refuses; Unsupported for tools or calls
        that it has no place for.
        """
        if not self.takes_tools and (tools or any(message.tool_calls for message in messages)):
            raise Unsupported("This model's chat template has no place for tools; leave out `tools` and calls of them.")
        worn = self._disguise.put_on(messages, tools)
        return tuple(token_id for token_id, _, _ in self._tokens(self._rendered(worn.messages, asks=True, tools=worn.tools), worn))

    def written(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), *, asks: bool) -> str:
        """What the template writes of messages of our own, special tokens spelt out; asks: with the assistant's turn begun."""
        said = [_told(message, lambda text: text) for message in messages]
        return self._rendered(said, asks=asks, tools=list(tools))

    @property
    def special_ids(self) -> dict[str, int]:
        """The special tokens by what spells them."""
        return {self._tokenizer.token_text(token_id): token_id for token_id in self._tokenizer.special_ids}

    def example(self, conversation: Conversation) -> ChatTokens:
        """The whole conversation, for training on what the assistant says.

        Raises ConfigError where the template does not tell which part that is: it marks nothing and writes earlier turns anew when
        later ones come.
        """
        worn = self._disguise.put_on(conversation.messages)
        text, spans = self._marked(worn) if self._template.has_marks else self._compared(worn)
        tokens = self._tokens(text, worn)
        answers = [any(low <= start < high for low, high in spans) for _, start, _ in tokens]
        return ChatTokens(tuple(token_id for token_id, _, _ in tokens), tuple(answers))

    @functools.cached_property
    def end_ids(self) -> frozenset[int]:
        """The special token with which the template closes an answer: there it ends, whether or not the model's settings name it.

        Empty where the template does not tell: it marks nothing and writes earlier turns anew when later ones come.
        """
        try:
            example = self.example(Conversation((Message("user", "x"), Message("assistant", "x")), "made up"))
        except ConfigError:
            return frozenset()
        answer = [token_id for token_id, is_answer in zip(example.token_ids, example.is_answer, strict=True) if is_answer]
        return frozenset(answer[-1:]) & self._tokenizer.special_ids

    def close(self) -> None:
        """End the process that renders."""
        self._template.close()

    def _rendered(
        self, messages: Sequence[Mapping[str, Any]], *, asks: bool, marks: tuple[str, str] = ("", ""), tools: Sequence[Any] = ()
    ) -> str:
        variables = {"messages": list(messages), "add_generation_prompt": asks, "tools": list(tools) or None, "documents": None}
        return self._template.render({**variables, **self._tokenizer.role_tokens}, marks)

    def _tokens(self, text: str, worn: "_Worn") -> list[tuple[int, int, int]]:
        """(id, start, end) of each token of a rendered text."""
        tokens: list[tuple[int, int, int]] = []
        place = 0
        for token_id, start, end in [*self._specials(text), (None, len(text), len(text))]:
            if start > place:
                ids, offsets = self._tokenizer.encode_offsets(worn.taken_off(text[place:start]), is_inner=place > 0)
                tokens += [(id, place + low, place + high) for id, (low, high) in zip(ids, offsets, strict=True)]
            if token_id is not None:
                tokens.append((token_id, start, end))
            place = end
        return tokens

    def _specials(self, text: str) -> list[tuple[int, int, int]]:
        """The special tokens that the template wrote; what only looks like one once it is normalised is none."""
        found = self._tokenizer.special_offsets(text)
        return [entry for entry in found if text[entry[1] : entry[2]].strip() == self._tokenizer.token_text(entry[0]).strip()]

    def _marked(self, worn: "_Worn") -> tuple[str, list[tuple[int, int]]]:
        low, high = worn.spare
        parts = self._rendered(worn.messages, asks=False, marks=(low, high)).split(low)
        text, spans = parts[0], []
        for part in parts[1:]:
            said, _, rest = part.partition(high)
            spans.append((len(text), len(text) + len(said)))
            text += said + rest
        return text, spans

    def _compared(self, worn: "_Worn") -> tuple[str, list[tuple[int, int]]]:
        whole = self._rendered(worn.messages, asks=False)
        spans = []
        for number, message in enumerate(worn.messages):
            if message["role"] != "assistant":
                continue
            before = self._rendered(worn.messages[:number], asks=True) if number else ""
            after = self._rendered(worn.messages[: number + 1], asks=False)
            if not (after.startswith(before) and whole.startswith(after)):
                raise ConfigError(
                    f"The chat template writes message {number} differently once others follow, so what the assistant says cannot be"
                    " told apart; mark it in the template with `{% generation %}`."
                )
            spans.append((len(before), self._end_of_turn(whole, len(before), len(after))))
        return whole, spans

    def _end_of_turn(self, text: str, low: int, high: int) -> int:
        """Without the white space that a template puts behind the last special token of a turn."""
        ends = [end for _, start, end in self._specials(text) if low <= start < high]
        return ends[-1] if ends and not text[ends[-1] : high].strip() else high


@dataclass(frozen=True)
class _Worn:
    """Messages and tools in disguise. back: the characters as they were. spare: two characters that occur nowhere."""

    messages: list[dict[str, Any]]
    tools: list[Any]
    back: dict[int, str]
    spare: tuple[str, str]

    def taken_off(self, text: str) -> str:
        return text.translate(self.back)


class _Disguise:
    """Which characters of a message are hidden from the template.

    specials: what spells the special tokens. texts: what the template holds.
    """

    def __init__(self, specials: Sequence[str], texts: Iterable[str]) -> None:
        texts = tuple(texts)
        begun = any(text.endswith(special[:n]) for special in specials for text in texts for n in range(1, len(special)))
        self._hidden = {char for special in specials for char in (special if begun else special[:1]) if not char.isspace()}
        tags = () if begun else texts
        self._tags = tuple(
            text for text in tags if len(text) > 1 and text[0] in self._hidden and not any(_begins(text, special) for special in specials)
        )
        self._avoided = set("".join(specials)) | set("".join(texts))

    def put_on(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> _Worn:
        if not messages:
            raise ConfigError("A conversation needs at least one message.")
        wrong = next((number for number, message in enumerate(messages) if message.role not in ROLES), None)
        if wrong is not None:
            raise ConfigError(f"Message {wrong} has a role that does not exist; the roles are {', '.join(ROLES)}.")
        told = [_told(message, lambda text: text) for message in messages]
        used = self._avoided.union(*_strings([told, list(tools)]))
        masks = _private(len(self._hidden) + 2, used)
        mask_of = dict(zip(sorted(self._hidden), masks, strict=False))

        def masked(text: str) -> str:
            return self._masked(text, mask_of)

        worn = [_told(message, masked) for message in messages]
        back = {ord(mask): char for char, mask in mask_of.items()}
        return _Worn(worn, [_changed(tool, masked) | {"type": "function"} for tool in tools], back, (masks[-2], masks[-1]))

    def _masked(self, text: str, mask_of: Mapping[str, str]) -> str:
        return "".join(
            mask_of[char] if char in mask_of and not text.startswith(self._tags, place) else char for place, char in enumerate(text)
        )


def _told(message: Message, change: Callable[[str], str]) -> dict[str, Any]:
    """A message as templates know it, every text of it changed."""
    told: dict[str, Any] = {"role": message.role, "content": change(message.content)}
    if message.tool_calls:
        calls = [
            {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            | ({} if call.id is None else {"id": call.id})
            for call in message.tool_calls
        ]
        told["tool_calls"] = [{**_changed(call, change), "type": "function"} for call in calls]
    return told | {key: change(value) for key in ("name", "tool_call_id") if (value := getattr(message, key)) is not None}


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    """A JSON value with every text in it changed, keys included, but for those that templates look up by name."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key if key in _KEYS else change(key): _changed(part, change) for key, part in value.items()}
    return [_changed(part, change) for part in value] if isinstance(value, list | tuple) else value


def _strings(value: Any) -> Iterator[str]:
    """Every text in a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield key
            yield from _strings(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _strings(part)


def _begins(a: str, b: str) -> bool:
    """Whether one of two texts is the beginning of the other."""
    return a.startswith(b) or b.startswith(a)


def _private(n: int, used: set[str]) -> list[str]:
    """So many different characters of private use, none of them used."""
    found: dict[str, None] = {}
    draw = random.SystemRandom()
    n_all = sum(len(area) for area in _PRIVATE)
    if sum(ord(char) >= _PRIVATE[0][0] for char in used) + n > n_all // 2:
        raise ConfigError("The messages hold too many different characters of private use.")
    while len(found) < n:
        number = draw.randrange(n_all)
        char = chr(_PRIVATE[0][number] if number < len(_PRIVATE[0]) else _PRIVATE[1][number - len(_PRIVATE[0])])
        if char not in used:
            found[char] = None
    return list(found)


def _default(told: Any) -> str | None:
    """The template of tokenizer_config.json: a text, or a list of named ones, of which `default` is taken."""
    if told is None or isinstance(told, str):
        return told
    entries = told if isinstance(told, list) else []
    named = {str(entry.get("name")): entry.get("template") for entry in entries if isinstance(entry, Mapping)}
    template = named.get("default")
    if not isinstance(template, str):
        raise ConfigError("tokenizer_config.json: `chat_template` should be a text, or a list with one named `default`.")
    return template
