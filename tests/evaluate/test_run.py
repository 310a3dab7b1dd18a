"""A run in bounded batches gives the figures of its scores, goes on after kill -9 with the same result, and tells of every bad row."""

import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_evaluation import N, ask, make_examples, make_model, make_task, score

from touchstone.errors import ConfigError, DataError, RunFolderError, TouchstoneError, Unsupported
from touchstone.evaluate import run as run_module
from touchstone.evaluate.ask import GenerateRequest, LoglikelihoodRequest, TagRequest
from touchstone.evaluate.figures import Metric
from touchstone.evaluate.ledger import read_rows
from touchstone.evaluate.run import run_task
from touchstone.evaluate.task import BadRow, Baseline, EvalExample
from touchstone.evaluate.task_result import compare_results, read_result
from touchstone.infer import Sampling


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture
def small_buffer(monkeypatch):
    monkeypatch.setattr(run_module, "BUFFER", 16)


def bad(where="colours.jsonl:99", kind="missing field", reason="no `right`"):
    return BadRow(where, kind, reason)


def run_killed_after(folder, log, n_batches):
    """Start the program, let it do so many batches, and end it with SIGKILL (None: let it end by itself)."""
    command = [sys.executable, str(Path(__file__).with_name("tiny_evaluation.py")), str(folder), str(log)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        told = 0
        while process.stdout.readline():
            if told == n_batches:
                process.send_signal(signal.SIGKILL)
                break
            told += 1
            process.stdin.write("\n")
            process.stdin.flush()
        process.stdin.close()
        process.wait()
    return process.returncode


@pytest.mark.slow
def test_the_figures_are_those_of_the_models_answers(model, tmp_path, small_buffer):
    result = run_task(model, make_task(), folder=tmp_path, batch_tokens=200)
    examples = list(make_examples())
    answers = model.choose([(request.context, request.answers) for example in examples for request in ask(example)])
    scores = [score(example, [answer]) for example, answer in zip(examples, answers, strict=True)]
    right, shares = (np.array([one[name] for one in scores]) for name in ("accuracy", "share"))
    assert result.n_examples == N
    assert result.figure("accuracy").value == pytest.approx(right.mean())
    assert result.figure("accuracy").standard_error == pytest.approx(right.std(ddof=1) / math.sqrt(N))
    assert result.figure("share").value == pytest.approx(shares.mean(), abs=1e-5)
    assert "Clopper-Pearson" in result.figure("accuracy").method
    random = result.figure("share").baselines[0]
    assert (random.name, random.value) == ("random", pytest.approx(-math.log(4)))
    assert random.difference == pytest.approx(shares.mean() + math.log(4), abs=1e-5)
    assert read_result(tmp_path / "colours") == result


@pytest.mark.slow
def test_no_figure_stands_without_its_error(model):
    result = run_task(model, make_task())
    assert all(figure.standard_error is not None and figure.low < figure.value < figure.high for figure in result.figures)
    assert all(figure.baselines for figure in result.figures)


@pytest.mark.slow
def test_batches_are_bounded_and_the_longest_come_first(model, small_buffer, monkeypatch):
    sizes = []
    real = run_module.answer_requests

    def watched(model, requests, **more):
        sizes.append([run_module.size_of(model, request).n_tokens for request in requests])
        return real(model, requests, **more)

    monkeypatch.setattr(run_module, "answer_requests", watched)
    run_task(model, make_task(), batch_tokens=200)
    assert all(sum(batch) <= 200 or len(batch) == 1 for batch in sizes)
    buffers, first = [], []
    for batch in sizes:
        first += batch
        if len(first) >= 16:
            buffers.append(first)
            first = []
    assert all(buffer == sorted(buffer, reverse=True) for buffer in buffers)
    assert sum(map(len, sizes)) == N


@pytest.mark.slow
@pytest.mark.parametrize("n_batches", [0, 2])
def test_a_run_that_was_killed_goes_on_to_the_same_result_and_does_nothing_twice(tmp_path, n_batches):
    whole = run_task(make_model(), make_task(), folder=tmp_path / "whole", batch_tokens=150)
    log = tmp_path / "log"
    assert run_killed_after(tmp_path / "cut", log, n_batches) == -signal.SIGKILL
    done = log.read_text().split() if log.exists() else []
    assert len(done) == sum(1 for _ in read_rows(tmp_path / "cut" / "colours")) if n_batches else not done
    assert not (tmp_path / "cut" / "colours" / "result.json").exists()
    assert run_killed_after(tmp_path / "cut", log, None) == 0
    assert sorted(log.read_text().split()) == sorted(f"q{number}" for number in range(N))
    assert read_result(tmp_path / "cut" / "colours") == whole


@pytest.mark.slow
@pytest.mark.parametrize("n_torn", [1, 40, 700])
def test_a_torn_end_is_cut_away_and_done_again(model, tmp_path, n_torn):
    whole = run_task(model, make_task(), folder=tmp_path, batch_tokens=150)
    path = tmp_path / "colours" / "examples.jsonl"
    path.write_bytes(path.read_bytes()[:-n_torn])
    (tmp_path / "colours" / "result.json").unlink()
    assert run_task(model, make_task(), folder=tmp_path, batch_tokens=150) == whole
    assert sorted(row["id"] for row in read_rows(tmp_path / "colours")) == sorted(f"q{number}" for number in range(N))


@pytest.mark.slow
@pytest.mark.parametrize("torn", [False, True])
def test_whichever_write_fails_the_run_goes_on_to_the_same_result(model, tmp_path, every_crash, torn):
    whole = run_task(model, make_task(), folder=tmp_path / "whole", batch_tokens=400)
    n_crashes = 0
    for k, crashed in every_crash(lambda k: run_task(model, make_task(), folder=tmp_path / str(k), batch_tokens=400), torn=torn):
        n_crashes += crashed
        assert run_task(model, make_task(), folder=tmp_path / str(k), batch_tokens=400) == whole
    assert n_crashes > 10


@pytest.mark.slow
def test_a_finished_run_asks_the_model_nothing(model, tmp_path, monkeypatch):
    whole = run_task(model, make_task(), folder=tmp_path)
    monkeypatch.setattr(run_module, "answer_requests", lambda *given, **more: pytest.fail("asked again"))
    assert run_task(model, make_task(), folder=tmp_path) == whole


@pytest.mark.slow
def test_damage_before_the_end_is_an_error(model, tmp_path):
    run_task(model, make_task(), folder=tmp_path, batch_tokens=150)
    path = tmp_path / "colours" / "examples.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], lines[3][:9] + b"\n", *lines[4:]]))
    with pytest.raises(RunFolderError, match=r"examples.jsonl:4: damaged"):
        run_task(model, make_task(), folder=tmp_path)


@pytest.mark.slow
def test_another_model_or_task_is_refused_with_the_difference(model, tmp_path):
    run_task(model, make_task(), folder=tmp_path)
    with pytest.raises(RunFolderError, match=r"not mixed: weights_sha256: \w+ -> \w+\. Use another folder"):
        run_task(make_model(seed=4), make_task(), folder=tmp_path)
    with pytest.raises(RunFolderError, match="task_version: 1 -> 2"):
        run_task(model, make_task(version=2), folder=tmp_path)
    with pytest.raises(RunFolderError, match="data_sha256"):
        run_task(model, make_task(examples=list(make_examples(N - 1))), folder=tmp_path)
    with pytest.raises(RunFolderError, match="prompts_sha256"):
        run_task(model, make_task(requests=lambda example: [LoglikelihoodRequest("the", " sky")]), folder=tmp_path)


@pytest.mark.slow
def test_a_larger_limit_keeps_what_a_smaller_one_did(model, tmp_path):
    few = run_task(model, make_task(), folder=tmp_path, limit=7)
    assert (few.n_examples, few.limit) == (7, 7)
    first = {row["id"] for row in read_rows(tmp_path / "colours")}
    assert first != {f"q{number}" for number in range(7)}
    more = run_task(model, make_task(), folder=tmp_path, limit=15)
    assert more.n_examples == 15
    rows = [row["id"] for row in read_rows(tmp_path / "colours")]
    assert len(rows) == len(set(rows)) == 15
    assert first < set(rows)
    assert run_task(model, make_task(), folder=tmp_path, limit=7) == few


def test_bad_rows_are_counted_and_shown_with_their_place(model, tmp_path):
    rows = [*make_examples(6), bad(), bad("colours.jsonl:100", "empty text", "`context` is empty")]
    result = run_task(model, make_task(examples=rows), folder=tmp_path)
    assert result.n_examples == 6
    assert result.bad_rows.n == {"empty text": 1, "missing field": 1}
    assert result.bad_rows.shown[0] == "colours.jsonl:99: missing field: no `right`"


def test_a_strict_run_ends_at_bad_rows(model):
    with pytest.raises(DataError, match=r"1 missing field \(`policy` is strict\). colours.jsonl:99"):
        run_task(model, make_task(examples=[*make_examples(6), bad()]), policy="strict")


def long_example():
    return EvalExample("long", "long", {"context": "the sky " * 100, "right": 0}, "colours.jsonl:7")


def test_a_text_over_the_context_is_left_out_and_counted_or_cut(model, tmp_path):
    rows = [*make_examples(6), long_example()]
    result = run_task(model, make_task(examples=rows), folder=tmp_path / "count")
    assert (result.n_examples, result.n_cut, result.bad_rows.n) == (6, 0, {"over the context": 1})
    assert result.bad_rows.shown[0].startswith("colours.jsonl:7: over the context: context and answer of ")
    cut = run_task(model, make_task(examples=rows), folder=tmp_path / "cut", policy="cut")
    assert (cut.n_examples, cut.n_cut, cut.bad_rows.total) == (7, 1, 0)
    for folder in (None, tmp_path / "count"):
        with pytest.raises(DataError, match=r"colours.jsonl:7: over the context.*strict"):
            run_task(model, make_task(examples=rows), policy="strict", folder=folder)


def test_what_the_model_refuses_is_a_bad_row_and_takes_no_other_with_it(model):
    def asked(example):
        return [GenerateRequest("" if example.id == "q3" else "the", Sampling(max_new_tokens=2, temperature=0.0))]

    result = run_task(model, make_task(examples=list(make_examples(6)), requests=asked, score=lambda e, o: {"accuracy": 1.0, "share": 0.0}))
    assert (result.n_examples, result.bad_rows.n) == (5, {"refused": 1})
    assert result.bad_rows.shown[0].startswith("colours.jsonl:4: refused: ")


def test_no_example_at_all_is_an_error(model):
    with pytest.raises(DataError, match=r"no example to ask about in 1 rows \(1 missing field\)"):
        run_task(model, make_task(examples=[bad()]))
    with pytest.raises(DataError, match=r"no example was left to score: colours.jsonl:7: over the context"):
        run_task(model, make_task(examples=[long_example()]))


def test_two_examples_of_one_id_are_refused(model):
    with pytest.raises(DataError, match="the id `q0` is there twice"):
        run_task(model, make_task(examples=[*make_examples(2), *make_examples(1)]))


def test_a_model_that_cannot_do_what_is_asked_says_so_before_anything_is_run(model):
    with pytest.raises(Unsupported, match="cannot `tag`"):
        run_task(model, make_task(requests=lambda example: [TagRequest("the sky")]))


def test_scores_that_are_no_numbers_end_the_run(model):
    with pytest.raises(TouchstoneError, match=r"colours.jsonl:\d+: the model's answers give .*nan"):
        run_task(model, make_task(score=lambda example, outputs: {"accuracy": math.nan, "share": 0.0}))


@pytest.mark.parametrize(("name", "value"), [("limit", 0), ("batch_tokens", 0), ("policy", "skip")])
def test_settings_out_of_range_are_refused(model, name, value):
    with pytest.raises(ConfigError, match=f"`{name}`"):
        run_task(model, make_task(), **{name: value})


def test_examples_of_one_source_are_one_cluster(model, tmp_path):
    rows = [EvalExample(each.id, f"s{n // 4}", each.fields, each.where) for n, each in enumerate(make_examples())]
    result = run_task(model, make_task(examples=rows), folder=tmp_path)
    assert (result.n_examples, result.n_clusters, result.figure("share").n) == (N, N // 4, N // 4)
    assert "by cluster" in result.figure("share").method


def test_a_figure_that_is_not_defined_says_why(model):
    constant = Metric(name="goes along", kind="pearson", columns=("one", "two"))
    base = Baseline("constant", lambda example: {"one": 1.0, "two": 1.0})
    result = run_task(model, make_task(score=lambda e, o: {"one": 3.0, "two": float(e.id[1:])}, metrics=(constant,), baselines=(base,)))
    assert result.figures[0].value is None
    assert "3 throughout" in result.figures[0].reason


@pytest.mark.slow
def test_two_models_are_compared_pair_by_pair(model, tmp_path):
    run_task(model, make_task(), folder=tmp_path / "a", limit=30)
    run_task(make_model(seed=9), make_task(), folder=tmp_path / "b")
    found = {figure.metric.name: figure for figure in compare_results(tmp_path / "a" / "colours", tmp_path / "b" / "colours")}
    a, b = ({row["id"]: row["scores"]["accuracy"] for row in read_rows(tmp_path / side / "colours")} for side in "ab")
    differences = np.array([a[id] - b[id] for id in a])
    assert len(differences) == 30
    assert found["accuracy"].difference.value == pytest.approx(differences.mean())
    assert found["accuracy"].standard_error == pytest.approx(differences.std(ddof=1) / math.sqrt(30))
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    n = wins + losses
    tail = sum(math.comb(n, k) for k in range(min(wins, losses) + 1)) / 2**n
    assert found["accuracy"].p_value == pytest.approx(min(1.0, 2 * tail))


@pytest.mark.slow
def test_results_of_other_prompts_are_not_compared(model, tmp_path):
    run_task(model, make_task(), folder=tmp_path / "a")
    run_task(model, make_task(settings={"shots": 2}), folder=tmp_path / "b")
    with pytest.raises(RunFolderError, match="not of the same examples and prompts: settings"):
        compare_results(tmp_path / "a" / "colours", tmp_path / "b" / "colours")


@pytest.mark.slow
def test_the_document_holds_what_the_figures_hang_on(model, tmp_path):
    run_task(model, make_task(), folder=tmp_path)
    document = json.loads((tmp_path / "colours" / "result.json").read_text())
    assert document["template"] == "{context}"
    assert document["sample"][0] == {"kind": "ChoiceRequest", "context": "the colour is", "answers": [" red", " green", " blue", " yellow"]}
    assert document["identity"]["tokenizer_sha256"] == model.tokenizer.fingerprint
    assert document["identity"]["numeric_scheme"] == "float32"
    assert {"touchstone-lm", "torch", "numpy"} == set(document["identity"]["versions"])
