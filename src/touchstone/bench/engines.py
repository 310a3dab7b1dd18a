"""Engines of a benchmark, each in a process of its own that answers one JSON line with another, and what their turns add up to.

Peers live in `bench/peers/` of the repository, run in environments of their own and are never imported.
"""

import contextlib
import json
import queue
import statistics
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from touchstone.errors import MissingPackage, TouchstoneError

__all__ = ["PEERS", "EngineProcess", "Spread", "check_peers", "our_ratio", "spread"]

PEERS = Path(__file__).resolve().parents[3] / "bench" / "peers"
"""The runners of the peers, one file each."""

Spread = dict[str, float]
"""What several rounds gave: `median`, `min` and `max`."""


class EngineProcess:
    """A runner in its own process; whatever it prints besides JSON objects is a notice of its libraries and not read.

    environment: its environment variables; None = ours.
    """

    def __init__(self, name: str, command: Sequence[str], *, environment: Mapping[str, str] | None = None) -> None:
        self.name = name
        self._notices = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process; a pipe nobody reads would fill up and stop it
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._notices, text=True, env=environment
        )
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def ask(self, message: Mapping[str, Any], *, timeout_s: float | None = None) -> dict[str, Any]:
        """The answer to a message. Raises TouchstoneError, the process being gone, if it ends or takes longer than `timeout_s`."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: what it said is told below
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        try:
            answer = self._answers.get(timeout=timeout_s)
        except queue.Empty:
            self.close()
            raise TouchstoneError(f"The engine `{self.name}` did not answer within {timeout_s:g} s.") from None
        if answer is None:
            said = self._said()
            self.close()
            raise TouchstoneError(f"The engine `{self.name}` ended: {said}")
        return answer

    def close(self) -> None:
        """End the process; may be called twice."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._notices):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):  # a message that was never read
                stream.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(ValueError):  # closed while we read
            for line in self._process.stdout:
                if line.startswith("{"):
                    self._answers.put(json.loads(line))
        self._answers.put(None)

    def _said(self) -> str:
        """The last line on its standard error."""
        self._process.wait()
        self._notices.seek(0)
        lines = self._notices.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


def check_peers() -> None:
    """Raise MissingPackage where the repository with the peers is not there, as in an installed package."""
    if not PEERS.is_dir():
        raise MissingPackage(f"The peers of the benchmark are in the repository only ({PEERS} is not there); run it from a clone.")


def spread(values: Sequence[float]) -> Spread:
    """Median, least and most of at least one value."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def our_ratio(theirs: Sequence[float], ours: Sequence[float]) -> Spread:
    """Their time over ours within each round: above 1 we are faster, and a slow spell of the machine meets both."""
    return spread([them / us for them, us in zip(theirs, ours, strict=True)])
