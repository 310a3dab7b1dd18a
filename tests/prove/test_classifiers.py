"""Classifiers trained from scratch: accuracy, calibration before and after each method, and the promise of answering selectively.

Writes docs/results/classifiers.md. Trains twelve small models (classifiers.py), some ten minutes of one core in all. The dev file of each
data set is cut by a fixed seed in a half that calibrations are fitted on and a half that all is measured on.
"""

import datetime
import os
import platform
import time
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

import classifiers as world
import numpy as np
import pytest

from touchstone.calibrate import (
    Abstention,
    HistogramBinning,
    Isotonic,
    Platt,
    Temperature,
    VectorScaling,
    choose_calibration,
    choose_confidence,
)
from touchstone.calibrate.abstain import binomial_p_value
from touchstone.calibrate.arrays import softmax
from touchstone.calibrate.measure import brier_multiclass, brier_top_label, ece_equal_width, nll, reliability_table
from touchstone.report.plot import Reliability, reliability
from touchstone.report.words import words
from touchstone.runtime import environment
from touchstone.stats import bootstrap_mean

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "classifiers.md"
SEED = 12
N_HALVINGS, MAX_RISK, DELTA = 100, 0.05, 0.1
MOST_VIOLATIONS = N_HALVINGS * DELTA + 3 * (N_HALVINGS * DELTA * (1 - DELTA)) ** 0.5
METHODS = ("none", "temperature", "vector", "platt", "histogram", "isotonic")
CASES = [(data_set, kind) for data_set in world.DATA_SETS for kind in world.KINDS]

pytestmark = pytest.mark.prove


@dataclass(frozen=True)
class Promise:
    """What N_HALVINGS fits came to. error: share wrong where all is answered; n_silent: fits that found no threshold."""

    error: float
    n_violations: int
    n_significant: int
    n_silent: int
    coverage: float


@pytest.fixture(scope="module")
def keep(tmp_path_factory):
    """Where trained folders are, or go to."""
    named = os.environ.get("TOUCHSTONE_PROVE_CLASSIFIERS")
    folder = Path(named) if named else tmp_path_factory.mktemp("classifiers")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def answers(test_data, keep):
    """By data set and kind, what the classifier says of the dev file; trained when first asked for."""

    @cache
    def find(data_set, kind):
        return world.answers_of(test_data, data_set, kind, keep)

    return find


@pytest.fixture(scope="module")
def page(keep):
    """What is measured, by case and topic; of a part of the cases it is written beside the trained folders alone."""
    found, began = {}, time.time()
    yield found
    whole = len(found) == 2 * len(CASES)
    write_results(found, time.time() - began, RESULTS if whole else keep / RESULTS.name)


def case_name(value):
    return value if isinstance(value, str) else value.name


@pytest.mark.parametrize(("data_set", "kind"), CASES, ids=case_name)
def test_it_learns_and_a_temperature_never_raises_the_nll_it_is_fitted_on(data_set, kind, answers, page):
    found = answers(data_set, kind)
    measured = measure(found)
    page[data_set.name, kind, "calibration"] = found, measured
    fitted = measured["fits"]["temperature"]
    assert fitted.nll_after <= fitted.nll_before
    assert nll_of(fitted.apply(measured["fit_scores"]), measured["fit_labels"]) <= nll_of(measured["fit_scores"], measured["fit_labels"])
    assert measured["accuracy"].low > found.majority


@pytest.mark.parametrize(("data_set", "kind"), CASES, ids=case_name)
def test_the_promise_of_answering_selectively_holds(data_set, kind, answers, page):
    found = answers(data_set, kind)
    promise = promised(found.scores, found.labels)
    page[data_set.name, kind, "promise"] = promise
    assert promise.n_violations <= MOST_VIOLATIONS


def nll_of(scores, labels):
    return float(-np.log(softmax(scores)[np.arange(len(labels)), labels]).mean())


def halves(n, seed):
    """Row numbers of two halves, at random."""
    order = np.random.default_rng(seed).permutation(n)
    return order[: n // 2], order[n // 2 :]


def measure(found):
    """Fits on one half of the dev file and figures of the other, by method."""
    fit, test = halves(len(found.labels), SEED)
    z, y, z_test, y_test = found.scores[fit], found.labels[fit], found.scores[test], found.labels[test]
    sure, right = top(z, y)
    sure_test, right_test = top(z_test, y_test)
    fits = {"temperature": Temperature.fit(z, y), "vector": VectorScaling.fit(z, y)}
    rows = {"none": of_scores(z_test, y_test)}
    rows |= {name: of_scores(fitted.apply(z_test), y_test) for name, fitted in fits.items()}
    if z.shape[1] == 2:  # of both classes
        fits["platt"] = Platt.fit(z[:, 1] - z[:, 0], y == 1)
        second = fits["platt"].apply(z_test[:, 1] - z_test[:, 0])
        rows["platt"] = of_scores(np.log(np.stack([1 - second, second], axis=1)), y_test)
    for name, method in (("histogram", HistogramBinning), ("isotonic", Isotonic)):
        fits[name] = method.fit(sure, right)
        rows[name] = of_confidence(np.clip(fits[name].apply(sure_test), 0, 1), right_test)
    return {
        "fits": fits,
        "rows": rows,
        "fit_scores": z,
        "fit_labels": y,
        "accuracy": bootstrap_mean(right_test.astype(float)),
        "by scores": choose_calibration(z, y, candidates=("temperature", "vector")),
        "by confidence": choose_confidence(sure, right),
        "n": (len(fit), len(test)),
    }


def top(scores, labels):
    """Confidence in the likeliest class, and whether it is right."""
    probabilities = softmax(scores)
    return probabilities.max(axis=1), probabilities.argmax(axis=1) == labels


def of_scores(scores, labels):
    """ECE and top-label Brier of the answers, and the figures that need all classes."""
    probabilities = softmax(scores)
    figures = of_confidence(*top(scores, labels))
    return figures | {"brier": brier_multiclass(probabilities, labels), "nll": nll(probabilities, labels)}


def of_confidence(sure, right):
    return {"ece": ece_equal_width(sure, right), "top brier": brier_top_label(sure, right)}


def promised(scores, labels):
    """Thresholds fitted on one half of the dev file and checked on the other, N_HALVINGS times."""
    sure, right = top(scores, labels)
    n_violations, n_significant, n_silent, coverages = 0, 0, 0, []
    for seed in range(N_HALVINGS):
        fit, other = halves(len(sure), 1000 + seed)
        record = Abstention.fit(sure[fit], right[fit], max_risk=MAX_RISK, delta=DELTA)
        given = record.apply(sure[other])
        n, n_wrong = int(given.sum()), int((given & ~right[other]).sum())
        coverages.append(n / len(other))
        n_silent += record.threshold is None
        if n and n_wrong / n > MAX_RISK:
            n_violations += 1
            n_significant += upper_p_value(n_wrong, n) <= 0.05
    return Promise(float(1 - right.mean()), n_violations, n_significant, n_silent, float(np.mean(coverages)))


def upper_p_value(n_wrong, n):
    """P(at least n_wrong of n | risk MAX_RISK): small where the risk is above."""
    return 1.0 - binomial_p_value(n_wrong - 1, n, MAX_RISK) if n_wrong else 1.0


def write_results(found, seconds, place):
    """The page, and beside it the picture; a page of a part of the cases says which are not there."""
    names = [(data_set.name, kind) for data_set, kind in CASES]
    cases = {case: found[*case, "calibration"] for case in names if (*case, "calibration") in found and (*case, "promise") in found}
    if not cases:
        return
    missing = ", ".join(f"{titles()[name]} {kind}" for name, kind in names if (name, kind) not in cases)
    partial = f"\n**A part alone.** Not run for this page: {missing}.\n" if missing else ""
    machine = environment()
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "tokenizers"))
    cpu_seconds = sum(answers.trained["cpu_seconds"] for answers, _ in cases.values())
    settings = "; ".join(f"{data_set.title} `{' '.join(data_set.settings)}`" for data_set in world.DATA_SETS)
    parts = [
        f"""# Classifiers from scratch: accuracy, calibration, and answering selectively
{partial}
Written by `pytest -m prove tests/prove/test_classifiers.py`, a part of `make prove`, on {datetime.date.today().isoformat()}, in
{seconds / 60:.1f} minutes, trainings that were not kept from before included: Python {platform.python_version()}, {versions},
{platform.system()} {platform.machine()}, {machine["cpu"]}, {machine["available_cores"]} cores, {machine["n_threads"]} thread used.

{len(cases)} models of {len(CASES)}, trained by `touchstone train classify-bow`, `classify-lstm` and `classify-transformer` from no
pretrained weights, in about {cpu_seconds / 60:.0f} minutes of CPU time together. One thing is changed in the recipes, what is read of a
text at most: {settings}. No
setting was searched. A tenth of each train file stops the training (early stopping); the dev file is the test side, is not trained
on, and is cut by a fixed seed in a half to fit calibrations on and a half that every figure below is of. There is one training of each
model: how much figures change with another seed is not measured. Intervals are 95 %, rows resampled.""",
        accuracy_part(cases),
        calibration_part(cases),
        choice_part(cases),
        promise_part({case: found[*case, "promise"] for case in cases}),
    ]
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    draw_picture(cases, place.with_suffix(".png"))


def accuracy_part(cases):
    head = ("data", "model", "rows trained on", "CPU s", "rows measured", "cut texts of dev", "commonest class", "accuracy")
    rows = [
        (
            titles()[name],
            kind,
            f"{answers.trained['n_train']:,}",
            f"{answers.trained['cpu_seconds']:.0f}",
            measured["n"][1],
            f"{answers.n_cut / len(answers.labels):.0%}",
            f"{answers.majority:.1%}",
            percent(measured["accuracy"]),
        )
        for (name, kind), (answers, measured) in cases.items()
    ]
    return f"""## Accuracy

Commonest class: of the train file, always answered, over the whole dev file. Cut: training cuts long texts for every model; answering
does so for the transformer alone, whose positions end there.

{table(head, rows)}"""


def calibration_part(cases):
    head = ("data", "model", "method", "ECE", "noise floor", "under twice the floor", "Brier, top label", "Brier, all classes", "NLL")
    rows, holds = [], {method: [] for method in METHODS}
    for (name, kind), (_, measured) in cases.items():
        for method, figures in measured["rows"].items():
            ece, floor = figures["ece"], figures["ece"].noise_floor
            below = ece.value < 2 * floor.value
            holds[method].append(below)
            rest = [f"{figures[key].value:.3f} {bounds(figures[key].interval)}" if key in figures else "-" for key in ("brier", "nll")]
            row = (
                titles()[name],
                kind,
                method,
                f"{ece.value:.3f} {bounds(ece.interval)}",
                f"{floor.value:.3f}",
                "yes" if below else "**no**",
            )
            rows.append((*row, f"{figures['top brier'].value:.3f} {bounds(figures['top brier'].interval)}", *rest))
    floors = [2 * figures["ece"].noise_floor.value for _, measured in cases.values() for figures in measured["rows"].values()]
    told = ", ".join(f"{method} {sum(each)} of {len(each)}" for method, each in holds.items() if each)
    fallen = "ECE lower than without: " + ", ".join(f"{method} {fell(cases, method)}" for method in METHODS[1:]) + "."
    return f"""## Calibration

ECE: 15 bins of equal width, of the likeliest class. Noise floor: the mean ECE that an exactly calibrated model with the same confidences
shows at this number of rows. The aim is an ECE under twice its floor. It holds for:
{told}.

How much that says: without any calibration it holds for {sum(holds["none"])} of {len(holds["none"])}; where that is most of them, the aim
tells little apart. With this many rows twice the floor lies between {min(floors):.3f} and {max(floors):.3f}, which is no strict bound.
{fallen}

An ECE under its floor is no better than one at it. The intervals of the ECE are reflected around the estimate, since
resampling adds noise of its own to a binned error. Where confidences take few values, as after histogram and isotonic, the floor is
another. Platt is a logistic regression on the difference of the two logits, for two classes alone. Histogram and isotonic calibrate the
confidence in the likeliest class and give no distribution, so there is no NLL and no Brier score of all classes.

![Reliability before and after a temperature](classifiers.png)

The picture: the classifier with the largest ECE before, on the measured half; bins of fewer than five rows are left out.

{table(head, rows)}"""


def fell(cases, method):
    """In how many cases the estimate of the ECE is lower with a method than without, of those that have it."""
    pairs = [(m["rows"][method]["ece"].value, m["rows"]["none"]["ece"].value) for _, m in cases.values() if method in m["rows"]]
    return f"{sum(with_it < without for with_it, without in pairs)} of {len(pairs)}"


def choice_part(cases):
    head = ("data", "model", "T", "choose_calibration", "why", "its NLL, held out (none)", "choose_confidence", "why")
    rows = []
    for (name, kind), (_, measured) in cases.items():
        scores, confidence = measured["by scores"], measured["by confidence"]
        losses = {each.name: each.measured["nll"].value for each in scores.table}
        gained = f"{losses[scores.choice]:.3f} ({losses['none']:.3f})"
        temperature = f"{measured['fits']['temperature'].temperature:.2f}"
        rows.append((titles()[name], kind, temperature, scores.choice, scores.reason, gained, confidence.choice, confidence.reason))
    return f"""## What the choosers pick

By five-fold cross-validation on the half to fit on alone. `choose_calibration` (none, temperature, vector) goes by NLL,
`choose_confidence` (none, platt on the confidence, histogram, isotonic) by the Brier score of the likeliest class. Of the candidates within
one standard error of the best, paired, the least flexible is taken. T above 1 softens.

{table(head, rows)}"""


def promise_part(found):
    head = (
        "data",
        "model",
        "error rate, answering all",
        "other half above 5 %",
        "of these significant",
        "abstained wholly",
        "coverage, mean",
        "bound holds",
    )
    rows = []
    for (name, kind), promise in found.items():
        holds = "yes" if promise.n_violations <= MOST_VIOLATIONS else "**no**"
        told = (promise.n_violations, promise.n_significant, promise.n_silent, f"{promise.coverage:.1%}", holds)
        rows.append((titles()[name], kind, f"{promise.error:.1%}", *told))
    return f"""## "Of what I answer at most 5 % is wrong", with 90 % confidence

The dev file is halved at random {N_HALVINGS} times; `Abstention.fit(max_risk=0.05, delta=0.1)` finds a threshold on one half from raw
confidences, and the other half is answered by it. The bound is 10 + 3 sigma = {MOST_VIOLATIONS:.0f} violations of {N_HALVINGS}.

What is counted is not quite what is promised. The promise is of the true risk, which nobody knows; the other half's error rate is an
estimate of it with an error of its own, so a threshold of a true risk just under 5 % is counted now and then, and one just above is
missed. "Of these significant": those where the exact binomial test (one-sided, 5 %) rejects a risk of 5 % or less. Halves of one file
are also not independent: a half with few errors leaves many for the other, and the {N_HALVINGS} halvings share all their rows, so the
sigma of independent draws is a yardstick, not the spread of this count. Where all answers are withheld the promise is kept by
silence; the column says how often. The promise is over all fits, the silent ones included: among the few that do answer, where most are
silent, violations can be a larger share than 10 %.

{table(head, rows)}"""


def draw_picture(cases, place):
    """Reliability of the classifier that was worst before, before and after a temperature."""
    (name, kind), (answers, measured) = max(cases.items(), key=lambda case: case[1][1]["rows"]["none"]["ece"].value)
    _, test = halves(len(answers.labels), SEED)
    labels = answers.labels[test]
    curves = {}
    for how, scores in (("before", answers.scores[test]), ("after", measured["fits"]["temperature"].apply(answers.scores[test]))):
        filled = [each for each in reliability_table(*top(scores, labels)) if each.n >= 5]
        columns = ([each.confidence for each in filled], [each.accuracy for each in filled], [each.n for each in filled])
        curves[f"{titles()[name]} {kind}, {how}"] = Reliability(*columns)
    place.write_bytes(reliability(curves, words("en")).png_bytes(dots_per_inch=90))


def titles():
    return {data_set.name: data_set.title for data_set in world.DATA_SETS}


def percent(interval):
    return f"{interval.value:.1%} [{interval.low:.1%}, {interval.high:.1%}]"


def bounds(interval):
    return f"[{interval.low:.3f}, {interval.high:.3f}]"


def table(headers, rows):
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (headers, ["---"] * len(headers), *rows))
