"""Grammars tried in a process of their own before they are compiled in this one.

A grammar of a few kilobytes can keep the compiler busy for hours, or end its process by a chain of rules that is deeper than the stack
(CVE-2025-48944, CVE-2026-25048, CVE-2026-55574 are of that kind). A server's engine must outlive it, and so must a training or a notebook.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from touchstone.apart import Apart, Failed
from touchstone.errors import Unavailable

__all__ = ["STEP_S", "TOO_COSTLY", "Trial"]

TOO_COSTLY = "it takes the compiler, or each token, too long, too much memory, or too deep a recursion; make it smaller"
STEP_S = 0.005
"""Of the processor, for the cheapest of the steps that are tried: every token of every completion costs as much."""

_BUDGET_S = 2.0  # of the processor
_WALL_S = 60.0  # for that time to be had on a busy machine
_MAX_BYTES = 1 << 24  # of what the compiler says: its errors show the grammar


class Trial:
    """The process that tries the grammars of one vocabulary; it starts with the first, and anew after one has ended it.

    limits: the parser's. tokens: the bytes of each. special: those that are no text. ends: those that end a text.
    """

    def __init__(
        self, limits: Mapping[str, Any], tokens: Sequence[bytes], special: Sequence[int], ends: Sequence[int], bos: int | None
    ) -> None:
        told = {"tokens": [token.hex() for token in tokens], "special": list(special), "ends": list(ends), "bos": bos}
        opening = json.dumps({**told, "limits": dict(limits), "seconds": _BUDGET_S, "step_seconds": STEP_S}).encode()
        self._apart = Apart(Path(__file__).with_name("trial_worker.py"), opening=opening, start_s=_WALL_S, max_bytes=_MAX_BYTES)

    def problem(self, grammar: str) -> str | None:
        """Why a grammar cannot be used, as the compiler says it; None if it can.

        Raises Unavailable where this machine gave the process too little time to tell.
        """
        try:
            found: dict[str, Any] = json.loads(self._apart.ask(json.dumps(grammar).encode(), _WALL_S))
        except Failed as failure:
            if failure.kind == "stopped":
                raise Unavailable(
                    "The process that tries grammars was stopped or got no processor time, twice; this machine may be too busy. Try again."
                ) from None
            return TOO_COSTLY
        return TOO_COSTLY if found["is_slow"] else found["problem"]
