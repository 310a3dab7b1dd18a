import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import optimize

from touchstone.calibrate import measure
from touchstone.calibrate.fit import (
    HistogramBinning,
    Isotonic,
    Platt,
    Temperature,
    VectorScaling,
    calibration_from_dict,
    temperature_loss,
)
from touchstone.errors import ConfigError, DataError, UnknownName

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "methods_vectors.json").read_text())
CONFIDENCE, CORRECT = np.array(GOLDEN["data"]["conf"]), np.array(GOLDEN["data"]["correct"])
LOGITS, LABELS = np.log(GOLDEN["data"]["P"]), np.array(GOLDEN["data"]["y"])

items = st.integers(1, 12).flatmap(
    lambda n: st.tuples(hnp.arrays(np.float64, (n, 3), elements=st.floats(-20, 20)), hnp.arrays(np.int64, n, elements=st.integers(0, 2)))
)
answers = st.integers(1, 40).flatmap(
    lambda n: st.tuples(hnp.arrays(np.float64, n, elements=st.floats(0, 1, width=32)), hnp.arrays(np.bool_, n))
)


def nll(logits, labels):
    return float(np.mean(np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(labels)), labels]))


# --- temperature


def test_the_temperature_of_the_closed_form_is_found():
    # sigmoid(2/T) = 3/4, so T = 2 / ln 3
    found = Temperature.fit(np.array([[1.0, -1.0]] * 4), np.array([0, 0, 0, 1]))
    assert found.temperature == pytest.approx(2 / np.log(3), rel=1e-9)
    assert found.temperature == pytest.approx(GOLDEN["temperature_closed_form"]["T"], abs=1e-9)
    assert found.guard == "none"


def test_the_temperature_of_the_method_sheet_is_found():
    found = Temperature.fit(LOGITS, LABELS)
    assert found.temperature == pytest.approx(GOLDEN["temperature_opt"], abs=1e-6)
    assert found.nll_after == pytest.approx(GOLDEN["nll_after_T"], abs=1e-8)
    assert found.nll_before == pytest.approx(GOLDEN["nll"], abs=1e-10)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(items)
def test_a_temperature_never_worsens_its_fitting_set_nor_changes_an_answer(data):
    logits, labels = data
    found = Temperature.fit(logits, labels)
    calibrated = found.apply(logits)
    assert nll(calibrated, labels) <= nll(logits, labels) * (1 + 1e-12)
    assert found.nll_after == pytest.approx(nll(calibrated, labels), rel=1e-9, abs=1e-12)
    best = logits.max(axis=1, keepdims=True)
    assert (calibrated[logits == best] >= np.repeat(calibrated.max(axis=1), (logits == best).sum(axis=1))).all()


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(items)
def test_no_other_temperature_in_the_range_fits_better(data):
    logits, labels = data
    found = Temperature.fit(logits, labels)
    if found.guard == "none":
        grid = np.geomspace(1.05e-3, 0.95e3, 400)
        assert found.nll_after <= min(nll(logits / t, labels) for t in grid) + 1e-9


def test_all_correct_labels_keep_a_finite_temperature():
    # One item of 4 is smoothed: targets 1 - 1/(2 * 5) = 0.9, so sigmoid(2/T) = 0.9 and T = 2 / ln 9.
    found = Temperature.fit(np.array([[1.0, -1.0]] * 4), np.array([0, 0, 0, 0]))
    assert found.temperature == pytest.approx(2 / np.log(9), rel=1e-9)
    assert found.guard == "all correct"


def test_logits_surer_than_the_guard_are_left_as_they_are():
    found = Temperature.fit(np.array([[30.0, -30.0]] * 4), np.array([0, 0, 0, 0]))
    assert (found.temperature, found.guard) == (1.0, "all correct")


def test_logits_that_always_mislead_end_at_the_bound():
    found = Temperature.fit(np.array([[1.0, -1.0]] * 4), np.array([1, 1, 1, 1]))
    assert found.guard == "bound"
    assert found.temperature == pytest.approx(1000, rel=0.02)


def test_a_scale_of_the_logits_is_a_scale_of_the_temperature():
    once, thrice = Temperature.fit(LOGITS, LABELS), Temperature.fit(3 * LOGITS, LABELS)
    assert thrice.temperature == pytest.approx(3 * once.temperature, rel=1e-8)


def test_the_loss_at_a_temperature_has_the_derivatives_it_states():
    step = 1e-5

    def at(beta):
        return temperature_loss(LOGITS, LABELS, 1 / beta)

    slope = (at(1.3 + step).nll - at(1.3 - step).nll) / (2 * step)
    curvature = (at(1.3 + step).slope - at(1.3 - step).slope) / (2 * step)
    assert at(1.3).nll == pytest.approx(10 * nll(1.3 * LOGITS, LABELS))
    assert at(1.3).slope == pytest.approx(slope, rel=1e-8)
    assert at(1.3).curvature == pytest.approx(curvature, rel=1e-7)
    assert at(1.3).margin == pytest.approx(LOGITS[np.arange(10), LABELS].sum() - LOGITS.mean(axis=1).sum())
    assert (at(1.3).n, at(1.3).n_wrong) == (10, 4)


def test_chunks_add_up_to_the_whole_and_few_passes_are_asked_for():
    passes = []

    def loss_at(temperature):
        passes.append(temperature)
        chunks = [temperature_loss(LOGITS[i : i + 3], LABELS[i : i + 3], temperature) for i in range(0, 10, 3)]
        return sum(chunks[1:], chunks[0])

    streamed = Temperature.fit_streamed(loss_at)
    assert streamed.temperature == pytest.approx(Temperature.fit(LOGITS, LABELS).temperature, rel=1e-9)
    assert len(passes) <= 8


def test_a_looser_tolerance_asks_for_fewer_passes():
    passes = []

    def loss_at(temperature):
        passes.append(temperature)
        return temperature_loss(LOGITS, LABELS, temperature)

    loose = Temperature.fit_streamed(loss_at, tolerance=1e-2)
    n_loose = len(passes)
    Temperature.fit_streamed(loss_at)
    assert n_loose < len(passes) - n_loose
    assert loose.temperature == pytest.approx(GOLDEN["temperature_opt"], rel=0.02)


def test_an_answer_that_cannot_be_given_changes_nothing():
    masked = np.hstack([LOGITS[:, :1], np.full((10, 1), -np.inf), LOGITS[:, 1:]])
    found = Temperature.fit(masked, np.where(LABELS > 0, LABELS + 1, 0))
    assert found.temperature == pytest.approx(GOLDEN["temperature_opt"], abs=1e-6)


# --- vector scaling


def test_vector_scaling_finds_the_minimum_that_scipy_finds():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(60, 4)) * 2
    labels = (logits * [2, 1, 0.5, 1] + [0, 1, 0, -1] + rng.gumbel(size=(60, 4))).argmax(axis=1)

    def objective(theta, l2=0.01):
        penalty = ((theta[:4] - 1) ** 2).sum() + (theta[4:] ** 2).sum()
        return nll(logits * theta[:4] + theta[4:], labels) + l2 / 2 * penalty

    expected = optimize.minimize(objective, np.repeat([1.0, 0.0], 4), method="BFGS", options={"gtol": 1e-9})
    found = VectorScaling.fit(logits, labels, l2=0.01)
    assert objective(np.array([*found.weights, *found.biases])) <= expected.fun + 1e-12
    np.testing.assert_allclose([*found.weights, *found.biases], expected.x, atol=1e-4)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(items)
def test_vector_scaling_never_worsens_its_fitting_set(data):
    logits, labels = data
    found = VectorScaling.fit(logits, labels)
    assert nll(found.apply(logits), labels) <= nll(logits, labels) + 1e-12
    assert found.nll_after == pytest.approx(nll(found.apply(logits), labels), abs=1e-12)


def test_vector_scaling_contains_the_temperature():
    # Scaling by 1/T costs the penalty l2/2 * V (1/T - 1)^2 and no more.
    temperature = Temperature.fit(LOGITS, LABELS)
    found = VectorScaling.fit(LOGITS, LABELS, l2=1e-3)
    assert found.nll_after <= temperature.nll_after + 1e-3 / 2 * 3 * (1 / temperature.temperature - 1) ** 2


# --- Platt


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(answers)
def test_platt_meets_the_conditions_of_its_optimum(data):
    scores, correct = data
    found = Platt.fit(scores, correct)
    n_right, n_wrong = correct.sum(), (~correct).sum()
    target = np.where(correct, (n_right + 1) / (n_right + 2), 1 / (n_wrong + 2))
    gap = found.apply(scores) - target
    assert gap.sum() == pytest.approx(0, abs=1e-6)
    assert (gap * scores).sum() == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(answers)
def test_platt_keeps_the_ranking_where_it_rises(data):
    scores, correct = np.round(data[0], 2), data[1]
    found = Platt.fit(scores, correct)
    if found.slope > 1e-3 and correct.any() and not correct.all():
        before = measure.auroc(scores, correct, resampling=None).value
        after = measure.auroc(np.round(found.apply(scores), 12), correct, resampling=None).value
        assert after == pytest.approx(before)


def test_platt_takes_scores_of_any_size():
    rng = np.random.default_rng(3)
    scores = rng.normal(size=200)
    correct = rng.random(200) < 1 / (1 + np.exp(-scores))
    plain, stretched = Platt.fit(scores, correct), Platt.fit(1e6 * scores + 5e6, correct)
    np.testing.assert_allclose(stretched.apply(1e6 * scores + 5e6), plain.apply(scores), rtol=1e-6)


# --- histogram binning


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(answers, st.integers(1, 12), st.sampled_from(["equal width", "equal mass"]))
def test_histogram_binning_leaves_no_error_on_its_fitting_set(data, bins, binning):
    confidence, correct = data
    found = HistogramBinning.fit(confidence, correct, bins, binning=binning)
    calibrated = found.apply(confidence)
    for check in (1, 7, bins):
        assert measure.ece_equal_width(calibrated, correct, check, resampling=None).value == pytest.approx(0, abs=1e-12)


def test_each_confidence_becomes_the_accuracy_of_its_bin_and_empty_bins_keep_their_middle():
    found = HistogramBinning.fit(CONFIDENCE, CORRECT, 5)
    # (.2, .4]: .4 and .34, both wrong; (.4, .6]: .6 wrong, .55 right, .45 wrong; (.6, .8] and (.8, 1]: all right
    assert found.values == pytest.approx((0.1, 0, 1 / 3, 1, 1))
    np.testing.assert_allclose(found.apply(np.array([0.0, 0.4, 0.41, 1.0])), [0.1, 0, 1 / 3, 1])


def test_a_confidence_above_every_equal_mass_bin_takes_the_last():
    found = HistogramBinning.fit(np.array([0.2, 0.3, 0.6]), np.array([0, 1, 1]), 2, binning="equal mass")
    np.testing.assert_allclose(found.apply(np.array([0.9])), [1.0])


# --- isotonic


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(answers)
def test_isotonic_is_the_closest_rising_function(data):
    """Against the min-max formula of isotonic regression: g_i = max_{a <= i} min_{b >= i} mean(y_a .. y_b)."""
    scores, correct = np.round(data[0], 1), data[1]
    levels = np.unique(scores)
    hits = np.array([correct[scores == level].sum() for level in levels])
    counts = np.array([(scores == level).sum() for level in levels])

    def mean(a, b):
        return hits[a : b + 1].sum() / counts[a : b + 1].sum()

    n = len(levels)
    expected = [max(min(mean(a, b) for b in range(i, n)) for a in range(i + 1)) for i in range(n)]
    np.testing.assert_allclose(Isotonic.fit(scores, correct).apply(levels), expected, atol=1e-12)


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(answers)
def test_isotonic_rises_betters_the_brier_score_and_is_its_own_fixed_point(data):
    confidence, correct = data
    found = Isotonic.fit(confidence, correct)
    calibrated = found.apply(confidence)
    assert (np.diff(calibrated[np.argsort(confidence, kind="stable")]) >= -1e-12).all()
    assert ((calibrated - correct) ** 2).sum() <= ((confidence - correct) ** 2).sum() + 1e-9
    np.testing.assert_allclose(Isotonic.fit(calibrated, correct).apply(calibrated), calibrated, atol=1e-12)


# --- records


@pytest.mark.parametrize(
    "found",
    [
        Temperature.fit(LOGITS, LABELS),
        VectorScaling.fit(LOGITS, LABELS),
        Platt.fit(CONFIDENCE, CORRECT),
        HistogramBinning.fit(CONFIDENCE, CORRECT, 5),
        Isotonic.fit(CONFIDENCE, CORRECT),
    ],
    ids=lambda found: found.method,
)
def test_a_record_comes_back_equal_through_json(found):
    record = json.loads(json.dumps(found.to_dict()))
    assert calibration_from_dict(record) == found
    assert type(found).from_dict(record) == found


def test_a_record_of_an_unknown_method_or_with_a_wrong_key_is_refused():
    with pytest.raises(UnknownName, match="temperature"):
        calibration_from_dict({"method": "temprature"})
    record = Temperature.fit(LOGITS, LABELS).to_dict()
    with pytest.raises(ConfigError, match="nll_beforehand"):
        calibration_from_dict(record | {"nll_beforehand": 1.0})
    with pytest.raises(ConfigError, match="temperature"):
        calibration_from_dict(record | {"temperature": -1.0})


def test_records_whose_parts_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="biases"):
        VectorScaling(weights=(1.0, 2.0), biases=(0.0,), l2=0.1, n=3, nll_before=1.0, nll_after=1.0)
    with pytest.raises(ConfigError, match="ascending"):
        HistogramBinning(tops=(0.5, 0.2), values=(0.1, 0.2), n=3)
    with pytest.raises(ConfigError, match="ascend"):
        Isotonic(scores=(0.1, 0.2), values=(0.5, 0.4), n=3)


@pytest.mark.parametrize(
    ("logits", "labels"),
    [([[1.0, np.nan]], [0]), ([[1.0, np.inf]], [0]), ([[1.0, -np.inf]], [1]), ([[1.0, 2.0]], [2]), ([[1.0, 2.0]], [0, 1]), ([1.0], [0])],
)
def test_logits_and_labels_that_do_not_fit_are_refused(logits, labels):
    with pytest.raises(DataError):
        Temperature.fit(np.array(logits), np.array(labels))


def test_scores_that_are_no_confidences_are_refused_where_confidences_are_meant():
    with pytest.raises(DataError, match="0 to 1"):
        HistogramBinning.fit(np.array([1.5]), np.array([1]))
    with pytest.raises(DataError, match="right"):
        Isotonic.fit(np.array([0.5]), np.array([0.3]))
    with pytest.raises(ConfigError, match="l2"):
        VectorScaling.fit(LOGITS, LABELS, l2=0.0)
