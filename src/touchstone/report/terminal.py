"""The terminal: lines, tables, progress, and a live panel of a training where there is a screen to draw it on.

Where output goes to a file or a pipe, the same facts come as plain lines, one every few seconds. With `json`, stdout holds one JSON
document and nothing else. Text from data or models is shown with its control characters made visible, so that it cannot steer the terminal.
"""

from __future__ import annotations

import contextlib
import io
import json as json_module
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Protocol

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from touchstone.report.training import TrainingDisplay
from touchstone.report.words import Words, words

__all__ = ["Advance", "Terminal", "TrainingDisplay", "escaped_json", "visible"]


_STYLES = {"plain": "", "title": "bold", "good": "green", "dim": "dim", "command": "cyan"}
_SECONDS_BETWEEN_LINES = 5.0
_LONGEST_WHOLE = 12  # characters of a word that a table never breaks, however narrow the screen
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_NUMBER = re.compile(r"[-+−]?[\d.,  ]*\d( ?%| ?[a-zA-Z]{1,3})?( \[.*\])?|[-–—]?")


class Advance(Protocol):
    """Says that so many more units of the work are done."""

    def __call__(self, n: int = 1) -> None: ...


class Terminal:
    """Speaks to the user in one language.

    quiet: only warnings and errors are shown. json: stdout is kept for the one document that `result` prints.
    out, err: where lines and where warnings go; stdout and stderr if None.
    """

    def __init__(
        self,
        lang: str = "en",
        *,
        quiet: bool = False,
        json: bool = False,
        out: Console | None = None,
        err: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.words: Words = words(lang)
        self.silent = quiet or json
        self.json = json
        self.out = out or _console(stderr=False)
        self.err = err or _console(stderr=True)
        self._clock = clock

    def say(self, text: str = "", *, style: Literal["plain", "title", "good", "dim", "command"] = "plain") -> None:
        """One line or paragraph on stdout; wrapped on a screen, never in a file or pipe."""
        if not self.silent:
            self.out.print(Text(visible(text), style=_STYLES[style]), soft_wrap=not self.out.is_terminal or style == "command")

    def piece(self, text: str, *, style: Literal["plain", "title", "good", "dim", "command"] = "plain") -> None:
        """Text that goes on where the last piece ended, such as tokens as they come; `say()` ends the line."""
        if not self.silent:
            self.out.print(Text(visible(text), style=_STYLES[style]), end="", soft_wrap=True)

    def warn(self, text: str) -> None:
        """A line on stderr that is shown whatever else is kept quiet."""
        self.err.print(Text(visible(self.words("note.warning", text=text)), style="yellow"), soft_wrap=True)

    def error(self, text: str) -> None:
        """The line on stderr with which a command ends."""
        self.err.print(Text(visible(self.words("note.error", text=self.words.told(text))), style="bold red"), soft_wrap=True)

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[object]], *, title: str | None = None) -> None:
        """A table; columns that hold numbers only are set flush right."""
        if self.silent:
            return
        shown = [[visible(str(cell)) for cell in row] for row in rows]
        table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 3, 0, 0))
        for place, header in enumerate(headers):
            is_number = all(_NUMBER.fullmatch(row[place]) for row in shown)
            table.add_column(Text(visible(header), style="dim"), justify="right" if is_number else "left", overflow="fold")
        for row in shown:
            table.add_row(*(Text(cell) for cell in row))
        if self.out.is_terminal:
            least = _least_width([[visible(header), *(row[place] for row in shown)] for place, header in enumerate(headers)])
            table.width = least if least > self.out.width else None
            self.out.print(table, crop=False)
        else:  # a pipe has no width to fold at
            Console(file=self.out.file, width=10_000, highlight=False, markup=False, emoji=False, color_system=None).print(table)

    def result(self, document: Any) -> None:
        """With `json`, print the document of this command on stdout; otherwise nothing."""
        if self.json:
            self.out.file.write(json_module.dumps(document, ensure_ascii=True, indent=2) + "\n")

    def training(self) -> TrainingDisplay:
        """The display of a training: `with terminal.training() as display: display.update(report)`."""
        return TrainingDisplay(self.words, self.out, silent=self.silent, clock=self._clock)

    @contextlib.contextmanager
    def progress(self, label: str, total: int | None = None) -> Iterator[Advance]:
        """Show how far a work is: `with terminal.progress("Reading", n) as advance: advance(1)`; total None where it is not known."""
        if self.silent:
            yield lambda n=1: None
        elif self.out.is_terminal:
            with self._bar(label, total) as advance:
                yield advance
        else:
            with self._lines(label, total) as advance:
                yield advance

    @contextlib.contextmanager
    def _bar(self, label: str, total: int | None) -> Iterator[Advance]:
        columns = [TextColumn("{task.description}"), BarColumn(bar_width=28), TextColumn("{task.fields[shown]}"), TimeRemainingColumn()]
        began, done = self._clock(), 0
        with Progress(*columns, console=self.out, transient=True) as bar:
            task = bar.add_task(visible(label), total=total, shown="")

            def advance(n: int = 1) -> None:
                nonlocal done
                done += n
                bar.update(task, advance=n, shown=_share(done, total))

            yield advance
        self.say(self.words("progress.done", label=label, time=self.words.duration(self._clock() - began)), style="dim")

    @contextlib.contextmanager
    def _lines(self, label: str, total: int | None) -> Iterator[Advance]:
        began = last = self._clock()
        done = 0

        def advance(n: int = 1) -> None:
            nonlocal done, last
            done += n
            if self._clock() - last >= _SECONDS_BETWEEN_LINES:
                last = self._clock()
                key, filling = ("progress.share", {"percent": 100 * done // total}) if total else ("progress.count", {"n": f"{done:,}"})
                self.say(self.words(key, label=label, **filling))

        yield advance
        self.say(self.words("progress.done", label=label, time=self.words.duration(self._clock() - began)))


def visible(text: str) -> str:
    """The text with control characters, which could move the cursor or hide what was written, as their escapes."""
    return _UNSEEN.sub(lambda found: _escape(found.group()), text)


def escaped_json(document: Any) -> str:
    """The document on one line of JSON that any UTF-8 reader takes: letters of all scripts as they are, what `visible` hides escaped."""
    text = json_module.dumps(document, ensure_ascii=False)
    return _UNSEEN.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def _escape(character: str) -> str:
    return f"\\x{ord(character):02x}" if ord(character) < 256 else f"\\u{ord(character):04x}"


def _least_width(columns: Sequence[Sequence[str]]) -> int:
    """The width at which no word of a table of these cells is broken, but for very long ones: Rich narrows the widest columns first."""
    words_in = (word for cells in columns for cell in cells for word in cell.split())
    longest = min(_LONGEST_WHOLE, max(map(cell_len, words_in), default=0))
    return sum(3 + min(longest, max(map(cell_len, cells))) for cells in columns)


def _share(done: int, total: int | None) -> str:
    return f"{100 * done // total} %" if total else f"{done:,}"


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower().replace("-", "") != "utf8":
        stream.reconfigure(errors="backslashreplace")  # an old locale gets escapes, not a traceback
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)
