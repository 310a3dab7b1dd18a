"""A model watches the confidences of its calibrated answers, and warns once where they are no more like those of the fit."""

import warnings

import numpy as np
import pytest
import torch

from touchstone.calibrate.drift import N_BINS, confidence_counts
from touchstone.infer.calibration import labels_hash
from touchstone.infer.language_model import LanguageModel
from touchstone.infer.watch import Watch
from touchstone.models import build, decoder_spec
from touchstone.models.card import Calibration, Card

ANSWERS = [[4], [5, 6], [7]]
V = 11


def record_of(model, confidences, **changed):
    return Calibration(
        target="answer-set",
        task="mood",
        labels_hash=labels_hash([str(tuple(answer)) for answer in ANSWERS]),
        method="temperature",
        params={"temperature": 1.5, "n": 10, "nll_before": 1.0, "nll_after": 0.9},
        statistic={},
        weights_hash=model.weights_hash,
        numeric_scheme=model.numeric_scheme,
        n=10,
        date="2026-01-01",
        confidences=confidences,
    ).replace(**changed)


@pytest.fixture(scope="module")
def net():
    net = build(decoder_spec(vocab_size=V, d_model=12, n_layers=2, n_heads=2, max_seq_len=16), seed=4).eval()
    with torch.no_grad():
        net.embed.weight.mul_(20.0)
    return net


def asked(n, seed):
    rng = np.random.default_rng(seed)
    return [(rng.integers(V, size=4).tolist(), ANSWERS) for _ in range(n)]


def best(found):
    return np.array([max(each.confidence.value) for each in found])


def fitted(net):
    plain = LanguageModel(net)
    model = LanguageModel(net, card=Card(calibration=(record_of(plain, None),)))
    return confidence_counts(best(model.choose(asked(80, 0), task="mood")))


def test_answers_like_those_of_the_fit_are_counted_and_raise_nothing(net):
    model = LanguageModel(net, card=Card(calibration=(record_of(LanguageModel(net), fitted(net)),)))
    assert model.drift == {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = model.choose(asked(80, 1), task="mood")
        model.choose(asked(3, 2))  # without the task nothing is calibrated, so nothing is watched
    [(name, check)] = model.drift.items()
    assert (name, check.n, check.alarm) == ("answer-set mood", len(found), None)
    told = check.to_dict()
    assert (told["n_fitted"], told["n_live"], told["alarm_at"]) == (80, 80, None)


def test_other_answers_raise_one_warning(net):
    model = LanguageModel(net, card=Card(calibration=(record_of(LanguageModel(net), fitted(net)),)))
    one = [([3, 3, 3, 3], ANSWERS)]
    with pytest.warns(UserWarning, match=r"`answer-set mood` have drifted .* after \d+ answers") as seen:
        model.choose(one * 180, task="mood")
    model.choose(one * 20, task="mood")
    assert len(seen) == 1
    assert model.drift["answer-set mood"].alarm is not None
    assert model.drift["answer-set mood"].n == 200


@pytest.mark.parametrize("kept", [None, (1, 2, 3), (0,) * N_BINS], ids=["none", "other bins", "too few"])
def test_a_record_without_usable_confidences_still_calibrates_and_is_not_watched(net, kept):
    model = LanguageModel(net, card=Card(calibration=(record_of(LanguageModel(net), kept),)))
    assert model.choose(asked(1, 0), task="mood")[0].confidence is not None
    assert model.drift == {}


def test_a_record_from_before_the_field_was_there_reads_as_one_without():
    old = record_of(LanguageModel(build(decoder_spec(vocab_size=V, d_model=4, n_layers=1, n_heads=1, max_seq_len=4))), None)
    plain = old.model_dump(mode="json", exclude_none=True)
    assert "confidences" not in plain
    assert Calibration.model_validate_json(old.model_dump_json(exclude={"confidences"})) == old


def test_a_newer_record_begins_anew(net):
    watch, model, counts = Watch(), LanguageModel(net), confidence_counts(np.linspace(0.1, 0.9, 50))
    watch.observe(record_of(model, counts), [0.5, 0.6])
    watch.observe(record_of(model, counts, task="other"), [0.5])
    assert {name: check.n for name, check in watch.checks.items()} == {"answer-set mood": 2, "answer-set other": 1}
    watch.observe(record_of(model, counts, date="2026-02-02"), [0.5])
    assert watch.checks["answer-set mood"].n == 1
