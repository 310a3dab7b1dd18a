"""Who owns which block of the cache: room for running texts, and the beginnings of finished ones, kept as long as nobody needs the room.

A block holds the keys and values of `block_size` tokens in a row. Blocks that are full may be shared: a text that begins with the same
tokens takes them instead of computing them again. Texts of different tenants (salts) never share.
A shared beginning is found by its tokens, compared one by one, never by a hash alone. Blocks of one text lie side by side where that
can be, so that they can be read without being gathered.
Source of the idea: Kwon et al. 2023 (PagedAttention), §4; the layout in runs is ours.
"""

import re
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from touchstone.errors import ConfigError

__all__ = ["BlockPool", "Table"]

_FREE, _TAKEN = 0, 1
_FREE_RUN = re.compile(rb"\x00+")


@dataclass
class Table:
    """The blocks of one text, in order.

    blocks: their numbers; the first n_shared hold what was computed for another text with the same beginning.
    runs: the same as (first block, number of blocks) for each stretch of neighbours.
    """

    salt: Hashable
    blocks: list[int] = field(default_factory=list)
    runs: list[tuple[int, int]] = field(default_factory=list)
    n_shared: int = 0
    _last_key: int = 0  # of the last block that is published
    _n_published: int = 0

    def append(self, first: int, n: int = 1) -> None:
        """Go on with n blocks from `first` on."""
        self.blocks.extend(range(first, first + n))
        if self.runs and sum(self.runs[-1]) == first:
            self.runs[-1] = (self.runs[-1][0], self.runs[-1][1] + n)
        else:
            self.runs.append((first, n))

    def clear(self) -> None:
        """Hold nothing."""
        self.blocks.clear()
        self.runs.clear()
        self.n_shared = self._n_published = self._last_key = 0


@dataclass
class _Published:
    """A full block that others may take: `key` names the whole beginning up to it."""

    key: int
    index: tuple[Hashable, int, tuple[int, ...]]


class BlockPool:
    """n_blocks blocks of block_size tokens each.

    n_asked and n_found count tokens of the prompts that were looked up, and those that were found.
    """

    def __init__(self, n_blocks: int, block_size: int = 16) -> None:
        if n_blocks < 1 or block_size < 1:
            raise ConfigError(f"A cache needs at least one block of one token, not {n_blocks} of {block_size}.")
        self.n_blocks = n_blocks
        self.block_size = block_size
        self.n_asked = 0
        self.n_found = 0
        self._state = bytearray(n_blocks)  # _FREE or _TAKEN, a byte a block
        self._n_free = n_blocks
        self._n_users = [0] * n_blocks
        self._published: dict[int, _Published] = {}
        self._by_content: dict[tuple[Hashable, int, tuple[int, ...]], int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()  # published and used by nobody, least recently used first
        self._next_key = 1

    @property
    def n_available(self) -> int:
        """Blocks that can be had now, those of finished texts included."""
        return self._n_free + len(self._idle)

    @property
    def n_used(self) -> int:
        """Blocks of running texts."""
        return self.n_blocks - self.n_available

    def n_needed(self, n_tokens: int) -> int:
        """Blocks that so many tokens take."""
        return -(-n_tokens // self.block_size)

    def open(self, token_ids: Sequence[int], salt: Hashable = None) -> Table:
        """A table that begins with the blocks of the longest known beginning, at least one token left to compute."""
        table = Table(salt)
        self.n_asked += len(token_ids)
        for number in range((len(token_ids) - 1) // self.block_size):
            block = self._by_content.get((salt, table._last_key, self._content(token_ids, number)))
            if block is None:
                break
            self._use(block)
            table.append(block)
            table._last_key = self._published[block].key
        table.n_shared = table._n_published = len(table.blocks)
        self.n_found += table.n_shared * self.block_size
        return table

    def n_missing(self, table: Table, n_tokens: int) -> int:
        """Blocks that the table lacks for so many tokens."""
        return max(0, self.n_needed(n_tokens) - len(table.blocks))

    def grow(self, table: Table, n_tokens: int) -> bool:
        """Room for so many tokens; False, and nothing taken, if it is not there."""
        n_missing = self.n_missing(table, n_tokens)
        if n_missing > self.n_available:
            return False
        while self._n_free < n_missing:
            self._forget_oldest()
        while n_missing:
            start, length = self._place(table.blocks[-1] + 1 if table.blocks else None, n_missing)
            for block in range(start, start + length):
                self._state[block], self._n_users[block] = _TAKEN, 1
            table.append(start, length)
            self._n_free -= length
            n_missing -= length
        return True

    def publish(self, table: Table, token_ids: Sequence[int], n_computed: int) -> None:
        """Offer the blocks that are full of computed tokens to texts that begin alike."""
        for number in range(table._n_published, min(n_computed, len(token_ids)) // self.block_size):
            block, index = table.blocks[number], (table.salt, table._last_key, self._content(token_ids, number))
            same = self._by_content.get(index)
            if same is None:  # else another text was first: its block is the one that is found, ours stays private
                self._published[block] = _Published(self._next_key, index)
                self._by_content[index] = same = block
                self._next_key += 1
            table._last_key = self._published[same].key
            table._n_published = number + 1

    def close(self, table: Table, *, forget: bool = False) -> None:
        """The text is over, or gives its room to others; its published blocks stay until their room is needed.

        forget: they must not be found again (what they hold may be wrong).
        """
        for block in reversed(table.blocks):  # the end of a text is forgotten before its beginning
            self._n_users[block] -= 1
            if forget:
                self._unpublish(block)
            if self._n_users[block] == 0:
                if block in self._published:
                    self._idle[block] = None
                else:
                    self._release(block)
        table.clear()

    def clear(self) -> None:
        """Forget the beginnings of all finished texts, for example because the weights have changed."""
        for block in list(self._published):
            self._unpublish(block)

    def _content(self, token_ids: Sequence[int], number: int) -> tuple[int, ...]:
        return tuple(token_ids[number * self.block_size : (number + 1) * self.block_size])

    def _use(self, block: int) -> None:
        self._n_users[block] += 1
        self._idle.pop(block, None)

    def _forget_oldest(self) -> None:
        block, _ = self._idle.popitem(last=False)
        self._unpublish(block)
        self._release(block)

    def _unpublish(self, block: int) -> None:
        known = self._published.pop(block, None)
        if known is not None:
            del self._by_content[known.index]
        if block in self._idle:
            del self._idle[block]
            self._release(block)

    def _release(self, block: int) -> None:
        self._state[block] = _FREE
        self._n_free += 1

    def _place(self, after: int | None, n_wanted: int) -> tuple[int, int]:
        """Where the next blocks of a text come, and how many: behind its last one, else where it has most room to grow."""
        if after is not None and after < self.n_blocks and self._state[after] == _FREE:
            length = 1
            while length < n_wanted and after + length < self.n_blocks and self._state[after + length] == _FREE:
                length += 1
            return after, length
        start, end = max((run.span() for run in _FREE_RUN.finditer(self._state)), key=lambda span: span[1] - span[0])
        spare = max(0, end - start - n_wanted)
        if start > 0:  # the text before it may grow into the first half
            start += spare // 2
        return start, min(n_wanted, end - start)
