"""The order of examples that is never written down."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from touchstone.errors import ConfigError
from touchstone.text.permute import Plan, permutation_key, permute


@pytest.mark.slow
@settings(deadline=None)
@given(n=st.one_of(st.integers(1, 300), st.sampled_from([255, 256, 257, 1023, 1025, 4097])), key=st.integers(0, 2**64 - 1))
def test_it_is_a_permutation_for_every_n_and_key(n, key):
    assert sorted(permute(np.arange(n), n, key).tolist()) == list(range(n))


@pytest.mark.slow
@given(n=st.integers(1, 2**62), key=st.integers(0, 2**64 - 1), data=st.data())
def test_any_place_is_reached_alone_and_in_range(n, key, data):
    index = data.draw(st.integers(0, n - 1))
    place = permute([index], n, key)
    assert 0 <= place[0] < n
    assert permute(np.array([[index, index]]), n, key).tolist() == [[place[0], place[0]]]


def test_an_independent_computation_gives_the_same_places():
    """Written from Black & Rogaway's description with plain integers; a change of the order must raise PERMUTATION_VERSION."""

    def mix(value):
        value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
        return value ^ (value >> 31)

    def place(index, n, key):
        if n <= 256:
            return sorted(range(n), key=lambda one: mix((key + (one + 1) * 0x9E3779B97F4A7C15) % 2**64))[index]
        bits = -(-(n - 1).bit_length() // 2)
        while True:
            left, right = index >> bits, index % 2**bits
            for number in range(1, 9):
                round_key = mix((key + number * 0x9E3779B97F4A7C15) % 2**64)
                left, right = right, left ^ mix((right + round_key) % 2**64) % 2**bits
            index = left * 2**bits + right
            if index < n:
                return index

    for n, key in [(1, 0), (5, 7), (256, 3), (257, 2**64 - 1), (70_000, 12345)]:
        indices = list(range(0, n, max(1, n // 50)))
        assert permute(indices, n, key).tolist() == [place(index, n, key) for index in indices]


@pytest.mark.parametrize(("n", "n_keys"), [(3, 1000), (7, 1000), pytest.param(300, 1500, marks=pytest.mark.slow)])
def test_each_thing_comes_to_each_place_equally_often(n, n_keys):
    """Chi-square over the keys; its 99.99 % quantile for d degrees of freedom is below d + 4.2 sqrt(2 d) + 12."""
    counts = np.zeros((n, n))
    for key in range(n_keys):
        counts[np.arange(n), permute(np.arange(n), n, permutation_key("test", key))] += 1
    statistic = ((counts - n_keys / n) ** 2 / (n_keys / n)).sum(axis=1)
    d = n - 1
    assert statistic.max() < d + 4.2 * np.sqrt(2 * d) + 12


def test_all_orders_of_three_things_occur_equally_often():
    seen = Counter(tuple(permute(np.arange(3), 3, permutation_key("orders", key)).tolist()) for key in range(1200))
    assert len(seen) == 6
    assert max(abs(count - 200) for count in seen.values()) < 5 * np.sqrt(200)


@pytest.mark.parametrize(("index", "n"), [([5], 5), ([-1], 5), ([0], 0)])
def test_places_outside_are_refused(index, n):
    with pytest.raises(ConfigError):
        permute(index, n, 0)


@pytest.mark.slow
@settings(deadline=None)
@given(n=st.integers(1, 60), batch_size=st.integers(1, 75), seed=st.integers(0, 1000))
def test_every_example_comes_once_an_epoch(n, batch_size, seed):
    plan = Plan(n, batch_size, seed)
    n_epochs = 3
    stream = np.concatenate([plan.example_ids(step) for step in range(-(-n_epochs * n // batch_size))])
    for epoch in range(n_epochs):
        assert sorted(stream[epoch * n : (epoch + 1) * n].tolist()) == list(range(n))


def test_epochs_and_seeds_have_their_own_orders():
    first, second, other = Plan(97, 97, 0).example_ids(0), Plan(97, 97, 0).example_ids(1), Plan(97, 97, 1).example_ids(0)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_a_step_is_the_same_whatever_was_asked_before():
    plan = Plan(1000, 7, 3)
    later = plan.example_ids(500)
    for step in range(5):
        plan.example_ids(step)
    assert np.array_equal(plan.example_ids(500), later)
    assert np.array_equal(Plan(1000, 7, 3).example_ids(500), later)


def test_a_larger_batch_reads_the_same_stream():
    """So one large step is several small ones: accumulation changes nothing."""
    small = np.concatenate([Plan(50, 4, 9).example_ids(step) for step in range(24)])
    large = np.concatenate([Plan(50, 12, 9).example_ids(step) for step in range(8)])
    assert np.array_equal(small, large)


def test_a_plan_knows_its_epochs():
    plan = Plan(10, 4, 0)
    assert plan.steps_per_epoch == 2.5
    assert [plan.epoch(step) for step in range(6)] == [0, 0, 0, 1, 1, 2]
