"""How fast given answers are scored, beside lm-evaluation-harness with its Hugging Face model: `make bench-eval`.

Both score the same token ids with the same weights, in turns, each in a process of its own; what counts is the ratio within a round. The
answers of the first round, which is not timed, are compared. One table and one JSON line are printed.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from touchstone.bench.agreement import Check
from touchstone.bench.engines import PEERS, EngineProcess, check_peers, our_ratio, spread
from touchstone.bench.inference import BETWEEN_TURNS_S, ENVIRONMENTS, engine_environment, make_model, take_turns
from touchstone.bench.inference_jobs import MODELS, ModelShape
from touchstone.errors import MissingPackage
from touchstone.report.terminal import Terminal
from touchstone.runtime import available_cores, environment, set_threads

__all__ = ["compare_scoring", "main"]

Pairs = list[tuple[list[int], list[int]]]

OURS, HARNESS = "touchstone float32", "lm-eval float32"
MOST_APART = 2e-5  # of log-probabilities, relative: sums of fp32 products in another order
SHAPES = {
    "gpt2-124m": MODELS["gpt2-124m"],
    "gpt2-12m": MODELS["gpt2-124m"].resized(vocab_size=4096, n_embd=384, n_layer=6, n_head=6, n_positions=512),
}
JOBS = ("four choices", "single continuations")


def pairs_of(job: str, vocab_size: int, round_number: int) -> Pairs:
    """24 questions of 60 to 100 tokens with four answers of 8 to 24, as HellaSwag's are; or 64 contexts with one to eight tokens each."""
    rng = np.random.default_rng(round_number)

    def tokens(low: int, high: int) -> list[int]:
        found: list[int] = rng.integers(2, vocab_size - 1, rng.integers(low, high + 1)).tolist()
        return found

    if job == "four choices":
        return [(context, tokens(8, 24)) for context in (tokens(60, 100) for _ in range(24)) for _ in range(4)]
    return [(tokens(30, 90), tokens(1, 8)) for _ in range(64)]


def compare_scoring(shapes: dict[str, ModelShape], *, rounds: int, terminal: Terminal) -> dict[str, Any]:
    """Pairs a second by both engines, and our ratio."""
    check_peers()
    n_threads = set_threads(available_cores())
    commands = {
        OURS: [sys.executable, str(PEERS / "score_touchstone.py")],
        "touchstone int8": [sys.executable, str(PEERS / "score_touchstone.py")],
        HARNESS: [str(ENVIRONMENTS / "lm-eval" / "bin" / "python"), str(PEERS / "score_lm_eval.py")],
    }
    if not Path(commands[HARNESS][0]).exists():
        raise MissingPackage(f"{commands[HARNESS][0]} is not there; `make bench-eval` makes it.")
    results = {}
    for name, shape in shapes.items():
        folder = make_model(name, shape, terminal)
        processes = {
            engine: EngineProcess(engine, command, environment=engine_environment(n_threads)) for engine, command in commands.items()
        }
        try:
            for engine, process in processes.items():
                job = {"folder": str(folder), "kind": shape.kind, "form": engine.split()[-1], "n_threads": n_threads}
                process.ask(job, timeout_s=300.0)
            results[name] = {job: _one_job(job, shape, processes, rounds, terminal) for job in JOBS}
        finally:
            for process in processes.values():
                process.close()
    return {"machine": environment(), "n_threads": n_threads, "rounds": rounds, "models": results}


def _one_job(job: str, shape: ModelShape, processes: dict[str, EngineProcess], rounds: int, terminal: Terminal) -> dict[str, Any]:
    terminal.say(f"{job}: {rounds} rounds")
    answers: dict[str, dict[str, Any]] = {}
    n_pairs = [len(pairs_of(job, shape.vocab_size, number)) for number in range(rounds + 1)]

    def run(engine: str, number: int) -> float:
        answers[engine] = processes[engine].ask({"work": "score", "pairs": pairs_of(job, shape.vocab_size, number)}, timeout_s=600.0)
        return float(answers[engine]["seconds"])

    def check(engine: str) -> Check:
        ours, theirs = (np.array([logprob for logprob, _ in answers[name]["outputs"]]) for name in (engine, HARNESS))
        apart = float((np.abs(ours - theirs) / np.abs(theirs)).max())
        fault = f"log-probabilities differ by {apart:.1e} of themselves" if engine != "touchstone int8" and apart > MOST_APART else ""
        return Check(f"apart {apart:.1e}", {"apart": apart}, fault)

    order = [HARNESS, *(engine for engine in processes if engine != HARNESS)]
    turns = take_turns(order, run, check, rounds, pause_s=BETWEEN_TURNS_S)
    found: dict[str, dict[str, Any]] = {}
    for engine in order:
        if engine in turns.left_out:
            found[engine] = {"left_out": turns.left_out[engine]}
            continue
        seconds = turns.seconds[engine]
        figures = [n / s for n, s in zip(n_pairs[1:], seconds, strict=True)]
        found[engine] = {**spread(figures), "checked": turns.checks[engine].said}
        if engine != HARNESS and HARNESS in turns.seconds:
            found[engine]["ratio"] = our_ratio(turns.seconds[HARNESS], seconds)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line of the module."""
    parser = argparse.ArgumentParser(prog="python -m touchstone.bench.scoring", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds after the one that warms up (5)")
    options = parser.parse_args(arguments)
    terminal = Terminal()
    results = compare_scoring(SHAPES, rounds=options.rounds, terminal=terminal)
    rows = []
    for name, jobs in results["models"].items():
        for job, engines in jobs.items():
            for engine, figures in engines.items():
                if "left_out" in figures:
                    rows.append([name, job, engine, "left out: " + figures["left_out"], "-", "-"])
                    continue
                ratio = figures.get("ratio")
                shown = "-" if ratio is None else f"{ratio['median']:.2f} ({ratio['min']:.2f}-{ratio['max']:.2f})"
                speed = f"{figures['median']:.1f} ({figures['min']:.1f}-{figures['max']:.1f})"
                rows.append([name, job, engine, speed, shown, figures["checked"]])
    terminal.table(["model", "job", "engine", "pairs/s, median (min-max)", "times the harness", "check"], rows)
    terminal.say(json.dumps(results), style="command")


if __name__ == "__main__":
    main()
