"""Our inference speed beside what a user would otherwise pick, in one run: `make bench-infer`, or `python -m touchstone.bench.inference`.

The engines of a model are all loaded, each in a process of its own, and take turns round by round with the same work, so that a slow
spell of the machine meets all of them; what counts is the ratio within a round. The first round warms up and is checked against
transformers (see `agreement`). `make bench-infer` makes the environments; the models are made here, once, into the cache folder. One
table and one JSON line are printed.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from touchstone.bench.agreement import Check, check_answer
from touchstone.bench.engines import PEERS, EngineProcess, Spread, check_peers, our_ratio, spread
from touchstone.bench.inference_jobs import ENGINES, JOBS, MODELS, REFERENCE, TINY, EngineForm, Job, ModelShape
from touchstone.bench.machine import measure_matmul, measure_reading
from touchstone.errors import MissingPackage, TouchstoneError
from touchstone.files import cache_folder, hash_of, is_complete, publish_folder
from touchstone.report.terminal import Terminal
from touchstone.runtime import available_cores, environment, set_threads

__all__ = ["Runner", "Setting", "compare_inference", "main", "take_turns"]

ENVIRONMENTS = PEERS.parents[1] / ".venv-peers"
"""Where `make bench-infer` puts an environment a peer."""

ANSWER_TIMEOUT_S = 600.0
LOAD_TIMEOUT_S = 180.0
LEAST_BFLOAT16 = 0.5
"""The share of fp32's peak below which bfloat16 takes no turns: it is emulated there."""
BETWEEN_TURNS_S = 0.2  # threads of the engine before may spin for a while

_THREAD_SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


@dataclass(frozen=True)
class Setting:
    """What holds for all engines of a model: the folder of its forms, and the threads of each engine."""

    shape: ModelShape
    folder: Path
    n_threads: int


class Runner:
    """One engine with a model loaded. `reason` says why it takes no turns, once it does not."""

    def __init__(self, form: EngineForm, setting: Setting, command: Sequence[str] | None = None) -> None:
        """command: None = the runner of the engine in its environment. Raises TouchstoneError if the engine cannot be had."""
        self.form, self.reason, self.peak_bytes = form, "", 0
        self._process = EngineProcess(
            form.name, command or _command(form), environment=engine_environment(setting.n_threads if form.peer != "touchstone" else None)
        )
        job = {"folder": str(setting.folder), "kind": setting.shape.kind, "form": form.form, "n_threads": setting.n_threads}
        answer = self._process.ask(job, timeout_s=LOAD_TIMEOUT_S)
        if "unavailable" in answer:
            self.close()
            raise TouchstoneError(f"not available: {answer['unavailable']}")
        self.version = str(answer["version"])

    def run(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """What the engine answers; TouchstoneError where it fails, ends or hangs."""
        try:
            answer = self._process.ask(request, timeout_s=ANSWER_TIMEOUT_S)
        except TouchstoneError as error:
            self.reason = str(error)  # the process is gone, and with it the other jobs of this model
            raise
        if "failed" in answer:
            raise TouchstoneError(answer["failed"])
        self.peak_bytes = max(self.peak_bytes, answer["peak_bytes"])
        return answer

    def close(self) -> None:
        self._process.close()


@dataclass
class Turns:
    """What the rounds of a job gave: seconds by engine, checks, and who was left out and why."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    checks: dict[str, Check] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def take_turns(
    names: Sequence[str],
    run: Callable[[str, int], float],
    check: Callable[[str], Check],
    rounds: int,
    *,
    pause_s: float,
) -> Turns:
    """Let every engine do round 0, which is checked and not timed, and then `rounds` more, each round begun by the next engine.

    run: seconds of an engine's work in a round. An engine whose work raises TouchstoneError or is wrong is left out, and the others go on.
    """
    turns = Turns()

    def turn(name: str, number: int) -> None:
        time.sleep(pause_s)
        try:
            seconds = run(name, number)
            if number == 0:
                turns.checks[name] = check(name)
                if fault := turns.checks[name].fault:
                    turns.left_out[name] = f"wrong work: {fault}"
            else:
                turns.seconds.setdefault(name, []).append(seconds)
        except TouchstoneError as error:
            turns.left_out[name] = str(error)
            turns.seconds.pop(name, None)

    for number in range(rounds + 1):
        first = number % max(1, len(names))
        for name in (*names[first:], *names[:first]):
            if name not in turns.left_out:
                turn(name, number)
    return turns


def compare_inference(
    models: Mapping[str, ModelShape], jobs: Mapping[str, Job], forms: Sequence[EngineForm], *, rounds: int, terminal: Terminal
) -> dict[str, Any]:
    """Every job of every model by every engine: its speed, our ratios to it, its memory and its check."""
    check_peers()
    n_threads = set_threads(available_cores())
    missing = {form.name: reason for form in forms if (reason := _missing(form))}
    if REFERENCE.name in missing:
        raise MissingPackage(f"{missing[REFERENCE.name]} Every engine is checked against it.")
    before, results, peaks = os.getloadavg(), {}, [_peaks()]
    missing |= {form.name: reason for form in forms if (reason := _emulated(form, peaks[0]))}
    for name, shape in models.items():
        chosen = {job_name: job for job_name, job in jobs.items() if shape.kind in job.kinds}
        if not chosen:
            continue
        setting = Setting(shape, make_model(name, shape, terminal), n_threads)
        results[name] = _one_model(name, setting, chosen, forms, dict(missing), rounds, terminal)
        peaks.append(_peaks())
    return {
        "machine": environment(),
        "n_threads": n_threads,
        "rounds": rounds,
        "load": {"before": before[0], "after": os.getloadavg()[0]},
        "peaks": {what: max(peak[what] for peak in peaks) for what in peaks[0]},
        "models": results,
    }


def make_model(name: str, shape: ModelShape, terminal: Terminal) -> Path:
    """The folder with every form of a model, in the cache, made by the script beside the peers if it is not there."""
    made_by = [PEERS / "make_model.py", *sorted(PEERS.glob("requirements-*.txt"))]
    asked = json.dumps({"kind": shape.kind, "seed": shape.seed, "config": dict(shape.config)}, sort_keys=True)
    key = hash_of({"asked": asked, "made_by": [path.read_text("utf-8") for path in made_by]})
    folder = cache_folder() / "bench" / f"{name}-{key[:12]}"
    if not is_complete(folder):
        terminal.say(f"{name}: making its weights and forms in {folder}")
        publish_folder(folder, lambda place: _make(place, asked))
    return folder


def _make(place: Path, asked: str) -> None:
    python = ENVIRONMENTS / "models" / "bin" / "python"
    if not python.exists():
        raise MissingPackage(f"{python} is not there; `make bench-infer` makes it.")
    done = subprocess.run([python, PEERS / "make_model.py", place, asked], capture_output=True, text=True, check=False)
    if done.returncode:
        raise TouchstoneError(f"The model of the benchmark could not be made: {done.stderr.strip().splitlines()[-1:]}")


def _one_model(
    name: str,
    setting: Setting,
    jobs: Mapping[str, Job],
    forms: Sequence[EngineForm],
    left_out: dict[str, str],
    rounds: int,
    terminal: Terminal,
) -> dict[str, Any]:
    runners: dict[str, Runner] = {}
    try:
        for form in forms:
            if form.name not in left_out and any(form.runs(setting.shape, job) for job in jobs.values()):
                terminal.say(f"{name}: loading {form.name}")
                try:
                    runners[form.name] = Runner(form, setting)
                except TouchstoneError as error:
                    left_out[form.name] = str(error)
        found = {}
        for job_name, job in jobs.items():
            able = [form for form in forms if form.runs(setting.shape, job)]
            here = [runners[form.name] for form in able if form.name in runners]
            terminal.say(f"{name}: {job_name}, {rounds} rounds of {len(here)} engines")
            turns = _one_job(job, setting, here, runners.get(REFERENCE.name), rounds)
            turns.left_out |= {form.name: left_out[form.name] for form in able if form.name in left_out}
            found[job_name] = _summary(job, [form.name for form in able], turns)
            terminal.say("  " + ", ".join(f"{engine} {_shown(each)}" for engine, each in found[job_name].items() if "median" in each))
        return {
            "jobs": found,
            "peak_bytes": {engine: runner.peak_bytes for engine, runner in runners.items()},
            "versions": {runner.form.peer: runner.version for runner in runners.values()},
        }
    finally:
        for runner in runners.values():
            runner.close()


def _one_job(job: Job, setting: Setting, runners: Sequence[Runner], reference: Runner | None, rounds: int) -> Turns:
    alive = {runner.form.name: runner for runner in runners if not runner.reason}
    requests = [job.request(setting.shape.vocab_size, number) for number in range(rounds + 1)]
    answers: dict[str, dict[str, Any]] = {}

    def run(name: str, number: int) -> float:
        if job.is_cold:
            seconds, answers[name] = _cold_run(alive[name], setting, requests[number])
            return seconds
        answers[name] = alive[name].run(requests[number])
        return float(answers[name]["seconds"])

    def asked_of_reference(request: Mapping[str, Any]) -> list[Any]:
        if reference is None or reference.reason:
            raise TouchstoneError("nothing to check against: the reference engine is gone")
        outputs: list[Any] = reference.run(request)["outputs"]
        return outputs

    @functools.cache
    def expected() -> list[Any]:
        return asked_of_reference(requests[0])

    def grade(prompts: list[list[int]], outputs: list[list[int]]) -> list[dict[str, Any]]:
        return asked_of_reference({"work": "grade", "prompts": prompts, "outputs": outputs})

    def check(name: str) -> Check:
        is_exact = alive[name].form.is_exact
        return check_answer(job, requests[0], answers[name]["outputs"], grade=grade, expected=expected, is_exact=is_exact)

    turns = take_turns(list(alive), run, check, rounds, pause_s=BETWEEN_TURNS_S)
    turns.left_out |= {runner.form.name: runner.reason for runner in runners if runner.form.name not in alive}
    return turns


def _cold_run(warm: Runner, setting: Setting, request: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
    """Seconds of a process of its own from its start through imports and loading to the answer; the files are in the page cache."""
    start = time.perf_counter()
    runner = Runner(warm.form, setting)
    try:
        answer = runner.run(request)
        seconds = time.perf_counter() - start
    finally:
        runner.close()
    warm.peak_bytes = max(warm.peak_bytes, runner.peak_bytes)
    return seconds, answer


def _summary(job: Job, names: Sequence[str], turns: Turns) -> dict[str, Any]:
    """By engine: the figure with its spread and our ratios, or why there is none."""
    ours = [name for name in names if name.startswith("touchstone ") and name in turns.seconds]
    found: dict[str, Any] = {}
    for name in names:
        check = turns.checks.get(name)
        about = {"check": check.figures, "checked": check.said} if check else {}
        if name in turns.left_out or name not in turns.seconds:
            found[name] = {"left_out": turns.left_out.get(name, "it took no turn"), **about}
            continue
        times = turns.seconds[name]
        figures = times if job.unit == "s" else [job.n_units / seconds for seconds in times]
        ratios = {us: our_ratio(times, turns.seconds[us]) for us in ours if us != name}
        found[name] = {"unit": job.unit, **spread(figures), "our_ratio": ratios, **about}
    return found


def _command(form: EngineForm) -> list[str]:
    python = Path(sys.executable) if form.peer == "touchstone" else ENVIRONMENTS / form.peer / "bin" / "python"
    return [str(python), str(PEERS / f"infer_{form.peer.replace('-', '_')}.py")]


def _missing(form: EngineForm) -> str:
    """Why an engine cannot be started; empty if it can."""
    python = Path(_command(form)[0])
    if python.exists():
        return ""
    log = ENVIRONMENTS / f"{form.peer}.log"  # the Makefile leaves it where an installation failed
    lines = log.read_text("utf-8", errors="replace").strip().splitlines() if log.exists() else []
    return f"not installed: {lines[-1]}" if lines else f"not installed: {python} is not there; `make bench-infer` makes it."


def engine_environment(n_threads: int | None) -> dict[str, str]:
    """The variables of an engine's process, with the number of threads; None = it decides by itself."""
    plain = {name: value for name, value in os.environ.items() if name not in _THREAD_SETTINGS}
    return plain if n_threads is None else {**plain, "OMP_NUM_THREADS": str(n_threads)}


def _peaks() -> dict[str, float]:
    return {
        "matmul_float32_flops_per_s": measure_matmul(seconds=1.0),
        "matmul_bfloat16_flops_per_s": measure_matmul(dtype=torch.bfloat16, seconds=1.0),
        "read_bytes_per_s": measure_reading(),
    }


def _emulated(form: EngineForm, peaks: Mapping[str, float]) -> str:
    """Why an engine's numbers are not worth a turn on this machine; empty where they are."""
    gain = peaks["matmul_bfloat16_flops_per_s"] / peaks["matmul_float32_flops_per_s"]
    if not form.form.startswith("bfloat16") or gain >= LEAST_BFLOAT16:
        return ""
    return f"bfloat16 products measured {gain:.2f} times float32's speed here: they are emulated."


def main(arguments: list[str] | None = None) -> None:
    """The command line of the module."""
    others = sorted({form.peer for form in ENGINES} - {"touchstone", REFERENCE.peer})
    parser = argparse.ArgumentParser(prog="python -m touchstone.bench.inference", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(JOBS), default=list(JOBS), metavar="JOB", help=f"of {', '.join(JOBS)}")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS), metavar="MODEL", help=f"of {', '.join(MODELS)}")
    parser.add_argument(
        "--peers",
        nargs="*",
        choices=others,
        default=others,
        metavar="PEER",
        help=f"of {', '.join(others)}; touchstone and transformers, which the others are checked against, always run",
    )
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds after the one that warms up (5)")
    parser.add_argument("--quick", action="store_true", help="tiny models and short requests, one round: whether all runs, not how fast")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    terminal = Terminal()
    jobs = {name: JOBS[name].shortened() if options.quick else JOBS[name] for name in options.only}
    results = compare_inference(
        {name: (TINY if options.quick else MODELS)[name] for name in options.models},
        jobs,
        [form for form in ENGINES if form.peer in ("touchstone", REFERENCE.peer, *options.peers)],
        rounds=1 if options.quick else options.rounds,
        terminal=terminal,
    )
    show(results, terminal)


def show(results: Mapping[str, Any], terminal: Terminal) -> None:
    """One table, what was left out, and one JSON line."""
    peaks, load = results["peaks"], results["load"]
    terminal.say(
        f"{results['n_threads']} threads; matmul {peaks['matmul_float32_flops_per_s'] / 1e9:.0f} GFLOP/s in fp32,"
        f" {peaks['matmul_bfloat16_flops_per_s'] / 1e9:.0f} in bf16; memory {peaks['read_bytes_per_s'] / 1e9:.1f} GB/s;"
        f" load {load['before']:.1f} before, {load['after']:.1f} after"
    )
    terminal.table(
        [
            "model",
            "job",
            "engine",
            "unit",
            "median (min-max)",
            "touchstone float32's ratio",
            "touchstone int8's ratio",
            "memory, GB",
            "check",
        ],
        [row for name, model in results["models"].items() for row in _table_rows(name, model)],
    )
    reasons = dict.fromkeys(
        (engine, figures["left_out"])
        for model in results["models"].values()
        for job in model["jobs"].values()
        for engine, figures in job.items()
        if "left_out" in figures
    )
    for engine, reason in reasons:
        terminal.say(f"left out: {engine}: {reason}")
    terminal.say(json.dumps(results), style="command")


def _table_rows(name: str, model: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for job, engines in model["jobs"].items():
        for engine, figures in engines.items():
            if "left_out" in figures:
                rows.append([name, job, engine, "-", "left out", "-", "-", "-", figures.get("checked", "-")])
                continue
            ratios = [figures["our_ratio"].get(f"touchstone {form}") for form in ("float32", "int8")]
            memory = f"{model['peak_bytes'][engine] / 1e9:.2f}"
            shown = [_shown(ratio) if ratio else "-" for ratio in ratios]
            rows.append([name, job, engine, figures["unit"], _shown(figures), *shown, memory, figures["checked"]])
    return rows


def _shown(values: Spread) -> str:
    digits = 0 if values["median"] >= 100 else 1 if values["median"] >= 10 else 2
    return f"{values['median']:.{digits}f} ({values['min']:.{digits}f}-{values['max']:.{digits}f})"


if __name__ == "__main__":
    main()
