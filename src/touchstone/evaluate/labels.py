"""Figures of answers that are labels: accuracy, macro-F1, F1 of tagged spans, exact match and F1 of answers in words.

Each figure has its interval, and the accuracy of always giving the commonest answer beside it.
Sources: Tjong Kim Sang & De Meulder 2003 (spans count when kind and both ends are right); Rajpurkar et al. 2016 §6.1 (answers).
"""

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from touchstone.errors import DataError
from touchstone.stats import Interval, bootstrap_mean, bootstrap_statistic, clopper_pearson
from touchstone.text.conll import spans_of
from touchstone.text.token_kinds import is_unspaced

__all__ = ["SpanCounts", "accuracy", "answer_f1", "exact_match", "macro_f1", "span_f1"]


@dataclass(frozen=True, slots=True)
class SpanCounts:
    """Of one sentence: spans found and right, spans found, spans there are."""

    n_right: int
    n_found: int
    n_there: int


def accuracy(predicted: ArrayLike, expected: ArrayLike, clusters: Sequence[Any] | None = None, *, level: float = 0.95) -> Interval:
    """The share of right answers, with its exact interval; by cluster, where answers hang together, the bootstrap's."""
    ours, there = _same_answers(predicted, expected)
    right = ours == there
    if clusters is not None:
        return bootstrap_mean(right, level=level, clusters=clusters)
    return clopper_pearson(int(right.sum()), right.size, level)


def macro_f1(
    predicted: ArrayLike,
    expected: ArrayLike,
    clusters: Sequence[Any] | None = None,
    *,
    level: float = 0.95,
    n_resamples: int = 500,
    seed: int = 0,
) -> Interval:
    """The mean over classes of the F1 of each, for classes that occur in either; a class that is never found has 0."""
    ours, there = _same_answers(predicted, expected)
    return bootstrap_statistic(_macro_f1, ours, there, level=level, n_resamples=n_resamples, seed=seed, clusters=clusters)


def span_f1(
    predicted: Sequence[Sequence[str]],
    expected: Sequence[Sequence[str]],
    clusters: Sequence[Any] | None = None,
    *,
    level: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """F1 over the spans of all sentences, which are what is resampled; 0 where no span is right."""
    counts = [_span_counts(ours, theirs) for ours, theirs in zip(predicted, expected, strict=True)]
    columns = np.array([(c.n_right, c.n_found, c.n_there) for c in counts], dtype=np.float64)
    return bootstrap_statistic(_f1_of_counts, columns, level=level, n_resamples=n_resamples, seed=seed, clusters=clusters)


def exact_match(predicted: str, answers: Sequence[str]) -> float:
    """1 if the answer is a right one but for case, articles, punctuation and white space; where there is none, only no answer is right."""
    return float(_words(predicted) in _right_words(answers))


def answer_f1(predicted: str, answers: Sequence[str]) -> float:
    """The best F1 of the answer's words with those of a right answer; characters are words in scripts without spaces."""
    return max(_word_f1(_words(predicted), words) for words in _right_words(answers))


def _same_answers(predicted: ArrayLike, expected: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    ours, there = np.asarray(predicted), np.asarray(expected)
    if ours.shape != there.shape or ours.ndim != 1 or not ours.size:
        raise DataError(f"`predicted` {ours.shape} and `expected` {there.shape} must be rows of the same answers, one or more.")
    return ours, there


def _macro_f1(predicted: NDArray[np.int64], expected: NDArray[np.int64]) -> float:
    found = []
    for label in np.union1d(predicted, expected):
        n_right = int(((predicted == label) & (expected == label)).sum())
        found.append(2 * n_right / int((predicted == label).sum() + (expected == label).sum()))
    return float(np.mean(found))


def _span_counts(predicted: Sequence[str], expected: Sequence[str]) -> SpanCounts:
    ours, theirs = spans_of(predicted), spans_of(expected)
    return SpanCounts(len(ours & theirs), len(ours), len(theirs))


def _f1_of_counts(columns: NDArray[np.float64]) -> float:
    n_right, n_found, n_there = columns.sum(axis=0)
    return float(2 * n_right / (n_found + n_there)) if n_found + n_there else 0.0


def _right_words(answers: Sequence[str]) -> list[list[str]]:
    """The words of each right answer that has any; no words where there is none, as in SQuAD 2.0's script."""
    return [words for answer in answers if (words := _words(answer))] or [[]]


def _words(answer: str) -> list[str]:
    """Lower-case words without articles and punctuation."""
    kept = "".join(char for char in answer.lower() if char not in string.punctuation and char not in _PUNCTUATION)
    spaced = "".join(f" {char} " if is_unspaced(char) else char for char in kept)
    return re.sub(r"\b(a|an|the)\b", " ", spaced).split()


_PUNCTUATION = "，。、；：？！“”‘’（）《》【】…—"


def _word_f1(predicted: list[str], expected: list[str]) -> float:
    if not predicted or not expected:
        return float(predicted == expected)
    n_common = sum((Counter(predicted) & Counter(expected)).values())
    return 2 * n_common / (len(predicted) + len(expected))
