"""Sentences whose words have tags, as token rows: the tag of a word is at its first token.

The words are joined as text is written, so that in use a plain text gives the same tokens.
"""

import unicodedata
from collections.abc import Sequence

import numpy as np

from touchstone.errors import DataError
from touchstone.text.answers import AnsweredRows, Fit, listed
from touchstone.text.conll import TaggedWords
from touchstone.text.frame import Frame
from touchstone.text.token_kinds import is_unspaced
from touchstone.text.tokenizer import Tokenizer

__all__ = ["first_tokens", "joined_words", "tag_rows"]


def tag_rows(
    sentences: Sequence[TaggedWords], tags: Sequence[str], tokenizer: Tokenizer, *, frame: Frame, context: int, pad_id: int, fit: Fit
) -> AnsweredRows:
    """Sentences with the tag of each word at its first token; the word's other tokens and the marks are not scored.
    Raises DataError for a tag that is not in `tags`, and where no word of any sentence has a token of its own.
    """
    numbers = {tag: number for number, tag in enumerate(tags)}
    rows, targets, counts = [], [], []
    for sentence in sentences:
        unknown = next((tag for tag in sentence.tags if tag not in numbers), None)
        if unknown is not None:
            raise DataError(f"{sentence.place}: tag `{unknown}` is none of {listed(tags)}.")
        text, starts = joined_words(sentence.words)
        ids, offsets = tokenizer.encode_offsets(text)
        firsts = first_tokens(starts, [start + len(word) for start, word in zip(starts, sentence.words, strict=True)], offsets)
        n_kept = min(len(ids), context - frame.n_single)
        target, scored = np.zeros(n_kept, dtype=np.int64), np.zeros(n_kept, dtype=bool)
        for first, tag in zip(firsts, sentence.tags, strict=True):
            if first is None:
                fit.note("words without a token of their own")
            elif first >= n_kept:
                fit.note("words behind the end of the context")
            else:
                target[first], scored[first] = numbers[tag], True
        if not scored.any():
            fit.note("sentences without a scored word")
            continue
        around = np.zeros(len(frame.before), dtype=np.int64), np.zeros(len(frame.after), dtype=np.int64)
        rows.append(frame.around(np.array(ids[:n_kept], dtype=np.int64)))
        targets.append(np.concatenate([around[0], target, around[1]]))
        counts.append(np.concatenate([around[0].astype(bool), scored, around[1].astype(bool)]))
    if not rows:
        raise DataError(f"all labels are masked: none of {len(sentences)} sentences has a word with a token of its own in the context.")
    return AnsweredRows(rows, targets, pad_id=pad_id, counts=counts)


def joined_words(words: Sequence[str]) -> tuple[str, list[int]]:
    """The words as one text, and the character each begins at: a space between two, but none within a script that has none."""
    parts: list[str] = []
    starts: list[int] = []
    place, before = 0, ""
    for word in words:
        if before and not (_is_wide(before[-1]) and _is_wide(word[0])):
            parts.append(" ")
            place += 1
        starts.append(place)
        parts.append(word)
        place, before = place + len(word), word
    return "".join(parts), starts


def first_tokens(starts: Sequence[int], ends: Sequence[int], offsets: Sequence[tuple[int, int]]) -> list[int | None]:
    """For each word the first token that begins in it, or with the white space before it; None where it begins inside another word's."""
    found: list[int | None] = []
    token, behind = 0, 0  # `behind`: the end of the word before
    for start, end in zip(starts, ends, strict=True):
        while token < len(offsets) and offsets[token][1] <= start:
            token += 1
        is_own = token < len(offsets) and behind <= offsets[token][0] < end
        found.append(token if is_own else None)
        token += is_own
        behind = end
    return found


def _is_wide(char: str) -> bool:
    """A character of a script without spaces, or of its punctuation."""
    return is_unspaced(char) or (unicodedata.category(char)[0] == "P" and unicodedata.east_asian_width(char) in "WF")
