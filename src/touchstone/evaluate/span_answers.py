"""Answers as spans: the likeliest span over all stretches of a context, or none, judged by exact match and F1 of its words.

Source: Devlin et al. 2019 §4.2 (the score of a span is the sum of its two ends'), §4.3 (no answer where the mark in front scores higher).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from touchstone.evaluate.labels import answer_f1, exact_match
from touchstone.stats import Interval, bootstrap_mean
from touchstone.text.answers import AnsweredRows
from touchstone.text.span_windows import SpanWindow
from touchstone.text.squad import Question
from touchstone.train.label_objectives import Span
from touchstone.train.objective import TensorBatch

__all__ = ["FoundAnswers", "find_answers"]

MAX_ANSWER_TOKENS = 30
"""Longest span that is an answer, as in BERT's own evaluation."""

_ROWS = 16


@dataclass(frozen=True)
class FoundAnswers:
    """One answer a question, empty for none, with what is right."""

    answers: tuple[str, ...]
    questions: tuple[Question, ...]

    def exact_match(self) -> Interval:
        """The share of questions answered in the very words."""
        return self._mean(exact_match)

    def f1(self) -> Interval:
        """The mean F1 of the words; resamples contexts, for questions on one context are not independent."""
        return self._mean(answer_f1)

    def _mean(self, figure: object) -> Interval:
        assert callable(figure)
        values = [figure(answer, [a.text for a in q.answers]) for answer, q in zip(self.answers, self.questions, strict=True)]
        return bootstrap_mean(values, clusters=[question.context for question in self.questions])


@torch.no_grad()
def find_answers(net: nn.Module, source: AnsweredRows, windows: Sequence[SpanWindow], questions: Sequence[Question]) -> FoundAnswers:
    """The likeliest answer to each question that has a window; `source` holds the windows as rows.

    Stretches are compared by their raw scores, as in use. None is an answer only where some question has none: in data whose every
    question has one, a model never learned it.
    """
    device = next(net.parameters()).device
    allows_none = any(not question.answers for question in questions)
    best: dict[int, tuple[float, str]] = {}
    nothing: dict[int, float] = {}
    objective = Span()
    for start in range(0, len(windows), _ROWS):
        places = np.arange(start, min(start + _ROWS, len(windows)))
        scores = objective.scores(net, TensorBatch.of(source.batch(places), device)).double().cpu().numpy()
        for place, ends in zip(places.tolist(), scores, strict=True):
            window = windows[place]
            context = questions[window.question].context
            score, text = _best_span(ends, window, context)
            best[window.question] = max(best.get(window.question, (-np.inf, "")), (score, text))
            none_here = float(ends[0, 0] + ends[1, 0])
            nothing[window.question] = min(nothing.get(window.question, np.inf), none_here)
    answers = {number: "" if allows_none and nothing[number] > score else text for number, (score, text) in best.items()}
    return FoundAnswers(tuple(answers.values()), tuple(questions[number] for number in answers))


def _best_span(ends: np.ndarray, window: SpanWindow, context: str) -> tuple[float, str]:
    """The likeliest pair of a first and a last token of the context, at most MAX_ANSWER_TOKENS apart, and its text."""
    inside = np.flatnonzero(window.offsets[:, 0] >= 0)
    if not inside.size:
        return -np.inf, ""
    low, high = int(inside[0]), int(inside[-1]) + 1
    sums = ends[0, low:high, None] + ends[1, None, low:high]
    is_span = np.triu(np.ones_like(sums, dtype=bool)) & ~np.triu(np.ones_like(sums, dtype=bool), MAX_ANSWER_TOKENS)
    first, last = np.unravel_index(int(np.where(is_span, sums, -np.inf).argmax()), sums.shape)
    start, end = window.offsets[low + first, 0], window.offsets[low + last, 1]
    return float(sums[first, last]), context[start:end].strip()
