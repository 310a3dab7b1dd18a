"""A model's chat template, rendered in a process that is killed when it takes too long or too much.

Templates come from model folders: they are programs of somebody else. They run sandboxed (`template_worker`), within limits, and never
in this process. What they are given and what they return is plain text.

A rendering is measured in processor time: only what it computes is its own doing. Where its process was stopped, was ended from outside
or got no processor, it is done once more by a fresh one; after that the machine is at fault.
"""

import json
import math
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from touchstone.apart import end_process, start_script
from touchstone.errors import ConfigError, TouchstoneError, Unavailable, printable

__all__ = ["RenderLimits", "Template"]

_ALARM_MARGIN_S = 5
_N_TRIES = 2
_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM)  # no template sends these to its process


@dataclass(frozen=True)
class RenderLimits:
    """seconds: of processor time for one rendering. wall_s: until its process is given up. max_chars: of what it writes.

    A published template's longest prompt fits many times into each. start_s: for a process to start, long on a busy machine.
    """

    seconds: float = 1.0
    wall_s: float = 5.0
    start_s: float = 20.0
    max_chars: int = 1 << 20


class Template:
    """One template with the process that renders it; the process starts with the first use, and anew after it was killed.

    texts: what the template holds literally. variables: what it reads. has_marks: whether it marks what the assistant says.
    Raises ConfigError for a template that cannot be parsed, and Unavailable as `render` does.
    """

    def __init__(self, source: str, limits: RenderLimits | None = None) -> None:
        self.source = source
        self.limits = limits or RenderLimits()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        try:
            found = self._ask({"do": "examine"})
        except TouchstoneError:
            self.close()
            raise
        self.texts: tuple[str, ...] = tuple(found["texts"])
        self.variables: frozenset[str] = frozenset(found["variables"])
        self.has_marks: bool = found["marks"]

    def render(self, variables: Mapping[str, Any], marks: tuple[str, str] = ("", "")) -> str:
        """The text; marks: what goes around that of `{% generation %}`.

        Raises ConfigError where the template refuses the messages, fails, or goes beyond its limits; Unavailable where the machine let its
        process compute too little, twice.
        """
        job = {"do": "render", "variables": dict(variables), "marks": list(marks), "max_chars": self.limits.max_chars}
        return str(self._ask(job)["text"])

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _ask(self, job: dict[str, Any]) -> dict[str, Any]:
        limits = {"cpu_s": self.limits.seconds, "alarm_s": math.ceil(self.limits.wall_s) + _ALARM_MARGIN_S}
        answer = self._answered(json.dumps({**job, **limits, "template": self.source}).encode())
        if "error" in answer:
            refused = "refuses these messages" if answer["error"] == "refused" else "cannot be rendered"
            raise ConfigError(f"The chat template {refused}: {printable(answer['message'], 300)}.")
        return answer

    def _answered(self, data: bytes) -> dict[str, Any]:
        """What the process says; a fresh one is asked once more where it was not the job that kept the first from answering."""
        failure: _Failure | None = None
        with self._lock:
            for _ in range(_N_TRIES):
                try:
                    return self._exchanged(data)
                except _Failure as error:
                    self._end()
                    failure = error
                    if error.kind in ("computed", "large"):
                        break
                except BaseException:  # Ctrl-C in the middle: what the process still says belongs to no later job
                    self._end()
                    raise
        assert failure is not None
        raise failure.told(self.limits)

    def _exchanged(self, data: bytes) -> dict[str, Any]:
        """One try; raises _Failure."""
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._process = start_script(Path(__file__).with_name("template_worker.py"))
            _read(self._process, 1, time.monotonic() + self.limits.start_s)  # it says when it is there: that time is not the template's
        process, deadline = self._process, time.monotonic() + self.limits.wall_s
        _write(process, len(data).to_bytes(4, "big") + data, deadline)
        n_bytes = int.from_bytes(_read(process, 4, deadline), "big")
        if n_bytes > 12 * self.limits.max_chars + (1 << 20):  # a character takes twelve at most, as \ud83d\ude00
            raise _Failure("large")
        answer: dict[str, Any] = json.loads(_read(process, n_bytes, deadline))
        return answer

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            end_process(process)


class _Failure(Exception):
    """Why a process gave no answer: it used up its processor time, said too much, crashed, or was stopped by something else."""

    def __init__(self, kind: Literal["computed", "large", "crashed", "stopped"]) -> None:
        super().__init__(kind)
        self.kind = kind

    def told(self, limits: RenderLimits) -> TouchstoneError:
        """The error of ours."""
        if self.kind == "computed":
            return ConfigError(f"The chat template computed for more than {limits.seconds:g} s on these messages; it was stopped.")
        if self.kind == "large":
            return ConfigError("The chat template writes far more than it may; it was stopped.")
        if self.kind == "crashed":
            return ConfigError("The chat template crashed its process on these messages, twice.")
        return Unavailable(
            "The process that renders the chat template was stopped or got no processor time, twice; this machine may be too busy."
            " Try again."
        )


def _write(process: "subprocess.Popen[bytes]", data: bytes, deadline: float) -> None:
    """All of the data, though the process may read nothing of it: one that is stopped leaves the pipe full."""
    assert process.stdin is not None
    descriptor = process.stdin.fileno()
    os.set_blocking(descriptor, False)
    left = memoryview(data)
    while left:
        _wait(descriptor, selectors.EVENT_WRITE, deadline)
        try:
            left = left[os.write(descriptor, left[: 1 << 16]) :]
        except BlockingIOError:
            continue
        except OSError:
            raise _Failure(_end_of(process)) from None


def _read(process: "subprocess.Popen[bytes]", n_bytes: int, deadline: float) -> bytes:
    assert process.stdout is not None
    descriptor = process.stdout.fileno()
    parts: list[bytes] = []
    while n_bytes:
        _wait(descriptor, selectors.EVENT_READ, deadline)
        part = os.read(descriptor, min(n_bytes, 1 << 16))
        if not part:
            raise _Failure(_end_of(process))
        parts.append(part)
        n_bytes -= len(part)
    return b"".join(parts)


def _wait(descriptor: int, event: int, deadline: float) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, event)
        if not selector.select(max(0.0, deadline - time.monotonic())):
            raise _Failure("stopped")


def _end_of(process: "subprocess.Popen[bytes]") -> Literal["computed", "crashed", "stopped"]:
    """How a process ended whose pipe is closed."""
    try:
        code = process.wait(_ALARM_MARGIN_S)
    except subprocess.TimeoutExpired:
        return "stopped"
    if code == -signal.SIGPROF:
        return "computed"
    return "stopped" if -code in _FROM_OUTSIDE else "crashed"
