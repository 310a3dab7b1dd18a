"""Correlations against scipy."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, given
from hypothesis import strategies as st

from touchstone.errors import DataError
from touchstone.evaluate.correlation import pearson, ranks, spearman

PAIRS = st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=2, max_size=30)


def columns(pairs):
    a, b = np.array(pairs, dtype=float).T
    assume(np.ptp(a) > 0 and np.ptp(b) > 0)
    return a, b


@pytest.mark.slow
@given(pairs=PAIRS)
def test_both_are_scipys_ties_included(pairs):
    a, b = columns(pairs)
    assert pearson(a, b, n_resamples=1).value == pytest.approx(scipy.stats.pearsonr(a, b).statistic, abs=1e-12)
    assert spearman(a, b, n_resamples=1).value == pytest.approx(scipy.stats.spearmanr(a, b).statistic, abs=1e-12)
    assert ranks(a).tolist() == scipy.stats.rankdata(a).tolist()


@pytest.mark.slow
@given(pairs=PAIRS)
def test_bounds_symmetry_and_blindness_to_order_and_scale(pairs):
    a, b = columns(pairs)
    found = spearman(a, b, n_resamples=20)
    assert -1 <= found.low <= found.high <= 1
    assert spearman(b, a, n_resamples=1).value == pytest.approx(found.value)
    assert spearman(a[::-1], b[::-1], n_resamples=1).value == pytest.approx(found.value)
    assert spearman(np.exp(a), b, n_resamples=1).value == pytest.approx(found.value)
    assert pearson(-2 * a + 1, b, n_resamples=1).value == pytest.approx(-pearson(a, b, n_resamples=1).value)


@pytest.mark.slow
def test_the_interval_of_pearson_is_about_fishers():
    rng = np.random.default_rng(3)
    a = rng.normal(size=300)
    b = 0.8 * a + 0.6 * rng.normal(size=300)
    found = pearson(a, b)
    fisher = scipy.stats.pearsonr(a, b).confidence_interval()
    assert found.low == pytest.approx(fisher.low, abs=0.02)
    assert found.high == pytest.approx(fisher.high, abs=0.02)
    assert found.n == 300
    by_pair = pearson(np.repeat(a, 2), np.repeat(b, 2), np.repeat(np.arange(300), 2))
    assert by_pair.n == 300
    assert by_pair.high - by_pair.low == pytest.approx(found.high - found.low, rel=0.1)


@pytest.mark.parametrize(("a", "b", "word"), [([], [], "above 1"), ([1], [2], "above 1"), ([1, 2], [1, 2, 3], "shapes"),
                                              ([1, 1, 1], [1, 2, 3], "constant"), ([1, 2, np.nan], [1, 2, 3], "finite")])  # fmt: skip
def test_what_has_no_correlation_is_refused(a, b, word):
    with pytest.raises(DataError, match=word):
        spearman(a, b)
