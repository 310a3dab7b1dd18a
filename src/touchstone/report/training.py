"""The display of a training: a live panel on a screen, one plain line every few seconds elsewhere."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from touchstone.report.words import Words

__all__ = ["TrainingDisplay", "sparkline"]

_SECONDS_BETWEEN_LINES = 5.0
_HISTORY = 4096  # losses kept for the curve; beyond it every second one is dropped
_BLOCKS = "▁▂▃▄▅▆▇█"


class TrainingDisplay:
    """Fed with reports of steps, each a mapping or a dataclass with any of these fields; what it has not seen it does not show.

    step, n_steps, loss (nats per token), bits_per_byte, tokens_per_s, peak_fraction, eta_s, learning_rate, gradient_norm, skipped
    (steps so far), valid_loss, valid_bits_per_byte. Without eta_s the time left is taken from the steps seen.
    """

    def __init__(self, words: Words, console: Console, *, silent: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._words, self._console, self._silent, self._clock = words, console, silent, clock
        self._seen: dict[str, Any] = {}
        self._curve: list[float] = []
        self._n_values, self._every = 0, 1
        self._first: tuple[int, float] | None = None
        self._line_shown, self._line_time = "", -math.inf
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._silent:
            self._live = Live(console=self._console, refresh_per_second=2, get_renderable=self._panel)
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()
        elif self._seen and not self._silent:
            self._line()

    def update(self, report: Mapping[str, Any] | object) -> None:
        """Take in one report and show it when it is time."""
        new = dict(report) if isinstance(report, Mapping) else _fields(report)
        new = {key: value for key, value in new.items() if value is not None}
        self._seen |= new
        if "step" in new and self._first is None:
            self._first = (new["step"], self._clock())
        self._remember(new.get("bits_per_byte", new.get("loss")))
        is_due = self._clock() - self._line_time >= _SECONDS_BETWEEN_LINES
        if self._live is None and not self._silent and (is_due or any(key.startswith("valid_") for key in new)):
            self._line()

    def _remember(self, value: float | None) -> None:
        if value is None or not math.isfinite(value):
            return
        if self._n_values % self._every == 0:
            self._curve.append(value)
        self._n_values += 1
        if len(self._curve) >= _HISTORY:
            self._curve, self._every = self._curve[::2], self._every * 2

    def _line(self) -> None:
        line = " · ".join([self._place(), *self._figures(), *self._left()])
        if line != self._line_shown:
            self._console.print(Text(line), soft_wrap=True)
        self._line_shown, self._line_time = line, self._clock()

    def _panel(self) -> Panel:
        width = min(self._console.width, 92)
        step, n_steps = self._seen.get("step", 0), self._seen.get("n_steps")
        head = Table.grid(expand=True)
        head.add_column()
        head.add_column(justify="right")
        head.add_row(Text(self._place()), Text("".join(self._left()), style="dim"))
        figures = Table.grid(padding=(0, 4, 0, 0))
        cells = [Text(phrase) for phrase in self._figures()]
        for place in range(0, len(cells), 2):
            figures.add_row(*cells[place : place + 2])
        parts: list[RenderableType] = [head, ProgressBar(total=n_steps or 1, completed=step if n_steps else 0), Text(), figures]
        if curve := sparkline(self._curve, width - 6):
            parts += [Text(), Text(curve, style="cyan")]
        return Panel(
            Group(*parts), title=self._words("training.title"), title_align="left", border_style="dim", padding=(0, 2), width=width
        )

    def _place(self) -> str:
        step, n_steps = self._seen.get("step", 0), self._seen.get("n_steps")
        if n_steps:
            return self._words("training.step", step=f"{step:,}", n_steps=f"{n_steps:,}")
        return self._words("training.step_only", step=f"{step:,}")

    def _figures(self) -> list[str]:
        """A phrase for everything seen, the most telling first."""
        seen = {key: value for key, value in self._seen.items() if key != "skipped" or value}
        if "peak_fraction" in seen:
            seen["peak_fraction"] = 100 * seen["peak_fraction"]
        return [self._words(f"training.{key}", value=format(seen[key], form)) for key, form in _FORMATS.items() if key in seen]

    def _left(self) -> list[str]:
        eta, step, n_steps = self._seen.get("eta_s"), self._seen.get("step", 0), self._seen.get("n_steps")
        if eta is None and n_steps and self._first and step > self._first[0]:
            eta = (self._clock() - self._first[1]) / (step - self._first[0]) * (n_steps - step)
        return [] if eta is None or not math.isfinite(eta) else [self._words("training.left", time=self._words.duration(eta))]


def sparkline(values: Sequence[float], width: int) -> str:
    """The course of some values in at most `width` characters, each the mean of its part; the least is the lowest block."""
    n = min(width, len(values))
    if n < 2:
        return ""
    edges = [round(place * len(values) / n) for place in range(n + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, high = min(means), max(means)
    span = high - low or 1.0
    return "".join(_BLOCKS[min(7, int(8 * (mean - low) / span))] for mean in means)


_FORMATS = {
    "loss": ".4f",
    "bits_per_byte": ".3f",
    "valid_loss": ".4f",
    "valid_bits_per_byte": ".3f",
    "tokens_per_s": ",.0f",
    "peak_fraction": ".0f",
    "learning_rate": ".2e",
    "gradient_norm": ".3g",
    "skipped": ",d",
}


def _fields(report: object) -> dict[str, Any]:
    if dataclasses.is_dataclass(report) and not isinstance(report, type):
        return {field.name: getattr(report, field.name) for field in dataclasses.fields(report)}
    return dict(vars(report))
