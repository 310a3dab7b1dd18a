"""Is this machine fit, and is the training here as exact as it claims? Checks, and two proofs on a tiny model.

The proofs run the very trainer of every run: one training is killed half-way and resumed, one is cut into micro-batches; both must
end where the undisturbed training ends.
"""

import contextlib
import importlib.util
import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from touchstone.bench.machine import measure_machine, measure_matmul
from touchstone.errors import RunFolderError
from touchstone.files import cache_folder, check_writable, free_bytes
from touchstone.models import build, decoder_spec
from touchstone.report.terminal import Terminal
from touchstone.runtime import available_cores, choose_runtime, memory_bytes
from touchstone.text.batch import PaddedRows
from touchstone.train import Causal, OptimConfig, TrainConfig, Trainer

__all__ = ["Finding", "accumulation_error", "examine", "resume_is_exact"]

MIN_MEMORY_BYTES = 4 << 30
"""What the quickstart may take; less ends in the system killing it."""

MIN_DISK_BYTES = 1 << 30
"""Checkpoints, shards and a model of the size of the quickstart, several times over."""

MAX_ACCUMULATION_ERROR = 1e-9
"""Between weights in float64 after some steps: rounding of sums in another order; a wrong division is far above it."""

EXTRAS = {
    "data": ("pyarrow", "zstandard"),
    "serve": ("fastapi", "uvicorn", "prometheus_client"),
    "eval": ("sacrebleu", "jsonschema"),
}
"""Optional packages by the extra that installs them."""


@dataclass(frozen=True)
class Finding:
    """One line of the examination; `what` is a key of the phrases under `doctor`."""

    what: str
    found: str
    verdict: Literal["ok", "note", "problem"]
    remedy: str = ""


class _Killed(Exception):
    """Stands for the process ending in the middle of a training."""


def examine(terminal: Terminal) -> dict[str, Any]:
    """Look at the machine, run the proofs, and show one table; the document's status is "problem" if anything is wrong."""
    words = terminal.words
    findings = [*_software(), *_machine(words), *_room(words), *_extras(words)]
    with terminal.progress(words("doctor.proving"), 2) as advance, tempfile.TemporaryDirectory(prefix="touchstone-doctor-") as folder:
        findings.append(_proof("doctor.resume", lambda: _resume_finding(Path(folder) / "resume", terminal)))
        advance(1)
        findings.append(_proof("doctor.accumulation", lambda: _accumulation_finding(Path(folder) / "accumulation", terminal)))
        advance(1)
    rows = [(words(f.what), f.found, words(f"doctor.{f.verdict}"), f.remedy) for f in findings]
    terminal.table([words("doctor.check"), words("doctor.found"), words("doctor.verdict"), words("doctor.remedy")], rows)
    n_problems = sum(finding.verdict == "problem" for finding in findings)
    terminal.say(words("doctor.all_well") if not n_problems else words("doctor.problems", n=n_problems), style="title")
    listed = [{**asdict(finding), "what": finding.what.removeprefix("doctor.")} for finding in findings]
    return {"status": "problem" if n_problems else "ok", "findings": listed}


def resume_is_exact(folder: Path) -> bool:
    """Whether a training that was killed after half its steps and started again ends with the same bits as one that was not."""
    whole = _train(folder / "whole")

    def die(report: Any) -> None:
        if report.step == 5:
            raise _Killed

    with contextlib.suppress(_Killed):
        _train(folder / "killed", on_step=die)
    resumed = _train(folder / "killed")
    return resumed.outcome.weights_sha256 == whole.outcome.weights_sha256 and resumed.outcome.resumed_from is not None


def accumulation_error(folder: Path) -> float:
    """The largest difference between the weights after training in whole batches and in micro-batches, in float64."""
    whole, parts = _train(folder / "whole", double=True), _train(folder / "parts", double=True, micro_batch_size=2)
    pairs = zip(whole.net.parameters(), parts.net.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


@dataclass(frozen=True)
class _Trained:
    net: nn.Module
    outcome: Any


def _train(
    folder: Path, *, double: bool = False, micro_batch_size: int | None = None, on_step: Callable[[Any], None] | None = None
) -> _Trained:
    """Eight steps of a tiny decoder with dropout on ragged rows, saved every second step."""
    spec = decoder_spec(vocab_size=31, d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, max_seq_len=16, dropout=0.1)
    net = build(spec, seed=1)
    if double:
        net.double()
    rng = np.random.default_rng(7)
    rows = PaddedRows([rng.integers(0, 31, size=n).tolist() for n in rng.integers(2, 16, size=20)])
    config = TrainConfig(
        n_steps=8, batch_size=6, micro_batch_size=micro_batch_size, save_every=2, seed=3, optim=OptimConfig(learning_rate=1e-2)
    )
    folder.mkdir(parents=True, exist_ok=True)
    outcome = Trainer(net, Causal(), rows, config, folder, on_step=on_step, warn=lambda _: None).run()
    return _Trained(net, outcome)


def _resume_finding(folder: Path, terminal: Terminal) -> Finding:
    exact = resume_is_exact(folder)
    found = terminal.words("doctor.same_bits" if exact else "doctor.other_bits")
    return Finding("doctor.resume", found, "ok" if exact else "problem", "" if exact else terminal.words("doctor.report_it"))


def _accumulation_finding(folder: Path, terminal: Terminal) -> Finding:
    error = accumulation_error(folder)
    exact = error <= MAX_ACCUMULATION_ERROR
    found = terminal.words("doctor.difference", error=f"{error:.1e}")
    return Finding("doctor.accumulation", found, "ok" if exact else "problem", "" if exact else terminal.words("doctor.report_it"))


def _proof(what: str, prove: Callable[[], Finding]) -> Finding:
    """A proof that cannot even run is a finding too."""
    try:
        return prove()
    except Exception as error:
        return Finding(what, f"{type(error).__name__}: {error}", "problem")


def _software() -> list[Finding]:
    good = (3, 11) <= sys.version_info[:2] <= (3, 13)
    python = Finding("doctor.python", platform.python_version(), "ok" if good else "problem", "" if good else "Python 3.11-3.13")
    number = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    known = (2, 11) <= number <= (2, 13)
    return [python, Finding("doctor.torch", torch.__version__, "ok" if known else "note", "" if known else "torch 2.11-2.13")]


def _machine(words: Any) -> list[Finding]:
    runtime = choose_runtime()
    speed = measure_machine(seconds=1.0)
    ratio = measure_matmul(dtype=torch.bfloat16, seconds=0.3) / speed.matmul_flops_per_s
    memory = memory_bytes()
    enough = memory >= MIN_MEMORY_BYTES
    return [
        Finding("doctor.device", f"{runtime.device} · {runtime.reasons['device']}", "ok"),
        Finding("doctor.threads", words("doctor.threads_found", threads=runtime.n_threads, cores=available_cores()), "ok"),
        Finding("doctor.matmul", f"{speed.matmul_flops_per_s / 1e9:.0f} GFLOP/s float32", "ok"),
        Finding("doctor.bfloat16", words("doctor.bfloat16_found", ratio=f"{ratio:.2f}"), "ok"),
        Finding("doctor.reading", f"{speed.read_bytes_per_s / 1e9:.1f} GB/s", "ok"),
        Finding(
            "doctor.memory",
            _gib(memory),
            "ok" if enough else "problem",
            "" if enough else words("doctor.need", size=_gib(MIN_MEMORY_BYTES)),
        ),
    ]


def _room(words: Any) -> list[Finding]:
    found = []
    for what, place in (("doctor.disk", Path.cwd()), ("doctor.cache", cache_folder())):
        free = free_bytes(place)
        enough = free >= MIN_DISK_BYTES
        found.append(
            Finding(
                what,
                words("doctor.free", size=_gib(free), place=place),
                "ok" if enough else "problem",
                "" if enough else words("doctor.need", size=_gib(MIN_DISK_BYTES)),
            )
        )
    try:
        check_writable(Path.cwd())
    except RunFolderError as error:
        found.append(Finding("doctor.disk", str(error), "problem", words("doctor.writable")))
    return found


def _extras(words: Any) -> list[Finding]:
    found = []
    for extra, packages in EXTRAS.items():
        missing = [name for name in packages if importlib.util.find_spec(name) is None]
        here = [f"{name} {version(name.replace('_', '-'))}" for name in packages if name not in missing]
        remedy = f"pip install 'touchstone-lm[{extra}]'" if missing else ""
        text = ", ".join([*here, *(words("doctor.missing", name=name) for name in missing)])
        found.append(Finding(f"doctor.extra_{extra}", text, "note" if missing else "ok", remedy))
    return found


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / (1 << 30):.1f} GiB"
