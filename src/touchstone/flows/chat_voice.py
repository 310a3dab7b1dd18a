"""Who answers in a chat: the contract that a model on this machine and one behind an address both keep."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from touchstone.errors import ConfigError
from touchstone.text.document import Message

__all__ = ["Ended", "TooLong", "Voice"]


class TooLong(ConfigError):
    """The conversation leaves too little of the context for an answer."""


@dataclass(frozen=True)
class Ended:
    """How an answer ended. finish_reason: "stop", "length" or "cancelled". What is not known is None; mean_probability: of its tokens.

    cut_by: what a "length" came from, where that is known.
    """

    finish_reason: str
    n_prompt_tokens: int | None = None
    n_tokens: int | None = None
    seed: int | None = None
    mean_probability: float | None = None
    cut_by: Literal["max_new_tokens", "context"] | None = None


class Voice(Protocol):
    """Answers conversations."""

    name: str

    def answer(self, messages: Sequence[Message], *, n_retries: int = 0) -> Iterator[str | Ended]:
        """The text of an answer as it comes, then how it ended. n_retries: how often this was asked before, so that a seed gives another.

        Ctrl-C ends it: either with `Ended` of "cancelled", or with KeyboardInterrupt.
        Raises TooLong before the first text; TouchstoneError for what goes wrong.
        """
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...
