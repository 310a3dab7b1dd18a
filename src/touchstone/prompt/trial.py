"""Grammars tried in a process of their own before they are compiled in this one.

A grammar of a few kilobytes can keep the compiler busy for hours, or end its process by a chain of rules that is deeper than the stack
(CVE-2025-48944, CVE-2026-25048, CVE-2026-55574 are of that kind). A server's engine must outlive it, and so must a training or a notebook.
"""

import json
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
        self._lock = threading.Lock()

    def problem(self, grammar: str) -> str | None:
        """Why a grammar cannot be used, as the compiler says it; None if it can.

        Raises Unavailable where this machine gave the process too little time to tell.
        """
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._process = start_script(Path(__file__).with_name("trial_worker.py"))
                weakref.finalize(self, end_process, self._process)
                self._exchange(self._process, self._told)
            answer = self._exchange(self._process, json.dumps(grammar).encode())
            if not answer:
                end_process(self._process)
                return TOO_COSTLY
        found: dict[str, Any] = json.loads(answer)
        return TOO_COSTLY if found["is_slow"] else found["problem"]

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
            end_process(process)
            raise Unavailable("The process that tries grammars got no processor time; this machine may be too busy. Try again.")
        return answer
