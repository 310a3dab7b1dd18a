"""A training leaves everything in its run folder; the same command resumes it or finds it finished."""

import json
import os
import signal

import pytest

from touchstone.errors import ConfigError, DataError, RunFolderError
from touchstone.flows.journey import Journey, travel
from touchstone.flows.preparation import prepare_ahead
from touchstone.infer import load
from touchstone.models.card import Calibration
from touchstone.models.card_file import store_calibration
from touchstone.report.log import read_log
from touchstone.report.training import TrainingDisplay

pytestmark = pytest.mark.slow

CHANGES = (
    "tokenizer.vocab_size=300",
    "model.d_model=16",
    "model.n_layers=2",
    "model.n_heads=2",
    "context=24",
    "train.n_steps=30",
    "train.batch_size=4",
    "train.schedule.warmup_steps=3",
    "train.eval_every=10",
    "train.save_every=10",
    "train.sample_every=15",
)


@pytest.fixture
def journey(texts, tmp_path, quick_choices):
    return Journey("gpt-small", (texts,), out=tmp_path / "run", overrides=CHANGES, command=("touchstone", "train", "gpt-small"))


def test_a_training_leaves_a_whole_run_folder(journey, shown, texts):
    terminal, text = shown
    document = travel(journey, terminal)
    folder = journey.out
    assert document["status"] == "finished"
    names = {"config.yaml", "command.txt", "environment.json", "metrics.jsonl", "samples.jsonl", "checkpoints", "model", "report.html"}
    assert names <= {path.name for path in folder.iterdir()}
    lines = read_log(folder / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 31))
    assert [line["step"] for line in lines if "valid_bits_per_byte" in line] == [10, 20, 30]
    assert {record["step"] for record in read_log(folder / "samples.jsonl")} == {15, 30}
    model = load(folder)
    assert model.card.lineage.tokenizer_hash == model.tokenizer.fingerprint
    assert model.card.lineage.config["train"]["n_steps"] == 30
    score = model.card.scores[0]
    assert score.value == document["test"]["bits_per_byte"]["value"]
    assert score.interval[0] <= score.value <= score.interval[1]
    assert "bits per byte over" in text()
    assert model.generate("The cat", max_new_tokens=3, seed=1)[0].token_ids
    json.dumps(document, allow_nan=False)


def test_the_figure_on_the_card_is_that_of_the_saved_model(journey, shown):
    from touchstone import config as settings
    from touchstone.files import cache_folder
    from touchstone.text.prepare import prepare
    from touchstone.train.run_config import RunConfig

    document = travel(journey, shown[0])
    config = settings.load(RunConfig, journey.out / "config.yaml")
    prepared = prepare(config.data, config.tokenizer, cache_folder())
    found = load(journey.out).rolling([d.text for d in prepared.test_documents], stride=12)
    bits = -sum(r.logprob for r in found) / 0.6931471805599453
    assert document["test"]["bits_per_byte"]["value"] == pytest.approx(bits / sum(r.n_bytes for r in found), rel=1e-5)


def test_a_calibration_that_was_kept_since_is_not_lost_when_the_command_comes_again(journey, shown):
    travel(journey, shown[0])
    model = load(journey.out)
    record = Calibration(
        target="next-token",
        method="temperature",
        params={"temperature": 1.5},
        statistic={"ece_before": 0.1, "ece_after": 0.01},
        weights_hash=model.weights_hash,
        numeric_scheme=model.numeric_scheme,
        n=1000,
        date="2026-11-27",
    )
    store_calibration(journey.out / "model", record)
    assert travel(journey, shown[0])["status"] == "already-finished"
    assert load(journey.out).card.calibration == (record,)


def test_the_same_command_again_says_it_is_finished_and_changes_nothing(journey, shown):
    travel(journey, shown[0])
    before = {path: path.stat().st_mtime_ns for path in journey.out.rglob("*") if path.is_file() and path.name != ".lock"}
    assert travel(journey, shown[0])["status"] == "already-finished"
    own = Journey(str(journey.out / "config.yaml"), out=journey.out)
    assert travel(own, shown[0])["status"] == "already-finished"
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_changed_setting_is_refused_with_the_difference_and_loses_nothing(journey, shown):
    travel(journey, shown[0])
    changed = Journey("gpt-small", journey.data, out=journey.out, overrides=(*CHANGES, "train.seed=9"))
    with pytest.raises(RunFolderError, match=r"train\.seed: 0 -> 9"):
        travel(changed, shown[0])
    assert load(journey.out).card.scores


def test_an_interrupted_training_resumes_to_the_same_weights(journey, shown, monkeypatch, tmp_path):
    whole = travel(Journey("gpt-small", journey.data, out=tmp_path / "whole", overrides=CHANGES), shown[0])
    plain = TrainingDisplay.update

    def interrupt(self, report):
        plain(self, report)
        if report["step"] == 14:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingDisplay, "update", interrupt)
        stopped = travel(journey, shown[0])
    assert (stopped["status"], stopped["step"]) == ("interrupted", 14)
    assert "step 14 of 30" in shown[1]()
    again = travel(journey, shown[0])
    assert again["status"] == "finished"
    assert again["weights_sha256"] == whole["weights_sha256"]


def test_minutes_decide_the_steps_once(journey, shown):
    timed = Journey("gpt-small", journey.data, out=journey.out, overrides=tuple(c for c in CHANGES if "n_steps" not in c), minutes=0.01)
    document = travel(timed, shown[0])
    assert 1 <= document["n_steps"] <= 60  # 0.6 s at a hundredth of a second a step, less what evaluations take
    assert travel(timed, shown[0])["status"] == "already-finished"


def test_minutes_and_steps_together_are_refused(journey, shown):
    with pytest.raises(ConfigError, match="give one of them"):
        travel(Journey("gpt-small", journey.data, out=journey.out, overrides=CHANGES, minutes=1.0), shown[0])


def test_an_ngram_model_takes_the_same_journey(texts, tmp_path, shown):
    journey = Journey("ngram", (texts,), out=tmp_path / "run", overrides=("tokenizer.vocab_size=300", "model.order=3"))
    document = travel(journey, shown[0])
    assert document["status"] == "finished"
    assert load(tmp_path / "run").spec.order == 3
    assert document["test"]["bits_per_byte"]["value"] < document["test"]["baselines"]["xz"]
    assert travel(journey, shown[0])["status"] == "already-finished"


def test_a_dry_run_writes_nothing_and_shows_the_configuration(journey, shown, monkeypatch):
    monkeypatch.setattr("touchstone.flows.plan.measure_matmul", lambda *_, **__: 28e9)
    document = travel(journey, shown[0], dry_run=True)
    assert not journey.out.exists()
    assert document["config"]["train"]["n_steps"] == 30
    assert document["parameters"] == document["parameters"] > 300 * 16
    assert "vocab_size: 300" in shown[1]()


def test_a_context_longer_than_the_data_is_one_clear_error(journey, shown):
    long = Journey("gpt-small", journey.data, out=journey.out, overrides=(*CHANGES, "context=100000"))
    with pytest.raises(DataError, match=r"`context` \(100000\) is longer than the data"):
        travel(long, shown[0])


def test_preparing_ahead_is_found_by_the_training(texts, shown):
    overrides = ("tokenizer.vocab_size=310",)
    planned = prepare_ahead("gpt-small", (texts,), overrides, shown[0], dry_run=True)
    assert (planned["status"], planned["n_files"]) == ("dry-run", 40)
    first = prepare_ahead("gpt-small", (texts,), overrides, shown[0])
    again = prepare_ahead("gpt-small", (texts,), overrides, shown[0])
    assert first == again
    assert first["vocab_size"] == 310
    assert sum(first["n_documents"].values()) >= 40
