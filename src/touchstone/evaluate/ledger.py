"""What of an evaluation is done: a file of JSON lines, one an example, that a process may be killed beside at any instant.

Lines are appended a batch at a time and fsynced; each says how many of its batch still come (`left`), so a batch counts whole or not at
all and what a crash tore off the end is cut away. Beside it stands what the lines belong to (`identity.json`): lines of another model,
task or data are refused with the difference, never mixed in.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from touchstone.config import Config, differences, parse
from touchstone.errors import ConfigError, RunFolderError
from touchstone.files import read_json, write_json
from touchstone.files.atomic import sync_folder

__all__ = ["Ledger", "LedgerRow", "read_rows"]

C = TypeVar("C", bound=Config)
LedgerRow = dict[str, Any]
IDENTITY, EXAMPLES = "identity.json", "examples.jsonl"


class Ledger:
    """The done examples of one evaluation; made by `open`. `done`: their ids."""

    def __init__(self, path: Path, done: set[str]) -> None:
        self.path, self.done = path, done

    @classmethod
    def open(cls, folder: Path, identity: Config) -> "Ledger":
        """The ledger of a folder that this process holds, begun if there is none.

        Raises RunFolderError, with the differences, for one that belongs to something else, or that is damaged before its end.
        """
        path, record = folder / EXAMPLES, folder / IDENTITY
        if record.exists():
            _check_same(record, identity)
        elif path.exists():
            raise RunFolderError(
                f"{path}: nothing says what these lines belong to (no `{IDENTITY}`); move them away or use another folder."
            )
        else:
            write_json(record, identity.model_dump(mode="json"))
        done: set[str] = set()
        if path.exists():
            end = 0
            for row, end_of_row in _whole_batches(path):
                done.add(str(row["id"]))
                end = end_of_row
            os.truncate(path, end)
        return cls(path, done)

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add a batch and make it last."""
        numbered = [{**row, "left": len(rows) - 1 - place} for place, row in enumerate(rows)]
        data = "".join(json.dumps(row, ensure_ascii=True, allow_nan=False) + "\n" for row in numbered).encode("ascii")
        is_new = not self.path.exists()
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            place = 0
            while place < len(data):
                place += os.write(descriptor, data[place:])
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if is_new:
            sync_folder(self.path.parent)
        self.done.update(str(row["id"]) for row in rows)

    def rows(self) -> Iterator[LedgerRow]:
        """All rows in the order in which they were done."""
        return (row for row, _ in _whole_batches(self.path)) if self.path.exists() else iter(())


def read_rows(folder: Path) -> Iterator[LedgerRow]:
    """The rows of an evaluation that was done in this folder; RunFolderError if none was."""
    path = folder / EXAMPLES
    if not path.exists():
        raise RunFolderError(f"{path}: no such file; give the folder that holds the results of one task.")
    return (row for row, _ in _whole_batches(path))


def _check_same(record: Path, identity: C) -> None:
    try:
        before = parse(type(identity), read_json(record, error=RunFolderError), source=str(record))
    except ConfigError as error:
        raise RunFolderError(f"{error}; it was written by another version. Use another folder.") from None
    changed = differences(before, identity)
    if changed:
        raise RunFolderError(
            f"{record.parent}: holds results of something else, and they are not mixed: {'; '.join(changed)}. Use another folder."
        )


def _whole_batches(path: Path) -> Iterator[tuple[LedgerRow, int]]:
    """The rows of whole batches, each with the offset where its batch ends; what is torn at the end is left out."""
    waiting: list[LedgerRow] = []
    place = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            place += len(line)
            row = _row_of(line)
            if row is None or (waiting and row["left"] != waiting[-1]["left"] - 1):
                if file.read(1):
                    raise RunFolderError(f"{path}:{number}: damaged: no line of a ledger; remove the folder and begin again.")
                return
            waiting.append(row)
            if row["left"] == 0:
                yield from ((each, place) for each in waiting)
                waiting = []


def _row_of(line: bytes) -> LedgerRow | None:
    """The row of a line that is whole; None for any other."""
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except ValueError:
        return None
    is_row = isinstance(row, dict) and isinstance(row.get("id"), str) and isinstance(row.get("left"), int)
    return row if is_row else None
