"""Grammars tried in a process of their own before they are compiled in this one.

A grammar of a few kilobytes can keep the compiler busy for hours, or end its process by a chain of rules that is deeper than the stack
(CVE-2025-48944, CVE-2026-25048, CVE-2026-55574 are of that kind). A server's engine must outlive it, and so must a training or a notebook.
"""

import json
import signal
import subprocess
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from touchstone.apart import end_process, start_script
from touchstone.errors import Unavailable

__all__ = ["TOO_COSTLY", "Trial"]

TOO_COSTLY = "it takes the compiler, or each token, too long, too much memory, or too deep a recursion; make it smaller"

_BUDGET_S = 2.0  # of the processor
_STEP_S = 0.005  # of the processor, for the cheapest of the steps that are tried: every token of every completion costs as much
_WALL_S = 60.0  # for that time to be had on a busy machine
_END_S = 5.0  # for a process that says nothing more to be gone
_BY_ITSELF = (-signal.SIGPROF, -signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS, 0, 1)  # time, memory, stack; 0 and 1: it raised


class Trial:
    """The process that tries the grammars of one vocabulary; it starts with the first, and anew after one has ended it.

    limits: the parser's. tokens: the bytes of each. special: those that are no text. ends: those that end a text.
    """

    def __init__(
        self, limits: Mapping[str, Any], tokens: Sequence[bytes], special: Sequence[int], ends: Sequence[int], bos: int | None
    ) -> None:
        told = {"tokens": [token.hex() for token in tokens], "special": list(special), "ends": list(ends), "bos": bos}
        self._told = json.dumps({**told, "limits": dict(limits), "seconds": _BUDGET_S, "step_seconds": _STEP_S}).encode()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_told = False
        self._lock = threading.Lock()

    def problem(self, grammar: str) -> str | None:
        """Why a grammar cannot be used, as the compiler says it; None if it can.

        Raises Unavailable where this machine gave the process too little time to tell.
        """
        line = json.dumps(grammar).encode()
        with self._lock:
            try:
                answer = self._asked(line)
            except Unavailable:  # once more, by a fresh process
                answer = self._asked(line)
        if not answer:
            return TOO_COSTLY
        found: dict[str, Any] = json.loads(answer)
        return TOO_COSTLY if found["is_slow"] else found["problem"]

    def _asked(self, line: bytes) -> bytes:
        """What the process says of a grammar; nothing if that was too much for it."""
        if self._process is None or self._process.poll() is not None:
            self._process = start_script(Path(__file__).with_name("trial_worker.py"))
            self._is_told = False
            weakref.finalize(self, end_process, self._process)
        process = self._process
        answer = b""
        try:
            if not self._is_told and not self._exchange(process, self._told):
                raise _starved()
            self._is_told = True
            answer = self._exchange(process, line)
            if not answer and process.wait(_END_S) not in _BY_ITSELF:
                raise _starved()
        finally:
            if not answer:  # Ctrl-C too: what the process still says belongs to no later grammar
                end_process(process)
        return answer

    def _exchange(self, process: subprocess.Popen[bytes], line: bytes) -> bytes:
        """What is answered to a line; nothing if the process has ended, which it does when it has used up its time of the processor."""
        assert process.stdin is not None
        assert process.stdout is not None
        is_late = False

        def give_up() -> None:
            nonlocal is_late
            is_late = True
            process.kill()

        timer = threading.Timer(_WALL_S, give_up)
        timer.start()
        try:
            process.stdin.write(line + b"\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except OSError:
            answer = b""
        finally:
            timer.cancel()
        if not answer and is_late:
            raise _starved()
        return answer


def _starved() -> Unavailable:
    return Unavailable("The process that tries grammars was ended, or got no processor time; this machine may be too busy. Try again.")
