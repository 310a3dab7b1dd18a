import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from touchstone.calibrate.abstain import (
    Abstention,
    Ladder,
    binomial_p_value,
    hoeffding_bentkus_p_value,
    share_thresholds,
    standard_thresholds,
)
from touchstone.errors import ConfigError, DataError
from touchstone.stats import clopper_pearson

counts = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
risks = st.floats(0.01, 0.6)


def drawn(n, rng, power=1.0):
    """Confidences of which a share confidence**power is right."""
    confidence = rng.beta(4, 1, n)
    return confidence, rng.random(n) < confidence**power


def risk_above(threshold, power=1.0):
    """P(wrong | confidence >= t) of `drawn`: the density of Beta(4, 1) is 4 p^3."""
    right = 4 / (4 + power) * (1 - threshold ** (4 + power)) / (1 - threshold**4)
    return 1 - right


# --- p-values


@pytest.mark.slow
@given(counts, risks)
def test_the_binomial_p_value_is_the_distribution_function(count, risk):
    assert binomial_p_value(*count, risk) == pytest.approx(stats.binom.cdf(*count, risk), rel=1e-9, abs=1e-300)


@pytest.mark.slow
@given(counts, risks)
def test_the_binomial_test_and_clopper_pearsons_bound_say_the_same(count, risk):
    bound = clopper_pearson(*count, level=0.9).high  # one-sided at 0.95
    if abs(bound - risk) > 1e-9:
        assert (binomial_p_value(*count, risk) <= 0.05) == (bound <= risk)


@pytest.mark.slow
@given(counts, risks)
def test_hoeffding_bentkus_is_its_formula_and_never_sharper_than_the_binomial_test(count, risk):
    k, n = count
    found = hoeffding_bentkus_p_value(float(k), n, risk)
    mean = k / n
    if mean < risk:
        divergence = stats.entropy([mean, 1 - mean], [risk, 1 - risk])
        expected = min(np.exp(-n * divergence), np.e * stats.binom.cdf(k, n, risk))
        assert found == pytest.approx(min(1, expected), rel=1e-9, abs=1e-300)
    else:
        assert found == 1
    assert found >= binomial_p_value(k, n, risk) * (1 - 1e-9)


def test_no_answers_prove_nothing():
    assert binomial_p_value(0, 0, 0.1) == 1
    assert hoeffding_bentkus_p_value(0, 0, 0.1) == 1


# --- the promise


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "max_risk", "delta", "test"),
    [(300, 0.1, 0.1, "clopper-pearson"), (1000, 0.05, 0.2, "clopper-pearson"), (300, 0.15, 0.2, "hoeffding-bentkus")],
)
def test_the_promise_is_broken_no_more_often_than_it_says(n, max_risk, delta, test):
    """Over 1,000 calibration sets; the true risk above a threshold is known in closed form."""
    rng = np.random.default_rng(n)
    thresholds = [Abstention.fit(*drawn(n, rng), max_risk=max_risk, delta=delta, test=test).threshold for _ in range(1000)]
    promised = [threshold for threshold in thresholds if threshold is not None]
    broken = sum(risk_above(threshold) > max_risk for threshold in promised)
    assert broken / 1000 <= delta + 3 * np.sqrt(delta * (1 - delta) / 1000)
    assert len(promised) > 500  # a promise never made is never broken


@pytest.mark.slow
def test_the_promise_holds_where_the_surest_answers_are_the_worst():
    """Risk that does not fall with confidence: every threshold but the loosest is too risky, and the loosest just so."""
    rng = np.random.default_rng(5)
    max_risk, delta, broken = 0.2, 0.1, 0
    for _ in range(1000):
        confidence = rng.random(500)
        wrong = rng.random(500) < np.where(confidence > 0.5, 0.3, 0.1 + 0.002)  # 0.201 over all
        broken += Abstention.fit(confidence, ~wrong, max_risk=max_risk, delta=delta).threshold is not None
    assert broken / 1000 <= delta + 3 * np.sqrt(delta * (1 - delta) / 1000)


@pytest.mark.slow
def test_a_single_test_at_the_edge_is_broken_as_often_as_it_says():
    """One threshold whose risk is the promised one: the promise breaks with probability P(Bin(n, r) <= k), just below delta."""
    rng = np.random.default_rng(8)
    n, risk, delta = 400, 0.1, 0.1
    allowed = int(stats.binom.ppf(delta, n, risk)) - 1  # the most wrong answers with P(at most so many) <= delta
    expected = stats.binom.cdf(allowed, n, risk)
    broken = 0
    for _ in range(2000):
        wrong = rng.random(n) < risk
        found = Abstention.fit(np.ones(n), ~wrong, max_risk=risk, delta=delta, ladder=Ladder((0.5,), (1.0,)))
        broken += found.threshold is not None
    assert expected <= delta
    assert broken / 2000 == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / 2000))


def test_a_good_model_is_let_answer_and_a_poor_one_is_not():
    rng = np.random.default_rng(1)
    confidence, correct = drawn(3000, rng)
    found = Abstention.fit(confidence, correct, max_risk=0.12, delta=0.05)
    best = min(t for t in standard_thresholds(0.12).thresholds if risk_above(t) <= 0.12)
    assert best <= found.threshold <= best + 0.1
    assert found.risk <= 0.12
    assert found.coverage == pytest.approx((confidence >= found.threshold).mean())
    poor = Abstention.fit(confidence, rng.random(3000) < 0.5, max_risk=0.12, delta=0.05)
    assert (poor.threshold, poor.risk, poor.coverage, poor.coverage_interval) == (None, None, 0, (0, 0))
    assert poor.tested
    assert not any(each.rejected for each in poor.tested)
    assert not poor.apply(confidence).any()


def test_too_few_rows_promise_nothing_even_if_all_are_right():
    # No wrong answer of n is a p-value of 0.9^n; at the thresholds above all these rows the strength grows to at most delta.
    ladder = Ladder((0.99, 0.5), (0.25, 0.75))
    n_needed = int(np.ceil(np.log(0.1 / 4) / np.log(0.9)))
    for n, threshold in ((int(np.log(0.1 * 0.75) / np.log(0.9)), None), (n_needed - 1, 0.5), (n_needed, 0.5)):
        found = Abstention.fit(np.full(n, 0.999), np.ones(n), max_risk=0.1, delta=0.1, ladder=ladder)
        assert found.threshold == threshold
        assert found.tested[0].rejected == (n == n_needed)


def test_all_of_delta_at_the_first_threshold_is_plain_fixed_sequence_testing():
    confidence = np.repeat([0.9, 0.7, 0.5], [50, 50, 50])
    correct = np.concatenate([np.ones(50), np.ones(50), np.zeros(50)])
    ladder = Ladder((0.8, 0.6, 0.4, 0.2), (1.0, 0.0, 0.0, 0.0))
    found = Abstention.fit(confidence, correct, max_risk=0.1, delta=0.1, ladder=ladder)
    assert [(each.threshold, each.n_answered, each.n_wrong, each.strength, each.rejected) for each in found.tested] == [
        (0.8, 50, 0, 0.1, True),
        (0.6, 100, 0, 0.1, True),
        (0.4, 150, 50, 0.1, False),
    ]
    assert found.tested[0].p_value == pytest.approx(0.9**50)
    assert (found.threshold, found.coverage) == (0.6, pytest.approx(2 / 3))


def test_a_rejected_threshold_hands_on_its_strength_and_a_failed_one_nothing():
    confidence = np.repeat([0.95, 0.85, 0.65], [3, 100, 100])
    ladder = Ladder((0.9, 0.8, 0.7, 0.6), (0.25, 0.25, 0.0, 0.5))
    found = Abstention.fit(confidence, np.ones(203), max_risk=0.1, delta=0.1, ladder=ladder)
    assert [each.rejected for each in found.tested] == [False, True, True, True]
    np.testing.assert_allclose([each.strength for each in found.tested], [0.025, 0.025, 0.025, 0.075])


@pytest.mark.slow
def test_the_interval_of_the_coverage_holds_for_every_threshold():
    # The largest gap between an empirical and a true share, over all thresholds, is within the band with the level's probability.
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        found = Abstention.fit(np.sort(rng.random(200)), np.ones(200), max_risk=0.1, ladder=Ladder((0.5,), (1.0,)), level=0.9)
        half = found.coverage_bounds.high - found.coverage
        inside += stats.kstest(rng.random(200), "uniform").statistic <= half
    assert inside / 400 >= 0.9 - 3 * np.sqrt(0.09 / 400)
    assert half == pytest.approx(np.sqrt(np.log(20) / 400))


def test_grades_are_for_hoeffding_bentkus_alone():
    rng = np.random.default_rng(2)
    confidence = rng.random(2000)
    grade = 1 - 0.05 * rng.random(2000)  # a mean loss of 0.025
    found = Abstention.fit(confidence, grade, max_risk=0.05, test="hoeffding-bentkus")
    assert found.threshold == 0
    assert found.risk == pytest.approx((1 - grade).mean())
    with pytest.raises(DataError, match="right"):
        Abstention.fit(confidence, grade, max_risk=0.05)
    with pytest.raises(DataError, match="grade"):
        Abstention.fit(confidence, grade + 1, max_risk=0.05, test="hoeffding-bentkus")


# --- thresholds


def test_the_standard_thresholds_fall_from_near_one_to_nothing_and_half_of_delta_is_where_an_honest_model_starts():
    found = standard_thresholds(0.1)
    assert (len(found.thresholds), sum(found.shares)) == (64, 1)
    assert (found.thresholds[0], found.thresholds[-2], found.thresholds[-1]) == (pytest.approx(0.9999), pytest.approx(0.05), 0.0)
    odds = np.array(found.thresholds[:-1]) / (1 - np.array(found.thresholds[:-1]))
    np.testing.assert_allclose(np.diff(np.log(odds)), np.log(odds[1] / odds[0]))
    assert [share for share in found.shares if share] == [0.125, 0.125, 0.5, 0.125, 0.125]
    start = found.shares.index(0.5)
    assert found.thresholds[start + 1] < 0.9 <= found.thresholds[start]


@pytest.mark.parametrize("max_risk", [1e-6, 0.02, 0.5, 0.97])
def test_all_of_delta_is_used_whatever_risk_is_allowed(max_risk):
    assert sum(standard_thresholds(max_risk).shares) == 1


def test_share_thresholds_answer_even_shares_of_their_rows():
    scores = np.random.default_rng(4).normal(size=1000) * 40 - 7
    found = share_thresholds(scores, 10)
    np.testing.assert_allclose([(scores >= threshold).mean() for threshold in found.thresholds], np.arange(1, 11) / 10, atol=0.002)
    assert sum(found.shares) == 1
    alike = share_thresholds(np.zeros(30), 10)
    assert (alike.thresholds, alike.shares) == ((0.0,), (1.0,))


def test_scores_that_are_no_probabilities_need_thresholds_of_their_own():
    rng = np.random.default_rng(9)
    scores, correct = rng.normal(size=(2, 900)) * 5 - 40, rng.random((2, 900)) < 0.97
    with pytest.raises(DataError, match="0 to 1"):
        Abstention.fit(scores[0], correct[0], max_risk=0.1)
    found = Abstention.fit(scores[0], correct[0], max_risk=0.1, ladder=share_thresholds(scores[1]))
    assert found.coverage > 0.9


# --- properties and records

answers = st.integers(1, 60).flatmap(
    lambda n: st.tuples(
        st.lists(st.floats(0, 1, width=32), min_size=n, max_size=n).map(np.array),
        st.lists(st.booleans(), min_size=n, max_size=n).map(np.array),
    )
)
tests = st.sampled_from(["clopper-pearson", "hoeffding-bentkus"])


@pytest.mark.slow
@settings(max_examples=60)
@given(answers, st.sampled_from([0.1, 0.3, 0.5]), tests, st.randoms(use_true_random=False))
def test_what_is_promised_is_what_apply_answers_in_any_order_of_rows(data, max_risk, test, random):
    confidence, correct = data
    found = Abstention.fit(confidence, correct, max_risk=max_risk, delta=0.3, test=test)
    answered = found.apply(confidence)
    assert answered.mean() == pytest.approx(found.coverage)
    if found.threshold is not None:
        assert (~correct[answered]).mean() == pytest.approx(found.risk)
        assert found.risk <= max_risk
    order = random.sample(range(len(correct)), len(correct))
    assert Abstention.fit(confidence[order], correct[order], max_risk=max_risk, delta=0.3, test=test) == found
    assert Abstention.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@pytest.mark.slow
@settings(max_examples=40)
@given(answers)
def test_on_one_ladder_a_larger_allowed_risk_never_answers_less(data):
    ladder = standard_thresholds(0.2)
    coverages = [Abstention.fit(*data, max_risk=risk, delta=0.3, ladder=ladder).coverage for risk in (0.1, 0.2, 0.4, 0.7)]
    assert coverages == sorted(coverages)


def test_a_record_that_promises_more_than_was_tested_is_refused():
    record = Abstention.fit(np.full(60, 0.9), np.ones(60), max_risk=0.1, ladder=Ladder((0.95, 0.8), (0.5, 0.5))).to_dict()
    with pytest.raises(ConfigError, match="rejected"):
        Abstention.from_dict(record | {"threshold": 0.1})


def test_settings_that_mean_nothing_are_refused():
    rows = np.full(5, 0.9), np.ones(5)
    with pytest.raises(ConfigError, match="max_risk"):
        Abstention.fit(*rows, max_risk=0.0)
    with pytest.raises(ConfigError, match="delta"):
        Abstention.fit(*rows, max_risk=0.1, delta=1.0)
    with pytest.raises(ConfigError, match="clopper"):
        Abstention.fit(*rows, max_risk=0.1, test="wald")
    with pytest.raises(DataError, match="strictest first"):
        Ladder((0.1, 0.9), (0.5, 0.5))
    with pytest.raises(DataError, match="shares"):
        Ladder((0.9, 0.1), (0.8, 0.8))
    with pytest.raises(ConfigError, match="max_risk"):
        standard_thresholds(1.0)
    with pytest.raises(ConfigError, match="`n`"):
        share_thresholds(np.ones(3), 7)
