"""`calibrate --task` fits closed answers on one half of the questions, and `choose` under that name answers by it."""

import json

import numpy as np
import pytest
import torch

from touchstone import load, save
from touchstone.errors import DataError, Unsupported
from touchstone.flows.calibrating import CalibrationRequest, calibrate_model
from touchstone.flows.closed_questions import read_questions
from touchstone.infer.language_model import LanguageModel
from touchstone.models import build, decoder_spec
from touchstone.models.card_file import read_card
from touchstone.report.terminal import Terminal
from touchstone.text.tokenizer import Tokenizer

WORDS = ("good", "bad", "fine", "poor", "film", "plot", "cast", "song", "the", "a")
ANSWERS = [" yes", " no", " so"]
RIGHT = {"prompt": "Is it? Answer:", "answers": ANSWERS, "answer": " no"}


@pytest.fixture(scope="module")
def tokenizer():
    texts = [" ".join(np.random.default_rng(n).choice(WORDS, 8)) + " yes no so" for n in range(200)]
    return Tokenizer.train(texts, vocab_size=290)


@pytest.fixture
def biased(tokenizer, tmp_path):
    """A model whose scores are far too large."""
    net = build(decoder_spec(vocab_size=tokenizer.vocab_size, d_model=16, n_layers=1, n_heads=2, max_seq_len=48), seed=5).eval()
    with torch.no_grad():
        net.embed.weight.mul_(8.0)
    save(LanguageModel(net, tokenizer=tokenizer), tmp_path / "m")
    return tmp_path / "m"


def questions_of(folder, path, n=500):
    """Questions whose right answer is drawn from a softmax of what the model says, evened out: without its bias, and far less sure."""
    rng = np.random.default_rng(1)
    prompts = sorted({" ".join(rng.choice(WORDS, 6)) for _ in range(n)})
    shares = np.array([each.shares for each in load(folder).choose([(prompt, ANSWERS) for prompt in prompts])])
    scores = 1.5 * (shares - shares.mean(axis=0)) / shares.std(axis=0)
    truth = (scores + rng.gumbel(size=scores.shape)).argmax(axis=1)
    rows = [{"prompt": prompt, "answers": ANSWERS, "answer": ANSWERS[right]} for prompt, right in zip(prompts, truth, strict=True)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return prompts, truth


@pytest.mark.slow
def test_answers_of_the_task_carry_the_calibrated_confidence(biased, tmp_path):
    prompts, truth = questions_of(biased, tmp_path / "rows.jsonl")
    told = calibrate_model(CalibrationRequest(biased, (tmp_path / "rows.jsonl",), task="films"), Terminal("en", json=True))
    assert (told["target"], told["task"], told["stored"]) == ("answer-set", "films", True)
    assert told["ece_after"]["interval"]["high"] < told["ece_before"]["interval"]["low"]
    assert told["ece_after"]["noise_floor"] is not None
    assert told["accuracy"]["after"]["value"] > told["accuracy"]["before"]["value"]
    found = load(biased).choose([(prompt, ANSWERS) for prompt in prompts], task="films")
    best = np.array([each.best for each in found])
    sure = np.array([each.confidence.value[each.best] for each in found])
    assert sure.mean() == pytest.approx((best == truth).mean(), abs=0.06)
    assert load(biased).choose([(prompts[0], ANSWERS)])[0].confidence is None
    [record] = read_card(biased).calibration
    assert (record.target, record.task, record.n) == ("answer-set", "films", told["n_fitted"])
    assert sum(record.confidences) == len(prompts) - told["n_fitted"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["temperature", "vector"])
def test_a_method_can_be_asked_for(biased, tmp_path, method):
    questions_of(biased, tmp_path / "rows.jsonl")
    asked = CalibrationRequest(biased, (tmp_path / "rows.jsonl",), task="films", method=method)
    assert calibrate_model(asked, Terminal("en", json=True))["fitted"]["method"] == method


@pytest.mark.slow
def test_what_cannot_be_calibrated_is_refused(biased, tmp_path):
    questions_of(biased, tmp_path / "rows.jsonl")
    with pytest.raises(Unsupported, match="`platt` corrects one number"):
        calibrate_model(CalibrationRequest(biased, (tmp_path / "rows.jsonl",), task="films", method="platt"), Terminal("en", json=True))
    long = {"prompt": "good film " * 60, "answers": ANSWERS, "answer": " no"}
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write("\n" + json.dumps(long))
    with pytest.raises(DataError, match=r"rows.jsonl:\d+: the prompt is \d+ tokens longer"):
        calibrate_model(CalibrationRequest(biased, (tmp_path / "rows.jsonl",), task="films"), Terminal("en", json=True))
    (tmp_path / "few.jsonl").write_text(json.dumps(RIGHT))
    with pytest.raises(DataError, match="too few"):
        calibrate_model(CalibrationRequest(biased, (tmp_path / "few.jsonl",), task="films"), Terminal("en", json=True))


def test_rows_are_read_in_order(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(RIGHT) + "\n\n" + json.dumps(RIGHT | {"prompt": "Other", "answer": " yes", "id": 7}))
    found = read_questions([path])
    assert [(each.prompt, each.answers, each.right, each.place) for each in found] == [
        ("Is it? Answer:", tuple(ANSWERS), 1, f"{path}:1"),
        ("Other", tuple(ANSWERS), 0, f"{path}:3"),
    ]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"prompt": " "}, "`prompt` must be a text"),
        ({"prompt": 3}, "`prompt` must be a text"),
        ({"prompt": "a\ud800"}, "half of a surrogate pair"),
        ({"answers": [" yes", "\udfff"]}, "half of a surrogate pair"),
        ({"answers": " yes"}, "`answers` must be a list of two"),
        ({"answers": [" no"]}, "`answers` must be a list of two"),
        ({"answers": [" no", ""]}, "`answers` must be a list of two"),
        ({"answers": [" no", 1]}, "`answers` must be a list of two"),
        ({"answers": [" no", " yes", " no"]}, "holds ` no` twice"),
        ({"answer": "no"}, "none of the `answers`; did you mean ` no`"),
        ({"answer": 1}, "none of the `answers`; they are ` yes`, ` no`, ` so`"),
        ({"answers": [" no", " yes", " so"]}, r"those of .*rows.jsonl:1 are ` yes`, ` no`, ` so`; a calibration is for one set"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path, changed, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(RIGHT) + "\n" + json.dumps(RIGHT | changed))
    with pytest.raises(DataError, match=rf"rows.jsonl:2: .*{message}"):
        read_questions([path])


def test_a_missing_field_is_named_with_what_may_be_it(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"promt": "Is it?", "answers": ANSWERS, "answer": " no"}))
    with pytest.raises(DataError, match=r"rows.jsonl:1: no field `prompt`; is it `promt`\? A row is such as"):
        read_questions([path])
    path.write_text("\n")
    with pytest.raises(DataError, match="no rows of questions"):
        read_questions([path])
