import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from touchstone.errors import ConfigError, DataError, ShapeError
from touchstone.evaluate.mixture import ModelMixture

pairs = st.lists(st.tuples(st.floats(-30, -1e-3), st.floats(-30, -1e-3)), min_size=1, max_size=20).map(lambda rows: np.array(rows).T)


def loss(weight, a, b):
    return -np.mean(np.log(weight * np.exp(a) + (1 - weight) * np.exp(b)))


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(pairs)
def test_no_other_weight_of_a_fine_grid_fits_better(data):
    a, b = data
    found = ModelMixture.fit(a, b)
    assert loss(found.weight, a, b) <= min(loss(weight, a, b) for weight in np.linspace(0, 1, 501)) + 1e-9
    assert found.nats == pytest.approx(loss(found.weight, a, b))


@settings(max_examples=50, deadline=None)
@given(pairs)
def test_a_mixture_is_never_worse_than_its_better_half_on_its_fitting_set(data):
    found = ModelMixture.fit(*data)
    assert found.nats <= min(found.nats_a, found.nats_b) + 1e-9
    assert (found.nats_a, found.nats_b) == (pytest.approx(-data[0].mean()), pytest.approx(-data[1].mean()))


def test_the_weight_of_a_closed_form_is_found():
    # Two tokens: ratios a/b of 3 and 1/2. The slope 2/(1 + 2w) = (1/2)/(1 - w/2) gives w = 3/4.
    found = ModelMixture.fit(np.log([0.3, 0.1]), np.log([0.1, 0.2]))
    assert found.weight == pytest.approx(0.75, abs=1e-11)


def test_tokens_score_the_weighted_sum_of_probabilities():
    mixture = ModelMixture(weight=0.3, n=1, nats=1.0, nats_a=1.0, nats_b=1.0)
    p, q = np.array([0.5, 0.01, 0.9]), np.array([0.1, 0.4, 0.9])
    np.testing.assert_allclose(np.exp(mixture.log_probs(np.log(p), np.log(q))), 0.3 * p + 0.7 * q)


def test_whole_distributions_stay_normalised():
    rng = np.random.default_rng(1)
    p, q = rng.dirichlet(np.ones(11), 3), rng.dirichlet(np.ones(11), 3)
    mixed = ModelMixture.fit(np.log(p[:, 0]), np.log(q[:, 0])).log_probs(np.log(p), np.log(q))
    np.testing.assert_allclose(np.exp(mixed).sum(axis=1), 1)


@pytest.mark.parametrize(("first", "second", "weight"), [(-1.0, -2.0, 1.0), (-2.0, -1.0, 0.0)])
def test_a_model_better_on_every_token_takes_all_the_weight(first, second, weight):
    a, b = np.full(5, first), np.full(5, second)
    found = ModelMixture.fit(a, b)
    assert found.weight == weight
    np.testing.assert_allclose(found.log_probs(a, b), np.full(5, -1.0))


def test_probabilities_too_small_for_a_float_still_mix():
    found = ModelMixture.fit(np.array([-2000.0, -900.0]), np.array([-2001.0, -899.0]))
    assert found.weight == pytest.approx(0.5)
    assert found.log_probs(np.array([-2000.0]), np.array([-2001.0]))[0] == pytest.approx(-2000 + np.log((1 + np.exp(-1)) / 2))


def test_a_token_that_one_model_calls_impossible_keeps_the_other_in():
    found = ModelMixture.fit(np.array([-0.1, -np.inf]), np.array([-3.0, -1.0]))
    assert 0 < found.weight < 1
    assert found.nats_a is None
    assert np.isfinite(found.nats)


def test_a_token_that_both_call_impossible_is_refused():
    with pytest.raises(DataError, match="possible"):
        ModelMixture.fit(np.array([-np.inf, -1.0]), np.array([-np.inf, -1.0]))


def test_scores_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match="same tokens"):
        ModelMixture.fit(np.zeros(3), np.zeros(4))
    with pytest.raises(DataError, match="at most 0"):
        ModelMixture.fit(np.array([0.5]), np.array([-1.0]))
    with pytest.raises(DataError, match="numbers"):
        ModelMixture.fit(np.array([np.nan]), np.array([-1.0]))
    with pytest.raises(ConfigError, match="weight"):
        ModelMixture(weight=1.5, n=1, nats=1.0, nats_a=1.0, nats_b=1.0)
