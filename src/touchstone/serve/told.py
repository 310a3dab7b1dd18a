"""What clients are answered, as OpenAI's API has it: completions and chat, whole or piece by piece.

An answer takes the engine's messages one after another. Each yields the pieces of a stream; at the end `whole` is the same answer in one
object, so what is streamed and what is not cannot differ.
Source: OpenAI API reference (completions, chat).
"""

import codecs
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

from touchstone.serve.api_error import ApiError

__all__ = ["Answer", "ChatAnswer", "CompletionAnswer"]


class _Choice:
    """What came of one choice."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.texts: list[str] = []
        self.tokens: list[dict[str, Any]] = []
        self.token_ids: list[int] = []
        self.calls: list[dict[str, Any]] = []
        self.finish_reason: str | None = None
        self.confidence: dict[str, Any] | None = None

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def take(self, event: Mapping[str, Any]) -> None:
        self.texts.append(event["t"])
        self.calls += event.get("calls", ())
        if "token" in event:
            self.tokens.append(event["token"])
        if "k" in event:
            self.token_ids.append(event["k"])
        if "f" in event:
            if event["f"] == "error":
                raise ApiError(
                    400 if event.get("fault") == "request" else 500,
                    event.get("problem") or "The model failed on this request; others go on.",
                )
            self.finish_reason = "tool_calls" if self.calls and event["f"] == "stop" else event["f"]
            self.confidence = event.get("confidence")


class Answer(ABC):
    """One answer in the making.

    n: choices of each prompt. n_top: how many of the likeliest tokens are told at each step; None = no probabilities at all.
    """

    kind = ""
    piece_kind = ""
    id_prefix = ""

    def __init__(self, model: str, n_prompts: int, n: int, n_top: int | None) -> None:
        self.id = f"{self.id_prefix}-{uuid.uuid4().hex}"
        self.model = model
        self.created = int(time.time())
        self._n = n
        self._n_top = n_top
        self._choices = [_Choice(index) for index in range(n_prompts * n)]
        self._prompt_tokens: dict[int, int] = {}
        self.completion_tokens = 0

    def pieces(self, message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """What a message of the engine adds, as chunks of a stream; ApiError where the model failed."""
        for event in message.get("events", ()):
            choice = self._choices[event["i"] * self._n + event["j"]]
            choice.take(event)
            if "f" in event:
                self._prompt_tokens[event["i"]] = event["n_prompt"]
                self.completion_tokens += event["n"]
            if (told := self._piece(choice, event)) is not None:
                yield self._chunk([told])

    def whole(self) -> dict[str, Any]:
        """The complete answer."""
        choices = [self._told(choice) for choice in self._choices]
        return {**self._head(self.kind), "choices": choices, "usage": self.usage()}

    def usage_piece(self) -> dict[str, Any]:
        """The last chunk of a stream that tells how many tokens there were."""
        return {**self._chunk([]), "usage": self.usage()}

    def usage(self) -> dict[str, int]:
        n_prompt = self.prompt_tokens
        return {
            "prompt_tokens": n_prompt,
            "completion_tokens": self.completion_tokens,
            "total_tokens": n_prompt + self.completion_tokens,
        }

    @property
    def prompt_tokens(self) -> int:
        return sum(self._prompt_tokens.values())

    @property
    def finish_reasons(self) -> list[str]:
        """Of the choices that are over."""
        return [choice.finish_reason for choice in self._choices if choice.finish_reason is not None]

    @property
    def n_unfinished(self) -> int:
        """Choices that have not ended by themselves."""
        return len(self._choices) - len(self.finish_reasons)

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head(self.piece_kind), "choices": choices}

    @abstractmethod
    def _piece(self, choice: _Choice, event: Mapping[str, Any]) -> dict[str, Any] | None:
        """A choice's part of a chunk; None where there is nothing to tell."""

    @abstractmethod
    def _told(self, choice: _Choice) -> dict[str, Any]:
        """A choice of the whole answer."""


class CompletionAnswer(Answer):
    """POST /v1/completions. tells_ids: whether the new tokens' ids are told, all that a model without a tokenizer has to tell."""

    kind = piece_kind = "text_completion"
    id_prefix = "cmpl"

    def __init__(self, model: str, n_prompts: int, n: int, n_top: int | None, *, tells_ids: bool = False) -> None:
        super().__init__(model, n_prompts, n, n_top)
        self._tells_ids = tells_ids
        self._n_unseen = [0] * len(self._choices)
        self._places = [_Place() for _ in self._choices]

    def pieces(self, message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        if (echo := message.get("echo")) is not None:
            tokens = echo.get("tokens", ())
            n_spelt = len(b"".join(bytes(token["bytes"]) for token in tokens).decode("utf-8", "replace"))
            for choice in self._choices[echo["i"] * self._n : (echo["i"] + 1) * self._n]:
                choice.texts.append(echo["text"])
                choice.tokens += tokens
                self._n_unseen[choice.index] = max(0, n_spelt - len(echo["text"]))
                self._places[choice.index] = _Place(self._n_unseen[choice.index])
                logprobs = self._logprobs(choice.index, tokens)
                yield self._chunk([{"index": choice.index, "text": echo["text"], "logprobs": logprobs, "finish_reason": None}])
        yield from super().pieces(message)

    def _piece(self, choice: _Choice, event: Mapping[str, Any]) -> dict[str, Any] | None:
        new_ids = [event["k"]] if self._tells_ids and "k" in event else []
        if not (event["t"] or "f" in event or "token" in event or new_ids):
            return None
        tokens = [event["token"]] if "token" in event else []
        return self._choice(choice, event["t"], tokens, new_ids)

    def _told(self, choice: _Choice) -> dict[str, Any]:
        self._places[choice.index] = _Place(self._n_unseen[choice.index])
        return self._choice(choice, choice.text, choice.tokens, choice.token_ids)

    def _choice(self, choice: _Choice, text: str, tokens: list[dict[str, Any]], token_ids: list[int]) -> dict[str, Any]:
        told: dict[str, Any] = {"index": choice.index, "text": text, "logprobs": self._logprobs(choice.index, tokens)}
        if self._tells_ids:
            told["token_ids"] = token_ids
        return _ended({**told, "finish_reason": choice.finish_reason}, choice)

    def _logprobs(self, index: int, tokens: Any) -> dict[str, Any] | None:
        if self._n_top is None:
            return None
        place = self._places[index]
        return {
            "tokens": [token["token"] for token in tokens],
            "token_logprobs": [token.get("logprob") for token in tokens],
            "top_logprobs": [_by_text(token["top"]) if "top" in token else None for token in tokens],
            "text_offset": [place.of(token) for token in tokens],
        }


class ChatAnswer(Answer):
    """POST /v1/chat/completions."""

    kind = "chat.completion"
    piece_kind = "chat.completion.chunk"
    id_prefix = "chatcmpl"

    def __init__(self, model: str, n_prompts: int, n: int, n_top: int | None) -> None:
        super().__init__(model, n_prompts, n, n_top)
        self._begun: set[int] = set()

    def pieces(self, message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        for event in message.get("events", ()):
            index = event["i"] * self._n + event["j"]
            if index not in self._begun:
                self._begun.add(index)
                first = {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
                yield self._chunk([first])
        yield from super().pieces(message)

    def _piece(self, choice: _Choice, event: Mapping[str, Any]) -> dict[str, Any] | None:
        delta: dict[str, Any] = {"content": event["t"]} if event["t"] or "token" in event else {}
        if event.get("calls"):
            before = len(choice.calls) - len(event["calls"])
            delta["tool_calls"] = [{"index": before + place, **_call(call)} for place, call in enumerate(event["calls"])]
        if not (delta or "f" in event):
            return None
        logprobs = {"content": [_entry(event["token"], self._n_top)]} if self._n_top is not None and "token" in event else None
        return _ended({"index": choice.index, "delta": delta, "logprobs": logprobs, "finish_reason": choice.finish_reason}, choice)

    def _told(self, choice: _Choice) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": choice.text if choice.text or not choice.calls else None}
        if choice.calls:
            message["tool_calls"] = [_call(call) for call in choice.calls]
        logprobs = None if self._n_top is None else {"content": [_entry(token, self._n_top) for token in choice.tokens]}
        return _ended({"index": choice.index, "message": message, "logprobs": logprobs, "finish_reason": choice.finish_reason}, choice)


class _Place:
    """How many characters of a text the tokens so far have spelt; a character counts once its last byte is there.

    n_unseen: characters that the first token spells and the text does not have, such as the space that some tokenizers begin with.
    """

    def __init__(self, n_unseen: int = 0) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._n_chars = -n_unseen

    def of(self, token: Mapping[str, Any]) -> int:
        """Where the next token begins."""
        data = b"" if token.get("is_silent") else bytes(token["bytes"])
        if data and not 0x80 <= data[0] < 0xC0:  # what began before it, and is not complete, is a character by itself: U+FFFD
            self._n_chars += len(self._decoder.decode(b"", final=True))
        before = max(0, self._n_chars)
        self._n_chars += len(self._decoder.decode(data))
        return before


def _ended(told: dict[str, Any], choice: _Choice) -> dict[str, Any]:
    """With the calibrated confidence, where the choice is over and has one."""
    if choice.finish_reason is not None and choice.confidence is not None:
        told["confidence"] = choice.confidence
    return told


def _by_text(tops: list[dict[str, Any]]) -> dict[str, float]:
    """The likeliest tokens by their text; of two that look alike the likelier one."""
    found: dict[str, float] = {}
    for top in tops:
        found.setdefault(top["token"], top["logprob"])
    return found


def _entry(token: Mapping[str, Any], n_top: int) -> dict[str, Any]:
    """A token as chat tells it, with exactly so many of the likeliest beside it."""
    return {**_plain(token), "top_logprobs": [_plain(top) for top in token.get("top", ())[:n_top]]}


def _plain(token: Mapping[str, Any]) -> dict[str, Any]:
    return {name: token[name] for name in ("token", "logprob", "bytes")}


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": call["arguments"]}}
