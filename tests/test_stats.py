"""Intervals and tests against scipy, closed forms and simulated coverage."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from touchstone import stats
from touchstone.errors import ConfigError, DataError
from touchstone.stats import Interval


def skewed(n, seed):
    return np.random.default_rng(seed).lognormal(sigma=0.8, size=n)


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        (Interval(1.4534, 1.4137, 1.4921, 0.95, 32, "m"), "1.453 [1.414, 1.492]"),
        (Interval(-0.1094, -0.1421, -0.0762, 0.95, 32, "m"), "-0.109 [-0.142, -0.076]"),
        (Interval(0.00612, 0.00581, 0.00634, 0.95, 32, "m"), "0.00612 [0.00581, 0.00634]"),
        (Interval(412.3, 371.2, 455.9, 0.95, 32, "m"), "412 [371, 456]"),
        (Interval(2.0, 2.0, 2.0, 0.95, 32, "m"), "2.000 [2.000, 2.000]"),
        (Interval(1.5, math.nan, math.nan, 0.95, 1, "m"), "1.500 [n = 1: no interval]"),
    ],
)
def test_an_interval_reads_as_a_figure_with_its_bounds(interval, text):
    assert str(interval) == text


def test_a_difference_is_more_than_a_tie_only_if_zero_is_outside():
    assert [
        Interval(0, low, high, 0.95, 3, "m").excludes_zero for low, high in [(-1, 1), (0, 1), (0.1, 1), (-1, -0.1), (math.nan, math.nan)]
    ] == [*(False, False, True, True, False)]


def test_the_value_is_the_mean_and_the_ratio_of_sums():
    assert stats.bootstrap_mean([1, 2, 6]).value == 3
    assert stats.bootstrap_ratio([1, 9], [1, 3]).value == 2.5  # the mean of ratios would be 2
    assert stats.paired_difference([3, 5, 9], [1, 1, 3]).value == 4
    assert stats.paired_ratio_difference([4, 8], [1, 3], [1, 3]).value == 2


@pytest.mark.slow
@pytest.mark.parametrize("n", [9, 41])
def test_intervals_are_scipys_percentiles_read_as_far_out_as_students_t(n):
    values = skewed(n, seed=3)
    tail = scipy.stats.norm.cdf(scipy.stats.t.ppf(0.025, n - 1) * math.sqrt(n / (n - 1)))
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=40_000, method="percentile", confidence_level=1 - 2 * tail, rng=np.random.default_rng(1)
    ).confidence_interval
    ours = stats.bootstrap_mean(values, n_resamples=40_000)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.03 * (theirs.high - theirs.low))


@pytest.mark.parametrize("n", [2, 7])
def test_few_units_have_students_interval_of_the_mean(n):
    values = skewed(n, seed=4)
    low, high = scipy.stats.t.interval(0.9, n - 1, values.mean(), scipy.stats.sem(values))
    found = stats.bootstrap_mean(values, level=0.9)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert "Student" in found.method


def test_a_paired_interval_is_narrower_than_two_separate_ones():
    base = skewed(29, seed=5)
    a, b = base + 0.1, base * 1.01
    paired, single = stats.paired_difference(a, b), stats.bootstrap_mean(a)
    assert (paired.high - paired.low) < 0.2 * (single.high - single.low)


@pytest.mark.slow
def test_a_ratio_interval_covers_the_truth_about_as_often_as_it_says():
    rng, hits, trials = np.random.default_rng(8), 0, 400
    for trial in range(trials):
        sizes = rng.lognormal(sigma=1.0, size=40)
        bits = sizes * 1.4 * rng.lognormal(mean=-0.02, sigma=0.2, size=40)  # E[lognormal(-0.02, 0.2)] = 1
        found = stats.bootstrap_ratio(bits, sizes, n_resamples=400, seed=trial)
        hits += found.low <= 1.4 <= found.high
    assert 0.9 <= hits / trials <= 0.985  # 95 % said; 400 trials have a standard error of 1.1 %, and such skewed files cost about 2 %


@pytest.mark.slow
def test_clusters_are_resampled_whole():
    values = np.repeat(skewed(12, seed=2), 50)
    names = [f"file{place // 50}" for place in range(600)]
    alone, together = stats.bootstrap_mean(values), stats.bootstrap_mean(values, clusters=names)
    assert together.n == 12
    assert (together.high - together.low) > 4 * (alone.high - alone.low)  # about the root of 50
    by_cluster = stats.bootstrap_mean(values[::50])
    assert (together.low, together.high) == pytest.approx((by_cluster.low, by_cluster.high))
    assert "by cluster" in together.method


def test_the_same_seed_gives_the_same_interval_and_another_one_another():
    values = skewed(20, seed=1)
    assert stats.bootstrap_mean(values, seed=4) == stats.bootstrap_mean(values, seed=4)
    assert stats.bootstrap_mean(values, seed=4).low != stats.bootstrap_mean(values, seed=5).low


def test_one_unit_has_no_interval_and_equal_units_have_one_of_no_width():
    assert math.isnan(stats.bootstrap_mean([4.0]).low)
    assert math.isnan(stats.bootstrap_statistic(np.mean, [4.0]).high)
    assert stats.bootstrap_mean([1, 2, 3], clusters=["a", "a", "a"]).n == 1
    flat = stats.bootstrap_mean([2.5] * 7)
    assert (flat.low, flat.high) == (2.5, 2.5)


@pytest.mark.slow
def test_very_many_units_take_the_jackknife_which_agrees(monkeypatch):
    a, b = skewed(3000, seed=6), 1 + skewed(3000, seed=7)
    boot = stats.bootstrap_ratio(a, b)
    monkeypatch.setattr(stats, "MAX_DRAWS", 1000)
    delta = stats.bootstrap_ratio(a, b)
    assert "bootstrap" in boot.method
    assert "jackknife" in delta.method
    assert (delta.low, delta.high) == pytest.approx((boot.low, boot.high), abs=0.1 * (boot.high - boot.low))


@pytest.mark.slow
def test_any_statistic_is_resampled_with_its_arrays_together():
    x = np.arange(30.0)
    perfect = stats.bootstrap_statistic(lambda a, b: np.corrcoef(a, b)[0, 1], x, 2 * x + 1, n_resamples=50)
    assert (perfect.low, perfect.high) == pytest.approx((1, 1))
    values = skewed(31, seed=9)
    theirs = scipy.stats.bootstrap(
        (values,), np.std, n_resamples=4000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    ours = stats.bootstrap_statistic(np.std, values, n_resamples=4000)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.05)


@pytest.mark.slow
@given(st.integers(1, 3000), st.data(), st.sampled_from([0.5, 0.9, 0.95, 0.999]))
@settings(max_examples=60)
def test_clopper_pearson_is_scipys(n, data, level):
    k = data.draw(st.integers(0, n))
    theirs = scipy.stats.binomtest(k, n).proportion_ci(level, "exact")
    ours = stats.clopper_pearson(k, n, level)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    assert ours.value == k / n


def test_clopper_pearson_has_its_closed_form_at_the_ends_and_stands_large_counts():
    assert stats.clopper_pearson(0, 10).high == pytest.approx(1 - 0.025 ** (1 / 10))
    assert stats.clopper_pearson(10, 10).low == pytest.approx(0.025 ** (1 / 10))
    large = stats.clopper_pearson(3_000_000, 10_000_000)
    assert (large.low, large.high) == pytest.approx((0.3 - 0.000284, 0.3 + 0.000284), abs=2e-6)  # 1.96 * sqrt(.21 / 1e7)


@pytest.mark.slow
@given(st.integers(0, 400), st.integers(0, 400))
@settings(max_examples=80)
def test_the_sign_test_is_the_exact_binomial_test(wins, losses):
    expected = scipy.stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert stats.sign_test(wins, losses) == pytest.approx(expected, rel=1e-9)
    assert stats.mcnemar_exact(losses, wins) == stats.sign_test(wins, losses)


def test_five_wins_of_five_have_the_p_value_of_five_heads():
    assert stats.sign_test(5, 0) == pytest.approx(2 / 2**5)


def test_flipping_signs_tries_all_patterns_of_few_units():
    assert stats.sign_flip_test([1, 2, 3], [0, 0, 0]) == 2 / 8  # only all plus and all minus reach a sum of 6
    assert stats.sign_flip_test([1, -1], [0, 0]) == 1
    assert stats.sign_flip_test([0.1, 0.2, 0.3], [0, 0, 0]) == 2 / 8  # sums that differ in their last bit are equal


@pytest.mark.slow
def test_permutation_p_values_agree_with_scipy():
    a, b = skewed(23, seed=1), skewed(19, seed=2) + 0.35
    independent = scipy.stats.permutation_test(
        (a, b), lambda x, y: np.mean(x) - np.mean(y), n_resamples=9999, rng=np.random.default_rng(3)
    ).pvalue
    assert stats.permutation_test(a, b) == pytest.approx(independent, abs=0.02)
    pairs = scipy.stats.permutation_test(
        (a[:19], b), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=9999, rng=np.random.default_rng(3)
    ).pvalue
    assert stats.sign_flip_test(a[:19], b) == pytest.approx(pairs, abs=0.02)


def test_no_p_value_of_random_permutations_is_zero():
    assert stats.permutation_test(np.zeros(50), np.ones(50), n_resamples=99) == 1 / 100


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: stats.bootstrap_mean([]), "non-empty"),
        (lambda: stats.bootstrap_mean([[1.0]]), "shape"),
        (lambda: stats.bootstrap_mean([1.0, math.nan, math.inf]), "2 of 3"),
        (lambda: stats.bootstrap_ratio([1, 2], [1, 0]), "above 0; the least is 0"),
        (lambda: stats.bootstrap_ratio([1, 2], [1, 2, 3]), "not 2, 3"),
        (lambda: stats.paired_difference([1, 2], [1]), "not 2, 1"),
        (lambda: stats.paired_ratio_difference([1, 2], [1], [1, 2]), "not 2, 1"),
        (lambda: stats.bootstrap_mean([1, 2], clusters=["a"]), "names 1 units; there are 2"),
        (lambda: stats.bootstrap_statistic(np.mean, [1, 2], [1]), "not 2, 1"),
    ],
)
def test_numbers_that_have_no_error_bar_are_refused(call, says):
    with pytest.raises(DataError, match=says):
        call()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: stats.bootstrap_mean([1, 2], level=95), "such as 0.95, not 95"),
        (lambda: stats.bootstrap_mean([1, 2], n_resamples=0), "at least 1"),
        (lambda: stats.clopper_pearson(5, 4), "k=5, n=4"),
        (lambda: stats.clopper_pearson(0, 0), "k=0, n=0"),
        (lambda: stats.sign_test(-1, 2), "-1 and 2"),
    ],
)
def test_settings_out_of_range_are_refused(call, says):
    with pytest.raises(ConfigError, match=says):
        call()


def test_a_statistic_of_sums_is_resampled_as_a_ratio_is():
    rng = np.random.default_rng(5)
    above, below, clusters = rng.random(40), 1 + rng.random(40), np.arange(40) // 4
    for names in (None, clusters, clusters[:5].repeat(8)):  # of units, of clusters, of too few clusters
        found = stats.bootstrap_sums(lambda sums: sums[..., 0] / sums[..., 1], np.stack([above, below], axis=1), clusters=names)
        assert found == stats.bootstrap_ratio(above, below, clusters=names)
    with pytest.raises(DataError, match="`rows`"):
        stats.bootstrap_sums(np.sum, [])


def test_units_that_are_each_their_own_cluster_are_drawn_as_units_are():
    values = np.random.default_rng(6).random(30)
    plain, clustered = (stats.bootstrap_statistic(np.median, values, n_resamples=50, clusters=c) for c in (None, range(30)))
    assert (plain.low, plain.high) == (clustered.low, clustered.high)
