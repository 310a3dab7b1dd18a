"""How a verb begins and ends: the terminal it speaks through, and the exit code that its result stands for."""

from collections.abc import Mapping
from typing import Any

from touchstone.report.terminal import Terminal
from touchstone.runtime import before_torch

__all__ = ["EXIT_CODES", "finish", "open_terminal"]

EXIT_CODES = {"interrupted": 130, "problem": 1}
"""By the status of a document: a run that a signal ended after it was saved (128 + SIGINT, as shells have it), problems that were found."""


def open_terminal(lang: str, as_json: bool) -> Terminal:
    """The terminal of this command; also sets what torch reads only when it is first imported."""
    before_torch()
    return Terminal(lang, json=as_json)


def finish(terminal: Terminal, document: Mapping[str, Any]) -> int:
    """Print the document of the command where one was asked for, and return the exit code."""
    terminal.result(document)
    return EXIT_CODES.get(str(document.get("status")), 0)
