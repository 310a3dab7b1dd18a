"""Rows with answers: texts with a label, and pairs of a source and a target, from jsonl, csv, tsv and parquet files.

A tsv file has no quotes: a `"` in it is a character like any other, as in GLUE's files and most parallel texts. A row without an
answer is an error with its line; a row without text is left out and counted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

from touchstone.config import closest
from touchstone.errors import DataError
from touchstone.text.read import ReadReport, format_of, list_files
from touchstone.text.rows import Row, read_csv, read_jsonl, read_parquet, text_of
from touchstone.text.stream import Notes, lines

__all__ = ["ROW_SUFFIXES", "LabelledText", "TextPair", "are_parallel", "label_names", "read_labelled", "read_pairs"]

T = TypeVar("T")

ROW_SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")


@dataclass(frozen=True, slots=True)
class LabelledText:
    """A text, or a pair of them, and the name of its class; place: `file:line`."""

    text: str
    label: str
    place: str
    second: str | None = None

    @property
    def parts(self) -> str | tuple[str, str]:
        """As a classifier takes it."""
        return self.text if self.second is None else (self.text, self.second)

    @property
    def whole(self) -> str:
        """All that is read, as one text."""
        return self.text if self.second is None else f"{self.text}\n{self.second}"


@dataclass(frozen=True, slots=True)
class TextPair:
    """What is read and what is to be written; place: `file:line` of the source."""

    source: str
    target: str
    place: str


def read_labelled(
    paths: Sequence[Path | str],
    *,
    text_field: str = "text",
    label_field: str = "label",
    second_field: str | None = None,
    columns: Sequence[str] | None = None,
    report: ReadReport | None = None,
) -> list[LabelledText]:
    """Labelled texts of all files, folders included, in order.

    second_field: the field of the second text where a row has a pair. columns: names of the fields of csv and tsv files without a header.
    Raises DataError with file and line on a missing field or a label that is no name or whole number.
    """
    report = report if report is not None else ReadReport()
    found = []
    for path, row in _rows(paths, columns, report):
        text = text_of(row, text_field, path)
        second = None if second_field is None else text_of(row, second_field, path)
        label = _label(row, label_field, path)
        if text.strip() and (second is None or second.strip()):
            found.append(LabelledText(text, label, f"{path}:{row.line}", second))
        else:
            report.note("no text")
    return _checked(found, paths, report)


def read_pairs(
    paths: Sequence[Path | str],
    *,
    source_field: str = "source",
    target_field: str = "target",
    columns: Sequence[str] | None = None,
    report: ReadReport | None = None,
) -> list[TextPair]:
    """Pairs from row files, or line by line from two parallel text files such as `train.en.gz` and `train.de.gz`, source first.

    Raises DataError where parallel files have different numbers of lines, or are not two.
    """
    report = report if report is not None else ReadReport()
    _check_two(paths)
    pairs = _parallel(paths, report) if are_parallel(paths) else _row_pairs(paths, source_field, target_field, columns, report)
    found = []
    for pair in pairs:
        if pair.source.strip() and pair.target.strip():
            found.append(pair)
        else:
            report.note("no text on one side")
    return _checked(found, paths, report)


def label_names(labels: Sequence[str]) -> tuple[str, ...]:
    """The different labels in order: numbers by size where all are numbers, equal ones such as 1 and 01 by name; else by name."""
    names = set(labels)
    return tuple(sorted(names, key=lambda name: (int(name), name)) if all(_is_number(name) for name in names) else sorted(names))


def _rows(paths: Sequence[Path | str], columns: Sequence[str] | None, report: ReadReport) -> Iterator[tuple[Path, Row]]:
    for path in list_files(paths, report, ROW_SUFFIXES):
        notes, kind = Notes(), format_of(path)
        if kind == ".parquet":
            rows = read_parquet(path)
        elif kind in (".csv", ".tsv"):
            is_tsv = kind == ".tsv"
            rows = read_csv(path, notes, "\t" if is_tsv else ",", columns=columns, quoted=not is_tsv)
        else:
            rows = read_jsonl(path, notes)
        for row in rows:
            yield path, row
        _count_file(report, notes)


def _row_pairs(
    paths: Sequence[Path | str], source_field: str, target_field: str, columns: Sequence[str] | None, report: ReadReport
) -> Iterator[TextPair]:
    for path, row in _rows(paths, columns, report):
        yield TextPair(text_of(row, source_field, path), text_of(row, target_field, path), f"{path}:{row.line}")


def are_parallel(paths: Sequence[Path | str]) -> bool:
    """Whether the paths are two files of which neither is one of rows."""
    return len(paths) == 2 and all(Path(path).is_file() and format_of(Path(path)) not in ROW_SUFFIXES for path in paths)


def _check_two(paths: Sequence[Path | str]) -> None:
    plain = [str(path) for path in paths if Path(path).is_file() and format_of(Path(path)) not in ROW_SUFFIXES]
    if plain and not are_parallel(paths):
        raise DataError(f"{plain[0]}: is no file of rows, and {len(paths)} paths are given; texts in parallel are two files, source first.")


def _parallel(paths: Sequence[Path | str], report: ReadReport) -> Iterator[TextPair]:
    source_path, target_path = map(Path, paths)
    notes = Notes(), Notes()
    for source, target in zip_longest(lines(source_path, notes[0]), lines(target_path, notes[1])):
        if source is None or target is None:
            number = (source or target)[0]
            short, long = (source_path, target_path) if source is None else (target_path, source_path)
            raise DataError(f"{long}:{number}: no such line in {short}, which ends before; parallel files must say the same in each line.")
        yield TextPair(source[1], target[1], f"{source_path}:{source[0]}")
    for note in notes:
        _count_file(report, note)


def _count_file(report: ReadReport, notes: Notes) -> None:
    report.n_files += 1
    report.n_bom += notes.has_bom
    report.n_crlf += notes.has_crlf


def _label(row: Row, field: str, path: Path) -> str:
    if field not in row.fields:
        near = closest(field, row.fields, n=1)
        names = ", ".join(f"`{name}`" for name in row.fields) or "none"
        hint = f"did you mean `{near[0]}`? Set" if near else "set"
        raise DataError(f"{path}:{row.line}: no field `{field}`; fields: {names}; {hint} `label_field` to the one that holds the label.")
    value: Any = row.fields[field]
    if isinstance(value, bool) or not isinstance(value, (str, int)) or not str(value).strip():
        shown = repr(value) if isinstance(value, (str, float, bool, type(None))) else type(value).__name__
        raise DataError(f"{path}:{row.line}: the label in `{field}` is {shown}; it must be a name or a whole number.")
    return str(value).strip()


def _is_number(name: str) -> bool:
    return name.removeprefix("-").isdecimal() and name.isascii() and len(name) < 1000  # of thousands of digits Python makes no int


def _checked(found: list[T], paths: Sequence[Path | str], report: ReadReport) -> list[T]:
    if not found:
        left_out = "; ".join(f"{n} rows: {what}" for what, n in report.n_rows.items()) or "the files are empty"
        raise DataError(f"{', '.join(map(str, paths[:3]))}: no row to learn from ({left_out}).")
    report.n_documents += len(found)
    return found
