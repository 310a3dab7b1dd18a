"""Contextual, batch and PMI calibration over twenty prompts: the mean, the worst and the spread of accuracy, and where they harm.

Writes docs/results/prompt_calibration.md. Trains a model of a million parameters on synthetic episodes (label_episodes.py): four to ten
minutes of one core. The two steps that people rely on are `choose_calibration` with some labels and `choose_without_labels` with the true
shares of the classes; the bounds are theirs.
"""

import datetime
import platform
import time
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import label_episodes as world
import numpy as np
import pytest

from touchstone.calibrate import Batch, Contextual, Pmi, choose_calibration, choose_without_labels
from touchstone.infer.language_model import LanguageModel
from touchstone.stats import bootstrap_statistic, paired_difference

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "prompt_calibration.md"
N_STEPS = 500
N_TEST, N_OTHER = 1000, 150  # questions measured on; other questions, to fit batch calibration on and to choose by
N_SHOTS = 4
MOST_LOST = 0.01  # of the mean, by a choice where nothing should be changed: N_OTHER labels tell accuracies apart by about 0.03
UNEVEN = ((0, 5), (5, 1), (3, 1), (2, 4))  # the popularity of the word of class 0 and of that of class 1: 0 the rarest, 5 the commonest
EVEN = ((0, 0), (2, 2), (3, 3), (5, 5))
METHODS = ("none", "contextual", "pmi", "batch")
CHOSEN = ("chosen by shares", "chosen by labels")

pytestmark = pytest.mark.prove


@dataclass(frozen=True)
class Prompt:
    """A template, two label words, and examples in an order; popular: the class whose word is commoner."""

    template: int
    words: tuple[int, int]
    examples: tuple[tuple[int, int], ...]  # items and their classes
    popular: int

    def context(self, item):
        """Token ids up to where the answer begins; item None: the tail of the prompt alone."""
        arrow, separator = world.FIRST_ARROW + self.template, world.FIRST_SEPARATOR + self.template
        if item is None:
            return [world.START, arrow]
        lines = [[shown, arrow, self.words[kind], separator] for shown, kind in self.examples]
        return [world.START, *(id for line in lines for id in line), item, arrow]


@dataclass(frozen=True)
class Setting:
    """Words of the prompts, and the share of questions whose right answer is the popular word."""

    name: str
    about: str
    words: str
    share: float


SETTINGS = (
    Setting("uneven words", "Label words of unequal popularity; the classes are even. What the methods are for.", "uneven", 0.5),
    Setting(
        "even words",
        "Label words of equal popularity; the classes are even. Nothing to correct but the order's and template's bias.",
        "even",
        0.5,
    ),
    Setting(
        "true skew", "Unequal words, and four of five questions do have the popular word as their answer: the bias is right.", "uneven", 0.8
    ),
    Setting("one class", "Unequal words, and the popular one is right 97 times of 100.", "uneven", 0.97),
)


@pytest.fixture(scope="module")
def trained():
    return world.train(N_STEPS)


@pytest.fixture(scope="module")
def scores(trained):
    """By the words' kind: the prompts, and log P of both answers for every item, for content-free ones, and for the tail alone."""
    model = LanguageModel(trained.net)
    return {kind: [(prompt, asked(model, prompt)) for prompt in prompts(pairs)] for kind, pairs in (("uneven", UNEVEN), ("even", EVEN))}


@pytest.fixture(scope="module")
def page(trained, request):
    """Rows by setting, written when all of them are there."""
    rows, began = {}, time.time()
    yield rows
    if len(rows) == len(SETTINGS):
        write_results(rows, trained, time.time() - began)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_what_is_chosen_helps_where_the_prompt_is_biased_and_costs_little_elsewhere(setting, scores, page):
    right, picked = measured(setting, scores[setting.words])
    changes = {name: change(right[name], right["none"]) for name in right}
    page[setting.name] = [row(name, right[name], changes[name], picked.get(name)) for name in right]
    for name in CHOSEN:
        mean, worst, spread, _ = changes[name]
        if setting.name == "uneven words":
            assert mean.low > 0
            assert worst.low > 0
            assert spread.high < 0
        assert mean.value > -MOST_LOST


def prompts(pairs):
    """Every template with every pair of words; the examples, two of each class, in an order of the prompt's own."""
    rng, found = np.random.default_rng(3), []
    reliable = [[item for item in np.argsort(-world.ITEM_RELIABILITY) if item % 2 == kind][:6] for kind in (0, 1)]
    for template in range(world.N_TEMPLATES):
        for first, second in pairs:
            shown = [
                (world.FIRST_ITEM + int(item), kind) for kind in (0, 1) for item in rng.choice(reliable[kind], N_SHOTS // 2, replace=False)
            ]
            examples = tuple(shown[place] for place in rng.permutation(N_SHOTS))
            words = (world.FIRST_WORD + 2 * first, world.FIRST_WORD + 2 * second + 1)
            found.append(Prompt(template, words, examples, int(second > first)))
    return found


def asked(model, prompt):
    """log P of both answers: of every item (64, 2), of content-free ones (3, 2), of the tail (2,)."""
    items = [*range(world.FIRST_ITEM, world.FIRST_WORD), *world.BLANKS, None]
    answers = [[word] for word in prompt.words]
    found = np.array([each.logprobs for each in model.choose([(prompt.context(item), answers) for item in items])])
    return found[: world.N_ITEMS], found[world.N_ITEMS : -1], found[-1]


def measured(setting, asked_of):
    """By method which questions each prompt gets right (N_TEST, prompts), and how often a chooser picked what."""
    right, picked = {name: [] for name in (*METHODS, *CHOSEN)}, {name: Counter() for name in CHOSEN}
    for number, (prompt, (of_items, free, tail)) in enumerate(asked_of):
        rng = np.random.default_rng(100 + number)
        classes = np.where(rng.random(N_TEST + N_OTHER) < setting.share, prompt.popular, 1 - prompt.popular)
        rows = of_items[world.items_for(classes, rng)]
        (test, truth), (other, labels) = (rows[:N_TEST], classes[:N_TEST]), (rows[N_TEST:], classes[N_TEST:])
        shares = np.array([1 - setting.share, setting.share])[:: 1 if prompt.popular else -1]
        chosen = {
            "chosen by shares": choose_without_labels(other, content_free=free, domain=tail, class_shares=shares),
            "chosen by labels": choose_calibration(
                other, labels, content_free=free, domain=tail, candidates=METHODS[1:], criterion="accuracy"
            ),
        }
        fitted = {"contextual": Contextual.fit(free), "pmi": Pmi.fit(tail), "batch": Batch.fit(other), **chosen}
        for name in right:
            applied = test if name == "none" else fitted[name].apply(test)
            right[name].append(applied.argmax(axis=1) == truth)
        for name, choice in chosen.items():
            picked[name][choice.choice] += 1
    return {name: np.array(each).T for name, each in right.items()}, picked


def change(right, plain):
    """Mean, worst and spread of the prompts' accuracies, less those without calibration: questions resampled together for all prompts.

    The last is the mean again, prompts resampled.
    """
    statistics = (lambda r: r.mean(), lambda r: r.mean(axis=0).min(), lambda r: r.mean(axis=0).std())
    over_questions = [bootstrap_statistic(lambda a, b, of=of: float(of(a) - of(b)), right, plain, n_resamples=1000) for of in statistics]
    return (*over_questions, paired_difference(right.mean(axis=0), plain.mean(axis=0)))


def row(name, right, found, picked):
    accuracies = right.mean(axis=0)
    mean, worst, spread, over_prompts = found
    verdict = "-" if name == "none" else "helps" if mean.low > 0 else "**harms**" if mean.high < 0 else "no difference shown"
    took = "" if picked is None else ": " + ", ".join(f"{what} {times}" for what, times in picked.most_common())
    figures = (accuracies.mean(), accuracies.min(), accuracies.std())
    differences = ("-",) * 4 if name == "none" else tuple(map(points, (mean, worst, spread, over_prompts)))
    return (name + took, *(f"{figure:.1%}" for figure in figures), *differences, verdict)


def points(interval):
    return f"{100 * interval.value:+.1f} [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"


def write_results(rows, trained, seconds):
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy"))
    head = ("method", "mean", "worst", "spread", "mean, change", "worst, change", "spread, change", "mean over prompts, change", "")
    parts = [
        f"""# Calibration of prompts: what it does over twenty of them

**Synthetic.** The texts, the labels and the model are made up for this page: they show what the methods do when a prompt's bias is there
and known, not how large it is in any real model.

Written by `pytest -m prove tests/prove/test_prompt_calibration.py`, a part of `make prove`, on {datetime.date.today().isoformat()}, in
{seconds / 60:.1f} minutes after the training: Python {platform.python_version()}, {versions}, {platform.system()} {platform.machine()}.

The model is a decoder of {trained.n_parameters:,} parameters, trained for {trained.n_steps} steps ({trained.n_episodes:,} episodes,
{trained.cpu_seconds / 60:.1f} minutes of one core, {trained.loss:.2f} nats a label at the end) on lines "item arrow label". Items have
one of two classes and tell it in {world.RELIABILITY[0]:.0%} to {world.RELIABILITY[1]:.0%} of cases; each class has six label words, the
commonest of which beats the rarest at 12 to 1, so the model has learned to expect common words. A prompt is a template (five), a pair of
label words (four) and {N_SHOTS} examples, two of each class, in an order of its own: twenty prompts. Each is asked {N_TEST:,} questions;
batch calibration is fitted on, and the choice is made by, {N_OTHER} others. Content-free inputs are three items without a class; the
domain of PMI is the arrow alone.

Accuracy over the prompts: mean, worst, and spread (standard deviation). Changes are in percentage points against no calibration, with 95 %
intervals: questions resampled together for all prompts, and in the last column prompts resampled. "Chosen by shares" is
`choose_without_labels` given the true shares of the classes, "chosen by labels" `choose_calibration` by the accuracy on {N_OTHER} labelled
questions; behind them, what was picked for how many prompts. Without labels and without shares the package calibrates nothing. A method
helps or harms where the interval of the change of the mean, questions resampled, lies on one side of zero."""
    ]
    parts += [f"## {setting.name.capitalize()}\n\n{setting.about}\n\n{table(head, rows[setting.name])}" for setting in SETTINGS]
    harmed = {setting.name: [line[0].partition(":")[0] for line in rows[setting.name] if line[-1] == "**harms**"] for setting in SETTINGS}
    told = "; ".join(f"{name}: {', '.join(methods)}" for name, methods in harmed.items() if methods) or "nowhere here"
    parts.append(
        f"""## Where the methods harm

{told[0].upper() + told[1:]}.

All three take the prior out of the answers; where the questions have that prior too, it was right, and the answers get worse. Batch
calibration also takes out the shares of the classes of its own batch. None of this can be seen without labels or known shares."""
    )
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def table(headers, rows):
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (headers, ["---"] * len(headers), *rows))
