"""A model's chat template, rendered in a process that is killed when it takes too long or too much.

Templates come from model folders: they are programs of somebody else. They run sandboxed (`template_worker`), within limits, and never
in this process. What they are given and what they return is plain text.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from touchstone.apart import Apart, Failed
from touchstone.errors import ConfigError, TouchstoneError, Unavailable, printable

__all__ = ["RenderLimits", "Template"]

_ALARM_MARGIN_S = 5


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
        most = 12 * self.limits.max_chars + (1 << 20)  # a character takes twelve at most, as \ud83d\ude00
        self._apart = Apart(Path(__file__).with_name("template_worker.py"), start_s=self.limits.start_s, max_bytes=most)
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
        self._apart.close()

    def _ask(self, job: dict[str, Any]) -> dict[str, Any]:
        limits = {"cpu_s": self.limits.seconds, "alarm_s": math.ceil(self.limits.wall_s) + _ALARM_MARGIN_S}
        question = json.dumps({**job, **limits, "template": self.source}).encode()
        try:
            answer: dict[str, Any] = json.loads(self._apart.ask(question, self.limits.wall_s))
        except Failed as failure:
            raise self._told(failure) from None
        if "error" in answer:
            refused = "refuses these messages" if answer["error"] == "refused" else "cannot be rendered"
            raise ConfigError(f"The chat template {refused}: {printable(answer['message'], 300)}.")
        return answer

    def _told(self, failure: Failed) -> TouchstoneError:
        if failure.kind == "computed":
            return ConfigError(f"The chat template computed for more than {self.limits.seconds:g} s; it was stopped.")
        if failure.kind == "large":
            return ConfigError("The chat template writes far more than it may; it was stopped.")
        if failure.kind == "crashed":
            return ConfigError("The chat template crashed its process, twice.")
        return Unavailable(
            "The process that renders the chat template was stopped or got no processor time, twice; this machine may be too busy."
            " Try again."
        )
