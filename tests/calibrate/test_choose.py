import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from touchstone.calibrate.arrays import log_softmax
from touchstone.calibrate.choose import (
    CONFIDENCE_CANDIDATES,
    SCORE_CANDIDATES,
    choose_calibration,
    choose_confidence,
    choose_without_labels,
)
from touchstone.calibrate.fit import HistogramBinning, Isotonic, Platt, Temperature, VectorScaling
from touchstone.calibrate.prior import Batch, Contextual, Pmi
from touchstone.errors import ConfigError, DataError, UnknownName

pytestmark = pytest.mark.slow

BIAS = np.array([1.5, 0.0, -1.0])


def drawn(n, seed, *, scale=1.0, bias=0.0):
    """Scores of three answers, and labels drawn from their softmax: it is exact before the scores are scaled and shifted."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, 3)) * 1.5
    labels = (z + rng.gumbel(size=z.shape)).argmax(axis=1)
    return scale * z + bias, labels


def believed(n, seed, power):
    """Confidences of which a share confidence**power is right."""
    rng = np.random.default_rng(seed)
    confidence = rng.beta(3, 1, n)
    return confidence, rng.random(n) < confidence**power


def row_of(found, name):
    return next(row for row in found.table if row.name == name)


# --- with labels


@pytest.mark.parametrize(
    ("scale", "bias", "choice"),
    [(1.0, 0.0, "none"), (4.0, 0.0, "temperature"), (0.2, 0.0, "temperature"), (4.0, 4 * BIAS, "vector")],
    ids=["exact", "too sure", "too unsure", "biased and too sure"],
)
def test_the_candidate_that_undoes_the_fault_is_chosen(scale, bias, choice):
    found = choose_calibration(*drawn(250, 1, scale=scale, bias=bias))
    assert (found.choice, found.criterion, found.n, found.n_folds) == (choice, "nll", 250, 5)
    assert found.reason in ("best", "simplest within one standard error")


def test_a_prior_read_from_the_prompt_is_chosen_where_it_holds_the_bias():
    scores, labels = drawn(200, 2, bias=BIAS)
    found = choose_calibration(scores, labels, content_free=np.array([BIAS, BIAS]), domain=BIAS)
    assert found.choice == "contextual"  # as flexible as `pmi`, and before it in the order
    assert isinstance(found.calibration, Contextual)
    assert choose_calibration(scores, labels, domain=BIAS).choice == "pmi"
    plain = row_of(found, "none").measured
    assert row_of(found, "contextual").measured["accuracy"].value > plain["accuracy"].value
    assert row_of(found, "contextual").measured["nll"].value < plain["nll"].value


def test_every_row_is_judged_by_a_fit_that_has_not_seen_it():
    """With as many folds as rows there is one way to divide them, and it can be written out."""
    scores, labels = drawn(25, 3, scale=3.0, bias=BIAS)
    found = choose_calibration(scores, labels, n_folds=25)
    fits = {
        "temperature": Temperature.fit,
        "vector": VectorScaling.fit,
        "batch": lambda z, _: Batch.fit(z),
        "batch with labels": Batch.fit_labelled,
    }
    for name, fit in fits.items():
        nats, hits = [], []
        for i in range(25):
            rest = np.arange(25) != i
            row = log_softmax(fit(scores[rest], labels[rest]).apply(scores[i : i + 1]))[0]
            nats.append(-row[labels[i]])
            hits.append(row.argmax() == labels[i])
        measured = row_of(found, name).measured
        assert measured["nll"].value == pytest.approx(np.mean(nats))
        assert measured["accuracy"].value == pytest.approx(np.mean(hits))
    rows = row_of(found, "none").measured
    assert rows["nll"].value == pytest.approx(-log_softmax(scores)[np.arange(25), labels].mean())
    assert rows["accuracy"].value == pytest.approx((scores.argmax(axis=1) == labels).mean())


@pytest.mark.parametrize("seed", range(6))
def test_the_least_flexible_within_one_standard_error_of_the_best_is_chosen(seed):
    """The rule written out over losses of rows left out one at a time."""
    scores, labels = drawn(30, 40 + seed, scale=1.4)
    rows = np.arange(30)
    losses = {"none": -log_softmax(scores)[rows, labels]}
    for name, kind in (("temperature", Temperature), ("vector", VectorScaling)):
        fitted = [kind.fit(scores[rows != i], labels[rows != i]) for i in rows]
        losses[name] = np.array([-log_softmax(fit.apply(scores[i]))[labels[i]] for i, fit in enumerate(fitted)])
    best = min(losses, key=lambda name: losses[name].mean())
    excess = {name: loss - losses[best] for name, loss in losses.items()}
    near = [name for name, gap in excess.items() if gap.mean() <= gap.std(ddof=1) / np.sqrt(30)]
    found = choose_calibration(scores, labels, candidates=["vector", "temperature"], n_folds=30)
    assert found.choice == near[0]
    assert found.reason == ("best" if near[0] == best else "simplest within one standard error")
    for row in found.table:
        assert (row.against is None) == (row.name == best)
        if row.name != best:
            assert row.against.value == pytest.approx(excess[row.name].mean())


@pytest.mark.slow
def test_an_exact_model_of_few_rows_is_hardly_ever_changed():
    choices = [choose_calibration(*drawn(60, seed)).choice for seed in range(40)]
    assert choices.count("none") >= 30


def test_accuracy_decides_where_asked_and_then_a_temperature_is_no_gain():
    scores, labels = drawn(200, 4, scale=4.0)
    assert choose_calibration(scores, labels, candidates=["temperature"]).choice == "temperature"
    assert choose_calibration(scores, labels, candidates=["temperature"], criterion="accuracy").choice == "none"
    found = choose_calibration(*drawn(200, 4, scale=4.0, bias=4 * BIAS), criterion="accuracy")
    assert found.criterion == "accuracy"
    assert found.choice in ("batch", "batch with labels", "vector")
    assert row_of(found, found.choice).n_changed > 0


def test_the_choice_is_fitted_on_all_rows():
    scores, labels = drawn(300, 5, scale=4.0)
    found = choose_calibration(scores, labels, candidates=["temperature"])
    assert found.calibration == Temperature.fit(scores, labels)
    np.testing.assert_array_equal(found.apply(scores), Temperature.fit(scores, labels).apply(scores))


def test_none_leaves_scores_as_they_are():
    scores, labels = drawn(300, 6)
    found = choose_calibration(scores, labels, candidates=["none"])
    assert (found.choice, found.calibration, found.reason) == ("none", None, "best")
    np.testing.assert_array_equal(found.apply(scores), scores)


def test_candidates_that_cannot_be_tried_are_named_with_what_they_lack():
    scores, labels = drawn(60, 7)
    assert choose_calibration(scores, labels).left_out == {"contextual": "`content_free`", "pmi": "`domain`"}
    scores[0, (labels[0] + 1) % 3] = -np.inf
    found = choose_calibration(scores, labels, content_free=np.zeros((1, 3)), domain=np.zeros(3))
    assert found.left_out == {"vector": "scores that are all finite"}
    assert [row.name for row in found.table] == [name for name in SCORE_CANDIDATES if name != "vector"]


def test_the_seed_alone_decides_how_rows_are_divided():
    data = drawn(50, 8, scale=2.0)
    assert choose_calibration(*data, seed=3) == choose_calibration(*data, seed=3)
    one, other = (row_of(choose_calibration(*data, seed=seed), "vector").measured["nll"].value for seed in (3, 4))
    assert one != other
    assert one == pytest.approx(other, rel=0.1)


def test_a_rare_class_is_spread_over_the_folds():
    """Five of one class in five folds: each fit sees four of them. Were one fold to hold them all, its fit would see none."""
    scores, labels = np.zeros((100, 2)), np.repeat([0, 1], [95, 5])
    found = choose_calibration(scores, labels, candidates=["vector"])
    share = 4 / 80
    expected = -(0.95 * np.log(1 - share) + 0.05 * np.log(share))
    assert row_of(found, "vector").measured["nll"].value == pytest.approx(expected, abs=0.01)


# --- one confidence an answer


@pytest.mark.parametrize(("power", "changed"), [(1.0, False), (4.0, True)])
def test_a_confidence_is_changed_where_it_is_wrong(power, changed):
    found = choose_confidence(*believed(300, 1, power))
    assert (found.choice != "none") == changed
    assert [row.name for row in found.table] == list(CONFIDENCE_CANDIDATES)
    assert found.criterion == "brier"


def test_confidences_are_judged_by_the_brier_score_of_rows_left_out():
    confidence, correct = believed(30, 2, 3.0)
    found = choose_confidence(confidence, correct, n_folds=30)
    for name, kind in (("platt", Platt), ("histogram", HistogramBinning), ("isotonic", Isotonic)):
        held_out = [kind.fit(*(np.delete(each, i) for each in (confidence, correct))).apply(confidence[i : i + 1])[0] for i in range(30)]
        assert row_of(found, name).measured["brier"].value == pytest.approx(((np.array(held_out) - correct) ** 2).mean())
    assert row_of(found, "none").measured["brier"].value == pytest.approx(((confidence - correct) ** 2).mean())


def test_a_chosen_confidence_is_fitted_on_all_rows():
    confidence, correct = believed(500, 3, 4.0)
    found = choose_confidence(confidence, correct, candidates=["isotonic"])
    assert found.calibration == Isotonic.fit(confidence, correct)
    np.testing.assert_array_equal(found.apply(confidence), Isotonic.fit(confidence, correct).apply(confidence))


# --- without labels


def test_without_labels_nothing_is_changed_and_the_table_shows_how_much_hangs_on_it():
    scores, _ = drawn(200, 9, bias=BIAS)
    found = choose_without_labels(scores, content_free=BIAS[None], domain=BIAS)
    assert (found.choice, found.calibration, found.reason) == ("none", None, "cannot be told without labels")
    assert (found.criterion, found.n_folds) == (None, None)
    assert [row.name for row in found.table] == ["none", "contextual", "pmi", "batch"]
    changed = {row.name: row.n_changed for row in found.table}
    expected = ((scores - BIAS).argmax(axis=1) != scores.argmax(axis=1)).sum()
    assert (changed["none"], changed["contextual"], changed["pmi"]) == (0, expected, expected)
    assert choose_without_labels(scores).left_out == {"contextual": "`content_free`", "pmi": "`domain`"}


def test_the_same_scores_go_with_labels_that_need_a_calibration_and_with_labels_that_it_harms():
    """Why nothing can be told without labels: on one set of scores, batch calibration is right for some labels and wrong for others."""
    scores, even = drawn(300, 10, bias=BIAS)
    meant = (scores + np.random.default_rng(0).gumbel(size=scores.shape)).argmax(axis=1)
    gains = []
    for labels in (even, meant):
        found = choose_calibration(scores, labels, candidates=["batch"])
        gains.append(row_of(found, "batch").measured["nll"].value - row_of(found, "none").measured["nll"].value)
    assert gains[0] < -0.1
    assert gains[1] > 0.1


def test_known_shares_choose_what_comes_near_them():
    scores, labels = drawn(300, 11, bias=BIAS)
    shares = np.bincount(labels, minlength=3) / 300
    found = choose_without_labels(scores, class_shares=shares, content_free=np.array([[0.0, 0.0, 5.0]]))
    assert (found.choice, found.reason, found.criterion) == ("batch", "nearest to the shares", "most right")
    assert isinstance(found.calibration, Batch)
    assert row_of(found, "contextual").against.high < 0  # an input that pushes all the wrong way
    exact, _ = drawn(300, 12)
    kept = choose_without_labels(exact, class_shares=np.bincount(exact.argmax(axis=1), minlength=3) / 300)
    assert (kept.choice, kept.calibration, kept.reason) == ("none", None, "no measurable gain")


def test_the_bound_is_one_minus_the_distance_of_the_shares():
    scores = np.log(np.array([[0.9, 0.1]] * 9 + [[0.2, 0.8]]))
    found = choose_without_labels(scores, class_shares=np.array([0.5, 0.5]))
    assert row_of(found, "none").measured["most right"].value == pytest.approx(1 - 0.4)


@settings(max_examples=15)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30))
def test_no_answers_are_right_more_often_than_the_bound(rows):
    answers, labels = (np.array(column) for column in zip(*rows, strict=True))
    scores = np.eye(3)[answers]
    found = choose_without_labels(scores, class_shares=np.bincount(labels, minlength=3) / len(labels))
    assert (answers == labels).mean() <= row_of(found, "none").measured["most right"].value + 1e-12


# --- results and refusals


@pytest.mark.parametrize(
    "found",
    [
        choose_calibration(*drawn(60, 13, scale=4.0)),
        choose_confidence(*believed(60, 4, 2.0)),
        choose_without_labels(drawn(60, 14)[0], class_shares=np.full(3, 1 / 3)),
        choose_without_labels(drawn(60, 14)[0]),
    ],
    ids=["scores", "confidence", "shares", "nothing"],
)
def test_a_choice_is_plain_data_for_a_report(found):
    plain = json.loads(json.dumps(found.to_dict()))
    assert (plain["choice"], plain["reason"], plain["n"]) == (found.choice, found.reason, 60)
    assert [row["name"] for row in plain["table"]] == [row.name for row in found.table]
    assert plain["calibration"] == (None if found.calibration is None else json.loads(json.dumps(found.calibration.to_dict())))


def test_candidates_that_are_unknown_or_lack_what_they_need_are_refused():
    data = drawn(30, 15)
    with pytest.raises(UnknownName, match="temperature"):
        choose_calibration(*data, candidates=["temprature"])
    with pytest.raises(ConfigError, match="content_free"):
        choose_calibration(*data, candidates=["contextual"])
    with pytest.raises(UnknownName, match="isotonic"):
        choose_confidence(*believed(30, 1, 1.0), candidates=["isotone"])


def test_settings_and_rows_that_do_not_fit_are_refused():
    scores, labels = drawn(30, 16)
    for n_folds in (1, 31):
        with pytest.raises(ConfigError, match="n_folds"):
            choose_calibration(scores, labels, n_folds=n_folds)
    with pytest.raises(ConfigError, match="criterion"):
        choose_calibration(scores, labels, criterion="ece")
    with pytest.raises(DataError, match="Labels"):
        choose_calibration(scores, labels[:9])
    with pytest.raises(DataError, match="class_shares"):
        choose_without_labels(scores, class_shares=np.array([0.5, 0.6, 0.2]))
    scores[0, labels[0]] = -np.inf
    with pytest.raises(DataError, match="no label"):
        choose_calibration(scores, labels)


def test_a_domain_of_another_number_of_answers_is_refused():
    scores, labels = drawn(30, 17)
    assert isinstance(choose_calibration(scores, labels, domain=np.zeros(3), candidates=["pmi"]).calibration, Pmi | None)
    with pytest.raises(DataError, match="`domain` must be of the 3 answers"):
        choose_calibration(scores, labels, domain=np.zeros(4))
