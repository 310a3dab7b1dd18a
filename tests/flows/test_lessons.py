"""The verb `train` with every objective but the causal one: from files to a model folder that was judged, and the same again on resume."""

import json
import os
import random
import signal
from dataclasses import replace

import numpy as np
import pytest

from touchstone.errors import ConfigError, DataError
from touchstone.flows.answer_data import data_files
from touchstone.flows.journey import Journey, travel
from touchstone.flows.preparation import prepare_ahead
from touchstone.flows.wanted import requested_config
from touchstone.models.checkpoint import load_model
from touchstone.report.log import read_log
from touchstone.report.training import TrainingDisplay

WORDS = [
    *("cat", "dog", "child", "man", "woman", "river", "house", "garden", "bread", "letter"),
    *("sees", "likes", "finds", "paints", "hears", "old", "small", "green", "happy", "new"),
]
STEPS = ("train.n_steps=12", "train.batch_size=4", "train.eval_every=6", "train.save_every=6")
SMALL = (*STEPS, "model.d_model=16", "context=24")
PARTS = ("train.micro_batch_size=3",)
HELD_OUT = ("data.valid_fraction=0.15", "data.test_fraction=0.15")
TWO = ("model.n_layers=2", "model.n_heads=2")
BOTH = ("model.n_encoder_layers=1", "model.n_decoder_layers=1", "model.n_heads=2")


def sentence(rng, n=8):
    return " ".join(rng.choice(WORDS) for _ in range(n))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file of each kind with eighty rows, the answers of which can be read off the text."""
    folder, rng = tmp_path_factory.mktemp("answers"), random.Random(7)
    sentences = [sentence(rng) for _ in range(80)]
    (folder / "labels.tsv").write_text(
        "text\tlabel\n" + "".join(f"{s}\t{'animal' if 'cat' in s or 'dog' in s else 'none'}\n" for s in sentences)
    )
    (folder / "tags.conll").write_text(
        "\n\n".join("\n".join(f"{w}\t{'B-WHO' if w in ('cat', 'dog') else 'O'}" for w in s.split()) for s in sentences)
    )
    (folder / "train.en").write_text("".join(f"{s}\n" for s in sentences))
    (folder / "train.xx").write_text("".join(f"{' '.join(reversed(s.split()))}\n" for s in sentences))
    paragraphs = []
    for number, s in enumerate(sentences):
        words = s.split()
        answer = {"text": words[3], "answer_start": len(" ".join(words[:3])) + 1}
        paragraphs.append({"context": s, "qas": [{"id": str(number), "question": "which one?", "answers": [answer]}]})
    (folder / "answers.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    return folder


CASES = {  # recipe: files (None = the folder of texts), changes, the model's type on disk
    "bert-small": (None, (*SMALL, *TWO, "tokenizer.vocab_size=110"), "bert"),
    "t5-small": (None, (*SMALL, *BOTH, "tokenizer.vocab_size=420"), None),
    "bart-small": (None, (*SMALL, *BOTH, "tokenizer.vocab_size=300"), None),
    "transformer-base": (("train.en", "train.xx"), (*SMALL, *PARTS, *BOTH, *HELD_OUT, "tokenizer.vocab_size=290"), None),
    "lstm-attention": (("train.en", "train.xx"), (*SMALL, *PARTS, *HELD_OUT, "model.d_hidden=16", "tokenizer.vocab_size=290"), None),
    "classify-bow": (("labels.tsv",), (*SMALL, *HELD_OUT, "tokenizer.vocab_size=60"), "touchstone-encoder"),
    "classify-lstm": (("labels.tsv",), (*SMALL, *HELD_OUT, "model.d_hidden=8", "tokenizer.vocab_size=60"), None),
    "classify-transformer": (("labels.tsv",), (*SMALL, *TWO, *HELD_OUT, "tokenizer.vocab_size=60"), "bert"),
    "tag-small": (("tags.conll",), (*SMALL, *HELD_OUT, "model.d_hidden=8", "tokenizer.vocab_size=60"), None),
    "span-small": (("answers.json",), (*SMALL, *TWO, *HELD_OUT, "objective.stride=3", "tokenizer.vocab_size=60"), "bert"),
}
FIGURES = {"classify": {"macro_f1"}, "tag": {"span_f1"}, "span": {"exact_match", "answer_f1"}}
LABELS = {"classify": ("animal", "none"), "tag": ("O", "B-WHO")}


@pytest.fixture
def journey(files, texts, tmp_path, quick_choices):
    def make(name, *more, out="run"):
        names, changes, _ = CASES[name]
        data = (texts,) if names is None else tuple(files / file for file in names)
        return Journey(name, data, out=tmp_path / out, overrides=(*changes, *more), command=("touchstone", "train", name))

    return make


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_training_is_judged_and_leaves_a_model_that_loads(journey, shown, name):
    asked = journey(name)
    document = travel(asked, shown[0])
    assert document["status"] == "finished"
    lines = read_log(asked.out / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert [line["step"] for line in lines if "valid_accuracy" in line] == [6, 12]
    loaded = load_model(asked.out / "model")
    kind = requested_config(name, asked.data, asked.overrides).objective.kind
    assert set(document["test"]) == {"accuracy", "nll"} | FIGURES.get(kind, set())
    assert {score.name for score in loaded.card.scores} == {name.replace("_", " ") for name in document["test"]}
    assert loaded.card.labels == LABELS.get(kind)
    assert loaded.card.lineage.tokenizer_hash == loaded.tokenizer.fingerprint
    config = json.loads((asked.out / "model" / "config.json").read_text())
    assert CASES[name][2] in (None, config["model_type"])
    assert "Test side: accuracy" in shown[1]()
    assert (asked.out / "report.html").is_file()
    json.dumps(document, allow_nan=False)
    assert travel(asked, shown[0])["status"] == "already-finished"
    assert "touchstone inspect" in (told := shown[1]())
    assert "touchstone evaluate" not in told


@pytest.mark.slow
def test_files_held_out_by_name_are_not_divided_again(files, journey, shown):
    asked = journey("classify-bow")
    rows = (files / "labels.tsv").read_text().splitlines(keepends=True)
    (files / "dev.tsv").write_text("".join([rows[0], *rows[3:11]]))
    document = travel(replace(asked, valid=(files / "dev.tsv",)), shown[0])
    assert document["n_rows"]["valid"] == 8
    assert sum(document["n_rows"].values()) == 80  # the eight stand in both files, and are learned from in neither
    assert "8 rows to learn from are near-copies" in shown[1]()
    with pytest.raises(ConfigError, match=r"`masked-lm` learns from text"):
        travel(replace(journey("bert-small", out="other"), valid=(files / "dev.tsv",)), shown[0])


@pytest.mark.slow
def test_a_model_that_writes_shows_what_it_writes_while_it_learns(journey, shown):
    asked = journey("lstm-attention", "train.sample_every=6")
    travel(asked, shown[0])
    lines = read_log(asked.out / "samples.jsonl")
    assert [line["step"] for line in lines] == [6, 6, 6, 12, 12, 12]
    assert all(line["expected"] == " ".join(reversed(line["source"].split())) for line in lines)
    page = (asked.out / "report.html").read_text()
    assert lines[-1]["source"] in page
    assert "what was expected" in page
    assert "bits per byte" not in page


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert-small", "classify-transformer", "transformer-base"])
def test_an_interrupted_training_resumes_to_the_same_weights_and_figures(journey, shown, monkeypatch, name):
    whole = travel(journey(name, out="whole"), shown[0])
    plain = TrainingDisplay.update

    def interrupt(self, report):
        plain(self, report)
        if report["step"] == 7:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingDisplay, "update", interrupt)
        stopped = travel(journey(name), shown[0])
    assert (stopped["status"], stopped["step"]) == ("interrupted", 7)
    again = travel(journey(name), shown[0])
    assert again["weights_sha256"] == whole["weights_sha256"]
    assert again["test"] == whole["test"]


@pytest.mark.slow
def test_a_classifier_learns_what_can_be_read_off_the_text(journey, shown):
    more = ("train.n_steps=150", "train.batch_size=16", "train.eval_every=50", "train.optim.learning_rate=0.03", "model.dropout=0.0")
    document = travel(journey("classify-bow", *more), shown[0])
    assert document["test"]["accuracy"]["value"] > document["test"]["accuracy"]["commonest"] + 0.15
    assert document["test"]["nll"]["value"] < document["test"]["nll"]["commonest"]


def test_rows_need_files_of_the_right_kind(files, shown, tmp_path):
    with pytest.raises(ConfigError, match="learns from rows with answers, and `python` has none: name files with --data"):
        travel(Journey("classify-bow", out=tmp_path / "run"), shown[0])
    with pytest.raises(DataError, match=r"suffix `\.conll` is not known"):
        travel(Journey("classify-bow", (files / "tags.conll",), out=tmp_path / "run"), shown[0])


@pytest.mark.parametrize(
    ("recipe", "name", "text", "answer"),
    [
        ("classify-bow", "one.tsv", "text\tlabel\n" + "".join(f"{word} cat\tgood\n" for word in WORDS), "good"),
        ("tag-small", "one.conll", "".join(f"{word} O\ncat O\n\n" for word in WORDS), "O"),
    ],
)
def test_answers_that_are_all_the_same_are_refused(shown, tmp_path, recipe, name, text, answer):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=f"the answer is `{answer}`, so there is nothing to tell apart"):
        travel(Journey(recipe, (tmp_path / name,), out=tmp_path / "run", overrides=("tokenizer.vocab_size=40",)), shown[0])


def test_a_tokenizer_without_a_token_that_the_objective_needs_is_refused(files, shown, tmp_path, quick_choices):
    changes = (*SMALL, *HELD_OUT, "tokenizer.vocab_size=60", "tokenizer.specials=['[UNK]', '[CLS]', '[SEP]']")
    with pytest.raises(ConfigError, match=r"needs a token for pad: put one such as `<pad>` among `tokenizer\.specials`"):
        travel(Journey("classify-bow", (files / "labels.tsv",), out=tmp_path / "run", overrides=changes), shown[0])


def test_a_target_without_an_end_mark_is_refused(files, shown, tmp_path, quick_choices):
    changes = (*SMALL, *PARTS, *BOTH, *HELD_OUT, "tokenizer.vocab_size=290", "tokenizer.specials=['<|endoftext|>', '<|pad|>']")
    data = (files / "train.en", files / "train.xx")
    with pytest.raises(ConfigError, match="targets need an end mark"):
        travel(Journey("transformer-base", data, out=tmp_path / "run", overrides=changes), shown[0])


@pytest.mark.slow
def test_preparing_and_planning_read_the_files_of_the_objective(files, shown, journey, monkeypatch):
    monkeypatch.setattr("touchstone.flows.plan.measure_matmul", lambda *_, **__: 28e9)
    for name in ("classify-bow", "tag-small", "span-small", "transformer-base"):
        asked = journey(name)
        config = requested_config(name, asked.data, asked.overrides)
        assert len(data_files(config)) == len(asked.data)
        assert travel(asked, shown[0], dry_run=True)["n_files"] == len(asked.data)
        prepared = prepare_ahead(name, asked.data, asked.overrides, shown[0])
        assert sum(prepared["n_rows"].values()) == 80
        assert prepared["vocab_size"] == config.tokenizer.vocab_size
        assert prepare_ahead(name, asked.data, asked.overrides, shown[0], dry_run=True)["n_files"] == len(asked.data)


@pytest.mark.slow
def test_what_is_judged_is_the_saved_model(journey, shown):
    from touchstone.evaluate.answering import score_answers
    from touchstone.flows.lessons import make_lesson

    asked = journey("classify-transformer")
    document = travel(asked, shown[0])
    lesson = make_lesson(requested_config("classify-transformer", asked.data, asked.overrides), shown[0])
    score = score_answers(load_model(asked.out / "model").net, lesson.objective, lesson.test)
    assert document["test"]["accuracy"]["value"] == np.mean(score.predicted == score.expected)
    assert document["test"]["nll"]["value"] == pytest.approx(score.loss, rel=1e-6)
