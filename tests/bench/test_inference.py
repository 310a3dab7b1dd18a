"""The inference benchmark takes fair turns, checks before it times, and goes on without an engine that fails. No real engine runs here."""

import json
import sys

import numpy as np
import pytest

from touchstone.bench import agreement, engines, inference
from touchstone.bench.agreement import Check, check_answer, check_gaps, check_vectors
from touchstone.bench.engines import PEERS, EngineProcess, our_ratio, spread
from touchstone.bench.inference import Runner, Setting, compare_inference, show, take_turns
from touchstone.bench.inference_jobs import ENGINES, JOBS, MODELS, TINY, EngineForm, GenerateJob
from touchstone.errors import MissingPackage, TouchstoneError
from touchstone.report.terminal import Terminal

FINE = Check("fine", {"agreement": 1.0})

ANSWERS = """
import json, sys, time
input()
ANSWER
"""

GOOD = """
print("a notice of some library")
print(json.dumps({"ready": True, "version": "7"}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if asked["work"] == "grade":
        outputs = [{"gaps": [4.2 * (token == 9) for token in row], "logprob": -1.0 * len(row)} for row in asked["outputs"]]
    else:
        outputs = [[TOKEN] * n for n in asked["n_new"]]
    print(json.dumps({"seconds": SECONDS, "outputs": outputs, "peak_bytes": 3_000_000_000}), flush=True)
"""


def good(seconds, token=5):
    return GOOD.replace("SECONDS", str(seconds)).replace("TOKEN", str(token))


def command(answer):
    return [sys.executable, "-c", ANSWERS.replace("ANSWER", answer)]


def started(answer):
    return EngineProcess("fake", command(answer))


class Log:
    """Work that writes down who did which round; `faults` maps (name, round) to what goes wrong."""

    def __init__(self, **faults):
        self.done, self.faults = [], faults

    def run(self, name, number):
        self.done.append((name, number))
        if self.faults.get(name) == number:
            raise TouchstoneError(f"{name} broke")
        return float(number)


def test_median_and_extremes():
    assert spread([3.0, 1.0, 2.0, 10.0]) == {"median": 2.5, "min": 1.0, "max": 10.0}


def test_the_ratio_is_taken_within_a_round():
    assert our_ratio([2.0, 30.0, 8.0], [1.0, 10.0, 8.0]) == {"median": 2.0, "min": 1.0, "max": 3.0}  # a slow round 1 meets both


def test_engines_take_turns_round_by_round_and_each_round_begins_with_the_next():
    log = Log()
    take_turns(["a", "b", "c"], log.run, lambda name: FINE, 3, pause_s=0)
    order = [("abc", 0), ("bca", 1), ("cab", 2), ("abc", 3)]
    assert log.done == [(name, number) for names, number in order for name in names]


def test_the_first_round_is_checked_and_not_timed():
    checked = []
    turns = take_turns(["a", "b"], Log().run, lambda name: checked.append(name) or FINE, 2, pause_s=0)
    assert checked == ["a", "b"]
    assert turns.seconds == {"a": [1.0, 2.0], "b": [1.0, 2.0]}


@pytest.mark.parametrize("number", [0, 2])
def test_an_engine_that_fails_is_left_out_and_the_others_go_on(number):
    turns = take_turns(["a", "b"], Log(a=number).run, lambda name: FINE, 3, pause_s=0)
    assert turns.left_out == {"a": "a broke"}
    assert turns.seconds == {"b": [1.0, 2.0, 3.0]}


def test_an_engine_that_does_wrong_work_is_not_timed():
    log = Log()
    turns = take_turns(["a", "b"], log.run, lambda name: Check("", {}, "it repeats itself") if name == "a" else FINE, 1, pause_s=0)
    assert turns.left_out == {"a": "wrong work: it repeats itself"}
    assert log.done == [("a", 0), ("b", 0), ("b", 1)]


def test_an_engine_that_ends_says_its_last_words():
    engine = started("sys.exit('first\\nno such file')")
    with pytest.raises(TouchstoneError, match="`fake` ended: no such file"):
        engine.ask({})


def test_an_engine_that_hangs_is_ended():
    engine = started("time.sleep(60)")
    with pytest.raises(TouchstoneError, match=r"did not answer within 0\.5 s"):
        engine.ask({}, timeout_s=0.5)
    assert engine._process.returncode is not None


def test_an_engine_that_says_more_than_a_pipe_holds_is_not_stopped_by_it():
    engine = started("sys.stderr.write('x' * 1_000_000)\nprint('{\"ready\": true}', flush=True)")
    assert engine.ask({}, timeout_s=30) == {"ready": True}
    engine.close()


def test_a_form_that_an_engine_lacks_is_not_available(tmp_path):
    answer = "print(json.dumps({'unavailable': 'no int8 yet'}), flush=True)"
    with pytest.raises(TouchstoneError, match="not available: no int8 yet"):
        Runner(ENGINES[1], Setting(TINY["gpt2-124m"], tmp_path, 1), command(answer))


def test_work_that_fails_leaves_the_engine_running(tmp_path):
    answer = good(1.0).replace('asked["work"] == "grade"', 'asked["work"] == "bad"').replace('"outputs": outputs', '"failed": "no beams"')
    runner = Runner(ENGINES[0], Setting(TINY["gpt2-124m"], tmp_path, 1), command(answer))
    for _ in range(2):
        with pytest.raises(TouchstoneError, match="no beams"):
            runner.run({"work": "generate", "n_new": [1]})
    assert runner.reason == ""
    runner.close()


def test_every_round_has_tokens_of_its_own_and_the_same_for_every_engine():
    job = JOBS["decode-8"]
    assert job.request(997, 1) == job.request(997, 1)
    first, second = (job.request(997, number)["prompts"] for number in (1, 2))
    assert all(a != b for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", JOBS)
def test_prompts_hold_neither_the_unknown_the_end_nor_the_padding_token(name):
    request = JOBS[name].request(50, 3)
    tokens = {token for row in request.get("prompts", request.get("rows")) for token in row}
    assert tokens <= set(range(2, 49))


def test_ragged_requests_stay_within_their_bounds_and_count_useful_tokens_alone():
    job = JOBS["ragged-16"]
    assert len(job.prompt_lengths) == len(job.new_lengths) == 16
    assert all(16 <= length <= 128 for length in (*job.prompt_lengths, *job.new_lengths))
    assert job.n_units == sum(job.new_lengths)


def test_sorted_sentences_are_the_ragged_ones():
    assert JOBS["encode-sorted"].lengths == tuple(sorted(JOBS["encode-ragged"].lengths))


def test_every_engine_has_its_runner_and_every_peer_what_it_is_installed_from():
    for form in ENGINES:
        assert (PEERS / f"infer_{form.peer.replace('-', '_')}.py").exists()
        assert form.peer == "touchstone" or (PEERS / f"requirements-{form.peer}.txt").exists()


def test_the_tiny_models_are_of_the_same_kinds():
    assert {name: shape.kind for name, shape in TINY.items()} == {name: shape.kind for name, shape in MODELS.items()}


@pytest.mark.parametrize(("gap", "is_wrong"), [(0.0, False), (0.005, False), (0.02, True)])
def test_a_token_far_below_the_best_is_wrong_work(gap, is_wrong):
    assert bool(check_gaps([0.0, gap], agreement.MAX_GAP[True]).fault) == is_wrong


def test_agreement_is_the_share_of_tokens_that_are_the_references_best():
    assert check_gaps([0.0, 0.3, 0.0, 0.0], 1.0).figures == {"agreement": 0.75, "worst_gap": 0.3}


def test_a_vector_is_compared_by_its_relative_distance():
    check = check_vectors(np.array([[3.0, 4.0], [0.0, 1.1]]), np.array([[3.0, 4.0], [0.0, 1.0]]), 0.05)
    assert check.figures["worst_error"] == pytest.approx(0.1)
    assert "0.10 of its length" in check.fault


def test_too_few_tokens_are_wrong_work():
    job = GenerateJob(("gpt2",), (4,), (3,))
    check = check_answer(job, job.request(97, 0), [[5, 5]], grade=None, expected=None, is_exact=True)
    assert "[2] tokens" in check.fault


@pytest.fixture
def fakes(monkeypatch, tmp_path):
    """Engines that answer at once with invented times; one is missing, one dies, one hangs, one writes what is wrong."""
    answers = {
        "touchstone float32": good(0.5),
        "touchstone int8": "print(json.dumps({'unavailable': 'no int8 yet'}), flush=True)",
        "transformers float32": good(1.0),
        "transformers bfloat16": good(1.0, token=9),
        "ctranslate2 float32": "sys.exit('out of memory')",
        "ctranslate2 int8": good(1.0).replace("for line in sys.stdin:", "for line in sys.stdin:\n    time.sleep(60)"),
    }
    monkeypatch.setattr(inference, "_command", lambda form: command(answers[form.name]))
    monkeypatch.setattr(inference, "_missing", lambda form: "not installed: no compiler" if form.peer == "llama-cpp" else "")
    monkeypatch.setattr(inference, "make_model", lambda name, shape, terminal: tmp_path)
    peaks = ("matmul_float32_flops_per_s", "matmul_bfloat16_flops_per_s", "read_bytes_per_s")
    monkeypatch.setattr(inference, "_peaks", lambda: dict.fromkeys(peaks, 3e11))
    monkeypatch.setattr(inference, "ANSWER_TIMEOUT_S", 1.0)
    monkeypatch.setattr(inference, "BETWEEN_TURNS_S", 0.0)
    return [form for form in ENGINES if form.name in answers or form.name == "llama-cpp f32"]


@pytest.mark.slow
def test_one_run_tells_speeds_ratios_and_who_was_left_out(fakes):
    job = GenerateJob(("gpt2",), (4, 4), (3, 5))
    found = compare_inference({"tiny": TINY["gpt2-124m"]}, {"decode": job}, fakes, rounds=2, terminal=Terminal(quiet=True))
    engines_found = found["models"]["tiny"]["jobs"]["decode"]
    assert engines_found["touchstone float32"]["median"] == 16  # 8 tokens in half a second
    assert engines_found["transformers float32"]["our_ratio"]["touchstone float32"] == {"median": 2.0, "min": 2.0, "max": 2.0}
    left_out = {name: figures["left_out"] for name, figures in engines_found.items() if "left_out" in figures}
    assert left_out == {
        "touchstone int8": "not available: no int8 yet",
        "transformers bfloat16": "wrong work: a token is 4.20 standard deviations below the reference's best",
        "ctranslate2 float32": "The engine `ctranslate2 float32` ended: out of memory",
        "ctranslate2 int8": "The engine `ctranslate2 int8` did not answer within 1 s.",
        "llama-cpp f32": "not installed: no compiler",
    }


@pytest.mark.parametrize(("form", "gain", "is_out"), [("bfloat16", 0.49, True), ("bfloat16", 0.5, False), ("int8", 0.1, False)])
def test_bfloat16_takes_no_turns_where_it_is_emulated(form, gain, is_out):
    peaks = {"matmul_float32_flops_per_s": 2e11, "matmul_bfloat16_flops_per_s": gain * 2e11}
    assert ("emulated" in inference._emulated(EngineForm("transformers", form), peaks)) == is_out


@pytest.mark.slow
def test_one_run_says_who_was_left_out_for_emulated_numbers(fakes, monkeypatch):
    peaks = {"matmul_float32_flops_per_s": 2e11, "matmul_bfloat16_flops_per_s": 2e10, "read_bytes_per_s": 3e10}
    monkeypatch.setattr(inference, "_peaks", lambda: peaks)
    job = GenerateJob(("gpt2",), (4,), (1,))
    found = compare_inference({"tiny": TINY["gpt2-124m"]}, {"decode": job}, fakes[:4], rounds=1, terminal=Terminal(quiet=True))
    engines_found = found["models"]["tiny"]["jobs"]["decode"]
    assert (
        engines_found["transformers bfloat16"]["left_out"]
        == "bfloat16 products measured 0.10 times float32's speed here: they are emulated."
    )
    assert "median" in engines_found["transformers float32"]


@pytest.mark.slow
def test_a_cold_start_counts_the_time_of_a_whole_process(fakes):
    job = GenerateJob(("gpt2",), (4,), (1,), counts="s")
    found = compare_inference({"tiny": TINY["gpt2-124m"]}, {"first": job}, fakes[:3], rounds=1, terminal=Terminal(quiet=True))
    figures = found["models"]["tiny"]["jobs"]["first"]["transformers float32"]
    assert figures["unit"] == "s"
    assert 0 < figures["median"] < 60
    assert figures["median"] != 1.0  # the runner's own figure


@pytest.mark.slow
def test_a_table_and_one_line_of_json_are_printed(fakes, capsys):
    job = GenerateJob(("gpt2",), (4,), (4,))
    show(compare_inference({"tiny": TINY["gpt2-124m"]}, {"decode": job}, fakes[:3], rounds=1, terminal=Terminal(quiet=True)), Terminal())
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if "transformers float32" in line)
    assert " ".join(row.split()) == "tiny decode transformers float32 tokens/s 4.00 (4.00-4.00) 2.00 (2.00-2.00) - 3.00 100.0% same, gap 0"
    assert "left out: touchstone int8: not available: no int8 yet" in lines
    assert json.loads(lines[-1])["models"]["tiny"]["versions"] == {"touchstone": "7", "transformers": "7"}


def test_without_the_reference_nothing_is_measured(monkeypatch):
    monkeypatch.setattr(inference, "_missing", lambda form: "not installed: it is not there.")
    with pytest.raises(MissingPackage, match="checked against"):
        compare_inference({}, {}, ENGINES, rounds=1, terminal=Terminal(quiet=True))


def test_outside_a_clone_the_peers_are_said_to_be_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(engines, "PEERS", tmp_path / "nowhere")
    with pytest.raises(MissingPackage, match="run it from a clone"):
        engines.check_peers()


def test_only_ragged_requests_go_to_continuous_batching():
    form = EngineForm("transformers", "float32 continuous")
    assert [name for name, job in JOBS.items() if form.runs(MODELS["gpt2-124m"], job)] == ["ragged-16"]
