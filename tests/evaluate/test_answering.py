"""Judging answers: loss, accuracy and the commonest answer, on any objective's examples."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from touchstone.errors import DataError
from touchstone.evaluate.answering import Commonest, score_answers
from touchstone.evaluate.span_answers import find_answers
from touchstone.text.answers import AnsweredRows
from touchstone.text.span_windows import SpanWindow
from touchstone.text.squad import Answer, Question
from touchstone.train.label_objectives import Classify, Tag

N = 4


class Table(nn.Module):
    """Scores that depend on the first token of a row alone."""

    def __init__(self, scores):
        super().__init__()
        self.scores = nn.Parameter(torch.tensor(scores))

    def forward(self, token_ids, **_):
        return SimpleNamespace(logits=self.scores[token_ids[:, 0]], aux={})


def rows(firsts, width=3):
    return [np.array([first] + [9] * (width - 1)) for first in firsts]


def test_losses_and_answers_are_those_of_the_scores():
    scores = np.random.default_rng(2).normal(size=(N, 3)).astype(np.float32)
    source = AnsweredRows(rows([0, 1, 2, 3] * 6), np.array([0, 1, 2, 0] * 6), pad_id=0)
    found = score_answers(Table(scores), Classify(), source)
    log_p = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    expected = -log_p[[0, 1, 2, 3] * 6, [0, 1, 2, 0] * 6]
    np.testing.assert_allclose(found.nats, expected, rtol=1e-5)
    assert found.predicted.tolist() == scores.argmax(-1)[[0, 1, 2, 3] * 6].tolist()
    assert found.rows.tolist() == list(range(24))
    assert found.loss == pytest.approx(expected.mean(), rel=1e-5)
    assert found.accuracy().value == pytest.approx((found.predicted == found.expected).mean())
    assert found.accuracy().method == "Clopper-Pearson"
    assert found.nll().value == pytest.approx(expected.mean(), rel=1e-5)


def test_only_targets_that_count_are_judged_and_examples_are_resampled():
    scores = np.random.default_rng(3).normal(size=(N, 3, 2)).astype(np.float32)
    targets, counts = [np.array([1, 0, 1]), np.array([0, 0, 1])], [np.array([True, False, True]), np.array([False, True, True])]
    source = AnsweredRows(rows([2, 3]), targets, pad_id=0, counts=counts)
    found = score_answers(Table(scores), Tag(), source)
    assert found.rows.tolist() == [0, 0, 1, 1]
    assert found.expected.tolist() == [1, 1, 0, 1]
    assert found.accuracy().n == 2
    assert found.accuracy().method != "Clopper-Pearson"


def test_the_commonest_answer_is_counted_on_the_training_examples():
    train = AnsweredRows(rows([0] * 10), np.array([1] * 6 + [0] * 3 + [2]), pad_id=0)
    commonest = Commonest(train)
    assert commonest.answer == 1
    test = score_answers(Table([[0.0, 0.0, 0.0, 0.0]]), Classify(), AnsweredRows(rows([0] * 4), np.array([1, 1, 0, 3]), pad_id=0))
    assert commonest.accuracy(test) == 0.5
    shares = np.array([7, 7, 4, 1]) / 14  # one more of each, and one for what was never seen
    assert commonest.nll(test) == pytest.approx(-np.log(shares).mean())


def test_a_sample_is_drawn_from_all_of_a_file_that_is_sorted_by_its_answers():
    source = AnsweredRows(rows([0] * 3000), np.array([0] * 2000 + [1] * 1000), pad_id=0)
    found = score_answers(Table([[1.0, 0.0]]), Classify(), source, n_examples=300)
    assert found.expected.mean() == pytest.approx(1 / 3, abs=0.1)
    assert (np.diff(found.rows) > 0).all()
    assert np.array_equal(found.rows, score_answers(Table([[0.0, 1.0]]), Classify(), source, n_examples=300).rows)
    assert Commonest(source).counts[1] / Commonest(source).total == pytest.approx(1 / 3, abs=0.03)


def test_nothing_to_judge_is_an_error():
    source = AnsweredRows(rows([0, 1]), [np.zeros(3, int)] * 2, pad_id=0, counts=[np.array([True] * 3)] * 2)
    source.counts = [np.array([False] * 3)] * 2
    with pytest.raises(DataError, match="all labels are masked"):
        score_answers(Table(np.zeros((2, 3, 2), dtype=np.float32)), Tag(), source)


class Ends(nn.Module):
    """Scores of both ends by token id."""

    def __init__(self, starts, ends):
        super().__init__()
        self.table = nn.Parameter(torch.tensor([starts, ends]).T)

    def forward(self, token_ids, **_):
        return SimpleNamespace(logits=self.table[token_ids], aux={})


CONTEXT = "ab cd ef"


def window(token_ids, question=0):
    offsets = np.array([[-1, -1], [-1, -1], [0, 2], [3, 5], [6, 8], [-1, -1]])
    return SpanWindow(np.array(token_ids), np.zeros(6, int), offsets, (0, 0), question)


def judged(starts, ends, questions=None, windows=None):
    questions = questions or [Question("?", CONTEXT, (Answer("cd ef", 3),), "q", "a")]
    windows = windows or [window([0, 1, 2, 3, 4, 5])]
    source = AnsweredRows([w.token_ids for w in windows], np.zeros((len(windows), 2), int), pad_id=9)
    return find_answers(Ends(starts, ends), source, windows, questions)


def test_an_answer_is_the_likeliest_span_of_the_context_never_backwards_and_never_of_the_question():
    found = judged([0.0, 9.0, 0.0, 5.0, 4.9, 9.0], [0.0, 9.0, 5.0, 1.0, 4.0, 9.0])
    assert found.answers == ("cd ef",)
    assert (found.exact_match().value, found.f1().value) == (1.0, 1.0)


def test_the_best_window_answers():
    windows = [window([0, 1, 2, 2, 2, 1]), window([0, 1, 2, 3, 2, 1])]
    found = judged([0.0, 0.0, 0.0, 9.0, 0.0, 0.0], [0.0, 0.0, 0.0, 9.0, 0.0, 0.0], windows=windows)
    assert found.answers == ("cd",)


def test_windows_are_compared_by_raw_scores_as_in_use():
    """The second window's best span has the greater sum, and the smaller share of its own window."""
    windows = [window([0, 1, 2, 5, 5, 1]), window([0, 1, 3, 3, 4, 1])]
    ends = [-9.0, -9.0, 2.0, 2.5, 2.6, -9.0]
    assert judged(ends, ends, windows=windows).answers == ("ef",)


def test_no_answer_is_given_where_the_mark_scores_higher_and_some_question_has_none():
    asked = Question("?", CONTEXT, (Answer("cd", 3),), "q", "a")
    without = Question("?", CONTEXT, (), "r", "a")
    ends = [7.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    assert judged(ends, ends, questions=[asked]).answers == ("cd",)
    both = judged(ends, ends, questions=[asked, without], windows=[window([0, 1, 2, 3, 4, 5]), window([0, 1, 2, 3, 4, 5], 1)])
    assert both.answers == ("", "")
    assert both.exact_match().value == 0.5
