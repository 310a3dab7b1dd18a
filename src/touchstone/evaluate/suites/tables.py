"""Rows of a benchmark's file, and the fields of a row: what is not as it should be becomes a `BadRow` with its place, never an end.

The readers of `touchstone.text` stop at the first fault, as training data must be right; a benchmark is read to its end, and every row
that cannot be used is counted. A file that cannot be opened or is no text at all is still an error.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from touchstone.config import closest
from touchstone.errors import DataError
from touchstone.evaluate.task import BadKind, BadRow, EvalExample, Examples
from touchstone.text.read import format_of
from touchstone.text.stream import Notes, lines, text_chunks

__all__ = ["Row", "Unusable", "examples_of", "json_of", "rows_of"]


class Unusable(DataError):
    """A row cannot be used; kind: as of `BadRow`."""

    def __init__(self, kind: BadKind, reason: str) -> None:
        super().__init__(reason)
        self.kind, self.reason = kind, reason


@dataclass(frozen=True, slots=True)
class Row:
    """The fields of one row. name: `file-name:line`, which does not change with the folder; where: with the path, as messages show it."""

    fields: Mapping[str, Any]
    name: str
    where: str

    def text(self, field: str, *, may_be_empty: bool = False) -> str:
        """A text with something in it; raises Unusable."""
        value = self._value(field)
        if not isinstance(value, str):
            raise Unusable("wrong type", f"`{field}` is {type(value).__name__}, not text")
        if not value.strip() and not may_be_empty:
            raise Unusable("empty text", f"`{field}` is empty")
        return value

    def texts(self, field: str) -> list[str]:
        """A list of texts, one or more."""
        value = self._value(field)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise Unusable("wrong type", f"`{field}` is not a list of texts")
        if not value or not all(item.strip() for item in value):
            raise Unusable("empty text", f"`{field}` is empty, or one of its texts is")
        return value

    def place(self, field: str, n: int) -> int:
        """A whole number from 0 to n - 1: the place of a right answer."""
        value = self._value(field)
        if isinstance(value, str) and value.strip().isdecimal():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise Unusable("wrong type", f"`{field}` is {value!r}, not a whole number")
        if not 0 <= value < n:
            raise Unusable("unknown label", f"`{field}` is {value}, and there are {n} answers (0 to {n - 1})")
        return value

    def label(self, field: str, labels: Sequence[str]) -> str:
        """One of the labels."""
        value = self._value(field)
        name = str(value).strip() if isinstance(value, (str, int)) and not isinstance(value, bool) else None
        if name is None:
            raise Unusable("wrong type", f"`{field}` is {type(value).__name__}, not a label")
        if name not in labels:
            near = closest(name, labels, n=1)
            raise Unusable("unknown label", f"`{field}` is `{name}`{f'; near: `{near[0]}`' if near else ''}")
        return name

    def number(self, field: str) -> float:
        """A finite number."""
        value = self._value(field)
        try:
            found = float(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else None
        except ValueError:
            found = None
        if found is None or found != found or found in (float("inf"), float("-inf")):
            raise Unusable("wrong type", f"`{field}` is {value!r}, not a number")
        return found

    def _value(self, field: str) -> Any:
        if field not in self.fields:
            raise Unusable("missing field", f"no `{field}`; it has {', '.join(map(str, self.fields)) or 'nothing'}")
        return self.fields[field]


def examples_of(path: Path, read: Callable[[Path], Iterable[Row | BadRow]], make: Callable[[Row], EvalExample]) -> Examples:
    """The examples that `make` makes of the rows; a row for which it raises Unusable is a BadRow."""

    def stream() -> Iterator[EvalExample | BadRow]:
        for row in read(path):
            if isinstance(row, BadRow):
                yield row
                continue
            try:
                yield make(row)
            except Unusable as error:
                yield BadRow(row.where, error.kind, error.reason)

    return Examples(stream)


def rows_of(path: Path, columns: Sequence[str] | None = None) -> Iterator[Row | BadRow]:
    """The rows of a jsonl, csv, tsv or txt file, packed or not; blank lines are passed over.

    columns: names of the fields of a csv or tsv file without a header; of a txt file, whose line is one field, its name.
    A tsv file has no quotes. Raises DataError for another kind of file.
    """
    kind = format_of(path)
    if kind in (".jsonl", ".ndjson"):
        return _json_lines(path)
    if kind == ".csv":
        return _csv(path, columns)
    if kind in (".tsv", ".txt"):
        return _columns(path, columns, "\t" if kind == ".tsv" else None)
    raise DataError(f"{path}: rows are read from .jsonl, .csv, .tsv and .txt files, packed or not, not `{kind or 'no suffix'}`.")


def json_of(path: Path) -> Any:
    """The data of a .json file, packed or not."""
    try:
        return json.loads("".join(text_chunks(path, Notes())))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {error}.") from None


def _json_lines(path: Path) -> Iterator[Row | BadRow]:
    for number, line in lines(path, Notes()):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield BadRow(where, "not readable", f"not JSON: {error}")
            continue
        if isinstance(fields, dict):
            yield Row(fields, f"{path.name}:{number}", where)
        else:
            yield BadRow(where, "not readable", "not a JSON object")


def _columns(path: Path, columns: Sequence[str] | None, separator: str | None) -> Iterator[Row | BadRow]:
    header = list(columns) if columns is not None else None
    for number, line in lines(path, Notes()):
        if not line.strip():
            continue
        values = line.split(separator) if separator else [line]
        if header is None:
            header = values
        else:
            yield _row(path, number, header, values)


def _csv(path: Path, columns: Sequence[str] | None) -> Iterator[Row | BadRow]:
    reader = csv.reader(line + "\n" for _, line in lines(path, Notes()))
    header = list(columns) if columns is not None else None
    start = 1
    while True:
        try:
            values = next(reader, None)
        except csv.Error as error:
            yield BadRow(f"{path}:{start}", "not readable", str(error))
            values = []
        number, start = start, reader.line_num + 1
        if values is None:
            return
        if values and header is None:
            header = values
        elif values and header is not None:
            yield _row(path, number, header, values)


def _row(path: Path, number: int, header: Sequence[str], values: Sequence[str]) -> Row | BadRow:
    where = f"{path}:{number}"
    if len(values) != len(header):
        return BadRow(where, "not readable", f"{len(values)} fields where there are {len(header)} ({', '.join(header)})")
    return Row(dict(zip(header, values, strict=True)), f"{path.name}:{number}", where)
