import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from touchstone.calibrate import measure
from touchstone.calibrate.measure import Resampling
from touchstone.calibrate.sequence import (
    LENGTH,
    compare_scores,
    discrete_semantic_entropy,
    length_normalised,
    mean_token_entropy,
    p_true,
    predictive_entropy,
    self_consistency,
    semantic_entropy,
    sequence_logprob,
)
from touchstone.errors import ConfigError, DataError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "methods_vectors.json").read_text())
RAO = GOLDEN["semantic_entropy_rao"]
TOKENS = np.log([[0.5, 0.25, 0.5], [0.1, 0.9, 0.3]])
COUNTS = np.array([[True, True, True], [False, True, False]])

clusters = st.tuples(st.integers(1, 5), st.integers(1, 7)).flatmap(
    lambda shape: hnp.arrays(np.int64, shape, elements=st.integers(-2, 4)),
)


# --- one score at a time


def test_semantic_entropy_matches_the_method_sheet():
    discrete = discrete_semantic_entropy(np.array([[0, 1, 2, 1]]))
    assert discrete[0] == pytest.approx(GOLDEN["cluster_entropy_[0,1,2,1]"], abs=1e-10)
    weighted = semantic_entropy(np.log([RAO["seq_probs"]]), np.array([RAO["clusters"]]))
    assert weighted[0] == pytest.approx(RAO["entropy_nats"], abs=1e-10)


@pytest.mark.slow
@settings(max_examples=80)
@given(clusters)
def test_semantic_entropy_is_the_entropy_of_the_shares_whatever_the_clusters_are_called(ids):
    expected = [stats.entropy(np.unique(row, return_counts=True)[1]) for row in ids]
    np.testing.assert_allclose(discrete_semantic_entropy(ids), expected, atol=1e-12)
    np.testing.assert_allclose(discrete_semantic_entropy(7 - 3 * ids), expected, atol=1e-12)
    equal = np.full(ids.shape, -40.0)  # equally likely samples: likelihoods are counts
    np.testing.assert_allclose(semantic_entropy(equal, ids), expected, atol=1e-12)


@pytest.mark.slow
@settings(max_examples=60)
@given(clusters, st.integers(0, 1000))
def test_rao_blackwellised_entropy_is_that_of_the_summed_likelihoods(ids, seed):
    logprobs = -np.random.default_rng(seed).exponential(5, ids.shape)
    expected = []
    for row, probs in zip(ids, np.exp(logprobs), strict=True):
        expected.append(stats.entropy([probs[row == k].sum() for k in np.unique(row)]))
    np.testing.assert_allclose(semantic_entropy(logprobs, ids), expected, atol=1e-10)


def test_one_meaning_has_no_entropy_and_all_different_ones_the_most():
    ids = np.array([[3, 3, 3, 3], [0, 1, 2, 3]])
    np.testing.assert_allclose(discrete_semantic_entropy(ids), [0, np.log(4)])


def test_likelihoods_too_small_for_a_float_keep_their_shares():
    found = semantic_entropy(np.array([[-5000.0, -5000.0 - np.log(3)]]), np.array([[0, 1]]))
    assert found[0] == pytest.approx(stats.entropy([0.75, 0.25]))


def test_likelihoods_count_only_the_answers_own_tokens():
    np.testing.assert_allclose(sequence_logprob(TOKENS, COUNTS), np.log([0.0625, 0.9]))
    np.testing.assert_allclose(length_normalised(TOKENS, COUNTS), [np.log(0.0625) / 3, np.log(0.9)])
    padded = TOKENS.copy()
    padded[~COUNTS] = np.nan
    np.testing.assert_allclose(length_normalised(padded, COUNTS), length_normalised(TOKENS, COUNTS))
    assert sequence_logprob(TOKENS[:1], np.zeros((1, 3), dtype=bool))[0] == 0


def test_token_entropy_is_a_mean_over_the_answers_own_tokens():
    np.testing.assert_allclose(mean_token_entropy(np.array([[1.0, 2.0, 6.0], [5.0, 0.5, 5.0]]), COUNTS), [3.0, 0.5])


def test_predictive_entropy_is_the_entropy_of_what_is_sampled():
    probabilities = np.array([0.6, 0.3, 0.1])
    drawn = np.random.default_rng(0).choice(3, size=(1, 40_000), p=probabilities)
    assert predictive_entropy(np.log(probabilities)[drawn])[0] == pytest.approx(stats.entropy(probabilities), abs=0.02)


def test_self_consistency_is_the_share_that_agrees():
    ids = np.array([[1, 1, 1, 0], [2, 3, 3, 2]])
    np.testing.assert_allclose(self_consistency(ids), [0.75, 0.5])
    np.testing.assert_allclose(self_consistency(ids, np.array([0, 9])), [0.25, 0.0])


def test_p_true_is_a_softmax_of_two():
    found = p_true(np.log([0.3, 0.02]), np.log([0.1, 0.06]))
    np.testing.assert_allclose(found, [0.75, 0.25])
    assert p_true(np.array([-1.0]), np.array([-2000.0]))[0] == 1


# --- side by side


def answers(n, seed):
    """Right or wrong, a length that hints at it, and a score that knows more."""
    rng = np.random.default_rng(seed)
    correct = rng.random(n) < 0.6
    lengths = rng.poisson(np.where(correct, 8, 10)) + 1
    return correct, lengths, rng.normal(size=n) * 30 - 100 + 60 * correct


@pytest.mark.slow
def test_the_length_stands_first_and_every_figure_is_that_of_the_order():
    correct, lengths, score = answers(400, 0)
    found = compare_scores({"score": score, "noise": np.zeros(400)}, correct, lengths, resampling=Resampling(n_resamples=200))
    assert [row.name for row in found.rows] == [LENGTH, "score", "noise"]
    assert (found.n, found.accuracy) == (400, correct.mean())
    squeezed = stats.norm.cdf((score + 70) / 40)  # any rising function of the score, in 0 to 1
    for name in ("auroc", "aurc", "prr"):
        expected = getattr(measure, name)(squeezed, correct, resampling=None).value
        assert getattr(found.rows[1], name).value == pytest.approx(expected)
        assert getattr(found.rows[1], name).interval.low < expected < getattr(found.rows[1], name).interval.high
    assert found.rows[0].auroc.value == pytest.approx(
        stats.mannwhitneyu(-lengths[correct], -lengths[~correct]).statistic / correct.sum() / (~correct).sum()
    )
    assert found.rows[2].auroc.value == 0.5
    assert json.loads(json.dumps(found.to_dict()))["rows"][1]["name"] == "score"


@pytest.mark.slow
def test_a_gain_is_measured_against_the_length_and_not_against_chance():
    correct, lengths, score = answers(500, 1)
    found = compare_scores({"score": score, "length again": -3.0 * lengths}, correct, lengths, resampling=Resampling(n_resamples=50))
    length, better, same = found.rows
    assert length.gain is None
    assert better.gain.value == pytest.approx(better.auroc.value - length.auroc.value)
    assert better.gain.low > 0
    assert (same.gain.value, same.gain.low, same.gain.high) == (0, 0, 0)


def test_the_spread_of_one_auroc_is_delongs():
    """Against a baseline that tells nothing the difference has the variance of one AUROC: S10 / m + S01 / n."""
    correct, _, score = answers(60, 2)
    found = compare_scores({"score": score}, correct, np.full(60, 5), resampling=Resampling(n_resamples=20)).rows[1].gain
    above = (score[correct][:, None] > score[~correct]).astype(float)
    variance = above.mean(axis=1).var() / correct.sum() + above.mean(axis=0).var() / (~correct).sum()
    half = stats.norm.ppf(0.975) * np.sqrt(variance * 60 / 59)
    assert found.value == pytest.approx(above.mean() - 0.5)
    assert found.value - found.low == pytest.approx(half)


@pytest.mark.slow
def test_the_interval_of_a_gain_covers_the_truth():
    """Two normal scores with known AUROC: Phi(d / sqrt 2)."""
    true = stats.norm.cdf(1.0 / np.sqrt(2)) - stats.norm.cdf(0.5 / np.sqrt(2))
    inside = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        correct = rng.random(150) < 0.5
        shared = rng.normal(size=150) * np.sqrt(0.5)
        score = shared + rng.normal(size=150) * np.sqrt(0.5) + 1.0 * correct
        length = -(shared + rng.normal(size=150) * np.sqrt(0.5) + 0.5 * correct)
        gain = compare_scores({"score": score}, correct, length, resampling=Resampling(n_resamples=2)).rows[1].gain
        inside += gain.low <= true <= gain.high
    assert 0.95 - 3 * np.sqrt(0.95 * 0.05 / 300) <= inside / 300


def test_answers_of_one_question_count_as_one():
    correct, lengths, score = answers(80, 3)
    alone = compare_scores({"score": score}, correct, lengths, resampling=Resampling(n_resamples=20)).rows[1].gain
    repeated = [np.repeat(column, 9) for column in (score, correct, lengths)]
    how = Resampling(clusters=np.repeat(np.arange(80), 9), n_resamples=20)
    clustered = compare_scores({"score": repeated[0]}, repeated[1], repeated[2], resampling=how).rows[1].gain
    assert clustered.n == 80
    assert (clustered.low, clustered.high) == (pytest.approx(alone.low), pytest.approx(alone.high))


# --- refusals


def test_what_is_no_answer_is_refused():
    with pytest.raises(DataError, match="Answer 1 has no token"):
        length_normalised(TOKENS, np.array([[True, True, True], [False, False, False]]))
    with pytest.raises(DataError, match="at most 0"):
        sequence_logprob(-TOKENS, COUNTS)
    with pytest.raises(DataError, match="0 or more"):
        mean_token_entropy(TOKENS, COUNTS)
    with pytest.raises(DataError, match="True or False"):
        sequence_logprob(TOKENS, COUNTS.astype(int))
    with pytest.raises(DataError, match="whole numbers"):
        discrete_semantic_entropy(np.array([[0.0, 1.0]]))
    with pytest.raises(DataError, match="cluster"):
        semantic_entropy(np.log([[0.5, 0.5]]), np.array([[0]]))
    with pytest.raises(DataError, match="log P"):
        predictive_entropy(np.array([[0.5]]))
    with pytest.raises(DataError, match="`answer`"):
        self_consistency(np.array([[0, 1]]), np.array([0, 1]))
    with pytest.raises(DataError, match="must be finite"):
        p_true(np.array([-np.inf]), np.array([0.0]))


def test_comparisons_that_compare_nothing_are_refused():
    with pytest.raises(ConfigError, match="baseline"):
        compare_scores({LENGTH: np.zeros(2)}, np.array([0, 1]), np.array([1, 2]))
    with pytest.raises(DataError, match="all 2 are right"):
        compare_scores({"score": np.zeros(2)}, np.array([1, 1]), np.array([1, 2]))
    with pytest.raises(DataError, match="one length"):
        compare_scores({"score": np.zeros(3)}, np.array([1, 0]), np.array([1, 2]))
