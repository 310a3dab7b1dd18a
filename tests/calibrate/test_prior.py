import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import log_softmax, softmax

from touchstone.calibrate.prior import Batch, Contextual, Pmi, first_token_scores, prior_from_dict
from touchstone.errors import ConfigError, DataError, UnknownName

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "methods_vectors.json").read_text())
CONTEXTUAL, BATCH = GOLDEN["contextual_calibration"], GOLDEN["batch_calibration"]
BATCH_ROWS = np.log(BATCH["P"])

rows = st.tuples(st.integers(1, 12), st.integers(2, 5)).flatmap(
    lambda shape: hnp.arrays(np.float64, shape, elements=st.floats(-30, 0)),
)


# --- the method sheet


def test_contextual_calibration_matches_the_method_sheet():
    p, p_cf = np.array(CONTEXTUAL["p"]), np.array(CONTEXTUAL["p_cf"])
    found = Contextual.fit(np.log(p_cf)[None])
    np.testing.assert_allclose(np.exp(found.apply(np.log(p))), CONTEXTUAL["renormalised"], atol=1e-10)
    unscaled = np.exp(np.log(p) - np.array(found.log_prior))
    np.testing.assert_allclose(unscaled, CONTEXTUAL["W_p"], atol=1e-10)


def test_contextual_calibration_of_a_first_token_matches_the_method_sheet():
    found = first_token_scores(np.array([CONTEXTUAL["p"]]), np.array([CONTEXTUAL["p_cf"]]))
    np.testing.assert_allclose(found, [CONTEXTUAL["identity_minus_pcf"]], atol=1e-10)


def test_batch_calibration_matches_the_method_sheet():
    found = Batch.fit(BATCH_ROWS)
    calibrated = found.apply(BATCH_ROWS)
    np.testing.assert_allclose(np.exp(found.log_prior), BATCH["mean_prior"], atol=1e-12)
    np.testing.assert_allclose(np.exp(calibrated), BATCH["calibrated"], atol=1e-8)
    assert calibrated.argmax(axis=1).tolist() == BATCH["argmax"]


# --- contextual


@pytest.mark.slow
@settings(max_examples=60)
@given(rows)
def test_an_input_without_content_becomes_uniform(logprobs):
    one = logprobs[:1]
    found = Contextual.fit(one).apply(one)
    np.testing.assert_allclose(found, -np.log(logprobs.shape[1]), atol=1e-9)


@settings(max_examples=60)
@given(rows)
def test_a_uniform_prior_changes_nothing_but_the_scale(logprobs):
    found = Contextual.fit(np.full((3, logprobs.shape[1]), -4.0)).apply(logprobs)
    np.testing.assert_allclose(found, log_softmax(logprobs, axis=1), atol=1e-9)


def test_inputs_without_content_are_averaged_as_distributions_over_the_answers():
    """By hand: each is normalised over the answers first, so that one with little probability for all counts as much."""
    free = np.log([[0.06, 0.02], [0.1, 0.3]])
    found = Contextual.fit(free)
    np.testing.assert_allclose(np.exp(found.log_prior), [(0.75 + 0.25) / 2, (0.25 + 0.75) / 2])
    assert found.n == 2


@settings(max_examples=60)
@given(rows, st.integers(0, 4), st.floats(0.1, 5))
def test_contextual_and_batch_give_distributions_and_keep_what_cannot_be_answered(logprobs, place, shift):
    for found in (Contextual.fit(logprobs), Batch.fit(logprobs)):
        calibrated = found.apply(logprobs - shift)
        np.testing.assert_allclose(np.exp(calibrated).sum(axis=1), 1, atol=1e-9)
        np.testing.assert_allclose(calibrated, found.apply(logprobs), atol=1e-9)  # a factor of a whole row says nothing
        masked = logprobs.copy()
        masked[0, place % logprobs.shape[1]] = -np.inf
        assert found.apply(masked)[0, place % logprobs.shape[1]] == -np.inf


# --- batch


@pytest.mark.slow
@settings(max_examples=60)
@given(rows)
def test_a_batch_of_one_row_is_its_own_prior_and_nothing_is_left_of_it(logprobs):
    one = logprobs[:1]
    np.testing.assert_allclose(Batch.fit(one).apply(one), -np.log(logprobs.shape[1]), atol=1e-9)


def test_batch_calibration_wins_back_most_of_what_a_bias_cost():
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=600)
    logits = rng.normal(size=(600, 3)) + 2 * np.eye(3)[labels]
    biased = log_softmax(logits + np.array([2.5, 0.0, -1.0]), axis=1)
    found = Batch.fit(biased)
    unbiased, before, after = ((rows.argmax(axis=1) == labels).mean() for rows in (logits, biased, found.apply(biased)))
    assert before < unbiased - 0.25
    assert unbiased - after < (unbiased - before) / 2
    assert found.doubt == "none"


def test_a_batch_of_one_class_is_ruined_and_the_record_doubts_it():
    rng = np.random.default_rng(1)
    right = log_softmax(rng.normal(size=(200, 2)) + np.array([3.0, 0.0]), axis=1)  # answer 0 is right for all, and nearly always chosen
    found = Batch.fit(right)
    assert (right.argmax(axis=1) == 0).mean() > 0.95
    assert (found.apply(right).argmax(axis=1) == 0).mean() < 0.75
    assert found.doubt == "one answer"
    assert found.top_share > 0.95


def test_fewer_rows_than_answers_are_doubted():
    assert Batch.fit(np.log([[0.5, 0.3, 0.2], [0.2, 0.5, 0.3]])).doubt == "few rows"


def test_labels_set_the_strength_that_gets_most_right():
    rng = np.random.default_rng(2)
    labels = (rng.random(500) < 0.85).astype(int)  # one class rules, so taking out all of the mean takes too much
    logits = rng.normal(size=(500, 2)) + 1.5 * np.eye(2)[labels] + [1.0, 0.0]
    logprobs = log_softmax(logits, axis=1)
    found = Batch.fit_labelled(logprobs, labels)
    prior = np.log(softmax(logits, axis=1).mean(axis=0))
    n_right = [((logprobs - strength * prior).argmax(axis=1) == labels).sum() for strength in np.arange(-100, 101) / 20]
    assert (found.apply(logprobs).argmax(axis=1) == labels).sum() == max(n_right)
    assert -5 <= found.strength <= 5
    assert found.n_labelled == 500
    plain = Batch.fit(logprobs)
    assert max(n_right) > (plain.apply(logprobs).argmax(axis=1) == labels).sum()


def test_a_strength_of_none_leaves_the_distribution_and_of_one_takes_out_the_mean():
    plain = Batch.fit(BATCH_ROWS)
    np.testing.assert_allclose(plain.replace(strength=0.0).apply(BATCH_ROWS), BATCH_ROWS, atol=1e-12)
    assert plain.strength == 1


def test_labels_of_one_class_are_doubted():
    assert Batch.fit_labelled(BATCH_ROWS, np.zeros(4, dtype=int)).doubt == "one label"


# --- PMI


@settings(max_examples=60)
@given(rows)
def test_a_question_that_adds_nothing_scores_nothing(logprobs):
    assert (Pmi.fit(logprobs[0]).apply(logprobs[0]) == 0).all()


@pytest.mark.slow
@settings(max_examples=60)
@given(rows, st.lists(st.floats(-20, 20), min_size=5, max_size=5))
def test_pmi_ignores_any_factor_of_an_answer_alone(logprobs, factors):
    by_answer = np.array(factors[: logprobs.shape[1]])
    shifted = Pmi.fit(logprobs[0] + by_answer).apply(logprobs + by_answer)
    np.testing.assert_allclose(shifted, Pmi.fit(logprobs[0]).apply(logprobs), atol=1e-9)


@settings(max_examples=40)
@given(rows)
def test_pmi_made_a_distribution_is_contextual_calibration_by_the_domain(logprobs):
    pmi = log_softmax(Pmi.fit(logprobs[0]).apply(logprobs), axis=1)
    np.testing.assert_allclose(pmi, Contextual.fit(logprobs[:1]).apply(logprobs), atol=1e-9)


# --- records


@pytest.mark.parametrize(
    "found",
    [Contextual.fit(BATCH_ROWS), Batch.fit(BATCH_ROWS), Batch.fit_labelled(BATCH_ROWS, np.array([0, 1, 0, 1])), Pmi.fit(BATCH_ROWS[0])],
    ids=lambda found: found.method,
)
def test_a_record_comes_back_equal_through_json(found):
    assert prior_from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_a_record_of_an_unknown_method_or_of_several_domains_is_refused():
    with pytest.raises(UnknownName, match="contextual"):
        prior_from_dict({"method": "contexual"})
    with pytest.raises(ConfigError, match="domain"):
        Pmi.from_dict(Pmi.fit(BATCH_ROWS[0]).to_dict() | {"n": 2})


def test_rows_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match="2 answers"):
        Pmi.fit(BATCH_ROWS[0]).apply(np.zeros((1, 3)))
    with pytest.raises(DataError, match="probability 0"):
        Contextual.fit(np.array([[0.0, -np.inf]]))
    with pytest.raises(DataError, match="-inf for all"):
        Batch.fit(np.full((1, 2), -np.inf))
    with pytest.raises(DataError, match="finite"):
        Batch.fit(np.array([[0.0, np.nan]]))
    with pytest.raises(DataError, match="leave out"):
        Pmi.fit(np.array([0.0, -np.inf]))
    with pytest.raises(DataError, match="Labels"):
        Batch.fit_labelled(BATCH_ROWS, np.array([0, 1, 2, 0]))
    with pytest.raises(DataError, match="no label"):
        Batch.fit_labelled(np.array([[0.0, -np.inf], [-1.0, -1.0]]), np.array([1, 0]))
    with pytest.raises(DataError, match="vocabulary"):
        first_token_scores(np.array([[0.5, 0.5]]), np.array([[0.2, 0.3, 0.5]]))
