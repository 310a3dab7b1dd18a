import itertools
import math
import pickle

import numpy as np
import pytest
from scipy.stats import ks_2samp, kstest

from touchstone.calibrate.drift import EDGES, N_BINS, ROUND, DriftCheck, Jumper, confidence_counts
from touchstone.errors import ConfigError, DataError

RANKS = (0.9, 0.2, 0.75)
LOCATION = (lambda p: 1.0, lambda p: 1 + (p - 0.5), lambda p: 1 - (p - 0.5))


def confidences(n, seed, sharpness=3.0):
    """As a classifier's: near 1, some of them not."""
    return np.random.default_rng(seed).beta(sharpness, 1.0, n)


def ranks_of(check, values):
    """What the check bets on."""
    found, check._jumper = [], Jumper([lambda p: 1.0])
    bet = Jumper.bet
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Jumper, "bet", lambda self, p: found.append(p) or bet(self, p))
        check.observe(values)
    return found


# --- the bets


def test_without_switching_the_capital_is_the_mean_of_the_products():
    jumper = Jumper(LOCATION, switching=0.0)
    found = [jumper.bet(p) for p in RANKS]
    for n in (1, 2, 3):
        products = [math.prod(1 + sign * (p - 0.5) for p in RANKS[:n]) for sign in (-1, 0, 1)]
        assert found[n - 1] == pytest.approx(sum(products) / 3, rel=1e-14)


def test_with_switching_it_is_the_mean_over_all_paths_of_bets():
    """Each path of bets b1, b2, … has the weight of a Markov chain that stays with 1 - J + J/3 and goes to another with J/3."""
    share, signs = 0.3, (-1, 0, 1)
    jumper = Jumper(LOCATION, switching=share)
    found = [jumper.bet(p) for p in RANKS][-1]
    expected = 0.0
    for path in itertools.product(signs, repeat=len(RANKS)):
        weight = 1 / 3
        for before, after in itertools.pairwise(path):
            weight *= share / 3 + (1 - share) * (before == after)
        expected += weight * math.prod(1 + sign * (p - 0.5) for sign, p in zip(path, RANKS, strict=True))
    assert found == pytest.approx(expected, rel=1e-14)


@pytest.mark.slow
def test_every_bet_is_fair():
    p = (np.arange(100_000) + 0.5) / 100_000
    for bet in Jumper()._bets:
        returned = np.array([bet(each) for each in p])
        assert returned.min() >= 0
        assert returned.mean() == pytest.approx(1, abs=1e-9)


# --- ranks


def test_a_rank_is_the_place_among_all_so_far_with_ties_at_random():
    fitted = np.zeros(N_BINS, dtype=int)
    fitted[[10, 20, 30]] = 8, 4, 12
    seed, values = 5, np.array([EDGES[19] + 1e-6, EDGES[29] + 1e-6])  # in bins 20 and 30
    u = np.random.default_rng(seed).random(2)
    found = ranks_of(DriftCheck(fitted.tolist(), seed=seed), values)
    assert found == pytest.approx([(8 + 5 * u[0]) / 25, (13 + 13 * u[1]) / 26], rel=1e-14)


def test_ranks_are_uniform_and_independent_while_nothing_changes():
    found = ranks_of(DriftCheck(confidence_counts(confidences(50, 0))), confidences(900, 1))
    assert kstest(found, "uniform").pvalue > 0.01
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 4 / math.sqrt(len(found))


# --- the alarm


@pytest.mark.slow
def test_there_are_no_more_false_alarms_than_stated():
    """400 streams at a rate of 0.1: more than 57 alarms would come by chance with a probability below 0.003."""
    rate, n_streams = 0.1, 400
    alarms = 0
    for stream in range(n_streams):
        values = confidences(200, 1000 + stream)
        check = DriftCheck(confidence_counts(values[:40]), false_alarm_rate=rate, seed=stream)
        alarms += check.observe(values[40:]) is not None
    assert alarms <= 57


@pytest.mark.slow
def test_there_are_no_more_false_alarms_than_stated_over_many_rounds():
    rate, n_streams = 0.2, 40  # more than 16: below 0.003
    alarms = 0
    for stream in range(n_streams):
        values = confidences(8 * ROUND, 5000 + stream)
        alarms += DriftCheck(confidence_counts(values[:100]), false_alarm_rate=rate, seed=stream).observe(values[100:]) is not None
    assert alarms <= 16


@pytest.mark.parametrize("live", [(0.9, 1.0), (12.0, 1.0), (0.4, 0.4)], ids=["lower", "higher", "more spread"])
def test_a_change_raises_the_alarm_once(live):
    check = DriftCheck(confidence_counts(confidences(500, 0)))
    values = np.random.default_rng(1).beta(*live, 600)
    first = check.observe(values)
    assert first is not None
    assert first == check.alarm
    assert first.n <= 400
    assert check.observe(values) is None
    assert check.alarm == first
    assert check.n == 1200


def test_a_change_after_a_long_quiet_time_raises_it_too():
    check = DriftCheck(confidence_counts(confidences(500, 0)))
    assert check.observe(confidences(3 * ROUND, 1)) is None
    alarm = check.observe(confidences(ROUND, 2, sharpness=1.0))
    assert alarm is not None
    assert 3 * ROUND < alarm.n <= 4 * ROUND


def test_the_distance_is_that_of_kolmogorov_and_smirnov():
    fitted, live = confidences(300, 0), confidences(200, 1, sharpness=2.0)
    check = DriftCheck(confidence_counts(fitted))
    assert check.distance == 0
    check.observe(live)
    binned = [np.searchsorted(EDGES, values, side="right") for values in (fitted, live)]
    assert check.distance == pytest.approx(ks_2samp(*binned).statistic, abs=1e-12)


def test_memory_does_not_grow():
    check = DriftCheck(confidence_counts(confidences(100, 0)))
    check.observe(confidences(1, 1))
    before = len(pickle.dumps({name: value for name, value in vars(check).items() if name not in ("_jumper", "_rng")}))
    check.observe(confidences(4000, 2))
    after = len(pickle.dumps({name: value for name, value in vars(check).items() if name not in ("_jumper", "_rng")}))
    assert after <= before + 16  # wider numbers
    assert len(check._jumper._staked) == len(Jumper()._staked)


def test_one_by_one_is_the_same_as_together():
    values = confidences(50, 3)
    together, apart = (DriftCheck(confidence_counts(confidences(100, 0))) for _ in range(2))
    together.observe(values)
    for value in values:
        apart.observe(np.array([value]))
    assert apart.to_dict() == together.to_dict()


# --- what is given


def test_counts_are_of_every_value_the_ends_included():
    counts = confidence_counts(np.array([0.0, 1.0, 0.5, 1e-9]))
    assert len(counts) == N_BINS
    assert sum(counts) == 4
    assert (counts[0], counts[-1]) == (2, 1)


@pytest.mark.parametrize("wrong", [[0.5, 1.5], [-0.1], [math.nan], [[0.5]]])
def test_what_is_no_confidence_is_refused(wrong):
    with pytest.raises(DataError, match="from 0 to 1"):
        confidence_counts(np.array(wrong))


@pytest.mark.parametrize(
    ("fitted", "rate"), [([1] * 63, 0.01), ([0] * N_BINS, 0.01), ([-1] + [9] * 63, 0.01), ([1] * N_BINS, 0.0), ([1] * N_BINS, 1.0)]
)
def test_what_cannot_be_compared_is_refused(fitted, rate):
    with pytest.raises(ConfigError):
        DriftCheck(fitted, false_alarm_rate=rate)
