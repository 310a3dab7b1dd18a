import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from touchstone.calibrate.conformal import APS, LAC, RAPS, CoverageLaw, conformal_from_dict, coverage_law, set_quality
from touchstone.errors import ConfigError, DataError, UnknownName

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "methods_vectors.json").read_text())
PROBABILITIES, LABELS = np.array(GOLDEN["data"]["P"]), np.array(GOLDEN["data"]["y"])
RAPS_SETTINGS = {"penalty": 0.1, "k_reg": 1}

shapes = st.tuples(st.integers(1, 30), st.integers(1, 5), st.integers(0, 10_000))


def drawn(n, n_classes, seed):
    """Distributions with noise on the truth, so that no method is handed calibrated ones."""
    rng = np.random.default_rng(seed)
    truth = rng.dirichlet(np.full(n_classes, 0.6), n)
    labels = (truth.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(max=n_classes - 1)
    blurred = truth**0.5 * np.exp(0.3 * rng.normal(size=truth.shape))
    return blurred / blurred.sum(axis=1, keepdims=True), labels


def fitted(kind, probabilities, labels, alpha, **how):
    return kind.fit(probabilities, labels, alpha, **(RAPS_SETTINGS if kind is RAPS else {}), **how)


every_kind = pytest.mark.parametrize("kind", [LAC, APS, RAPS], ids=lambda kind: kind.__name__)


# --- the method sheet


@pytest.mark.parametrize(
    ("kind", "row"),
    [(LAC, "conformal_LAC"), (APS, "conformal_APS_deterministic"), (RAPS, "conformal_RAPS_lambda0.1_kreg1")],
    ids=["LAC", "APS", "RAPS"],
)
def test_scores_and_thresholds_match_the_method_sheet(kind, row):
    found = fitted(kind, PROBABILITIES, LABELS, GOLDEN["conformal_LAC"]["alpha"])
    np.testing.assert_allclose(found.scores(PROBABILITIES)[np.arange(10), LABELS], GOLDEN[row]["scores"], atol=1e-12)
    assert found.thresholds[0].value == pytest.approx(GOLDEN[row]["qhat"], abs=1e-12)
    assert (found.thresholds[0].rank, found.thresholds[0].n) == (GOLDEN["conformal_LAC"]["rank"], 10)


def test_the_set_of_the_method_sheet_is_found():
    found = LAC.fit(PROBABILITIES, LABELS, 0.2)
    assert found.apply(np.array([[0.5, 0.3, 0.2]])).tolist() == [GOLDEN["conformal_LAC"]["set_for_[.5,.3,.2]"]]


def test_the_coverage_law_matches_the_method_sheet():
    sheet = GOLDEN["conformal_coverage_law"]
    law = coverage_law(sheet["n"], sheet["alpha"])
    assert (law.a, law.b) == (sheet["n"] + 1 - sheet["l"], sheet["l"])
    assert law.mean == pytest.approx(sheet["mean"], abs=1e-10)
    assert law.sd == pytest.approx(sheet["sd"], abs=1e-8)


def test_the_rank_is_that_of_the_written_decimal():
    # 0.1 as a double is above 1/10 and 0.7 below 7/10; ten rows of thirty, and seven of ten, are meant exactly.
    assert (coverage_law(29, 0.1).b, coverage_law(9, 0.7).b, coverage_law(99, 0.29).b) == (3, 7, 29)


# --- the promise


@pytest.mark.slow
@every_kind
@pytest.mark.parametrize("n", [40, 200])
def test_coverage_is_spread_over_calibration_sets_as_the_beta_law_says(kind, n):
    """The coverage of a threshold is its place in the distribution of scores, here read off a million rows. Off by one rank fails."""
    alpha, n_draws = 0.1, 1500
    rng = np.random.default_rng(n)
    pool, pool_labels = drawn(400_000, 4, seed=7)
    chance = rng.random(len(pool))
    how = {} if kind is LAC else {"chance": chance[:1]}
    scores = fitted(kind, pool[:1], pool_labels[:1], alpha, **how).scores(pool, None if kind is LAC else chance)
    own = np.sort(scores[np.arange(len(pool)), pool_labels])
    coverages = []
    for _ in range(n_draws):
        rows = rng.integers(len(pool), size=n)
        how = {} if kind is LAC else {"chance": chance[rows]}
        threshold = fitted(kind, pool[rows], pool_labels[rows], alpha, **how).thresholds[0].value
        coverages.append(np.searchsorted(own, threshold, "right") / len(own))
    law = coverage_law(n, alpha)
    assert np.mean(coverages) == pytest.approx(law.mean, abs=4 * law.sd / np.sqrt(n_draws))
    assert 1 - alpha <= law.mean <= 1 - alpha + 1 / (n + 1)
    assert stats.kstest(coverages, stats.beta(law.a, law.b).cdf).pvalue > 0.01
    off_by_one = stats.beta(law.a - 1, law.b + 1)
    assert stats.kstest(coverages, off_by_one.cdf).pvalue < 1e-6


@every_kind
def test_each_class_is_covered_where_it_was_asked_for(kind):
    probabilities, labels = drawn(40_000, 3, seed=3)
    tilted = probabilities * [3.0, 1.0, 0.3]  # the model neglects the last class
    tilted /= tilted.sum(axis=1, keepdims=True)
    half = len(labels) // 2
    chance = np.random.default_rng(4).random(len(labels))
    before, after = ({}, ()) if kind is LAC else ({"chance": chance[:half]}, (chance[half:],))
    together = fitted(kind, tilted[:half], labels[:half], 0.1, **before)
    apart = fitted(kind, tilted[:half], labels[:half], 0.1, by_class=True, **before)
    quality = [set_quality(found.apply(tilted[half:], *after), labels[half:]) for found in (together, apart)]
    assert min(covered.high for covered in quality[0].by_class) < 0.9  # the promise over all rows is kept at some class's cost
    assert quality[0].coverage.value == pytest.approx(0.9, abs=0.01)
    for covered in quality[1].by_class:
        assert covered.value == pytest.approx(0.9, abs=0.015)


@pytest.mark.slow
def test_randomised_sets_cover_exactly_and_others_no_less():
    probabilities, labels = drawn(40_000, 3, seed=5)
    chance = np.random.default_rng(1).random(len(labels))
    half = len(labels) // 2
    for kind in (APS, RAPS):
        randomised = fitted(kind, probabilities[:half], labels[:half], 0.2, chance=chance[:half])
        assert randomised.randomised
        found = set_quality(randomised.apply(probabilities[half:], chance[half:]), labels[half:])
        assert found.coverage.value == pytest.approx(0.8, abs=0.01)
        plain = fitted(kind, probabilities[:half], labels[:half], 0.2)
        assert set_quality(plain.apply(probabilities[half:]), labels[half:]).coverage.value >= 0.79


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sums_that_are_equal_on_paper_are_equal(dtype):
    """Nine labels of ten are the least likely of their row, whose score is 1 however its sum was rounded."""
    rows = np.random.default_rng(6).dirichlet([1, 1, 1], 100).astype(dtype)
    labels = np.where(np.arange(100) % 10 > 0, rows.argmin(axis=1), rows.argmax(axis=1))
    found = APS.fit(rows, labels, 0.5)
    assert found.thresholds[0].value == 1
    assert found.apply(rows).all()


def test_a_penalty_shortens_the_long_sets():
    rng = np.random.default_rng(2)
    probabilities = rng.dirichlet(np.full(12, 0.4), 4000)
    labels = np.array([rng.choice(12, p=row) for row in probabilities])
    sizes = []
    for kind, how in ((APS, {}), (RAPS, {"penalty": 0.2, "k_reg": 3})):
        found = kind.fit(probabilities[:2000], labels[:2000], 0.1, **how)
        sizes.append(set_quality(found.apply(probabilities[2000:]), labels[2000:]).sizes)
    longest = [max(size for size, share in enumerate(row) if share > 0) for row in sizes]
    assert longest[1] < longest[0]


# --- too few rows


@every_kind
def test_too_few_rows_leave_every_answer_in_and_the_record_says_so(kind):
    found = fitted(kind, PROBABILITIES, LABELS, 0.05)  # rank 11 of 10 rows
    assert (found.thresholds[0].rank, found.thresholds[0].value) == (11, None)
    assert found.too_small == (0, 1, 2)
    assert found.laws == (CoverageLaw(11, 0),)
    assert (found.laws[0].mean, found.laws[0].sd) == (1, 0)
    assert found.apply(PROBABILITIES).all()


@every_kind
def test_a_class_with_too_few_rows_is_in_every_set_and_the_others_are_not(kind):
    labels = np.array([0] * 5 + [1] * 5)  # the third class has no row at all
    found = fitted(kind, PROBABILITIES, labels, 0.4, by_class=True)
    assert found.too_small == (2,)
    sets = found.apply(PROBABILITIES)
    assert sets[:, 2].all()
    assert not sets[:, :2].all()


# --- properties


@pytest.mark.slow
@settings(max_examples=60)
@given(shapes, st.sampled_from([LAC, APS, RAPS]), st.sampled_from([0.1, 0.25, 0.5, 0.9]), st.booleans())
def test_the_calibration_rows_are_covered_and_a_smaller_alpha_never_shrinks_a_set(shape, kind, alpha, by_class):
    probabilities, labels = drawn(*shape)
    found = fitted(kind, probabilities, labels, alpha, by_class=by_class)
    sets = found.apply(probabilities)
    assert sets[np.arange(len(labels)), labels].mean() >= 1 - alpha - 1e-12
    assert (sets <= fitted(kind, probabilities, labels, alpha / 2, by_class=by_class).apply(probabilities)).all()


@pytest.mark.slow
@settings(max_examples=60)
@given(shapes, st.sampled_from([LAC, APS, RAPS]))
def test_a_set_holds_the_likelier_of_two_answers_first_and_equals_together(shape, kind):
    probabilities = np.round(drawn(*shape)[0], 1)  # rounding makes ties
    probabilities[:, -1] += 1 - probabilities.sum(axis=1)
    probabilities = np.abs(probabilities) / np.abs(probabilities).sum(axis=1, keepdims=True)
    labels = drawn(*shape)[1]
    found = fitted(kind, probabilities, labels, 0.3)
    scores = found.scores(probabilities)
    for row, unlikely in zip(probabilities, scores, strict=True):
        order = np.argsort(-row)
        assert (np.diff(unlikely[order]) >= -1e-12).all()
        for p in row:
            assert np.ptp(unlikely[row == p]) == 0


@pytest.mark.slow
@settings(max_examples=40)
@given(shapes, st.sampled_from([LAC, APS, RAPS]), st.randoms(use_true_random=False))
def test_no_set_depends_on_the_order_of_rows_or_answers(shape, kind, random):
    probabilities, labels = drawn(*shape)
    rows, answers = (random.sample(range(size), size) for size in probabilities.shape)
    renamed = np.argsort(answers)[labels]
    one = fitted(kind, probabilities, labels, 0.3).apply(probabilities)
    other = fitted(kind, probabilities[rows][:, answers], renamed[rows], 0.3).apply(probabilities[rows][:, answers])
    assert (one[rows][:, answers] == other).all()


def test_aps_without_a_penalty_is_what_raps_is_with_none():
    probabilities, labels = drawn(50, 4, seed=9)
    one = APS.fit(probabilities, labels, 0.1)
    assert RAPS.fit(probabilities, labels, 0.1, penalty=0.0, k_reg=2).thresholds == one.thresholds


def test_a_random_number_of_one_leaves_only_the_likelier_answers_to_count():
    rows = np.array([[0.5, 0.3, 0.2]])
    found = APS.fit(rows, np.array([0]), 0.5, chance=np.array([0.0]))
    np.testing.assert_allclose(found.scores(rows, np.array([1.0])), [[0.0, 0.5, 0.8]])
    np.testing.assert_allclose(found.scores(rows, np.array([0.25])), [[0.375, 0.725, 0.95]])


# --- what sets turned out to be


def test_the_quality_of_sets_is_counted():
    sets = np.array([[True, False, False], [True, True, False], [False, False, False], [True, True, True]])
    found = set_quality(sets, np.array([0, 2, 0, 0]))
    assert (found.coverage.value, found.coverage.n) == (0.5, 4)
    assert [None if each is None else each.value for each in found.by_class] == [pytest.approx(2 / 3), None, 0.0]
    assert found.mean_size == 1.5
    assert found.sizes == (0.25, 0.25, 0.25, 0.25)


# --- records


@every_kind
@pytest.mark.parametrize("by_class", [False, True])
def test_a_record_comes_back_equal_through_json(kind, by_class):
    found = fitted(kind, PROBABILITIES, LABELS, 0.3, by_class=by_class)
    assert conformal_from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_records_that_contradict_themselves_are_refused():
    with pytest.raises(UnknownName, match="raps"):
        conformal_from_dict({"method": "rap"})
    record = LAC.fit(PROBABILITIES, LABELS, 0.2).to_dict()
    with pytest.raises(ConfigError, match="by_class"):
        LAC.from_dict(record | {"by_class": True})
    with pytest.raises(ConfigError, match="rank"):
        LAC.from_dict(record | {"thresholds": [{"value": None, "n": 10, "rank": 9}]})
    with pytest.raises(ConfigError, match="randomised"):
        LAC.from_dict(record | {"randomised": True})


def test_random_numbers_belong_to_randomised_sets_alone():
    plain = APS.fit(PROBABILITIES, LABELS, 0.2)
    with pytest.raises(ConfigError, match="leave out"):
        plain.apply(PROBABILITIES, np.zeros(10))
    randomised = APS.fit(PROBABILITIES, LABELS, 0.2, chance=np.full(10, 0.5))
    with pytest.raises(ConfigError, match="give one"):
        randomised.apply(PROBABILITIES)
    with pytest.raises(DataError, match="chance"):
        randomised.apply(PROBABILITIES, np.full(10, 1.5))
    with pytest.raises(ConfigError, match="LAC"):
        LAC.fit(PROBABILITIES, LABELS, 0.2).scores(PROBABILITIES, np.zeros(10))


def test_rows_that_do_not_fit_are_refused():
    found = LAC.fit(PROBABILITIES, LABELS, 0.2)
    with pytest.raises(DataError, match="3 classes"):
        found.apply(np.array([[0.5, 0.5]]))
    with pytest.raises(DataError, match="softmax"):
        found.apply(np.array([[2.0, 1.0, 0.0]]))
    with pytest.raises(DataError, match="softmax"):
        LAC.fit(np.array([[3.0, 1.0]]), np.array([0]), 0.2)
    with pytest.raises(DataError, match="row for each item"):
        LAC.fit(np.array([0.5, 0.5]), np.array([0]), 0.2)
    with pytest.raises(DataError, match="Labels"):
        LAC.fit(PROBABILITIES, LABELS + 1, 0.2)
    with pytest.raises(ConfigError, match="alpha"):
        LAC.fit(PROBABILITIES, LABELS, 1.0)
    with pytest.raises(DataError, match="True and False"):
        set_quality(np.ones((2, 2)), np.array([0, 1]))
