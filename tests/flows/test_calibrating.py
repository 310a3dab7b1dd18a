"""`calibrate` fits on one half, measures on the other, keeps what helps, and every later answer carries it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from touchstone import load, save
from touchstone.errors import ConfigError, DataError, Unsupported
from touchstone.flows.calibrating import CalibrationRequest, calibrate_model, fit_classes
from touchstone.infer.language_model import LanguageModel
from touchstone.models import ClassifyHead, build, encoder_spec
from touchstone.models.card import Card
from touchstone.report.terminal import Terminal
from touchstone.text.labelled import read_labelled
from touchstone.text.tokenizer import Tokenizer

pytestmark = pytest.mark.slow

WORDS = ("good", "bad", "fine", "poor", "film", "plot", "cast", "song", "the", "a")
LABELS = ("no", "yes")


@pytest.fixture(scope="module")
def words_of_films():
    texts = [" ".join(np.random.default_rng(n).choice(WORDS, 8)) for n in range(200)]
    return Tokenizer.train(texts, vocab_size=280)


@pytest.fixture
def classifier(words_of_films, tmp_path):
    """A classifier whose scores are five times too large."""
    spec = encoder_spec(
        vocab_size=words_of_films.vocab_size, d_model=16, n_layers=1, n_heads=2, max_seq_len=64, head=ClassifyHead(n_labels=2)
    )
    net = build(spec, seed=3).eval()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.startswith("lm_head") or name.startswith("head"):
                parameter.mul_(60.0)
    save(LanguageModel(net, tokenizer=words_of_films, card=Card(labels=LABELS)), tmp_path / "m")
    return tmp_path / "m"


def rows_of(folder, path, n=400, share=0.75):
    """Rows whose label is what the model says with probability `share`, so it is right that often whatever it believes."""
    rng = np.random.default_rng(1)
    texts = [" ".join(rng.choice(WORDS, 6)) for _ in range(n)]
    said = [found.label for found in load(folder).classify(texts)]
    rows = [(text, label if rng.random() < share else LABELS[label == "no"]) for text, label in zip(texts, said, strict=True)]
    path.write_text("\n".join(json.dumps({"text": text, "label": label}) for text, label in rows), encoding="utf-8")
    return texts


def test_a_classifiers_confidence_becomes_its_accuracy_and_stays_with_it(classifier, tmp_path):
    texts = rows_of(classifier, tmp_path / "rows.jsonl")
    assert load(classifier).classify(texts[:1])[0].confidence is None
    told = calibrate_model(CalibrationRequest(classifier, (tmp_path / "rows.jsonl",), task="films"), Terminal("en", json=True))
    assert told["stored"]
    assert told["ece_after"]["value"] < told["ece_before"]["value"]
    found = load(classifier).classify(texts)
    confidences = np.array([each.confidence.value[0] for each in found])
    assert confidences.mean() == pytest.approx(0.75, abs=0.06)
    assert [each.label for each in found] == [each.label for each in load(classifier).classify(texts)]
    card = json.loads((classifier / "touchstone.json").read_text())
    assert [(record["target"], record["task"]) for record in card["calibration"]] == [("class", "films")]


def test_a_second_calibration_of_a_task_takes_the_place_of_the_first(classifier, tmp_path):
    rows_of(classifier, tmp_path / "rows.jsonl")
    for task in ("films", "films", "songs"):
        calibrate_model(CalibrationRequest(classifier, (tmp_path / "rows.jsonl",), task=task, method="platt"), Terminal("en", json=True))
    card = json.loads((classifier / "touchstone.json").read_text())
    assert [(record["task"], record["method"]) for record in card["calibration"]] == [("films", "platt"), ("songs", "platt")]


def test_rows_of_one_label_are_refused(classifier, tmp_path):
    rows = [{"text": f"film {n}", "label": "yes"} for n in range(200)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match="all 200 rows have the right answer `yes`"):
        calibrate_model(CalibrationRequest(classifier, (tmp_path / "rows.jsonl",)), Terminal("en", json=True))


def test_copies_of_few_rows_are_few_rows(classifier, tmp_path):
    rows_of(classifier, tmp_path / "rows.jsonl", n=60)
    (tmp_path / "rows.jsonl").write_text((tmp_path / "rows.jsonl").read_text() + "\n" + (tmp_path / "rows.jsonl").read_text())
    with pytest.raises(DataError, match="each half needs 40 different ones"):
        calibrate_model(CalibrationRequest(classifier, (tmp_path / "rows.jsonl",)), Terminal("en", json=True))


def test_copies_make_no_interval_narrower(classifier, tmp_path):
    rows_of(classifier, tmp_path / "rows.jsonl")
    asked = CalibrationRequest(classifier, (tmp_path / "rows.jsonl",), method="temperature")
    before = (classifier / "touchstone.json").read_bytes()
    once = calibrate_model(asked, Terminal("en", json=True))
    (classifier / "touchstone.json").write_bytes(before)
    (tmp_path / "rows.jsonl").write_text("\n".join([(tmp_path / "rows.jsonl").read_text()] * 4))
    again = calibrate_model(asked, Terminal("en", json=True))
    for of in (lambda found: found["ece_before"]["interval"], lambda found: found["brier_gain"]):
        widths = [of(found)["high"] - of(found)["low"] for found in (once, again)]
        assert widths[1] == pytest.approx(widths[0], rel=0.1)


def test_a_change_that_is_a_tie_or_that_no_digit_shows_is_not_kept(classifier, tmp_path):
    rows_of(classifier, tmp_path / "rows.jsonl")
    found = fit_classes(load(classifier), read_labelled([tmp_path / "rows.jsonl"]))
    assert found.helps
    assert found.gain.low > 0
    assert not replace(found, gain=replace(found.gain, low=-0.001)).helps
    assert not replace(found, after=replace(found.after, value=found.before.value - 0.00005)).helps
    assert not replace(found, fitted=None).helps


def test_changed_weights_take_the_confidence_away_with_the_reason(classifier, tmp_path):
    texts = rows_of(classifier, tmp_path / "rows.jsonl")
    calibrate_model(CalibrationRequest(classifier, (tmp_path / "rows.jsonl",)), Terminal("en", json=True))
    model = load(classifier)
    with torch.no_grad():
        next(model.net.parameters()).mul_(1.01)
    [found] = model.classify(texts[:1])
    assert found.confidence is None
    assert "other weights" in found.confidence_reason


def test_what_does_not_help_is_not_kept(classifier, tmp_path):
    rows_of(classifier, tmp_path / "rows.jsonl")
    calibrate_model(CalibrationRequest(classifier, (tmp_path / "rows.jsonl",)), Terminal("en", json=True))
    before = (classifier / "touchstone.json").read_bytes()
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 6)) for _ in range(300)]
    model = load(classifier)
    drawn = [LABELS[int(rng.random() < np.exp(each.logits[1]) / np.exp(each.logits).sum())] for each in model.classify(texts)]
    (tmp_path / "true.jsonl").write_text("\n".join(json.dumps({"text": t, "label": y}) for t, y in zip(texts, drawn, strict=True)))
    told = calibrate_model(CalibrationRequest(classifier, (tmp_path / "true.jsonl",), method="histogram"), Terminal("en", json=True))
    assert told["stored"] == (told["ece_after"]["value"] < told["ece_before"]["value"])
    if not told["stored"]:
        assert (classifier / "touchstone.json").read_bytes() == before


def test_bad_rows_are_named(classifier, tmp_path):
    rows_of(classifier, tmp_path / "rows.jsonl")
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('\n{"text": "a film", "label": "yess"}')
    with pytest.raises(DataError, match=r"rows.jsonl:401: .*`yess`; did you mean `yes`"):
        calibrate_model(CalibrationRequest(classifier, (tmp_path / "rows.jsonl",)), Terminal("en", json=True))
    (tmp_path / "few.jsonl").write_text('{"text": "a film", "label": "yes"}')
    with pytest.raises(DataError, match="too few"):
        calibrate_model(CalibrationRequest(classifier, (tmp_path / "few.jsonl",)), Terminal("en", json=True))
    with pytest.raises(ConfigError, match="--data"):
        calibrate_model(CalibrationRequest(classifier, ()), Terminal("en", json=True))


def test_a_language_models_next_token_is_calibrated_by_documents(model_folder, tmp_path):
    for n in range(12):
        (tmp_path / f"{n}.txt").write_text(f"def add(left, right):\n    return left + right  # {n}\n" * 30)
    told = calibrate_model(CalibrationRequest(model_folder, (tmp_path,)), Terminal("en", json=True))
    assert told["target"] == "next-token"
    assert told["fitted"]["method"] == "temperature"
    with pytest.raises(Unsupported, match="temperature"):
        calibrate_model(CalibrationRequest(model_folder, (tmp_path,), method="platt"), Terminal("en", json=True))
