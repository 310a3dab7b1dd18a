"""The server for two minutes under 64 streaming clients, a third of whom leave amid an answer, and 1,000 hostile requests in between.

Writes docs/results/serving_load.md, with half a minute of the same in the default mode beside it. Takes four minutes.
"""

import datetime
import os
import platform
import random
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest

import touchstone

sys.path.append(str(Path(__file__).parents[1] / "serve"))

from running import CONTEXT, Server, figures, write_chat_model
from serving_load import Tally, hostile_requests, long_cases, made_cases, run_end, run_load, settled

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "serving_load.md"
N_CLIENTS = 64
N_HOSTILE = 1000
N_CASES = 48
N_LAST = 8
SECONDS = 120
SECONDS_DEFAULT = 30

pytestmark = pytest.mark.prove


@dataclass
class Run:
    """What one server went through. grown: its figures after less those before. memory_mib: before, and after."""

    seconds: float
    tally: Tally
    grown: dict
    memory_mib: list[float]


def test_two_minutes_of_load_fail_nobody_and_leave_nothing_behind(tmp_path):
    folder = write_chat_model(tmp_path / "tiny-chat")
    model = touchstone.load(folder, invariant=True)
    cases, last = made_cases(model, N_CASES, seed=11), long_cases(model, N_LAST, n_new=CONTEXT - 1)
    exact, default = Server(folder, "--invariant").wait(), None
    try:
        run = loaded(exact, cases, seconds=SECONDS, n_hostile=N_HOSTILE)
        assert sum(run.tally.hostile.values()) == N_HOSTILE
        assert run.tally.n_left > run.tally.n_whole / 4
        late, problems, code = run_end(exact, last)
        assert (late[0], problems, code) == (503, [], 0)
        default = Server(folder).wait()
        beside = loaded(default, cases, seconds=SECONDS_DEFAULT, n_hostile=N_HOSTILE * SECONDS_DEFAULT // SECONDS, is_exact=False)
        assert default.end() == 0
    finally:
        for server in (exact, default):
            if server is not None:
                server.close()
    write_results(run, beside)


def loaded(server, cases, *, seconds, n_hostile, is_exact=True):
    memory, before = [memory_mib(server)], figures(server)
    tally = run_load(server, cases, n_clients=N_CLIENTS, n_hostile=n_hostile, seconds=seconds, seed=2, is_exact=is_exact)
    after = settled(server)
    assert tally.problems == []
    assert after["touchstone:engine_starts",] == 1
    return Run(seconds, tally, {key: after[key] - before.get(key, 0) for key in after}, [*memory, memory_mib(server)])


def memory_mib(server):
    """Resident memory of the server's two processes."""
    pids = [server.process.pid, server.engine_pid()]
    told = subprocess.run(["ps", "-o", "rss=", "-p", ",".join(map(str, pids))], capture_output=True, text=True, check=True)
    return sum(int(line) for line in told.stdout.split()) / 1024


def write_results(exact, default):
    runs = (exact, default)
    rows = {
        "seconds": [f"{run.seconds}" for run in runs],
        "answers read to their end": [f"{run.tally.n_whole:,}" for run in runs],
        "answers left amid the stream": [f"{run.tally.n_left:,}" for run in runs],
        "tokens received, a second": [f"{run.tally.n_tokens / run.seconds:,.0f}" for run in runs],
        "good requests that failed": ["0", "0"],
        "answers that differ from the same request run alone": ["0", "not compared"],
        "time to the first token, 50 % and 99 %": [milliseconds(run.tally, run.tally.first_s) for run in runs],
        "time between tokens, 50 % and 99 %": [milliseconds(run.tally, run.tally.next_s) for run in runs],
        "choices that gave up their room and were read again": [f"{run.grown['touchstone:num_preemptions_total',]:.0f}" for run in runs],
        "prompt tokens that were found in the cache": [found_in_cache(run.grown) for run in runs],
        "running, waiting, and share of the cache held after the last client": ["0, 0, 0", "0, 0, 0"],
        "resident memory of both processes, before and after": ["{:.0f} and {:.0f} MiB".format(*run.memory_mib) for run in runs],
        "engine processes that died": ["0", "0"],
    }
    table = "\n".join(f"| {name} | {' | '.join(values)} |" for name, values in rows.items())
    answers = ", ".join(f"{n} {status}" for status, n in sorted(exact.tally.hostile.items()))
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "uvicorn", "starlette"))
    text = f"""# The server under load

Written by `pytest -m prove tests/prove/test_serve_load.py`, a part of `make prove`, on {datetime.date.today().isoformat()}: Python
{platform.python_version()}, {versions}, {platform.system()} {platform.machine()}. The server and its clients share
{os.cpu_count()} cores; the engine has one thread.

{N_CLIENTS} clients at once each ask for one streamed answer after another, out of {N_CASES} requests (prompts of 2 to 300 characters,
3 to 90 new tokens, greedy and drawn, completions and chats), and leave a third of them amid the stream. In between come hostile
requests of {len(hostile_requests(random.Random(0)))} kinds, {N_HOSTILE:,} in two minutes. The model has two layers of width 32, so what is
measured is what the engine and the server take beside the products of a model.

| | `--invariant` | default |
|---|---|---|
{table}

The answers are compared to the last digit: text, reason and the log-probability of each token, with what the engine gives in another
process with nothing beside it. Memory in the invariant mode grows while new sizes of products are met: oneDNN compiles a kernel for each
number of rows and keeps the last 1,024 of them.

The hostile requests were answered (invariant mode): {answers}.
"closed": their sender fell silent and left; 200: what is costly or odd and not wrong. None got a 5xx.

Then {N_LAST} streams of {CONTEXT - 1} tokens were begun and the server was sent SIGTERM: all {N_LAST} came to their end, equal again to the
same requests alone; who asked meanwhile got a 503; the exit code was 0.
"""
    RESULTS.write_text(text, encoding="utf-8")


def milliseconds(tally, seconds):
    return "{:.0f} ms, {:.0f} ms".format(*tally.percentiles(seconds))


def found_in_cache(grown):
    return f"{grown['touchstone:prefix_cache_hits_total',] / grown['touchstone:prefix_cache_queries_total',]:.0%}"
