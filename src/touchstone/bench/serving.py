"""Our server's speed beside `transformers serve` and llama.cpp's server, in one run: `make bench-serve`.

The servers take turns, each alone on the machine, with the same model, prompts and numbers of clients. A client asks for one streamed
completion after another; what is measured is what it sees: tokens a second over all clients, the time to the first text, and the time
between pieces. Prompts are all different, so that no cache of prefixes answers for a computation. Answers are compared with those of
`transformers serve`, so that nobody is timed on wrong work.
"""

import argparse
import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from touchstone.bench.engines import check_peers, spread
from touchstone.bench.inference import ENVIRONMENTS, engine_environment, make_model
from touchstone.bench.inference_jobs import MODELS, TINY
from touchstone.errors import TouchstoneError
from touchstone.report.terminal import Terminal
from touchstone.runtime import available_cores, environment

__all__ = ["Load", "Seen", "ServerForm", "compare_serving", "main"]

CLIENTS = (1, 4, 16, 64)
N_PROMPT = 64
N_NEW = 32
START_S = 180.0
ANSWER_S = 600.0
_N_FIRST = 2  # tokens 0 and 1 are the unknown and the end token, and never in a prompt
_QUANTILES = (50, 99)


@dataclass(frozen=True)
class ServerForm:
    """One server as a user would start it. command: with {model}, {port} and {threads} to fill in; takes_ids: prompts as token ids."""

    name: str
    program: str
    command: Sequence[str]
    folder: str
    takes_ids: bool = False
    fields: Mapping[str, Any] = field(default_factory=dict)


_OURS = ("-m", "touchstone.cli.main", "serve", "{model}", "--port", "{port}", "--name", "bench")
_THEIRS = ("serve", "{model}", "--port", "{port}", "--device", "cpu", "--dtype", "float32")
_LLAMA = ("-m", "{model}/model.gguf", "--port", "{port}", "-t", "{threads}", "--parallel", "64", "-c", "16384", "--no-webui")

REFERENCE = ServerForm("transformers serve", str(ENVIRONMENTS / "transformers" / "bin" / "transformers"), _THEIRS, "hf")
SERVERS = (
    ServerForm("touchstone float32", sys.executable, _OURS, "hf", fields={"ignore_eos": True}),
    ServerForm("touchstone int8", sys.executable, (*_OURS, "--weights", "int8"), "hf", fields={"ignore_eos": True}),
    REFERENCE,
    ServerForm("transformers serve, batching", REFERENCE.program, (*_THEIRS, "--continuous-batching"), "hf"),
    ServerForm("llama.cpp f32", str(ENVIRONMENTS / "llama-server" / "llama-server"), _LLAMA, "gguf-f32", True, {"ignore_eos": True}),
    ServerForm("llama.cpp q8_0", str(ENVIRONMENTS / "llama-server" / "llama-server"), _LLAMA, "gguf-q8_0", True, {"ignore_eos": True}),
)


@dataclass(frozen=True)
class Load:
    """So many clients, each of which asks `n_each` times."""

    n_clients: int
    n_each: int
    n_prompt: int = N_PROMPT
    n_new: int = N_NEW

    def prompts(self, vocab_size: int, seed: int) -> list[list[int]]:
        """One prompt a request, the same for every server."""
        drawn = np.random.default_rng(seed).integers(_N_FIRST, vocab_size, (self.n_clients * self.n_each, self.n_prompt))
        return [[int(token) for token in row] for row in drawn]


@dataclass
class Seen:
    """What one client saw of one answer: when it asked, when each piece came, and the text."""

    asked: float
    times: list[float] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    n_tokens: int | None = None

    @property
    def first_s(self) -> float:
        return self.times[0] - self.asked

    @property
    def gaps_s(self) -> list[float]:
        return np.diff(self.times).tolist()

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class Running:
    """A server's process. Raises TouchstoneError where it does not come up."""

    def __init__(self, form: ServerForm, folder: Path, n_threads: int) -> None:
        self.form = form
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.model = folder / form.folder
        filled = [part.format(model=self.model, port=self.port, threads=n_threads) for part in form.command]
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        own = form.program == sys.executable
        surroundings = engine_environment(None if own else n_threads) | {"HF_HUB_OFFLINE": "1"}
        self._process = subprocess.Popen([form.program, *filled], stdout=self._said, stderr=self._said, env=surroundings)
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()

    def body(self, prompt: Sequence[int], n_new: int) -> bytes:
        """A request for one streamed completion, the likeliest token at every step."""
        text: Any = list(prompt) if self.form.takes_ids else " ".join(f"w{token}" for token in prompt)
        name = "bench" if self.form.name.startswith("touchstone") else str(self.model)
        asked = {"model": name, "prompt": text, "max_tokens": n_new, "temperature": 0, "stream": True, **self.form.fields}
        return json.dumps(asked).encode()

    def _wait(self) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise TouchstoneError(f"{self.form.name} ended at its start: {self._last_words()}")
            with contextlib.suppress(OSError, TouchstoneError):
                asyncio.run(_ask(self.port, self.body([_N_FIRST] * 4, 2)))
                return
            time.sleep(0.2)
        raise TouchstoneError(f"{self.form.name} did not answer within {START_S:g} s: {self._last_words()}")

    def _last_words(self) -> str:
        self._said.seek(0)
        lines = self._said.read().decode("utf-8", "replace").strip().splitlines()
        return " | ".join(lines[-3:])[-500:]


async def _ask(port: int, body: bytes) -> Seen:
    """One streamed completion. Raises TouchstoneError for any answer but a complete stream."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = f"POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
        seen = Seen(time.perf_counter())
        writer.write(f"{head}connection: close\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        status = await reader.readline()
        if b" 200 " not in status:
            raise TouchstoneError(f"answered {status.decode('latin-1').strip()}: {(await reader.read(2000)).decode('utf-8', 'replace')}")
        lines: list[tuple[float, bytes]] = []
        while line := await reader.readline():
            if line.startswith(b"data: "):
                lines.append((time.perf_counter(), line[6:]))
        for when, data in lines:
            if data.strip() == b"[DONE]":
                continue
            piece = json.loads(data)
            if "error" in piece:
                raise TouchstoneError(f"a stream ended with {piece['error']}")
            text = "".join(choice.get("text") or "" for choice in piece["choices"])
            if text:
                seen.times.append(when)
                seen.pieces.append(text)
            if piece.get("usage"):
                seen.n_tokens = piece["usage"]["completion_tokens"]
        if not seen.times:
            raise TouchstoneError("a stream had no text")
        return seen
    finally:
        writer.close()


async def _loaded(running: Running, load: Load, prompts: Sequence[Sequence[int]]) -> list[Seen]:
    async def client(number: int) -> list[Seen]:
        mine = prompts[number :: load.n_clients]
        return [await asyncio.wait_for(_ask(running.port, running.body(prompt, load.n_new)), ANSWER_S) for prompt in mine]

    return [seen for each in await asyncio.gather(*[client(number) for number in range(load.n_clients)]) for seen in each]


def measure(running: Running, load: Load, vocab_size: int, seed: int) -> dict[str, Any]:
    """One turn of one server: tokens a second, quantiles in milliseconds, and the texts."""
    prompts = load.prompts(vocab_size, seed)
    began = time.perf_counter()
    seen = asyncio.run(_loaded(running, load, prompts))
    seconds = time.perf_counter() - began
    wrong = {each.n_tokens for each in seen} - {None, load.n_new}
    if wrong:
        raise TouchstoneError(f"{running.form.name} wrote {wrong} tokens where {load.n_new} were asked for")
    first, gaps = [each.first_s for each in seen], [gap for each in seen for gap in each.gaps_s]
    return {
        "tokens_per_s": len(seen) * load.n_new / seconds,
        **{f"first_ms_p{q}": 1000 * float(np.percentile(first, q)) for q in _QUANTILES},
        **{f"gap_ms_p{q}": 1000 * float(np.percentile(gaps, q)) if gaps else 0.0 for q in _QUANTILES},
        "texts": sorted(" ".join(each.text.split()) for each in seen),
    }


def compare_serving(
    folder: Path, vocab_size: int, servers: Sequence[ServerForm], loads: Sequence[Load], rounds: int, terminal: Terminal
) -> Any:
    """Every load on every server, the servers taking turns round by round; the first round warms up."""
    n_threads = available_cores()
    turns: dict[str, list[dict[int, dict[str, Any]]]] = {form.name: [] for form in servers}
    left_out: dict[str, str] = {}
    for number in range(rounds + 1):
        for form in servers:
            if form.name in left_out:
                continue
            try:
                turns[form.name].append(_turn(form, folder, vocab_size, loads, number, n_threads, terminal))
            except (TouchstoneError, OSError, TimeoutError) as error:
                left_out[form.name] = f"{error}"[:500]
                terminal.say(f"left out: {form.name}: {error}")
    found = {}
    for load in loads:
        found[load.n_clients] = {
            name: _summary([turn[load.n_clients] for turn in each[1:]], [turn[load.n_clients] for turn in turns[REFERENCE.name][1:]])
            for name, each in turns.items()
            if name not in left_out
        }
    return {
        "machine": environment(),
        "n_threads": n_threads,
        "rounds": rounds,
        "load": os.getloadavg()[0],
        "clients": found,
        "left_out": left_out,
        "request": {"prompt_tokens": loads[0].n_prompt, "new_tokens": loads[0].n_new},
    }


def _turn(
    form: ServerForm, folder: Path, vocab_size: int, loads: Sequence[Load], number: int, n_threads: int, terminal: Terminal
) -> dict[int, dict[str, Any]]:
    with _running(form, folder, n_threads) as running:
        found = {}
        for load in loads:
            found[load.n_clients] = measure(running, load, vocab_size, 1000 * number + load.n_clients)
        said = ", ".join(f"{clients}: {each['tokens_per_s']:.0f}" for clients, each in found.items())
        terminal.say(f"round {number}, {form.name}: tokens/s at {said} clients")
        return found


@contextlib.contextmanager
def _running(form: ServerForm, folder: Path, n_threads: int) -> Iterator[Running]:
    running = Running(form, folder, n_threads)
    try:
        yield running
    finally:
        running.close()


def _summary(turns: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians over the rounds, the ratio to the reference within each round, and how many texts are the same as its."""
    found: dict[str, Any] = {name: spread([turn[name] for turn in turns]) for name in turns[0] if name != "texts"}
    pairs = list(zip(turns, theirs, strict=False))
    if pairs:
        found["ratio"] = spread([ours["tokens_per_s"] / other["tokens_per_s"] for ours, other in pairs])
        same = sum(a == b for ours, other in pairs for a, b in zip(ours["texts"], other["texts"], strict=True))
        found["same_texts"] = [same, sum(len(ours["texts"]) for ours, _ in pairs)]
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line of the module."""
    names = [form.name for form in SERVERS]
    parser = argparse.ArgumentParser(prog="python -m touchstone.bench.serving", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds after the one that warms up (3)")
    parser.add_argument("--model", choices=["gpt2-124m", "llama-110m"], default="llama-110m")
    parser.add_argument("--servers", nargs="+", choices=names, default=names, metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--clients", nargs="+", type=int, default=list(CLIENTS))
    parser.add_argument("--quick", action="store_true", help="a tiny model and short requests, one round: whether all runs, not how fast")
    options = parser.parse_args(arguments)
    check_peers()
    terminal = Terminal()
    shape = (TINY if options.quick else MODELS)[options.model]
    folder = make_model(options.model, shape, terminal)
    n_prompt, n_new = (8, 4) if options.quick else (N_PROMPT, N_NEW)
    loads = [Load(n, 4 if n == 1 else 2 if n <= 16 else 1, n_prompt, n_new) for n in options.clients]
    chosen = [form for form in SERVERS if form.name in options.servers]
    results = compare_serving(folder, shape.vocab_size, chosen, loads, 1 if options.quick else options.rounds, terminal)
    rows = []
    for clients, servers in results["clients"].items():
        for name, figures in servers.items():
            ratio = figures.get("ratio")
            shown = "-" if ratio is None else f"{ratio['median']:.2f} ({ratio['min']:.2f}-{ratio['max']:.2f})"
            milliseconds = [f"{figures[key]['median']:.0f}" for key in ("first_ms_p50", "first_ms_p99", "gap_ms_p50", "gap_ms_p99")]
            same = "-" if "same_texts" not in figures else "{} of {}".format(*figures["same_texts"])
            rows.append([str(clients), name, f"{figures['tokens_per_s']['median']:.1f}", shown, *milliseconds, same])
    terminal.table(
        ["clients", "server", "tokens/s", "times transformers serve", "first, p50 ms", "p99", "between, p50 ms", "p99", "same texts"], rows
    )
    for name, reason in results["left_out"].items():
        terminal.say(f"left out: {name}: {reason}")
    terminal.say(json.dumps(results), style="command")


if __name__ == "__main__":
    main()
