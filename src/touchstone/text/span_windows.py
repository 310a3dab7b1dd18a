"""Questions with the stretches of their context that fit beside them, and where in each the answer is.

Source: Devlin et al. 2019 §4.2 and §4.3 (the mark in front stands for no answer); overlapping stretches as in BERT's run_squad.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from touchstone.errors import ConfigError, DataError
from touchstone.text.answers import AnsweredRows, Fit
from touchstone.text.frame import Frame
from touchstone.text.squad import Question
from touchstone.text.tokenizer import Tokenizer

__all__ = ["SpanWindow", "span_rows", "span_windows"]

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class SpanWindow:
    """A question with one stretch of its context.

    offsets (T, 2): for each token the characters of the context it spells; (-1, -1) for what is not of the context. span: first and last
    token of the answer, (0, 0), which is the mark in front, where the stretch does not hold it. question: its place among those given.
    """

    token_ids: Ids
    token_types: Ids
    offsets: Ids
    span: tuple[int, int]
    question: int


def span_windows(
    questions: Sequence[Question], tokenizer: Tokenizer, *, frame: Frame, context: int, stride: int, fit: Fit
) -> list[SpanWindow]:
    """Every question with its context, in stretches that overlap by `stride` tokens where it is longer than the room.

    The span is of the first answer. A question too long to leave room for more than the overlap is left out and counted.
    Raises ConfigError for a tokenizer that puts no mark in front, which is where `no answer here` points.
    """
    if not frame.before:
        raise ConfigError("answers as spans need a tokenizer that puts a mark such as `[CLS]` before a text: it stands for `no answer`.")
    windows: list[SpanWindow] = []
    for number, (asked, ids) in enumerate(zip(questions, tokenizer.encode_batch([q.question for q in questions]), strict=True)):
        room = context - frame.n_pair - len(ids)
        if room <= stride:
            fit.note("questions too long for the context")
            continue
        token_ids, offsets = tokenizer.encode_offsets(asked.context)
        n_front = len(frame.before) + len(ids) + len(frame.between)
        span = _token_span(asked, offsets)
        if asked.answers and span is None:
            fit.note("answers without a token")
            continue
        for start in range(0, max(1, len(token_ids) - stride), room - stride):
            part = slice(start, start + room)
            here = np.full((len(token_ids[part]) + frame.n_pair + len(ids), 2), -1, dtype=np.int64)
            here[n_front : n_front + len(token_ids[part])] = np.array(offsets[part], dtype=np.int64).reshape(-1, 2)
            is_inside = span is not None and start <= span[0] and span[1] < start + room
            windows.append(
                SpanWindow(
                    frame.around(np.array(ids, dtype=np.int64), np.array(token_ids[part], dtype=np.int64)),
                    frame.types(len(ids), len(token_ids[part])),
                    here,
                    (span[0] - start + n_front, span[1] - start + n_front) if span is not None and is_inside else (0, 0),
                    number,
                )
            )
    if not windows:
        raise DataError(
            f"none of {len(questions)} questions fits a `context` of {context} tokens with more of its text than the `stride` of"
            f" {stride} by which windows overlap; raise `context` or lower `stride`."
        )
    return windows


def span_rows(windows: Sequence[SpanWindow], *, frame: Frame, pad_id: int) -> AnsweredRows:
    """The windows as rows with the first and the last token of the answer."""
    types = [window.token_types for window in windows] if frame.second_type else None
    targets = np.array([window.span for window in windows], dtype=np.int64)
    return AnsweredRows([window.token_ids for window in windows], targets, pad_id=pad_id, token_types=types)


def _token_span(asked: Question, offsets: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """The first and the last token that spell part of the first answer."""
    if not asked.answers:
        return None
    answer = asked.answers[0]
    inside = [n for n, (start, end) in enumerate(offsets) if start < answer.end and end > answer.start]
    return (inside[0], inside[-1]) if inside else None
