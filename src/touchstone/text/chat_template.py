"""A model's chat template, rendered in a process that is killed when it takes too long or too much.

Templates come from model folders: they are programs of somebody else. They run sandboxed (`template_worker`), within limits, and never
in this process. What they are given and what they return is plain text.
"""

import json
import os
import select
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from touchstone.apart import end_process, start_script
from touchstone.errors import ConfigError, printable

__all__ = ["RenderLimits", "Template"]

_ALARM_MARGIN_S = 5
_START_S = 20.0  # a busy machine may take long to start a process


@dataclass(frozen=True)
class RenderLimits:
    """seconds: of one rendering. max_chars: of what it writes; a published template's longest prompt fits many times."""

    seconds: float = 1.0
    max_chars: int = 1 << 20


class Template:
    """One template with the process that renders it; the process starts with the first use, and anew after it was killed.

    texts: what the template holds literally. variables: what it reads. has_marks: whether it marks what the assistant says.
    Raises ConfigError for a template that cannot be parsed.
    """

    def __init__(self, source: str, limits: RenderLimits | None = None) -> None:
        self.source = source
        self.limits = limits or RenderLimits()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        try:
            found = self._ask({"do": "examine"})
        except ConfigError:
            self.close()
            raise
        self.texts: tuple[str, ...] = tuple(found["texts"])
        self.variables: frozenset[str] = frozenset(found["variables"])
        self.has_marks: bool = found["marks"]

    def render(self, variables: Mapping[str, Any], marks: tuple[str, str] = ("", "")) -> str:
        """The text; marks: what goes around that of `{% generation %}`.

        Raises ConfigError where the template refuses the messages, fails, or goes beyond its limits.
        """
        job = {"do": "render", "variables": dict(variables), "marks": list(marks), "max_chars": self.limits.max_chars}
        return str(self._ask(job)["text"])

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _ask(self, job: dict[str, Any]) -> dict[str, Any]:
        alarm_s = int(self.limits.seconds) + _ALARM_MARGIN_S
        data = json.dumps({**job, "template": self.source, "alarm_s": alarm_s}).encode()
        with self._lock:
            answer = self._answered(data)
            if answer is None:
                self._end()
        if answer is None:
            raise ConfigError(f"The chat template did not finish within {self.limits.seconds:g} s, or ended its process; it was stopped.")
        if "error" in answer:
            refused = "refuses these messages" if answer["error"] == "refused" else "cannot be rendered"
            raise ConfigError(f"The chat template {refused}: {printable(answer['message'], 300)}.")
        return answer

    def _answered(self, data: bytes) -> dict[str, Any] | None:
        """What the process says; None if it takes too long, ends, or says too much."""
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._process = _started()
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(len(data).to_bytes(4, "big") + data)
            process.stdin.flush()
        except OSError:
            return None
        deadline = time.monotonic() + self.limits.seconds
        head = _read(process.stdout.fileno(), 4, deadline)
        n_bytes = int.from_bytes(head or b"", "big")
        if head is None or n_bytes > 12 * self.limits.max_chars + (1 << 20):  # a character takes twelve at most, as \ud83d\ude00
            return None
        body = _read(process.stdout.fileno(), n_bytes, deadline)
        return None if body is None else json.loads(body)

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            end_process(process)


def _started() -> "subprocess.Popen[bytes]":
    process = start_script(Path(__file__).with_name("template_worker.py"))
    assert process.stdout is not None
    _read(process.stdout.fileno(), 1, time.monotonic() + _START_S)  # it says when it is there: that time is not the template's
    return process


def _read(descriptor: int, n_bytes: int, deadline: float) -> bytes | None:
    parts: list[bytes] = []
    while n_bytes:
        ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        part = os.read(descriptor, min(n_bytes, 1 << 16)) if ready else b""
        if not part:
            return None
        parts.append(part)
        n_bytes -= len(part)
    return b"".join(parts)
