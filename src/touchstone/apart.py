"""Scripts of the package that run in a process of their own, so that what ends or hangs them ends nothing else.

They get no more of the environment than they need to start, and speak over their standard input and output: an empty frame when they are
ready, and then one frame for each that comes, a frame being bytes behind their number in four. What a script is asked is measured by
itself in processor time (SIGPROF ends it): only what it computes is its own doing. Where its process was stopped, was ended from outside or
got no processor, it is asked once more in a fresh one; after that the machine is at fault.
"""

import os
import selectors
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Literal

__all__ = ["Apart", "Failed"]

_VARIABLES = ("PATH", "LANG", "LC_ALL", "TZ")
_N_TRIES = 2
_END_S = 5.0  # for a process that has closed its pipe to be gone
_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM)  # no job sends these to its process
_PIECE = 1 << 16


class Failed(Exception):
    """Why nothing was answered: it computed too long, said too much, crashed, or was stopped by something else.

    The last two befell two processes, one after the other.
    """

    def __init__(self, kind: Literal["computed", "large", "crashed", "stopped"]) -> None:
        super().__init__(kind)
        self.kind = kind


class Apart:
    """The process of one script; it starts with the first question, and anew after it has ended. Any thread may ask.

    opening: a frame that the script is given before it says that it is ready. start_s: for that, long on a busy machine. max_bytes: of an
    answer.
    """

    def __init__(self, script: Path, *, opening: bytes | None = None, start_s: float, max_bytes: int) -> None:
        self._script = script
        self._opening = opening
        self._start_s = start_s
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._ender: weakref.finalize[..., Apart] | None = None

    def ask(self, question: bytes, wall_s: float) -> bytes:
        """The answer, within wall_s seconds of the clock. Raises Failed."""
        with self._lock:
            for n_left in reversed(range(_N_TRIES)):
                try:
                    return self._asked(question, wall_s)
                except Failed as failure:
                    self._end()
                    if failure.kind in ("computed", "large") or not n_left:
                        raise
                except BaseException:  # Ctrl-C in the middle: what the process still says belongs to no later question
                    self._end()
                    raise
        raise AssertionError("each try returns or raises")

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _asked(self, question: bytes, wall_s: float) -> bytes:
        if self._process is None or self._process.poll() is not None:
            self._start()
        assert self._process is not None
        deadline = time.monotonic() + wall_s
        _write(self._process, question, deadline)
        return _read(self._process, self._max_bytes, deadline)

    def _start(self) -> None:
        self._end()
        self._process = _started(self._script)
        self._ender = weakref.finalize(self, _ended, self._process)
        deadline = time.monotonic() + self._start_s
        if self._opening is not None:
            _write(self._process, self._opening, deadline)
        _read(self._process, 0, deadline)

    def _end(self) -> None:
        self._process = None
        if self._ender is not None:
            self._ender()


def _started(script: Path) -> "subprocess.Popen[bytes]":
    """Start a script by this interpreter, isolated: no variable and no package folder of the user's is seen."""
    environment = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    return subprocess.Popen(
        [sys.executable, "-I", str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )


def _ended(process: "subprocess.Popen[bytes]") -> None:
    """End it in whatever state, and let go of its pipes."""
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        try:
            if stream is not None:
                stream.close()
        except OSError:  # what it still held could not be written any more
            continue


def _write(process: "subprocess.Popen[bytes]", data: bytes, deadline: float) -> None:
    """A frame, though the process may read nothing of it: one that is stopped leaves the pipe full."""
    assert process.stdin is not None
    descriptor = process.stdin.fileno()
    os.set_blocking(descriptor, False)
    left = memoryview(len(data).to_bytes(4, "big") + data)
    while left:
        _wait(descriptor, selectors.EVENT_WRITE, deadline)
        try:
            left = left[os.write(descriptor, left[:_PIECE]) :]
        except BlockingIOError:
            continue
        except OSError:
            raise Failed(_how_ended(process)) from None


def _read(process: "subprocess.Popen[bytes]", max_bytes: int, deadline: float) -> bytes:
    """A frame."""
    n_bytes = int.from_bytes(_read_bytes(process, 4, deadline), "big")
    if n_bytes > max_bytes:
        raise Failed("large")
    return _read_bytes(process, n_bytes, deadline)


def _read_bytes(process: "subprocess.Popen[bytes]", n_bytes: int, deadline: float) -> bytes:
    assert process.stdout is not None
    descriptor = process.stdout.fileno()
    parts: list[bytes] = []
    while n_bytes:
        _wait(descriptor, selectors.EVENT_READ, deadline)
        part = os.read(descriptor, min(n_bytes, _PIECE))
        if not part:
            raise Failed(_how_ended(process))
        parts.append(part)
        n_bytes -= len(part)
    return b"".join(parts)


def _wait(descriptor: int, event: int, deadline: float) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, event)
        if not selector.select(max(0.0, deadline - time.monotonic())):
            raise Failed("stopped")


def _how_ended(process: "subprocess.Popen[bytes]") -> Literal["computed", "crashed", "stopped"]:
    """How a process ended whose pipe is closed."""
    try:
        code = process.wait(_END_S)
    except subprocess.TimeoutExpired:
        return "stopped"
    if code == -signal.SIGPROF:
        return "computed"
    return "stopped" if -code in _FROM_OUTSIDE else "crashed"
