"""Figures of classes against scikit-learn's numbers, scipy's and their definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchstone.errors import DataError
from touchstone.evaluate.classification import balanced_accuracy, class_scores, commonest, confusion, matthews, micro_f1
from touchstone.evaluate.labels import accuracy, macro_f1

PREDICTED, EXPECTED = "aabbccddabcdaabbccabdca", "aabcccdbabddabbbcacbdca"
"""What the numbers below are of; they are scikit-learn 1.9.1's."""

LABELS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1, max_size=30)
FIGURES = [balanced_accuracy, matthews, micro_f1]


def test_figures_are_scikit_learns():
    assert balanced_accuracy(PREDICTED, EXPECTED, n_resamples=1).value == pytest.approx(0.7410714285714286, abs=1e-12)
    assert matthews(PREDICTED, EXPECTED, n_resamples=1).value == pytest.approx(0.6505102040816326, abs=1e-12)
    assert micro_f1(PREDICTED, EXPECTED, without="d", n_resamples=1).value == pytest.approx(0.7368421052631579, abs=1e-12)


def test_the_table_and_the_scores_of_classes_are_scikit_learns():
    table = confusion(PREDICTED, EXPECTED)
    assert table.labels == ("a", "b", "c", "d")
    assert table.counts.tolist() == [[5, 0, 1, 0], [1, 5, 0, 1], [1, 1, 4, 0], [0, 0, 1, 3]]
    scores = class_scores(PREDICTED, EXPECTED)
    assert [score.precision for score in scores] == pytest.approx([0.71428571, 0.83333333, 0.66666667, 0.75])
    assert [score.recall for score in scores] == pytest.approx([0.83333333, 0.71428571, 0.66666667, 0.75])
    assert [score.f1 for score in scores] == pytest.approx([0.76923077, 0.76923077, 0.66666667, 0.75])
    assert [score.n_there for score in scores] == [6, 7, 6, 4]
    assert np.mean([score.f1 for score in scores]) == pytest.approx(macro_f1(list(PREDICTED), list(EXPECTED), n_resamples=1).value)


def test_matthews_of_two_classes_is_the_textbooks():
    """(TP TN - FP FN) / sqrt of the four margins, with TP 6, TN 3, FP 1, FN 2 (Matthews 1975)."""
    predicted, expected = [1] * 7 + [0] * 5, [1] * 6 + [0] + [0] * 3 + [1] * 2
    assert matthews(predicted, expected, n_resamples=1).value == pytest.approx((6 * 3 - 1 * 2) / np.sqrt(7 * 8 * 4 * 5))


def test_a_class_that_was_never_found_or_never_there_has_no_undefined_score():
    scores = {score.label: score for score in class_scores(["a", None], ["b", "b"])}
    assert (scores["b"].precision, scores["b"].recall, scores["b"].f1) == (0, 0, 0)
    assert scores["a"].recall == 0
    assert balanced_accuracy(["a", "b"], ["b", "b"], n_resamples=1).value == 0.5


@pytest.mark.slow
@given(pairs=LABELS)
def test_bounds_and_blindness_to_order_and_names(pairs):
    predicted, expected = zip(*pairs, strict=True)
    for figure in FIGURES:
        found = figure(predicted, expected, n_resamples=20)
        assert -1 - 1e-9 <= found.value <= 1 + 1e-9
        assert found.value >= 0 or figure is matthews
        assert figure(predicted[::-1], expected[::-1], n_resamples=1).value == pytest.approx(found.value)
        names = {"a": 7, "b": -1, "c": None}
        renamed = figure([names[x] for x in predicted], [names[x] for x in expected], n_resamples=1)
        assert renamed.value == pytest.approx(found.value)
        assert figure(expected, expected, n_resamples=1).value == (1 if len(set(expected)) > 1 or figure is not matthews else 0)
    assert matthews(expected, predicted, n_resamples=1).value == pytest.approx(matthews(predicted, expected, n_resamples=1).value)
    assert micro_f1(predicted, expected, n_resamples=1).value == pytest.approx(accuracy(predicted, expected).value)
    assert confusion(predicted, expected).counts.sum() == len(pairs)


@pytest.mark.slow
@given(answer=st.sampled_from("abc"), expected=st.lists(st.sampled_from("abc"), min_size=1, max_size=20))
def test_one_who_always_says_the_same_is_no_better_than_chance(answer, expected):
    constant = [answer] * len(expected)
    assert matthews(constant, expected, n_resamples=1).value == 0
    assert balanced_accuracy(constant, expected, n_resamples=1).value == pytest.approx((answer in expected) / len(set(expected)))


def test_the_commonest_class_is_the_first_of_equals():
    assert commonest("bacab") == "b"
    assert commonest([None, 1, 1]) == 1
    with pytest.raises(DataError):
        commonest([])


@pytest.mark.slow
def test_intervals_resample_examples_or_their_clusters():
    rng = np.random.default_rng(1)
    expected = rng.integers(0, 3, 400)
    predicted = np.where(rng.random(400) < 0.75, expected, rng.integers(0, 3, 400))
    found = balanced_accuracy(predicted, expected)
    assert found.n == 400
    exact = accuracy(predicted, expected)  # classes are about equal, so both intervals are about one
    assert found.high - found.low == pytest.approx(exact.high - exact.low, rel=0.2)
    clusters = np.repeat(np.arange(100), 4)
    copied = balanced_accuracy(np.repeat(predicted[:100], 4), np.repeat(expected[:100], 4), clusters)
    assert copied.n == 100
    alone = balanced_accuracy(predicted[:100], expected[:100])
    assert copied.high - copied.low == pytest.approx(alone.high - alone.low, rel=0.15)
    assert accuracy(predicted, expected, np.arange(400) // 4).n == 100
    assert macro_f1(predicted, expected, np.arange(400) // 4).n == 100


def test_what_cannot_be_scored_is_refused():
    for figure in [*FIGURES, confusion, class_scores]:
        for predicted, expected in ([], []), (["a"], ["a", "b"]):
            with pytest.raises(DataError, match="same examples"):
                figure(predicted, expected)
    with pytest.raises(DataError, match="without"):
        micro_f1("ab", "ba", without="ab")
    for predicted, expected in ([], []), ([1], [1, 2]):
        with pytest.raises(DataError, match="same answers"):
            macro_f1(predicted, expected)
