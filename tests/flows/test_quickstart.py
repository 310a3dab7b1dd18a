"""The whole quickstart on a tiny text: everything is measured, told in both languages, and goes on after an interruption."""

import json
import re
from dataclasses import replace

import pytest

from touchstone.errors import ConfigError, RunFolderError, UnknownName
from touchstone.flows import quickstart as module
from touchstone.flows.quickstart import QuickstartRequest, run_quickstart
from touchstone.flows.quickstart_report import next_commands
from touchstone.flows.writing import offer, write
from touchstone.infer import load
from touchstone.report.terminal import Terminal

pytestmark = pytest.mark.slow


@pytest.fixture
def asked(finished_quickstart, tmp_path, quick_choices):
    """The same request in a folder of its own."""
    return replace(finished_quickstart[0], out=tmp_path / "q")


def test_everything_is_measured_and_left_behind(finished_quickstart):
    asked, document, text = finished_quickstart
    assert document["status"] == "finished"
    assert {"decoder", "mixture", "ngram", "lstm", "xz", "xz_given"} <= set(document["models"])
    for model in document["models"].values():
        bits = model["bits_per_byte"]
        assert bits["low"] <= bits["value"] <= bits["high"]
    assert {(d["a"], d["b"]) for d in document["differences"]} == {
        ("decoder", "ngram"),
        ("decoder", "lstm"),
        ("decoder", "xz_given"),
        ("mixture", "ngram"),
        ("mixture", "decoder"),
        ("mixture", "xz_given"),
    }
    for difference in document["differences"]:
        covers = difference["low"] <= 0 <= difference["high"]
        assert (difference["verdict"] == "tie") is covers
    assert document["mixture"]["nats"] <= min(document["mixture"]["nats_a"], document["mixture"]["nats_b"])
    assert [completion["prompt"] for completion in document["completions"]] == ["The cat", "A dog"]
    assert all(command in text for command in next_commands(str(asked.out)))
    assert json.loads((asked.out / "results.json").read_text()) == document


def test_the_model_carries_a_calibration_that_holds(finished_quickstart):
    asked, document, _ = finished_quickstart
    model = load(asked.out)
    completion = model.generate("The cat", max_new_tokens=2, seed=1)[0]
    assert completion.confidence is not None, completion.confidence_reason
    record = model.card.calibration[0]
    assert record.params["temperature"] == document["temperature"]["temperature"]
    assert model.card.scores[0].baselines["ngram"] == document["models"]["ngram"]["bits_per_byte"]["value"]


def test_the_commands_it_prints_work(finished_quickstart, shown):
    asked = finished_quickstart[0]
    assert offer(asked.out, "for i in", shown[0])["alternatives"]
    assert write(asked.out, ["def main("], {"temperature": 0.7, "max_new_tokens": 5}, shown[0])["completions"]


def test_the_report_is_one_page_with_its_parts_in_the_language_asked_for(asked, shown_in_chinese):
    terminal, text = shown_in_chinese
    run_quickstart(asked, terminal)
    page = (asked.out / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 3
    assert 'lang="zh-Hans"' in page
    assert "<script" not in page
    assert not re.search(r'(src|href)="http', page)
    for said in ("预测得有多准", "它的置信度可信几分", "完整配置", "接下来可以试试"):
        assert said in page
    assert "快速上手" in text()
    assert not re.search(r"\b(the|with|and|of)\b", text().split("[6/6]")[0].replace("Kneser-Ney", ""))


def test_a_peak_that_was_measured_at_a_busy_moment_is_not_surpassed(asked, shown, monkeypatch):
    measure = module.measure_machine
    monkeypatch.setattr(module, "measure_machine", lambda device: replace(measure(device, seconds=0.0), matmul_flops_per_s=1.0))
    monkeypatch.setattr(module, "measure_matmul", lambda device, seconds: 1.0)
    terminal, text = shown
    assert run_quickstart(asked, terminal)["peak_fraction"] == 1.0
    shares = [int(share) for share in re.findall(r"(\d+) % of matmul peak", text())]
    assert shares
    assert max(shares) == 100


def test_a_finished_quickstart_tells_its_results_again(finished_quickstart, shown):
    asked, document, _ = finished_quickstart
    assert run_quickstart(asked, shown[0]) == {**document, "status": "already-finished"}
    assert "Kneser-Ney 5-gram" in shown[1]()


def test_an_interruption_after_the_networks_loses_nothing(asked, shown, monkeypatch):
    def interrupted(prepared):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "fit_ngram", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_quickstart(asked, shown[0])
    metrics = (asked.out / "metrics.jsonl").read_bytes()
    lstm = (asked.out / "baselines" / "lstm" / "metrics.jsonl").read_bytes()
    assert run_quickstart(asked, shown[0])["status"] == "finished"
    assert (asked.out / "metrics.jsonl").read_bytes() == metrics
    assert (asked.out / "baselines" / "lstm" / "metrics.jsonl").read_bytes() == lstm


def test_another_length_in_the_same_folder_is_refused(finished_quickstart, shown):
    with pytest.raises(RunFolderError, match=r"--minutes: 0\.02 -> 5"):
        run_quickstart(replace(finished_quickstart[0], minutes=5.0), shown[0])


def test_a_wrong_request_writes_nothing(tmp_path, shown):
    with pytest.raises(ConfigError, match="--minutes"):
        run_quickstart(QuickstartRequest(tmp_path / "q", minutes=0.0), shown[0])
    with pytest.raises(UnknownName, match="pyton"):
        run_quickstart(QuickstartRequest(tmp_path / "q", corpus="pyton"), shown[0])
    assert not (tmp_path / "q").exists()


def test_with_json_stdout_holds_one_document(finished_quickstart, capsys):
    terminal = Terminal(json=True)
    terminal.result(run_quickstart(finished_quickstart[0], terminal))
    assert json.loads(capsys.readouterr().out)["status"] == "already-finished"
