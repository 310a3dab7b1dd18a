"""Calibration beside the tools of the field: MAPIE, probmetrics, torchmetrics and scikit-learn give the same numbers.

Where definitions differ, both are brought to the one they share, and the test says how. `make conformance` installs the tools.
"""

import warnings
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax

from touchstone.calibrate import (
    APS,
    LAC,
    RAPS,
    Abstention,
    Isotonic,
    Ladder,
    Platt,
    Temperature,
    VectorScaling,
    auroc,
    binomial_p_value,
    brier_multiclass,
    brier_top_label,
    classwise_ece,
    coverage_law,
    ece_equal_mass,
    ece_equal_width,
    hoeffding_bentkus_p_value,
    mce,
    nll,
)

pytestmark = pytest.mark.conformance

N_CLASSES = 4
SEEDS = pytest.mark.parametrize("seed", range(5))


def drawn(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are too sure of themselves, and labels; away from 0 and 1, where torchmetrics has a bin too many."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(n, N_CLASSES))
    labels = (truth + rng.gumbel(size=truth.shape)).argmax(axis=1)
    return 1.7 * truth + rng.normal(size=N_CLASSES) * 0.3, labels


def answered(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Confidence and whether it was right."""
    logits, labels = drawn(n, seed)
    return softmax(logits, axis=1).max(axis=1), logits.argmax(axis=1) == labels


@pytest.fixture(scope="module")
def torchmetrics() -> Any:
    return pytest.importorskip("torchmetrics", reason="needs torchmetrics: `make conformance`").functional


@pytest.fixture(scope="module")
def probmetrics() -> Any:
    pytest.importorskip("probmetrics", reason="needs probmetrics: `make conformance`")
    import probmetrics.calibrators
    import probmetrics.distributions
    import probmetrics.metrics

    return probmetrics


@pytest.fixture(scope="module")
def mapie() -> Any:
    pytest.importorskip("mapie", reason="needs MAPIE: `make conformance`")
    import mapie.classification
    import mapie.conformity_scores
    import mapie.metrics.calibration
    import mapie.risk_control

    return mapie


@pytest.fixture(scope="module")
def sklearn() -> Any:
    pytest.importorskip("sklearn", reason="needs scikit-learn, which comes with MAPIE: `make conformance`")
    import sklearn.isotonic
    import sklearn.linear_model
    import sklearn.metrics

    return sklearn


# --- errors and scores


@SEEDS
@pytest.mark.parametrize("bins", [1, 5, 10, 15])
def test_binned_errors_are_those_of_torchmetrics(torchmetrics: Any, seed: int, bins: int) -> None:
    import torch

    confidence, correct = answered(701, seed)
    given = torch.tensor(confidence), torch.tensor(correct).int()
    for norm, ours in (("l1", ece_equal_width), ("max", mce)):
        theirs = float(torchmetrics.classification.binary_calibration_error(*given, n_bins=bins, norm=norm))
        assert ours(confidence, correct, bins, resampling=None).value == pytest.approx(theirs, abs=1e-6)  # theirs is in fp32


@SEEDS
def test_the_auroc_is_that_of_torchmetrics_and_scikit_learn_ties_included(torchmetrics: Any, sklearn: Any, seed: int) -> None:
    import torch

    confidence, correct = answered(600, seed)
    for scores in (confidence, np.round(confidence, 1)):
        found = auroc(scores, correct, resampling=None).value
        assert found == pytest.approx(sklearn.metrics.roc_auc_score(correct, scores), abs=1e-12)
        theirs = torchmetrics.classification.binary_auroc(torch.tensor(scores), torch.tensor(correct).int())
        assert found == pytest.approx(float(theirs), abs=1e-6)


@SEEDS
def test_binned_errors_are_those_of_mapie_with_one_edge_more(mapie: Any, seed: int) -> None:
    """MAPIE's `num_bins` counts edges; it cuts rows into bins of equal mass in the order they come, so they are sorted for it."""
    confidence, correct = (column[np.argsort(answered(700, seed)[0])] for column in answered(700, seed))
    error = mapie.metrics.calibration.expected_calibration_error
    theirs = error(correct.astype(int), confidence, num_bins=11, split_strategy="uniform")
    assert ece_equal_width(confidence, correct, 10, resampling=None).value == pytest.approx(theirs, abs=1e-9)
    theirs = error(correct.astype(int), confidence, num_bins=10, split_strategy="array split")
    assert ece_equal_mass(confidence, correct, 10, resampling=None).value == pytest.approx(theirs, abs=1e-9)


@SEEDS
def test_the_classwise_error_is_that_of_mapie(mapie: Any, seed: int) -> None:
    logits, labels = drawn(700, seed)
    probabilities = softmax(logits, axis=1)
    theirs = mapie.metrics.calibration.expected_calibration_error(
        labels, probabilities, num_bins=11, split_strategy="uniform", classwise=True, class_labels=labels
    )
    assert classwise_ece(probabilities, labels, 10, resampling=None).value == pytest.approx(theirs, abs=1e-9)


@SEEDS
def test_proper_scores_are_those_of_probmetrics_and_scikit_learn(probmetrics: Any, sklearn: Any, seed: int) -> None:
    import torch

    logits, labels = drawn(500, seed)
    probabilities = softmax(logits, axis=1)
    given = torch.tensor(labels), torch.tensor(logits)
    for metric, ours in ((probmetrics.metrics.LogLoss(), nll), (probmetrics.metrics.BrierLoss(), brier_multiclass)):
        theirs = float(metric.compute_from_labels_logits(*given))
        assert ours(probabilities, labels, resampling=None).value == pytest.approx(theirs, rel=1e-6)
    confidence, correct = answered(500, seed)
    theirs = sklearn.metrics.brier_score_loss(correct, confidence)  # half of what probmetrics calls binary Brier
    assert brier_top_label(confidence, correct, resampling=None).value == pytest.approx(theirs, abs=1e-12)


# --- calibrations


@SEEDS
def test_the_temperature_is_that_of_probmetrics(probmetrics: Any, seed: int) -> None:
    import torch

    logits, labels = drawn(800, seed)
    theirs = probmetrics.calibrators.get_calibrator("temp-scaling", ts_max_bisection_steps=60)
    distribution = probmetrics.distributions.CategoricalLogits(torch.tensor(logits))
    theirs.fit_torch(distribution, torch.tensor(labels))
    found = theirs.predict_proba_torch(distribution).get_probs().numpy()
    ours = Temperature.fit(logits, labels)
    np.testing.assert_allclose(softmax(ours.apply(logits), axis=1), found, atol=1e-5)


@SEEDS
def test_vector_scaling_without_a_penalty_is_that_of_probmetrics(probmetrics: Any, seed: int) -> None:
    import torch

    logits, labels = drawn(800, seed)
    distribution = probmetrics.distributions.CategoricalLogits(torch.tensor(logits))
    theirs = probmetrics.calibrators.VectorScalingCalibrator()
    theirs.fit_torch(distribution, torch.tensor(labels))
    found = theirs.predict_proba_torch(distribution).get_probs().numpy()
    ours = VectorScaling.fit(logits, labels, l2=1e-9)
    assert ours.nll_after <= float(-np.log(found[np.arange(len(labels)), labels]).mean()) + 1e-9
    np.testing.assert_allclose(softmax(ours.apply(logits), axis=1), found, atol=2e-3)


@SEEDS
def test_isotonic_is_that_of_scikit_learn(sklearn: Any, seed: int) -> None:
    confidence, correct = answered(400, seed)
    scores = np.round(confidence, 2)
    theirs = sklearn.isotonic.IsotonicRegression(out_of_bounds="clip").fit(scores, correct.astype(float))
    asked = np.linspace(0, 1, 501)
    np.testing.assert_allclose(Isotonic.fit(scores, correct).apply(asked), theirs.predict(asked), atol=1e-12)


@SEEDS
def test_platt_is_the_sigmoid_calibration_of_scikit_learn(sklearn: Any, seed: int) -> None:
    """Theirs is private, and has Platt's targets too."""
    from sklearn.calibration import _SigmoidCalibration

    confidence, correct = answered(400, seed)
    scores = np.log(confidence / (1 - confidence))
    theirs = _SigmoidCalibration().fit(scores, correct.astype(int))
    np.testing.assert_allclose(Platt.fit(scores, correct).apply(scores), theirs.predict(scores), atol=1e-4)


# --- conformal sets


class AsGiven:
    """A classifier, as scikit-learn knows them, whose features are its probabilities."""

    def __init__(self, n_classes: int) -> None:
        self.classes_ = np.arange(n_classes)
        self.n_features_in_ = n_classes

    def fit(self, features: np.ndarray, labels: np.ndarray) -> "AsGiven":
        return self

    def predict(self, features: np.ndarray) -> np.ndarray:
        return np.asarray(features).argmax(axis=1)

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        return np.asarray(features)

    def __sklearn_is_fitted__(self) -> bool:
        return True


@SEEDS
@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.3])
def test_lac_sets_are_those_of_mapie(mapie: Any, seed: int, alpha: float) -> None:
    logits, labels = drawn(600, seed)
    probabilities = softmax(logits, axis=1)
    theirs = mapie.classification.SplitConformalClassifier(AsGiven(N_CLASSES), confidence_level=1 - alpha, conformity_score="lac")
    theirs.conformalize(probabilities[:300], labels[:300])
    _, sets = theirs.predict_set(probabilities[300:])
    found = LAC.fit(probabilities[:300], labels[:300], alpha)
    np.testing.assert_array_equal(found.apply(probabilities[300:]), sets[:, :, 0])


@SEEDS
def test_aps_and_raps_thresholds_and_aps_sets_are_those_of_mapie(mapie: Any, seed: int) -> None:
    """MAPIE draws its random numbers itself, from a seed; its sets without the last label are those at u = 0, kept from being empty."""
    logits, labels = drawn(600, seed)
    probabilities = softmax(logits, axis=1)
    chance = np.random.RandomState(seed).uniform(size=300)
    score = mapie.conformity_scores.APSConformityScore()
    theirs = mapie.classification.SplitConformalClassifier(
        AsGiven(N_CLASSES), confidence_level=0.9, conformity_score=score, random_state=seed
    )
    theirs.conformalize(probabilities[:300], labels[:300])
    _, sets = theirs.predict_set(probabilities[300:], conformity_score_params={"include_last_label": False})
    found = APS.fit(probabilities[:300], labels[:300], 0.1, chance=chance)
    assert found.thresholds[0].value == pytest.approx(float(score.quantiles_[0]), abs=1e-9)
    ours = found.apply(probabilities[300:], np.zeros(300))
    ours[np.arange(300), probabilities[300:].argmax(axis=1)] = True
    np.testing.assert_array_equal(ours, sets[:, :, 0])

    plain = theirs._mapie_classifier.conformity_scores_.copy()
    regularised = mapie.conformity_scores.RAPSConformityScore._regularize_conformity_score(np.array([2]), 0.05, plain, score.cutoff)
    raps = RAPS.fit(probabilities[:300], labels[:300], 0.1, penalty=0.05, k_reg=2, chance=chance)
    scores = raps.scores(probabilities[:300], chance)[np.arange(300), labels[:300]]
    np.testing.assert_allclose(scores, regularised[:, 0, 0], atol=1e-9)


# --- selective answers


@SEEDS
def test_p_values_are_those_of_mapie(mapie: Any, seed: int) -> None:
    from mapie.risk_control.methods import compute_hoeffding_bentkus_p_value

    rng = np.random.default_rng(seed)
    n = rng.integers(20, 500, 40)
    wrong = rng.binomial(n, 0.06)
    theirs = [compute_hoeffding_bentkus_p_value(wrong / n, n.astype(float), 0.1, binary)[:, 0] for binary in (True, False)]
    for k, total, exact, loose in zip(wrong, n, *theirs, strict=True):
        if k / total < 0.1 and np.ceil(total * (k / total)) == k:  # k / n * n may round above k, and theirs then counts one more
            assert binomial_p_value(float(k), int(total), 0.1) == pytest.approx(exact, rel=1e-9)
            assert hoeffding_bentkus_p_value(float(k), int(total), 0.1) == pytest.approx(min(1.0, loose), rel=1e-9)


@SEEDS
def test_the_thresholds_that_keep_a_promise_are_those_of_mapies_controller(mapie: Any, seed: int) -> None:
    """Its precision is our share of right answers; fixed-sequence testing is the fallback procedure with all of delta at the first."""
    confidence, correct = answered(1500, seed)
    thresholds = np.linspace(0.95, 0.3, 40)
    theirs = mapie.risk_control.BinaryClassificationController(
        predict_function=lambda rows: np.stack([1 - rows, rows], axis=1),
        risk="precision",
        target_level=0.7,
        confidence_level=0.9,
        list_predict_params=thresholds,
        fwer_method="fixed_sequence",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says so where the measured risk does not fall all the way
        theirs.calibrate(confidence, correct.astype(int))
    ladder = Ladder(tuple(thresholds.tolist()), (1.0, *[0.0] * 39))
    ours = Abstention.fit(confidence, correct, max_risk=0.3, delta=0.1, ladder=ladder)
    kept = [each.threshold for each in ours.tested if each.rejected]
    assert kept
    np.testing.assert_allclose(sorted(kept), np.sort(theirs.valid_predict_params))
    assert ours.threshold == pytest.approx(float(theirs.valid_predict_params.min()))


def test_the_law_of_coverage_holds_for_mapies_sets_too(mapie: Any) -> None:
    """The same Beta law, by its mean: 400 calibration sets of 60 rows."""
    logits, labels = drawn(24_000, 0)
    probabilities = softmax(logits, axis=1)
    own = np.sort(1 - probabilities[np.arange(len(labels)), labels])
    coverages = []
    for start in range(0, 24_000, 60):
        score = mapie.conformity_scores.LACConformityScore()
        theirs = mapie.classification.SplitConformalClassifier(AsGiven(N_CLASSES), confidence_level=0.8, conformity_score=score)
        theirs.conformalize(probabilities[start : start + 60], labels[start : start + 60])
        theirs.predict_set(probabilities[:1])  # sets the quantile
        coverages.append(np.searchsorted(own, float(score.quantiles_[0]), "right") / len(own))
    law = coverage_law(60, 0.2)
    assert np.mean(coverages) == pytest.approx(law.mean, abs=4 * law.sd / 20)
    assert np.std(coverages) == pytest.approx(law.sd, rel=0.15)
