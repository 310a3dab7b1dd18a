"""Which texts take part in the next step, with how many tokens each: admission, prompts read in chunks, and who gives way.

First come, first served. A text that has begun to write takes one token a step (and those a draft proposes); what is left of the step's
tokens reads prompts. If the cache is full the text that came last gives its room back and waits in front; what it had is computed again
when it returns. The text that came first is never sent back, and fits the cache alone, so every text comes to its end.
Source of the idea: Kwon et al. 2023 §4.5; Agrawal et al. 2024 (Sarathi-Serve: prompts in chunks beside decoding).
"""

from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from touchstone.errors import ConfigError
from touchstone.infer.blocks import BlockPool, Table

__all__ = ["Limits", "Part", "Scheduler", "Text"]


@dataclass(frozen=True)
class Limits:
    """What one step may hold.

    max_texts: texts that run together. max_step_tokens: tokens of one step. max_chunk: tokens of one text's prompt in one step.
    """

    max_texts: int = 32
    max_step_tokens: int = 512
    max_chunk: int = 512

    def __post_init__(self) -> None:
        low = [f"`{name}` ({value})" for name, value in vars(self).items() if value < 1]
        if low:
            raise ConfigError(f"{' and '.join(low)} must be at least 1.")


@dataclass(eq=False)
class Text:
    """A text that is read and written on.

    token_ids: the prompt and what was written. n_computed: how many of them the cache holds.
    max_length: tokens at most that it will have. drafts: tokens that may come next, to be checked in the next step.
    after: a text whose prompt must be read before this one begins, because it is the same.
    """

    token_ids: list[int]
    max_length: int
    salt: Hashable = None
    after: "Text | None" = None
    n_computed: int = 0
    drafts: list[int] = field(default_factory=list)
    table: Table | None = None
    is_read: bool = False  # its prompt was read, or it is over
    n_preempted: int = 0
    number: int = 0  # in the order of arrival

    @property
    def n_left(self) -> int:
        """Tokens that are there and not computed."""
        return len(self.token_ids) - self.n_computed


class Part(NamedTuple):
    """The tokens of one text that a step computes: from `start` to `end` of its tokens, then its first n_drafts drafts.

    is_last: whether the text's next token can be told after this part.
    """

    text: Text
    start: int
    end: int
    n_drafts: int
    is_last: bool

    @property
    def n_tokens(self) -> int:
        return self.end - self.start + self.n_drafts


class Scheduler:
    """Plans one step after the other over a pool of blocks."""

    def __init__(self, pool: BlockPool, limits: Limits | None = None) -> None:
        self.pool = pool
        self.limits = limits if limits is not None else Limits()
        self.waiting: deque[Text] = deque()
        self.running: list[Text] = []
        self.n_preempted = 0
        self._n_added = 0

    def check_fits(self, max_length: int) -> None:
        """Raises ConfigError for a text that the cache can never hold."""
        room = self.pool.n_blocks * self.pool.block_size
        if max_length > room:
            raise ConfigError(
                f"The prompt and its completion may take {max_length} tokens, and the cache holds {room};"
                " shorten them or enlarge the cache."
            )

    def add(self, text: Text) -> None:
        self.check_fits(text.max_length)
        self._n_added += 1
        text.number = self._n_added
        self.waiting.append(text)

    def remove(self, text: Text, *, forget: bool = False) -> None:
        """The text is over: its room is free at once. forget: what was computed of it must not be used again."""
        text.is_read = True
        if text in self.running:
            self.running.remove(text)
        elif text in self.waiting:
            self.waiting.remove(text)
        self._close(text, forget=forget)

    def plan(self) -> list[Part]:
        """The parts of the next step, in the order of arrival; empty only if there is nothing to do."""
        budget, parts, n_preempted = self.limits.max_step_tokens, list[Part](), self.n_preempted
        for text in sorted(self.running, key=lambda text: text.n_left > 1):  # texts that write come before prompts
            if text.table is None or budget == 0:  # it gave way to one before it, or waits for the next step
                continue
            part = self._part(text, budget)
            if part is not None:
                parts.append(part)
                budget -= part.n_tokens
        parts = [part for part in parts if part.text.table is not None]
        if self.n_preempted == n_preempted:
            parts += self._admitted(budget)
        return sorted(parts, key=lambda part: part.text.number)

    def computed(self, part: Part) -> None:
        """The part's tokens are in the cache, and can be found by other texts."""
        text = part.text
        assert text.table is not None
        text.is_read = text.is_read or part.is_last
        text.n_computed = part.end
        self.pool.publish(text.table, text.token_ids, part.end)

    def checked(self, part: Part, n_true: int) -> None:
        """The first n_true drafts of the part turned out to be the text's next tokens; the others are dropped."""
        part.text.n_computed = part.end + n_true
        part.text.drafts.clear()

    def _part(self, text: Text, budget: int) -> Part | None:
        """What the text does in this step; None if it had to give its room back itself."""
        if text.n_left > 1:
            end = text.n_computed + min(text.n_left, self.limits.max_chunk, budget)
            n_drafts = 0
        else:
            end = len(text.token_ids)
            n_drafts = min(len(text.drafts), budget - 1, text.max_length - end)
        if n_drafts and not self._can_grow(text, end + n_drafts):
            n_drafts = 0  # a guess is no reason to send anyone back
        while not self._grow(text, end + n_drafts):
            last = max(self.running, key=lambda other: other.number)
            self._send_back(last)
            if last is text:
                return None
        return Part(text, text.n_computed, end, n_drafts, is_last=end == len(text.token_ids))

    def _admitted(self, budget: int) -> Iterator[Part]:
        while budget > 0 and len(self.running) < self.limits.max_texts:
            text = next((text for text in self.waiting if text.after is None or text.after.is_read), None)
            if text is None:
                return
            table = self.pool.open(text.token_ids, text.salt)
            if self.pool.n_missing(table, len(text.token_ids) + 1) > self.pool.n_available:
                self.pool.close(table)
                return
            text.table, text.n_computed = table, len(table.blocks) * self.pool.block_size
            self.waiting.remove(text)
            self.running.append(text)
            end = text.n_computed + min(text.n_left, self.limits.max_chunk, budget)
            has_room = self.pool.grow(table, len(text.token_ids))
            assert has_room, "the room was there a moment ago"
            budget -= end - text.n_computed
            yield Part(text, text.n_computed, end, 0, is_last=end == len(text.token_ids))

    def _can_grow(self, text: Text, n_tokens: int) -> bool:
        assert text.table is not None
        return self.pool.n_missing(text.table, n_tokens) <= self.pool.n_available

    def _grow(self, text: Text, n_tokens: int) -> bool:
        assert text.table is not None
        return self.pool.grow(text.table, n_tokens)

    def _send_back(self, text: Text) -> None:
        self.running.remove(text)
        self._close(text)
        text.drafts.clear()
        text.n_preempted += 1
        self.n_preempted += 1
        self.waiting.appendleft(text)

    def _close(self, text: Text, *, forget: bool = False) -> None:
        if text.table is not None:
            self.pool.close(text.table, forget=forget)
        text.table, text.n_computed = None, 0
