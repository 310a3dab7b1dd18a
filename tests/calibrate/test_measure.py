import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from touchstone.calibrate import measure
from touchstone.calibrate.measure import Resampling
from touchstone.errors import ConfigError, DataError

pytestmark = pytest.mark.slow

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "methods_vectors.json").read_text())
SMECE = json.loads((Path(__file__).parents[1] / "golden" / "smece_relplot.json").read_text())
CONFIDENCE, CORRECT = np.array(GOLDEN["data"]["conf"]), np.array(GOLDEN["data"]["correct"])
PROBABILITIES, LABELS = np.array(GOLDEN["data"]["P"]), np.array(GOLDEN["data"]["y"])

pairs = st.integers(1, 40).flatmap(
    lambda n: st.tuples(
        st.lists(st.floats(0, 1, width=32), min_size=n, max_size=n).map(np.array),
        st.lists(st.booleans(), min_size=n, max_size=n).map(np.array),
    )
)


def drawn(n, seed, power=1.0):
    """Confidences of which a share confidence**power is right."""
    rng = np.random.default_rng(seed)
    confidence = rng.beta(2, 1, n)
    return confidence, rng.random(n) < confidence**power


@pytest.mark.parametrize("bins", [1, 5, 10, 15])
def test_equal_width_errors_match_the_method_sheet(bins):
    assert measure.ece_equal_width(CONFIDENCE, CORRECT, bins, resampling=None).value == pytest.approx(GOLDEN[f"ece_equal_width_{bins}"])
    assert measure.mce(CONFIDENCE, CORRECT, bins, resampling=None).value == pytest.approx(GOLDEN[f"mce_equal_width_{bins}"])


@pytest.mark.parametrize("bins", [1, 2, 5])
def test_equal_mass_errors_match_the_method_sheet(bins):
    assert measure.ece_equal_mass(CONFIDENCE, CORRECT, bins, resampling=None).value == pytest.approx(GOLDEN[f"ece_equal_mass_{bins}"])


def test_scores_of_whole_distributions_match_the_method_sheet():
    assert measure.classwise_ece(PROBABILITIES, LABELS, 5, resampling=None).value == pytest.approx(GOLDEN["classwise_ece_5"])
    assert measure.brier_multiclass(PROBABILITIES, LABELS, resampling=None).value == pytest.approx(GOLDEN["brier_multiclass_sum"])
    assert measure.nll(PROBABILITIES, LABELS, resampling=None).value == pytest.approx(GOLDEN["nll"], abs=1e-10)
    assert measure.brier_top_label(CONFIDENCE, CORRECT, resampling=None).value == pytest.approx(GOLDEN["brier_top_label"])


def test_rankings_match_the_method_sheet():
    assert measure.aurc(CONFIDENCE, CORRECT, resampling=None).value == pytest.approx(GOLDEN["aurc_mean_over_coverages"], abs=1e-10)
    assert measure.e_aurc(CONFIDENCE, CORRECT, resampling=None).value == pytest.approx(GOLDEN["e_aurc"], abs=1e-10)
    assert measure.prr(CONFIDENCE, CORRECT, resampling=None).value == pytest.approx(GOLDEN["prr"]["PRR"], abs=1e-9)
    assert measure.auroc(CONFIDENCE, CORRECT, resampling=None).value == pytest.approx(GOLDEN["auroc_confidence"], abs=1e-10)


def test_the_areas_behind_the_rankings_match_the_method_sheet():
    oracle = measure.aurc(CORRECT, CORRECT, resampling=None).value  # every wrong answer last
    assert oracle == pytest.approx(GOLDEN["aurc_oracle"], abs=1e-10)
    area = 1 - measure.aurc(CONFIDENCE, CORRECT, resampling=None).value
    assert area == pytest.approx(GOLDEN["prr"]["area"], abs=1e-10)
    assert 1 - oracle == pytest.approx(GOLDEN["prr"]["oracle_area"], abs=1e-10)
    chance = 1 - measure.aurc(np.full(10, 0.5), CORRECT, resampling=None).value
    assert chance == pytest.approx(GOLDEN["prr"]["random_area_expected"], abs=1e-12)
    assert GOLDEN["risk_coverage"][-1] == pytest.approx(1 - GOLDEN["accuracy"])  # at coverage 1 the risk is the error rate
    assert 1 - area == pytest.approx(np.mean(GOLDEN["risk_coverage"]), abs=1e-10)


@pytest.mark.parametrize(("bins", "other_rule"), [(5, 0.114), (10, 0.314)])
def test_the_other_edge_rule_would_move_the_sheets_error_by_ten_points(bins, other_rule):
    # A hair above its edge a confidence falls into the bin above, as with bins [lo, hi).
    above = np.nextafter(CONFIDENCE, 1)
    assert measure.ece_equal_width(above, CORRECT, bins, resampling=None).value == pytest.approx(other_rule)


def test_the_sum_form_of_the_brier_score_is_twice_the_other_for_two_classes():
    rows, labels = np.stack([CONFIDENCE, 1 - CONFIDENCE], axis=1), np.where(CORRECT == 1, 0, 1)
    assert measure.brier_multiclass(rows, labels, resampling=None).value == pytest.approx(2 * GOLDEN["brier_top_label"])


def test_the_risk_at_every_coverage_matches_the_method_sheet():
    """The k-th risk is k AURC(k surest) - (k - 1) AURC(k - 1 surest): the area is a mean of risks."""
    surest = np.argsort(-CONFIDENCE)
    areas = [k * measure.aurc(CONFIDENCE[surest[:k]], CORRECT[surest[:k]], resampling=None).value for k in range(1, 11)]
    np.testing.assert_allclose(np.diff([0.0, *areas]), GOLDEN["risk_coverage"], atol=1e-10)


def test_edges_belong_to_the_bin_below_and_the_ends_to_the_outer_bins():
    confidence = np.array([0.0, 0.2, 0.2000001, 0.6, 1.0])
    rows = measure.reliability_table(confidence, np.array([0, 0, 1, 1, 1]), 5)
    assert [row.n for row in rows] == [2, 1, 1, 0, 1]
    assert [(row.low, row.high) for row in rows] == [(0, 0.2), (0.2, 0.4), (0.4, 0.6), (0.6, 0.8), (0.8, 1)]


def test_every_multiple_of_a_tenth_falls_below_its_own_edge():
    tenths = np.array([float(f"0.{k}") for k in range(1, 10)] + [1.0])
    assert [row.n for row in measure.reliability_table(tenths, np.ones(10), 10)] == [1] * 10


def test_a_table_row_says_how_sure_and_how_right_its_bin_is():
    row = measure.reliability_table(np.array([0.7, 0.8, 0.65, 0.1]), np.array([1, 0, 1, 0]), 2)[1]
    assert (row.n, row.confidence, row.accuracy) == (3, pytest.approx((0.7 + 0.8 + 0.65) / 3), pytest.approx(2 / 3))
    # Clopper-Pearson of 2 in 3: the bounds solve P(X >= 2) = 0.025 and P(X <= 2) = 0.025, the latter 1 - p^3 in closed form.
    low, high = row.interval.low, row.interval.high
    assert 3 * low**2 * (1 - low) + low**3 == pytest.approx(0.025)
    assert 1 - high**3 == pytest.approx(0.025)


def test_an_empty_bin_claims_nothing():
    row = measure.reliability_table(np.array([0.9]), np.array([1]), 2)[0]
    assert (row.n, row.confidence, row.accuracy, row.interval) == (0, None, None, None)


@settings(max_examples=50, deadline=None)
@given(pairs, st.integers(1, 20))
def test_one_bin_shows_the_least_error_of_any_binning(data, bins):
    one = measure.ece_equal_width(*data, 1, resampling=None).value
    assert one <= measure.ece_equal_width(*data, bins, resampling=None).value + 1e-12
    assert one <= measure.ece_equal_mass(*data, bins, resampling=None).value + 1e-12


@settings(max_examples=60, deadline=None)
@given(pairs, st.integers(1, 8), st.randoms(use_true_random=False))
def test_no_figure_depends_on_the_order_of_the_rows(data, bins, random):
    confidence, correct = np.round(data[0], 1), data[1]  # rounding makes ties
    order = np.array(random.sample(range(len(correct)), len(correct)))
    for figure in (measure.ece_equal_width, measure.ece_equal_mass, measure.mce):
        shuffled = figure(confidence[order], correct[order], bins, resampling=None).value
        assert shuffled == pytest.approx(figure(confidence, correct, bins, resampling=None).value, abs=1e-12)
    for figure in (measure.smece, measure.aurc, measure.e_aurc):
        shuffled = figure(confidence[order], correct[order], resampling=None).value
        assert shuffled == pytest.approx(figure(confidence, correct, resampling=None).value, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(pairs, st.integers(1, 45))
def test_equal_mass_bins_are_array_split_where_nothing_is_tied(data, bins):
    confidence, first = np.unique(data[0], return_index=True)
    correct = data[1][first]
    expected = sum(
        abs((part_p - part_c).sum()) for part_p, part_c in zip(*(np.array_split(a, bins) for a in (confidence, correct)), strict=True)
    )
    assert measure.ece_equal_mass(confidence, correct, bins, resampling=None).value == pytest.approx(expected / len(correct), abs=1e-12)


def test_equal_mass_bins_never_tear_ties_apart():
    confidence = np.array([0.3, 0.5, 0.5, 0.5, 0.5, 0.9])
    assert [row.n for row in measure.reliability_table(confidence, np.ones(6), 3, binning="equal mass")] == [5, 0, 1]


@pytest.mark.parametrize("bins", [4, 15])
def test_classwise_error_is_the_mean_of_the_binary_errors(bins):
    rng = np.random.default_rng(11)
    probabilities, labels = rng.dirichlet([1, 2, 0.5], 50), rng.integers(0, 3, 50)
    each = [measure.ece_equal_width(probabilities[:, k], labels == k, bins, resampling=None).value for k in range(3)]
    assert measure.classwise_ece(probabilities, labels, bins, resampling=None).value == pytest.approx(np.mean(each))


@pytest.mark.parametrize("case", SMECE["cases"], ids=str)
def test_smooth_error_agrees_with_its_authors_code(case):
    places = np.arange(case["n"])
    confidence = np.sqrt((places + 0.5) / case["n"])
    correct = (places * 0.6180339887498949) % 1 < confidence ** case["power"]
    assert measure.smece(confidence, correct, resampling=None).value == pytest.approx(case["smece"], abs=2 / 1024)


def test_smooth_error_of_the_sheet_data_agrees_with_its_authors_code():
    assert measure.smece(CONFIDENCE, CORRECT, resampling=None).value == pytest.approx(SMECE["d10"], abs=2 / 1024)


def test_smooth_error_is_the_integral_it_is_defined_as():
    """By quadrature over the reflected Gaussian written as images, at the width where width and integral meet."""
    residual = CONFIDENCE - CORRECT

    def integral(sigma):
        def smoothed(t):
            images = [2 * m + sign * CONFIDENCE for m in range(-3, 4) for sign in (1, -1)]
            kernel = sum(np.exp(-((t - image) ** 2) / (2 * sigma**2)) for image in images) / np.sqrt(2 * np.pi) / sigma
            return abs(kernel @ residual) / len(residual)

        return integrate.quad(smoothed, 0, 1, limit=300, epsabs=1e-9)[0]

    value = measure.smece(CONFIDENCE, CORRECT, resampling=None).value
    assert integral(value) == pytest.approx(value, abs=1e-4)


def test_smooth_error_moves_no_further_than_a_confidence_moves():
    for shift in (1e-4, 1e-3, 1e-2):
        moved = CONFIDENCE.copy()
        moved[1] += shift  # from exactly 0.8, where equal-width bins jump by a whole answer
        change = measure.smece(moved, CORRECT, resampling=None).value - measure.smece(CONFIDENCE, CORRECT, resampling=None).value
        assert abs(change) <= shift + 2 / measure._GRID


def test_smooth_error_is_zero_where_every_neighbourhood_balances():
    confidence = np.full(8, 0.75)
    assert measure.smece(confidence, np.array([1, 1, 1, 0] * 2), resampling=None).value < 1e-12


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.2, 0.5, 0.9]), st.booleans()), min_size=1, max_size=6))
def test_risk_is_averaged_over_every_order_of_ties(answers):
    orders = [order for order in itertools.permutations(answers) if all(a[0] >= b[0] for a, b in itertools.pairwise(order))]
    areas = [np.mean([np.mean([not right for _, right in order[:i]]) for i in range(1, len(order) + 1)]) for order in orders]
    confidence, correct = (np.array(column) for column in zip(*answers, strict=True))
    assert measure.aurc(confidence, correct, resampling=None).value == pytest.approx(np.mean(areas), abs=1e-12)


def test_tied_confidences_share_their_risk_exactly():
    # All tied: at every coverage the expected risk is the error rate.
    assert measure.aurc(np.full(7, 0.5), np.array([1, 0, 0, 1, 1, 0, 0]), resampling=None).value == pytest.approx(4 / 7)


def test_long_rankings_keep_their_precision():
    """The closed sum over levels equals the plain mean over a hundred thousand coverages."""
    confidence, correct = drawn(100_000, seed=3)
    order = np.argsort(-confidence)
    plain = np.mean(np.cumsum(~correct[order]) / np.arange(1, len(order) + 1))
    assert measure.aurc(confidence, correct, resampling=None).value == pytest.approx(plain, rel=1e-10)


def test_rejecting_at_most_half_averages_over_the_coverages_above_half():
    order = np.argsort(-CONFIDENCE)
    accuracy = np.cumsum(CORRECT[order]) / np.arange(1, 11)
    oracle = np.cumsum(np.sort(CORRECT)[::-1]) / np.arange(1, 11)
    expected = (accuracy[5:].mean() - 0.6) / (oracle[5:].mean() - 0.6)
    assert measure.prr(CONFIDENCE, CORRECT, max_rejection=0.5, resampling=None).value == pytest.approx(expected)


def test_the_oracle_order_scores_one_and_leaves_no_excess_risk():
    correct = np.array([1, 1, 1, 0, 0])
    confidence = np.array([0.9, 0.8, 0.7, 0.3, 0.2])
    assert measure.prr(confidence, correct, resampling=None).value == pytest.approx(1)
    assert measure.e_aurc(confidence, correct, resampling=None).value == pytest.approx(0, abs=1e-15)
    assert measure.auroc(confidence, correct, resampling=None).value == 1
    assert measure.prr(np.full(5, 0.5), correct, resampling=None).value == pytest.approx(0)


@settings(max_examples=80, deadline=None)
@given(pairs)
def test_auroc_counts_the_pairs_in_the_right_order(data):
    confidence, correct = np.round(data[0], 1), data[1]
    if correct.all() or not correct.any():
        with pytest.raises(DataError, match="AUROC"):
            measure.auroc(confidence, correct, resampling=None)
        return
    difference = confidence[correct][:, None] - confidence[~correct]
    expected = ((difference > 0) + 0.5 * (difference == 0)).mean()
    assert measure.auroc(confidence, correct, resampling=None).value == pytest.approx(expected)


def test_the_noise_floor_of_one_bin_is_the_mean_deviation_of_a_binomial():
    # 25 answers at confidence 0.5: E|k - 12.5| / 25 = 2 * 13 * C(25, 13) / 2^26 / 25 (De Moivre's mean absolute deviation).
    from math import comb

    expected = 2 * 13 * comb(25, 13) / 2**26 / 25
    floor = measure.noise_floor(np.full(25, 0.5), 1, resampling=Resampling(n_resamples=20_000))
    assert floor.value == pytest.approx(expected, rel=0.03)
    assert floor.low < floor.value < floor.high


@pytest.mark.parametrize("n", [400, 3000])
def test_a_calibrated_model_shows_its_noise_floor(n):
    """Both where every answer is drawn and where near ones are drawn together."""
    errors = [measure.ece_equal_width(*drawn(n, seed), 15, resampling=None).value for seed in range(60)]
    floor = measure.noise_floor(drawn(n, 0)[0], 15)
    assert np.mean(errors) == pytest.approx(floor.value, rel=0.12)
    assert np.mean([floor.low <= error <= floor.high for error in errors]) >= 0.85


def test_a_measurement_names_estimator_bins_n_interval_and_floor():
    found = measure.ece_equal_width(*drawn(700, 1, power=2.0), 10)
    assert (found.name, found.bins, found.n) == ("ECE", 10, 700)
    assert found.estimator == "10 equal-width bins (lo, hi]"
    assert found.interval.low < found.value < found.interval.high
    assert found.noise_floor.high < found.value
    assert json.loads(json.dumps(found.to_dict()))["interval"]["level"] == 0.95


@pytest.mark.slow
def test_intervals_of_a_binned_error_cover_the_truth():
    """A model that is right with confidence**1.5: its true binned error is an integral over the beta(2, 1) density 2p."""
    edges = np.linspace(0, 1, 6)
    true = sum(abs(integrate.quad(lambda p: 2 * p * (p**1.5 - p), a, b)[0]) for a, b in itertools.pairwise(edges))
    inside = 0
    for seed in range(100):
        interval = measure.ece_equal_width(*drawn(600, seed, power=1.5), 5, resampling=Resampling(n_resamples=300)).interval
        inside += interval.low <= true <= interval.high
    assert inside >= 88  # 95 expected; 88 or fewer have probability 0.004


def test_clusters_widen_the_interval_of_repeated_answers():
    confidence, correct = drawn(60, 5, power=1.5)
    repeated = np.repeat(confidence, 9), np.repeat(correct, 9)
    alone = measure.ece_equal_width(*repeated, 5).interval
    clustered = measure.ece_equal_width(*repeated, 5, resampling=Resampling(clusters=np.repeat(np.arange(60), 9))).interval
    assert clustered.n == 60
    assert clustered.high - clustered.low > 2 * (alone.high - alone.low)


@pytest.mark.parametrize("figure", [measure.smece, measure.aurc, measure.e_aurc, measure.prr, measure.auroc, measure.brier_top_label])
def test_every_figure_carries_an_interval_that_holds_it(figure):
    found = figure(*drawn(900, 6, power=1.3), resampling=Resampling(n_resamples=100))
    assert found.interval.low <= found.value <= found.interval.high
    assert found.interval.low < found.interval.high


def test_distribution_scores_carry_intervals_by_cluster():
    rng = np.random.default_rng(2)
    probabilities = rng.dirichlet([1, 1, 1], 40)
    labels = np.array([rng.choice(3, p=row) for row in probabilities])
    how = Resampling(clusters=[f"document {i % 10}" for i in range(40)], n_resamples=200)
    for figure in (measure.nll, measure.brier_multiclass, measure.classwise_ece):
        found = figure(probabilities, labels, resampling=how)
        assert found.interval.n == 10
        assert found.interval.low <= found.value <= found.interval.high


def test_the_same_seed_gives_the_same_interval():
    data = drawn(800, 4)
    assert measure.ece_equal_mass(*data).interval == measure.ece_equal_mass(*data).interval
    assert measure.ece_equal_mass(*data).interval != measure.ece_equal_mass(*data, resampling=Resampling(seed=1)).interval


def test_rounding_just_above_one_is_one_and_more_is_refused():
    assert measure.ece_equal_width(np.array([1 + 1e-7]), np.array([1]), resampling=None).value == 0
    with pytest.raises(DataError, match="0 to 1"):
        measure.ece_equal_width(np.array([1.01]), np.array([1]))


@pytest.mark.parametrize(
    ("confidence", "correct"),
    [([], []), ([0.5], [1, 0]), ([np.nan], [1]), ([-0.1], [1]), ([0.5], [0.5]), ([[0.5]], [[1]])],
)
def test_pairs_that_are_no_answers_are_refused(confidence, correct):
    with pytest.raises(DataError):
        measure.ece_equal_width(np.array(confidence, dtype=float), np.array(correct, dtype=float))


def test_distributions_that_are_none_are_refused():
    with pytest.raises(DataError, match="softmax"):
        measure.nll(np.array([[2.0, -1.0]]), np.array([0]))
    with pytest.raises(DataError, match="Labels"):
        measure.nll(np.array([[0.5, 0.5]]), np.array([2]))
    with pytest.raises(DataError, match="infinite"):
        measure.nll(np.array([[1.0, 0.0]]), np.array([1]))


def test_settings_that_mean_nothing_are_refused():
    with pytest.raises(ConfigError, match="bins"):
        measure.ece_equal_width(CONFIDENCE, CORRECT, 0)
    with pytest.raises(ConfigError, match="equal mass"):
        measure.reliability_table(CONFIDENCE, CORRECT, 5, binning="mass")
    with pytest.raises(ConfigError, match="max_rejection"):
        measure.prr(CONFIDENCE, CORRECT, max_rejection=0)
    with pytest.raises(DataError, match="clusters"):
        measure.aurc(CONFIDENCE, CORRECT, resampling=Resampling(clusters=[1, 2]))
