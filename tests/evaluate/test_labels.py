"""Figures of labels against their definitions."""

import re
import string
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchstone.errors import DataError
from touchstone.evaluate.labels import accuracy, answer_f1, exact_match, macro_f1, span_f1, spans_of

LABELS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30)


def test_accuracy_is_the_share_of_right_answers_with_its_exact_interval():
    found = accuracy([1, 1, 0, 2], [1, 0, 0, 2])
    assert (found.value, found.n) == (0.75, 4)
    assert found.low == pytest.approx(0.1941, abs=1e-4)  # Clopper-Pearson of 3 in 4, from the beta quantiles in any table
    assert found.high == pytest.approx(0.9937, abs=1e-4)
    with pytest.raises(DataError):
        accuracy([], [])


@pytest.mark.slow
@given(pairs=LABELS)
def test_macro_f1_is_the_mean_of_each_classs_f1(pairs):
    predicted, expected = np.array(pairs).T
    scores = []
    for label in set(predicted.tolist()) | set(expected.tolist()):
        n_right = sum(p == e == label for p, e in pairs)
        n_found, n_there = int((predicted == label).sum()), int((expected == label).sum())
        precision = n_right / n_found if n_found else 0.0
        recall = n_right / n_there if n_there else 0.0
        scores.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    assert macro_f1(predicted, expected, n_resamples=1).value == pytest.approx(np.mean(scores))


def test_spans_are_read_from_bio_as_the_shared_tasks_scorer_reads_them():
    tags = ["B-X", "I-X", "I-Y", "O", "I-X", "B-X", "B-X", "I-X"]
    assert spans_of(tags) == {(0, 2, "X"), (2, 3, "Y"), (4, 5, "X"), (5, 6, "X"), (6, 8, "X")}
    assert spans_of(["O", "O"]) == spans_of([]) == set()


def test_a_span_counts_when_its_kind_and_both_ends_are_right():
    expected = [["B-X", "I-X", "O", "B-Y"], ["O", "B-X"]]
    predicted = [["B-X", "O", "O", "B-Y"], ["O", "B-Y"]]
    found = span_f1(predicted, expected, n_resamples=10)  # one right, three found, three there
    assert found.value == pytest.approx(1 / 3)
    assert found.n == 2
    assert span_f1(expected, expected, n_resamples=10).value == 1.0
    assert span_f1([["O"]], [["O"]], n_resamples=10).value == 0.0


@pytest.mark.parametrize(
    ("predicted", "answers", "match", "f1"),
    [
        ("the Denver Broncos.", ["Denver Broncos"], 1.0, 1.0),
        ("Denver", ["Denver Broncos", "Broncos"], 0.0, 2 / 3),
        ("in Denver now", ["Denver"], 0.0, 0.5),
        ("", [], 1.0, 1.0),
        ("Denver", [], 0.0, 0.0),
        ("", ["Denver"], 0.0, 0.0),
        ("北京市", ["北京"], 0.0, 0.8),
        ("北京。", ["北京"], 1.0, 1.0),
    ],
)
def test_answers_are_compared_by_their_words(predicted, answers, match, f1):
    assert exact_match(predicted, answers) == match
    assert answer_f1(predicted, answers) == pytest.approx(f1)


def squad_words(text):
    """SQuAD's evaluation script: lower case, punctuation out, articles out, white space mended."""
    kept = "".join(char for char in text.lower() if char not in set(string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", kept).split()


@given(
    predicted=st.text(alphabet="The a.Nan-$ b\t", max_size=12),
    answers=st.lists(st.text(alphabet="The a.Nan-$ b\t", max_size=12), max_size=3),
)
def test_english_answers_are_compared_as_squad_2s_script_does(predicted, answers):
    gold = [answer for answer in answers if squad_words(answer)] or [""]
    ours = squad_words(predicted)
    scores = []
    for answer in gold:
        n_common = sum((Counter(ours) & Counter(squad_words(answer))).values())
        precision, recall = n_common / max(len(ours), 1), n_common / max(len(squad_words(answer)), 1)
        both_or_neither = float(ours == squad_words(answer))
        scores.append(2 * precision * recall / (precision + recall) if n_common else both_or_neither if not ours else 0.0)
    assert exact_match(predicted, answers) == max(" ".join(ours) == " ".join(squad_words(answer)) for answer in gold)
    assert answer_f1(predicted, answers) == pytest.approx(max(scores))
