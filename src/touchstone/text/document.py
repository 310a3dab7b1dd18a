"""The nouns of text: a document, a row of fields, a message, a conversation.

Frozen and slotted: they are made by the million and shared between threads.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Conversation", "Document", "Example", "Message", "ToolCall"]


@dataclass(frozen=True, slots=True)
class Document:
    """One text and where it came from.

    source: the file, relative to its corpus where there is one.
    line: the 1-based line of `source` the text starts on; None where the format has no lines.
    fields: what else the row or page said (a title, a label); None where there is nothing.
    """

    text: str
    source: str
    line: int | None = None
    fields: Mapping[str, Any] | None = None

    @property
    def n_bytes(self) -> int:
        """Length of the text in UTF-8, the denominator of bits per byte."""
        return len(self.text.encode("utf-8"))

    @property
    def place(self) -> str:
        """`source:line`, as errors and reports name the document."""
        return self.source if self.line is None else f"{self.source}:{self.line}"


@dataclass(frozen=True, slots=True)
class Example:
    """One row of named fields, as a task reads it."""

    fields: Mapping[str, Any]
    source: str
    line: int | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """What an assistant asks a tool for; id: by which its result is told apart, where there is one."""

    name: str
    arguments: Mapping[str, Any]
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One turn: who speaks (`system`, `user`, `assistant`, `tool`) and what is said.

    tool_calls: of an assistant. name, tool_call_id: of a tool, whose result to which call it is.
    """

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    name: str | None = None
    tool_call_id: str | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages in the order they were said."""

    messages: tuple[Message, ...]
    source: str
