"""What the room refuses: every public function and class says which argument is wrong, with an error of ours, whatever it is given."""

import dataclasses
import inspect
from functools import partial

import numpy as np
import pytest

import touchstone.calibrate as room
from touchstone.calibrate.drift import N_BINS
from touchstone.config import Config
from touchstone.errors import TouchstoneError

NAN, INF = np.nan, np.inf
SURE = np.array([0.9, 0.6, 0.8, 0.3, 0.7])
RIGHT = np.array([True, False, True, False, True])
PROBS = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.2, 0.2, 0.6], [0.5, 0.3, 0.2], [0.3, 0.4, 0.3]])
LOGITS = np.log(PROBS)
LABELS = np.array([0, 1, 2, 1, 0])
TOKENS = np.array([[-0.5, -1.0], [-0.2, -0.1], [-2.0, -0.3]])
HELD = np.array([[True, True], [True, False], [True, True]])
IDS = np.array([[1, 1], [1, 2], [3, 3]])
FEW = room.Resampling(n_resamples=200)
LADDER = room.standard_thresholds(0.3)

NO_NUMBERS = ("x", None, ["a", "b", "c", "d", "e"], [[1.0], [1.0, 2.0]])
ROWS = (*NO_NUMBERS, 0.5, [], SURE[None], SURE[:3], SURE * NAN, SURE / 0.0001 * INF)  # of one number an item, finite
CONFIDENCES = (*ROWS, SURE + 1, SURE - 1)
ANSWERS = (*NO_NUMBERS, True, [], RIGHT[:3], SURE, RIGHT * NAN, RIGHT * 2)
TABLES = (*NO_NUMBERS, 0.5, [], SURE, LOGITS[:0], LOGITS * NAN, LOGITS * -INF)  # rows of scores
DISTRIBUTIONS = (*TABLES, PROBS * 2, PROBS - 0.5, LOGITS)
CLASSES = (*NO_NUMBERS, 1, [], LABELS[:3], LABELS + 3, LABELS - 3, LABELS * 1.0)
COUNTS = (0, -1, 1.5, "x", None, True, NAN)
SEEDS = (-1, 1.5, "x", None)
SHARES = (0, 1, -1, 2, NAN, "x", None)
RECORDS = (None, "x", [1], {}, {"method": None}, {"method": ["a"]}, {"method": "none such"})

MEASURES = (room.ece_equal_width, room.ece_equal_mass, room.mce, room.smece, room.aurc, room.e_aurc, room.prr, room.auroc)
MEASURES = (*MEASURES, room.brier_top_label)
SCORED = {"confidence": (SURE, CONFIDENCES), "correct": (RIGHT, ANSWERS)}
LABELLED = {"probabilities": (PROBS, DISTRIBUTIONS), "labels": (LABELS, CLASSES)}
FITTED = {"logits": (LOGITS, (*TABLES, LOGITS * INF)), "labels": (LABELS, CLASSES)}
BINNED = {"bins": (3, COUNTS), "binning": ("equal mass", ("x", None))}
SETS = {**LABELLED, "alpha": (0.2, SHARES)}
PLATT_SCORES = {"scores": (SURE, ROWS), "correct": (RIGHT, ANSWERS)}
COUNTED = {"counts": (HELD, ("x", None, True, [], HELD[:2], HELD * 1))}
CHANCE = {"chance": (SURE, (*NO_NUMBERS, 0.5, [], SURE[:3], SURE + 1, SURE * NAN))}
SAMPLES = {"sample_logprobs": (TOKENS, ("x", 0.5, [], TOKENS[0], -TOKENS, TOKENS * NAN, TOKENS * INF))}
CHOSEN = {"n_folds": (2, (*COUNTS, 1, 9)), "seed": (0, SEEDS)}
CLOSED = {"content_free": (LOGITS[:2], ("x", 0.5, [], LOGITS[:, :2], LOGITS * NAN)), "domain": (LOGITS[0], ("x", 0.5, [], SURE, [NAN] * 3))}
LAST = {"logits": (LOGITS, ("x", None, 0.5, LOGITS[:, :2], LOGITS[:, :1], np.zeros((4, 5)), LOGITS * NAN, -LOGITS * INF))}
GIVEN = {"logprobs": (LOGITS, (*LAST["logits"][1],))}
FREE_OF_SHAPE = ("x", None, [NAN], [INF], [[0.5], [0.5, 0.5]])

TABLE = [
    *((measure, SCORED) for measure in MEASURES),
    (room.ece_equal_width, {**SCORED, "bins": (3, COUNTS)}),
    (room.ece_equal_mass, {**SCORED, "bins": (3, COUNTS)}),
    (room.mce, {**SCORED, **BINNED}),
    (room.prr, {**SCORED, "max_rejection": (0.5, (0, 2, NAN, "x", None))}),
    (room.noise_floor, {"confidence": (SURE, tuple(x for x in CONFIDENCES if x is not ROWS[7])), **BINNED}),
    (room.reliability_table, {**SCORED, **BINNED, "level": (0.9, SHARES)}),
    (room.classwise_ece, {**LABELLED, "bins": (3, COUNTS)}),
    (room.brier_multiclass, LABELLED),
    (room.nll, LABELLED),
    (room.Resampling, {"level": (0.9, SHARES), "n_resamples": (9, COUNTS), "seed": (0, SEEDS)}),
    (room.temperature_loss, {**FITTED, "temperature": (2.0, (0, -1, NAN, INF, "x", None))}),
    (room.Temperature.fit, FITTED),
    (room.VectorScaling.fit, {**FITTED, "l2": (1e-2, (0, -1, NAN, INF, "x", None))}),
    (room.Platt.fit, PLATT_SCORES),
    (room.Isotonic.fit, PLATT_SCORES),
    (room.HistogramBinning.fit, {**SCORED, **BINNED}),
    (room.Temperature.fit(LOGITS, LABELS).apply, {"logits": (LOGITS, ("x", None, 0.5, LOGITS * NAN, -LOGITS * INF))}),
    (room.VectorScaling.fit(LOGITS, LABELS).apply, LAST),
    (room.Platt.fit(SURE, RIGHT).apply, {"scores": (SURE, FREE_OF_SHAPE)}),
    (room.Isotonic.fit(SURE, RIGHT).apply, {"scores": (SURE, FREE_OF_SHAPE)}),
    (room.HistogramBinning.fit(SURE, RIGHT).apply, {"confidence": (SURE, (*FREE_OF_SHAPE, [2.0], [-0.5]))}),
    (room.calibration_from_dict, {"record": (room.Platt.fit(SURE, RIGHT).to_dict(), RECORDS)}),
    (room.prior_from_dict, {"record": (room.Pmi.fit(LOGITS[0]).to_dict(), RECORDS)}),
    (room.conformal_from_dict, {"record": (room.LAC.fit(PROBS, LABELS, 0.2).to_dict(), RECORDS)}),
    (room.Abstention.from_dict, {"record": (room.Abstention.fit(SURE, RIGHT, max_risk=0.3).to_dict(), RECORDS)}),
    (room.standard_thresholds, {"max_risk": (0.3, SHARES)}),
    (room.share_thresholds, {"scores": (SURE, tuple(x for x in ROWS if x is not ROWS[7])), "n": (8, (*COUNTS, 7))}),
    (room.Ladder, {"thresholds": (LADDER.thresholds, ("x", (), (1, 2), (NAN,))), "shares": (LADDER.shares, ("x", (), (0.5,), (2,)))}),
    (room.Abstention.fit, {**SCORED, "max_risk": (0.3, SHARES), "delta": (0.1, SHARES), "level": (0.9, SHARES)}),
    (partial(room.Abstention.fit, SURE, RIGHT, max_risk=0.3), {"test": ("clopper-pearson", ("x", None)), "ladder": (LADDER, (5, "x"))}),
    (room.Abstention.fit(SURE, RIGHT, max_risk=0.3).apply, {"confidence": (SURE, (*FREE_OF_SHAPE, [2.0], [-0.5]))}),
    (room.binomial_p_value, {"n_wrong": (1, (-1, 9, NAN, "x", None)), "n": (5, (-1, 1.5, "x", None)), "max_risk": (0.3, SHARES)}),
    (room.hoeffding_bentkus_p_value, {"loss": (1, (-1, 9, NAN, "x")), "n": (5, (-1, 1.5, "x", None)), "max_risk": (0.3, SHARES)}),
    (room.coverage_law, {"n": (5, (-1, 1.5, "x", None)), "alpha": (0.2, SHARES)}),
    (room.CoverageLaw, {"a": (1, COUNTS), "b": (1, (-1, 1.5, "x"))}),
    (room.LAC.fit, SETS),
    (room.APS.fit, {**SETS, "chance": (SURE, tuple(x for x in CHANCE["chance"][1] if x is not None))}),
    (room.RAPS.fit, {**SETS, "penalty": (0.1, (-1, NAN, "x", None)), "k_reg": (1, (-1, 1.5, "x", None))}),
    (room.LAC.fit(PROBS, LABELS, 0.2).apply, {"probabilities": (PROBS, DISTRIBUTIONS)}),
    (room.APS.fit(PROBS, LABELS, 0.2, chance=SURE).apply, {"probabilities": (PROBS, DISTRIBUTIONS), **CHANCE}),
    (room.set_quality, {"sets": (PROBS > 0.3, ("x", None, True, [], PROBS)), "labels": (LABELS, CLASSES), "level": (0.9, SHARES)}),
    (room.confidence_counts, {"confidences": (SURE, ("x", None, 0.5, SURE[None], [NAN], [2.0]))}),
    (room.DriftCheck, {"fitted": ([1] * N_BINS, ("x", None, 5, [], [1], [0] * N_BINS, [-1] * N_BINS, [NAN] * N_BINS, [1.5] * N_BINS))}),
    (partial(room.DriftCheck, [1] * N_BINS), {"false_alarm_rate": (0.1, SHARES), "seed": (0, SEEDS)}),
    (room.DriftCheck([1] * N_BINS).observe, {"confidences": (SURE, ("x", None, 0.5, SURE[None], [NAN], [2.0]))}),
    (room.Contextual.fit, {"content_free": (LOGITS, ("x", None, 0.5, [], LOGITS[:0], LOGITS * NAN, LOGITS * -INF))}),
    (room.Batch.fit, {"logprobs": (LOGITS, ("x", None, 0.5, [], LOGITS[:0], LOGITS * NAN))}),
    (room.Batch.fit_labelled, {"logprobs": (LOGITS, ("x", None, 0.5, [], LOGITS * NAN)), "labels": (LABELS, CLASSES)}),
    (room.Pmi.fit, {"domain": (LOGITS[0], ("x", None, 0.5, [], LOGITS, LOGITS[0] * NAN))}),
    *((kind.fit(LOGITS).apply, GIVEN) for kind in (room.Contextual, room.Batch)),
    (room.Pmi.fit(LOGITS[0]).apply, GIVEN),
    (room.first_token_scores, {"probabilities": (PROBS, ("x", PROBS[:, 0], LOGITS)), "content_free": (PROBS, ("x", LOGITS, [[1.0]]))}),
    (room.sequence_logprob, {"token_logprobs": (TOKENS, ("x", [], -TOKENS, TOKENS * NAN)), **COUNTED}),
    (room.length_normalised, {"token_logprobs": (TOKENS, ("x", [], -TOKENS, TOKENS * NAN)), **COUNTED}),
    (room.mean_token_entropy, {"token_entropies": (-TOKENS, ("x", [], TOKENS, TOKENS * NAN)), **COUNTED}),
    (room.predictive_entropy, SAMPLES),
    (room.self_consistency, {"clusters": (IDS, ("x", None, 1, [], IDS[0], IDS * 1.0)), "answer": (IDS[:, 0], ("x", 1, [], IDS, [0.5]))}),
    (room.discrete_semantic_entropy, {"clusters": (IDS, ("x", None, 1, [], IDS[0], IDS * 1.0, [[1], [1, 2]]))}),
    (room.semantic_entropy, {**SAMPLES, "clusters": (IDS, ("x", None, 1, [], IDS[0], IDS[:2], IDS * 1.0))}),
    (room.p_true, {"true_logprob": (SURE, ROWS), "false_logprob": (SURE, ROWS)}),
    (partial(room.compare_scores, correct=RIGHT), {"scores": ({"a": SURE}, ({"a": 1}, {"a": SURE[:2]}, SURE)), "lengths": (SURE, ROWS)}),
    (partial(room.compare_scores, {"a": SURE}, lengths=SURE), {"correct": (RIGHT, ANSWERS)}),
    (room.choose_calibration, {"scores": (LOGITS, TABLES), "labels": (LABELS, CLASSES), **CLOSED, "criterion": ("nll", ("x",)), **CHOSEN}),
    (room.choose_confidence, {**SCORED, **CHOSEN}),
    (room.choose_without_labels, {"class_shares": ([0.2, 0.3, 0.5], ("x", 1, [], [1, 1, 1], [-1, 1, 1], [NAN] * 3)), "seed": (0, SEEDS)}),
]  # fmt: skip

HELD_ALREADY = {room.choose_without_labels: partial(room.choose_without_labels, LOGITS)}
CASES = [(call, name, valid) for call, valid in TABLE for name in valid]


@pytest.mark.parametrize(
    ("call", "name", "given"),
    CASES,
    ids=[f"{getattr(call, '__qualname__', 'partial')}-{name}-{i}" for i, (call, name, _) in enumerate(CASES)],
)
def test_a_bad_argument_is_refused_by_name(call, name, given):
    arguments = {other: value for other, (value, _) in given.items()}
    words = (name, "method", "calibration") if name == "record" else (name,)
    for bad in given[name][1]:
        with pytest.raises(TouchstoneError) as refused:
            HELD_ALREADY.get(call, call)(**(arguments | {name: bad}))
        assert any(word.rstrip("s") in str(refused.value).lower() for word in words), (bad, refused.value)


@pytest.mark.slow
@pytest.mark.parametrize(("call", "given"), TABLE, ids=[str(i) for i in range(len(TABLE))])
def test_the_same_arguments_are_taken_where_none_is_bad(call, given):
    call = HELD_ALREADY.get(call, call)
    few = {"resampling": FEW} if "resampling" in inspect.signature(call).parameters else {}
    call(**{name: value for name, (value, _) in given.items()}, **few)


def test_the_table_holds_every_public_name_that_takes_arguments():
    tried = {getattr(call, "__name__", "") for call, _ in TABLE} | {
        part for call, _ in TABLE for part in getattr(call, "__qualname__", "").split(".")
    }
    tried |= {type(call.__self__).__name__ for call, _ in TABLE if hasattr(call, "__self__")} | {
        "LENGTH",
        "ConformalSets",
        "DriftCheck",
        "compare_scores",
    }
    results = {name for name in room.__all__ if dataclasses.is_dataclass(getattr(room, name)) or issubclass_of_config(getattr(room, name))}
    assert set(room.__all__) - tried - results == set()


def issubclass_of_config(kind):
    return isinstance(kind, type) and issubclass(kind, Config)


@pytest.mark.parametrize("measure", MEASURES[:6])
def test_one_row_has_a_value_and_no_interval_at_all(measure):
    interval = measure(SURE[:1], RIGHT[:1], resampling=FEW).interval
    assert np.isnan(interval.low)
    assert np.isnan(interval.high)
    assert str(interval).endswith("[n = 1: no interval]")


@pytest.mark.slow
@pytest.mark.parametrize("measure", [each for each in MEASURES if each is not room.prr])
@pytest.mark.parametrize("n", [2, 3, 5])
def test_the_interval_of_a_share_of_few_rows_stays_in_0_to_1(measure, n):
    interval = measure(np.array([0.7, 0.8, 0.2, 0.9, 0.4])[:n], RIGHT[:n], resampling=FEW).interval
    assert 0 <= interval.low <= interval.value <= interval.high <= 1


def test_an_answer_that_cannot_be_given_stays_impossible_when_classes_are_scaled():
    fitted = room.VectorScaling(weights=(1.0, 0.0, -2.0), biases=(0.0, 1.0, 2.0), l2=0.1, n=5, nll_before=1.0, nll_after=1.0)
    np.testing.assert_array_equal(fitted.apply(np.array([[1.0, -INF, -INF]])), [[1.0, -INF, -INF]])


def test_scores_that_are_no_probabilities_are_answered_by_a_ladder_of_their_own():
    scores = np.linspace(-9, 9, 400)
    rule = room.Abstention.fit(scores, scores > -8, max_risk=0.2, ladder=room.share_thresholds(scores))
    np.testing.assert_array_equal(rule.apply(scores), scores >= rule.threshold)
