"""Metrics as JSON lines: one record, one line, one write, so that a reader never sees half a record except the last of a crash.

Losses are logged raw: not-a-number and infinity stand as NaN and Infinity, as Python's `json` writes and reads them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from touchstone.errors import DataError, RunFolderError
from touchstone.files import write_bytes

__all__ = ["MetricsLog", "Records", "read_log"]


class Records(list[dict[str, Any]]):
    """The records of a log in order; `torn` is the unfinished last line of a writer that died, None if there is none."""

    torn: str | None = None


class MetricsLog:
    """Append records to a file of JSON lines; one process writes, any number may read meanwhile."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._whole = False  # whether the file is known to end with a line end

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one line; OSError if the disk takes only part of it, which the next append then removes."""
        line = (json.dumps(record, ensure_ascii=False, default=_number) + "\n").encode("utf-8", "backslashreplace")
        if not self._whole:
            self._drop_torn_line()
        self._whole = False
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            if os.write(descriptor, line) != len(line):
                raise OSError(f"{self.path}: the disk took only part of a line.")
        finally:
            os.close(descriptor)
        self._whole = True

    def cut_after(self, step: int) -> int:
        """Drop records whose `step` is greater, as a resume from `step` will write them again; returns how many.

        Records without a step stay; an unfinished last line goes. The file is replaced in one write.
        """
        if not self.path.exists():
            return 0
        lines, _ = _lines(self.path)
        kept = [line for line, record in lines if not record.get("step", step) > step]
        write_bytes(self.path, b"".join(line + b"\n" for line in kept))
        self._whole = True
        return len(lines) - len(kept)

    def _drop_torn_line(self) -> None:
        if self.path.exists():
            data = self.path.read_bytes()
            end = data.rfind(b"\n") + 1
            if end < len(data):
                os.truncate(self.path, end)


def read_log(path: Path | str) -> Records:
    """The records of a file of JSON lines; RunFolderError, with the line, for anything but an unfinished last line."""
    lines, torn = _lines(Path(path))
    records = Records(record for _, record in lines)
    records.torn = torn
    return records


def _lines(path: Path) -> tuple[list[tuple[bytes, dict[str, Any]]], str | None]:
    try:
        data = path.read_bytes()
    except OSError as reason:
        raise RunFolderError(f"{path}: cannot be read: {reason.strerror}.") from None
    *whole, last = data.split(b"\n")
    found = []
    for number, line in enumerate(whole, 1):
        try:
            record = json.loads(line)
        except ValueError as reason:
            raise RunFolderError(f"{path}:{number}: not a line of JSON: {reason}.") from None
        if not isinstance(record, dict):
            raise RunFolderError(f"{path}:{number}: a record is a mapping, this is a {type(record).__name__}.")
        found.append((line, record))
    return found, last.decode("utf-8", "replace") if last else None


def _number(value: Any) -> Any:
    """NumPy and torch scalars as Python numbers."""
    if getattr(value, "ndim", None) == 0:
        return value.item()
    raise DataError(f"A record holds numbers, texts, lists and mappings, not a {type(value).__name__}.")
