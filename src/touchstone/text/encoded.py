"""A text, or a pair of texts, with what its tokenizer puts around them, cut to the length that a model reads.

Cutting is ours, so that a call leaves no setting behind in the library; which side loses how much is the library's own rule.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from tokenizers import Tokenizer as Backend

from touchstone.config import unknown_name
from touchstone.errors import ConfigError

__all__ = ["Cut", "Encoded", "encoded", "windows"]

Cut = Literal["longest", "first", "second"]
"""Which of two texts loses tokens where both are too long together: the longer one, or always the one that is named."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """What a model reads; one entry a token, so all the tuples have one length.

    token_types: 1 for the second text where the model tells the two apart, 0 for all else.
    special_mask: True for what the tokenizer put there. sides: 0 or 1 for the text that a token is of; None for what was put there.
    offsets: the characters (start, end) of its own text that a token spells; (0, 0) for what was put there.
    n_cut: tokens of the texts that were left out.
    """

    token_ids: tuple[int, ...]
    token_types: tuple[int, ...]
    special_mask: tuple[bool, ...]
    sides: tuple[int | None, ...]
    offsets: tuple[tuple[int, int], ...]
    n_cut: int = 0


def encoded(finish: Backend, texts: Sequence[Any], max_length: int | None, cut: Cut) -> Encoded:
    """One or two encodings of the library, cut and put together; finish: a backend whose post-processor does that.

    Raises ConfigError where what may be cut is shorter than what must be.
    """
    if cut not in get_args(Cut):
        raise unknown_name("cut", cut, get_args(Cut))
    lengths = [len(text.ids) for text in texts]
    if max_length is None:
        return _joined(finish, texts, 0)
    room = _room(finish, texts, max_length)
    kept = _kept(lengths, room, cut)
    for text, length in zip(texts, kept, strict=True):
        text.truncate(length)
    return _joined(finish, texts, sum(lengths) - sum(kept))


def windows(finish: Backend, texts: Sequence[Any], max_length: int, stride: int) -> list[Encoded]:
    """The last text in overlapping windows, each with the whole first one of a pair before it.

    stride: how many tokens two neighbours have in common.
    """
    *before, last = texts
    room, n_tokens = _room(finish, texts, max_length) - sum(len(text.ids) for text in before), len(last.ids)
    if not 0 <= stride < room:
        raise ConfigError(f"`stride` ({stride}) must be at least 0 and below the {room} tokens that `max_length` ({max_length}) leaves.")
    last.truncate(room, stride=stride)
    return [_joined(finish, [*before, part], n_tokens - len(part.ids)) for part in (last, *last.overflowing)]


def _room(finish: Backend, texts: Sequence[Any], max_length: int) -> int:
    n_added = finish.num_special_tokens_to_add(len(texts) == 2)
    if max_length < n_added:
        raise ConfigError(f"`max_length` ({max_length}) must be at least {n_added}: so many tokens go around every text.")
    return max_length - n_added


def _kept(lengths: list[int], room: int, cut: Cut) -> list[int]:
    """How many tokens of each text stay."""
    excess = sum(lengths) - room
    if excess <= 0:
        return lengths
    if len(lengths) == 1 or cut != "longest":
        side = 1 if cut == "second" and len(lengths) == 2 else 0
        if lengths[side] < excess:
            raise ConfigError(
                f"the {cut} text has {lengths[side]} tokens and should lose {excess}; cut the `longest`, or raise the length."
            )
        return [length - excess * (number == side) for number, length in enumerate(lengths)]
    short = min(lengths)
    long = max(short, room - short)
    if short + long > room:
        short, long = room // 2, room - room // 2
    return [short, long] if lengths[0] <= lengths[1] else [long, short]


def _joined(finish: Backend, texts: Sequence[Any], n_cut: int) -> Encoded:
    whole = finish.post_process(texts[0], texts[1] if len(texts) == 2 else None, True)
    return Encoded(
        tuple(whole.ids),
        tuple(whole.type_ids),
        tuple(bool(mark) for mark in whole.special_tokens_mask),
        tuple(whole.sequence_ids),
        tuple(whole.offsets),
        n_cut,
    )
