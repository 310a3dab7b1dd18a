"""Rows of fields from jsonl, csv, tsv and parquet files, one at a time; a row that is not as it should be is named by file and line."""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from touchstone.config import closest
from touchstone.errors import DataError, MissingPackage
from touchstone.text.stream import MAX_LINE_CHARS, Notes, lines

__all__ = ["Row", "is_text", "read_csv", "read_jsonl", "read_parquet", "text_of"]


class Row(NamedTuple):
    """The fields of one row and the line it starts on (for parquet, its number from 1)."""

    fields: dict[str, Any]
    line: int


def read_jsonl(path: Path, notes: Notes) -> Iterator[Row]:
    """One JSON object a line; blank lines are normal."""
    for number, line in lines(path, notes):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f'{path}:{number}: not JSON ({error}); each line must be one object such as {{"text": "…"}}.') from None
        if not isinstance(fields, dict):
            raise DataError(f'{path}:{number}: a JSON value that is {_kind(fields)}; each line must be one object such as {{"text": "…"}}.')
        yield Row(fields, number)


def read_csv(path: Path, notes: Notes, delimiter: str = ",", *, columns: Sequence[str] | None = None, quoted: bool = True) -> Iterator[Row]:
    """Rows under a header line; a quoted field may hold commas and line ends.

    columns: the names of the fields where the file has no header. quoted: False where `"` is a character like any other.
    """
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_CHARS))  # the library's 128 KB is shorter than many a text
    ended = (line + "\n" for _, line in lines(path, notes))
    reader = csv.reader(ended, delimiter=delimiter, strict=True, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE)
    header: list[str] | None = None if columns is None else list(columns)
    start = 1
    try:
        for values in reader:
            line, start = start, reader.line_num + 1
            if not values:
                continue
            if header is None:
                header = _header(path, values)
            elif len(values) != len(header):
                remedy = (
                    f"quote fields that hold `{delimiter}`" if columns is None else f"name every field in `columns` ({', '.join(columns)})"
                )
                raise DataError(f"{path}:{line}: {len(values)} fields under a header of {len(header)}; {remedy}.")
            else:
                yield Row(dict(zip(header, values, strict=True)), line)
    except csv.Error as error:
        raise DataError(f"{path}:{start}: not readable as {path.name}: {error}; check the quotes of this row.") from None


def read_parquet(path: Path, columns: Iterable[str] | None = None) -> Iterator[Row]:
    """Rows of a parquet file in batches; `columns` None reads all."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingPackage(f'{path}: reading .parquet needs one more package: pip install "touchstone-lm[data]".') from None
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024, columns=None if columns is None else list(columns)):
                for fields in batch.to_pylist():
                    number += 1
                    yield Row(fields, number)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not readable as parquet: {' '.join(str(error).split())}; copy or write it again.") from None


def text_of(row: Row, text_field: str, path: Path) -> str:
    """The text of a row; DataError if the field is missing or is no text."""
    if text_field not in row.fields:
        near = closest(text_field, row.fields, n=1)
        names = ", ".join(f"`{name}`" for name in row.fields) or "none"
        hint = f"did you mean `{near[0]}`? Set" if near else "set"
        raise DataError(f"{path}:{row.line}: no field `{text_field}`; fields: {names}; {hint} `text_field` to the one that holds the text.")
    text = row.fields[text_field]
    if not isinstance(text, str):
        raise DataError(
            f"{path}:{row.line}: field `{text_field}` is {_kind(text)}, not text; correct the row or choose another `text_field`."
        )
    if not is_text(text):
        raise DataError(f"{path}:{row.line}: field `{text_field}` holds half of a surrogate pair, which is no character.")
    return text


def is_text(text: str) -> bool:
    """Whether every character is one: halves of surrogate pairs are not."""
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _header(path: Path, values: list[str]) -> list[str]:
    repeated = sorted({name for name in values if values.count(name) > 1})
    if repeated:
        raise DataError(f"{path}:1: the header repeats `{repeated[0]}`; give each column its own name.")
    return values


def _kind(value: Any) -> str:
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object", str: "text"}
    return names.get(type(value), type(value).__name__)
