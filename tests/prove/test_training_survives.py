"""Twenty kills at random instants and a SIGTERM in every phase: the run ends with the bits of one that was left alone.

Writes docs/results/resume.md. Takes some minutes: every kill is a process, and every process imports torch.
"""

import datetime
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

PROGRAM = Path(__file__).with_name("surviving_run.py")
RESULTS = Path(__file__).parents[2] / "docs" / "results" / "resume.md"
N_KILLS, N_STEPS, STEPS_AN_EPOCH = 20, 35, 10
EVENTS = ("batch", "batch", "batch", "update", "evaluate", "sample", "save", "saved")  # as often as time is spent in them, about


@dataclass
class Blow:
    """What was sent to the run, and where it was when it came."""

    sent: str
    phase: str
    step: int
    began_at: int | None = None  # the checkpoint this start had resumed from

    @property
    def epoch(self):
        return self.step // STEPS_AN_EPOCH + 1


def start(folder, *options):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, str(PROGRAM), str(folder), *options], stdout=subprocess.PIPE, text=True, env=environment)


def run_until(folder, is_time, number, delay, *options):
    """Run until a line answers, then `delay` seconds more, then the signal; gives the last line before it and all lines after."""
    with start(folder, *options) as process:
        last = None
        for line in process.stdout:
            last = line.split()
            if is_time(*last):
                time.sleep(delay)
                process.send_signal(number)
                rest = [left.split() for left in process.stdout]
                return last, rest
    return last, []


def left_alone(folder, *options):
    """The hash of the weights of a run to its end."""
    with start(folder, *options) as process:
        lines = process.stdout.read().splitlines()
    assert process.returncode == 0
    assert lines[-2].split() == ["finished", str(N_STEPS)]
    return lines[-1]


def newest(folder):
    steps = [int(path.parent.name.split("-")[1]) for path in (folder / "checkpoints").glob("step-*/COMPLETE.json")]
    return max(steps, default=None)


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines], [line["loss"] for line in lines], [line.get("valid_loss") for line in lines]


def kill_twenty_times(folder, rng):
    blows = []
    targets = sorted(rng.randrange(3 * STEPS_AN_EPOCH - 3) for _ in range(N_KILLS))
    for target in targets:
        wanted, delay = rng.choice(EVENTS), rng.random() * 0.02
        found, n_batches = [], rng.randrange(3)

        def is_time(phase, step="", wanted=wanted, target=target, found=found, n_batches=n_batches):
            found.append((phase, step))
            if not step.isdigit() or int(step) < target:
                return False
            if wanted == "batch" or int(step) > target + 1:  # the first, second or third micro-batch of its step
                return phase == "batch" and sum(one == (phase, step) for one in found) == n_batches + 1
            return phase == wanted

        before = newest(folder)
        last, rest = run_until(folder, is_time, signal.SIGKILL, delay)
        phase, step = (rest or [last])[-1][:2]  # it may have gone on while we slept
        blows.append(Blow("SIGKILL", phase, int(step), before))
        assert phase not in ("finished", "interrupted")
    return blows


def terminate_in_every_phase(folder):
    blows = []
    for phase, step in (
        ("save", 0),
        ("batch", 0),
        ("batch", 7),
        ("update", 9),
        ("evaluate", 12),
        ("sample", 15),
        ("save", 18),
        ("batch", 23),
    ):
        before = newest(folder)

        def is_time(here, at="", phase=phase, step=step):
            return here == phase and at.isdigit() and int(at) >= step

        _, rest = run_until(folder, is_time, signal.SIGTERM, 0.0)
        status, at = rest[-2][:2]
        assert status == "interrupted"
        assert newest(folder) == int(at)  # it saved what it had
        blows.append(Blow("SIGTERM", phase, int(at), before))
    return blows


@pytest.mark.prove
def test_a_run_that_is_killed_twenty_times_and_stopped_in_every_phase_ends_with_the_same_bits(tmp_path):
    seed = int(os.environ.get("TOUCHSTONE_PROVE_SEED", "0"))
    began = time.time()
    reference = left_alone(tmp_path / "alone")
    kills = kill_twenty_times(tmp_path / "killed", random.Random(seed))
    after_kills = left_alone(tmp_path / "killed")
    stops = terminate_in_every_phase(tmp_path / "stopped")
    after_stops = left_alone(tmp_path / "stopped")
    assert len(kills) == N_KILLS
    assert {blow.epoch for blow in kills} >= {1, 2, 3}
    assert {"batch", "save"} <= {blow.phase for blow in kills}
    assert after_kills == reference
    assert after_stops == reference
    for name in ("killed", "stopped"):
        assert losses(tmp_path / name) == losses(tmp_path / "alone")
    compiled = stop_while_compiling(tmp_path) if shutil.which("g++") else "not run: no C++ compiler"
    write_results(seed, reference, kills, stops, compiled, time.time() - began)


def stop_while_compiling(folder):
    """SIGTERM two seconds into torch.compile ends the run at step 0, and it resumes to the bits of one left alone."""
    reference = left_alone(folder / "compiled", "--compile")
    _, rest = run_until(folder / "cut", lambda phase, step="": phase == "batch", signal.SIGTERM, 2.0, "--compile")
    status, at = rest[-2][:2]
    assert status == "interrupted"
    assert left_alone(folder / "cut", "--compile") == reference
    return f"came two seconds into the compilation, saved at step {at}; the resumed run equals the compiled one left alone"


def write_results(seed, reference, kills, stops, compiled, seconds):
    rows = [
        f"| {number} | {blow.sent} | {blow.phase} | {blow.step} | {blow.epoch} | {'-' if blow.began_at is None else blow.began_at} |"
        for number, blow in enumerate([*kills, *stops], 1)
    ]
    where = f"Python {platform.python_version()}, torch {torch.__version__}, {platform.system()} {platform.machine()}, one thread"
    text = f"""# Resume: killed {len(kills)} times, stopped in every phase, and the same bits

Written by `pytest -m prove tests/prove/test_training_survives.py`, a part of `make prove`, with seed {seed}, on
{datetime.date.today().isoformat()}, in {seconds:.0f} s: {where}.

A small decoder with dropout is trained for {N_STEPS} steps, three and a half epochs, with Muon and AdamW, in micro-batches that are
added up, evaluated every 4 steps, sampled every 5 and saved every 2. Left alone, its weights have the sha256

    {reference}

- One run was ended by {len(kills)} kills -9 at random instants and started again each time by the same command: **the same sha256**.
- Another was sent SIGTERM in {len(stops)} places; each time it saved, said so and ended: **the same sha256**.
- In both, metrics.jsonl has every step once, with the losses of the run left alone.
- SIGTERM while `torch.compile` compiles: {compiled}.

| | signal | in phase | of step | epoch | that start had resumed from |
|---|---|---|---|---|---|
{chr(10).join(rows)}

Phases: batch = amid the micro-batches of a step, update = the optimiser, save = while a checkpoint is written, saved = right after.
"""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(text, encoding="utf-8")
