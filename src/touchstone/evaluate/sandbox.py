"""Programs that nobody has read, run with their tests in a process of their own, within limits; the verdict says what held.

Always: an empty environment, no packages but the standard library, no input, bounded time, processor time, file sizes and output, a
working folder that is gone afterwards, hashes that do not change from run to run. On Linux, where the kernel lets this user make
namespaces (`unshare`; not in most containers without extra rights), also:
- network: none, not even loopback.
- files: the program sees the standard library and the system's own `/usr`, read-only; what it writes goes to memory and is gone.
- processes: at most so many, and none outlives the verdict.
- memory: the limit of address space, for each process (this one holds on Linux always; macOS does not enforce it).
Without namespaces an ordinary user's program cannot start processes or threads at all, but reads what the user reads, writes where the
user writes, reaches the network, and may end whatever is the user's, its own supervisor included. As root it runs under a user id that
nobody has, so processes still hold; it is refused if that user cannot read Python.
`Verdict.held` names what held. Run what may be hostile only where all four do, or on a machine that holds nothing of worth.

Not guaranteed anywhere: that a verdict cannot be cheated. Program and tests share one interpreter, as in the benchmarks' own harness:
ending early, replacing built-ins or `sys.exit` does not pass, but a program written to deceive can return objects that equal everything
or search the interpreter for the mark that says "passed". Nor is a hole in the kernel or in the processor closed by this.
Sources: Chen et al. 2021 §2.3 (why a sandbox); namespaces(7), pivot_root(2), setrlimit(2).
"""

import contextlib
import json
import os
import secrets
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from touchstone.config import Config
from touchstone.errors import Unsupported, printable

__all__ = ["Limits", "Verdict", "run_tests"]

_WORKER = Path(__file__).with_name("sandbox_worker.py")
_START_S = 10.0  # beyond the program's own time: to start Python and to end what is left
_MESSAGE_BYTES = 1 << 16  # all that the process may say beside its output


class Limits(Config):
    """What a program may use."""

    wall_s: float = Field(default=10.0, gt=0)  # of the clock; HumanEval's own harness gives 3 on a machine with nothing else to do
    cpu_s: int = Field(default=10, ge=1)  # of the processor, for each process
    memory_bytes: int = Field(default=1 << 30, ge=1 << 26)  # address space of each process; an idle Python takes about 30 MB
    file_bytes: int = Field(default=16 << 20, ge=0)  # largest file; in namespaces also all files together
    n_processes: int = Field(default=16, ge=1)  # with their threads, the program's own included
    output_bytes: int = Field(default=1 << 16, ge=0)  # kept of what it prints; the rest is read and dropped


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a program.

    status: passed, if the tests ran to their end; failed, if they or the program did not; timeout; error, if no verdict could be
    reached for a reason that is not the program's. reason: one line, empty when passed.
    output: what the program printed, cut after `output_bytes`. held: which of network, files, processes and memory were confined.
    """

    status: Literal["passed", "failed", "timeout", "error"]
    reason: str
    output: str
    held: frozenset[str]


def run_tests(program: str, tests: str, limits: Limits | None = None) -> Verdict:
    """Run a program, then its tests in the same namespace; they pass by reaching their end.

    Raises Unsupported where processes have no limits (Windows; use WSL).
    """
    if os.name != "posix":
        raise Unsupported("programs are run within limits that this system does not have; use Linux, macOS or WSL.")
    limits = limits or Limits()
    mark = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="touchstone-", ignore_cleanup_errors=True) as folder:
        reader, writer = os.pipe()
        job = {**limits.model_dump(), "program": program, "tests": tests, "mark": mark, "folder": folder, "writer": writer}
        try:
            output, said = _run(json.dumps(job).encode(), writer, reader, limits, folder)
        finally:
            os.close(reader)
    return _verdict(_messages(said, mark), output.decode(errors="replace"), limits)


def _run(job: bytes, writer: int, reader: int, limits: Limits, folder: str) -> tuple[bytes, bytes]:
    """What the worker's program printed, and what the worker said on the descriptor; nothing of its process group is left."""
    try:
        process = _start(writer, folder)
    finally:
        os.close(writer)
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdout:
        try:
            with contextlib.suppress(BrokenPipeError), process.stdin as given:  # it may have ended before it read anything
                given.write(job)
            return _collect(process.stdout.fileno(), reader, limits)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _start(writer: int, folder: str) -> "subprocess.Popen[bytes]":
    """The worker; what the environment sets is not seen by the program, and no variable or package of the user's is."""
    return subprocess.Popen(
        [sys.executable, "-s", "-P", "-S", "-B", "-X", "utf8", str(_WORKER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(writer,),
        env={"PYTHONHASHSEED": "0"},  # the order of a set must not decide a verdict
        cwd=folder,
        start_new_session=True,
    )


def _collect(printed: int, reader: int, limits: Limits) -> tuple[bytes, bytes]:
    """What is printed and what is said, until the worker has said its last or time is up."""
    bounds = {printed: limits.output_bytes, reader: _MESSAGE_BYTES}
    kept = {fd: bytearray() for fd in bounds}
    deadline = time.monotonic() + limits.wall_s + _START_S
    with selectors.DefaultSelector() as selector:
        for fd in bounds:
            os.set_blocking(fd, False)
            selector.register(fd, selectors.EVENT_READ)
        while reader in selector.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                if not _read(key.fd, kept[key.fd], bounds[key.fd]):
                    selector.unregister(key.fd)
    with contextlib.suppress(BlockingIOError):
        while len(kept[printed]) < limits.output_bytes and _read(printed, kept[printed], limits.output_bytes):
            pass
    return bytes(kept[printed]), bytes(kept[reader])


def _read(fd: int, kept: bytearray, most: int) -> bool:
    """One piece, of which only what fits is kept; False at the end."""
    piece = os.read(fd, 1 << 16)
    kept += piece[: most - len(kept)]
    return bool(piece)


def _messages(said: bytes, mark: str) -> dict[str, Any]:
    """What the worker said, the first of each kind; lines without the mark are none of its."""
    found: dict[str, Any] = {}
    for line in said.decode(errors="replace").splitlines():
        if line.startswith(mark):
            with contextlib.suppress(ValueError):
                found = {**json.loads(line[len(mark) :]), **found}
    return found


def _verdict(said: dict[str, Any], output: str, limits: Limits) -> Verdict:
    held = frozenset(map(str, said.get("held", ())))
    if "refused" in said or "held" not in said:
        last = output.strip().splitlines()[-1:] or ["it said nothing"]
        return Verdict("error", str(said.get("refused", f"the process did not start: {last[0]}")), output, held)
    if "unusable" in said:
        return Verdict("error", f"the tests do not compile: {printable(said['unusable'], 300)}", output, held)
    if "passed" in said:
        return Verdict("passed", "", output, held)
    if "failed" in said:
        return Verdict("failed", printable(said["failed"], 300), output, held)
    if said.get("timed_out", True):
        return Verdict("timeout", f"more than {limits.wall_s:g} s", output, held)
    status = int(said["ended"])
    if status == 128 + signal.SIGXCPU:
        return Verdict("timeout", f"more than {limits.cpu_s} s of the processor", output, held)
    how = f"by signal {status - 128}" if status > 128 else f"with status {status}"
    return Verdict("failed", f"ended {how} before its tests did", output, held)
