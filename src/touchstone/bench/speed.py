"""Our speed beside what a user would otherwise pick, in one run: `python -m touchstone.bench.speed train`.

Every engine sits in a process of its own and they take turns, round by round, so that a slow spell of the machine meets all of them;
what counts is the ratio within a round. Peers live in `bench/peers/` of the repository and are never imported.
"""

import argparse
import statistics
import sys
from dataclasses import asdict, dataclass
from typing import Any

from touchstone.bench.engines import PEERS, EngineProcess, Spread, check_peers, our_ratio
from touchstone.bench.machine import measure_matmul
from touchstone.report.terminal import Terminal
from touchstone.runtime import available_cores, environment, set_threads

__all__ = ["TRAIN_JOBS", "Engine", "compare_training", "main"]


@dataclass(frozen=True)
class TrainJob:
    """One model shape, the batch, and the steps of a round."""

    d_model: int
    n_layers: int
    n_heads: int
    context: int
    vocab_size: int
    batch_size: int
    n_steps: int

    @property
    def n_tokens(self) -> int:
        return self.batch_size * self.context * self.n_steps


TRAIN_JOBS = {
    "12m": TrainJob(d_model=384, n_layers=6, n_heads=6, context=256, vocab_size=4096, batch_size=8, n_steps=4),
    "124m": TrainJob(d_model=768, n_layers=12, n_heads=12, context=256, vocab_size=50257, batch_size=4, n_steps=1),
}
"""The shapes of the reference measurement: 6 layers of 384 with context 256, and GPT-2's 124M."""

TRAIN_ENGINES = {
    "touchstone": [sys.executable, "-m", "touchstone.bench.worker"],
    "plain torch loop": [sys.executable, str(PEERS / "train_torch.py")],
    "transformers Trainer": [sys.executable, str(PEERS / "train_transformers.py")],
}


class Engine:
    """One engine at one job."""

    def __init__(self, name: str, command: list[str], job: dict[str, Any]) -> None:
        self.name = name
        self._process = EngineProcess(name, command)
        self.facts = self._process.ask(job)

    def run(self, units: int) -> float:
        """Seconds for so many units of work."""
        return float(self._process.ask({"units": units})["seconds"])

    def close(self) -> None:
        self._process.close()


def compare_training(jobs: dict[str, TrainJob], *, rounds: int, terminal: Terminal) -> dict[str, Any]:
    """Tokens a second of every engine on every job, as medians over the rounds, and our ratio to each peer with its spread."""
    check_peers()
    n_threads = set_threads(available_cores())
    results = {name: _one_job(name, job, rounds, n_threads, terminal) for name, job in jobs.items()}
    return {"machine": environment(), "n_threads": n_threads, "rounds": rounds, "jobs": results}


def _one_job(name: str, job: TrainJob, rounds: int, n_threads: int, terminal: Terminal) -> dict[str, Any]:
    terminal.say(f"{name}: starting {len(TRAIN_ENGINES)} engines, {rounds} rounds of {job.n_tokens} tokens each")
    engines = [Engine(label, command, {**asdict(job), "n_threads": n_threads}) for label, command in TRAIN_ENGINES.items()]
    try:
        seconds: dict[str, list[float]] = {engine.name: [] for engine in engines}
        for engine in engines:
            engine.run(1)  # warm
        peak = measure_matmul(seconds=1.0)
        for _ in range(rounds):
            for engine in engines:
                seconds[engine.name].append(engine.run(job.n_steps))
            peak = max(peak, measure_matmul(seconds=1.0))  # a turn of its own in every round, so that it is of the same moments
    finally:
        for engine in engines:
            engine.close()
    ours = engines[0]
    flops = 3 * float(ours.facts["flops"])
    return {
        "job": asdict(job),
        "matmul_peak_flops_per_s": peak,
        "product": ours.facts["product"],
        "engines": {
            engine.name: {
                "parameters": engine.facts["parameters"],
                "tokens_per_s": job.n_tokens / statistics.median(seconds[engine.name]),
                "fraction_of_peak": flops * job.n_tokens / statistics.median(seconds[engine.name]) / peak,
                "our_ratio": our_ratio(seconds[engine.name], seconds[ours.name]),
            }
            for engine in engines
        },
    }


def main(arguments: list[str] | None = None) -> None:
    """The command line of the module."""
    parser = argparse.ArgumentParser(prog="python -m touchstone.bench.speed", description=__doc__)
    parser.add_argument("what", choices=["train"])
    parser.add_argument("--jobs", nargs="+", choices=list(TRAIN_JOBS), default=list(TRAIN_JOBS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one JSON line in place of the table")
    options = parser.parse_args(arguments)
    terminal = Terminal(json=options.json)
    results = compare_training({name: TRAIN_JOBS[name] for name in options.jobs}, rounds=options.rounds, terminal=terminal)
    if options.json:
        terminal.result(results)
        return
    rows = [
        [
            name,
            f"{engine}, {result['product']}" if engine == "touchstone" else engine,
            f"{facts['tokens_per_s']:.0f}",
            f"{facts['fraction_of_peak']:.2f}",
            _shown(facts["our_ratio"]),
        ]
        for name, result in results["jobs"].items()
        for engine, facts in result["engines"].items()
    ]
    terminal.table(["model", "engine", "tokens/s", "of matmul peak", "touchstone's ratio (min-max)"], rows)


def _shown(ratio: Spread) -> str:
    return f"{ratio['median']:.2f} ({ratio['min']:.2f}-{ratio['max']:.2f})"


if __name__ == "__main__":
    main()
