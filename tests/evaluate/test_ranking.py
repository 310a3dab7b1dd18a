"""Figures of rankings by hand, from the papers and from scikit-learn's numbers."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchstone.errors import ConfigError, DataError
from touchstone.evaluate.ranking import ndcg, recall_at, reciprocal_rank

RANKED = st.permutations(list("abcdefg"))
RELEVANT = st.sets(st.sampled_from("abcdefghi"), min_size=1)


def test_the_reciprocal_rank_is_of_the_first_relevant_one():
    assert reciprocal_rank("xyabz", {"a", "b"}) == 1 / 3
    assert reciprocal_rank("abc", ["a"]) == 1
    assert reciprocal_rank("xyz", {"a"}) == 0
    assert reciprocal_rank("xya", {"a"}, k=2) == 0


def test_recall_counts_relevant_ones_that_are_nowhere_in_the_ranking():
    assert recall_at("abxy", {"a", "b", "c"}, 1) == 1 / 3
    assert recall_at("abxy", {"a", "b", "c"}, 4) == 2 / 3


def test_ndcg_of_graded_gains():
    """Gains 3, 2, 3, 0, 1, 2 down a ranking: scikit-learn 1.9.1's ndcg_score."""
    gains = dict(zip("abcdef", [3, 2, 3, 0, 1, 2], strict=True))
    assert ndcg("abcdef", gains) == pytest.approx(0.9608081943360616, abs=1e-12)
    assert ndcg("abcdef", gains, k=3) == pytest.approx(0.9777813616305049, abs=1e-12)


def test_the_discount_is_the_binary_logarithm_of_the_rank_and_one():
    assert ndcg("xya", {"a": 5.0}) == pytest.approx(1 / math.log2(4))
    assert ndcg("ab", {"a": 1.0, "c": 1.0}) == pytest.approx(1 / (1 + 1 / math.log2(3)))


@pytest.mark.slow
@given(ranked=RANKED, relevant=RELEVANT, k=st.integers(1, 9))
def test_all_lie_between_0_and_1_and_the_best_ranking_has_1(ranked, relevant, k):
    gains = {name: 1.0 + ord(name) % 3 for name in relevant}
    assert 0 <= reciprocal_rank(ranked, relevant) <= 1
    assert 0 <= recall_at(ranked, relevant, k) <= recall_at(ranked, relevant, k + 1) <= 1
    assert 0 <= ndcg(ranked, gains, k) <= 1 + 1e-12
    best = sorted(gains, key=lambda name: -gains[name])
    assert ndcg(best, gains, k) == pytest.approx(1)
    assert reciprocal_rank(best, relevant) == 1


@given(ranked=RANKED)
def test_moving_a_relevant_one_up_never_lowers_a_figure(ranked):
    gains = {"c": 2.0, "f": 1.0}
    place = ranked.index("c")
    if place:
        moved = [*ranked[: place - 1], "c", ranked[place - 1], *ranked[place + 1 :]]
        assert ndcg(moved, gains) >= ndcg(ranked, gains) - 1e-12
        assert reciprocal_rank(moved, gains) >= reciprocal_rank(ranked, gains)


def test_what_has_no_figure_is_refused():
    with pytest.raises(DataError, match="anything relevant"):
        reciprocal_rank("abc", [])
    with pytest.raises(DataError, match="twice"):
        recall_at("aba", {"a"}, 2)
    with pytest.raises(DataError, match="above it"):
        ndcg("abc", {"a": 0.0})
    with pytest.raises(ConfigError, match="`k`"):
        ndcg("abc", {"a": 1.0}, k=0)
