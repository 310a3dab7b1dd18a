"""A log that a full disk does not stop: what could not be written is kept and written as soon as there is room."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from touchstone.report.log import MetricsLog

__all__ = ["Journal"]


class Journal:
    """JSON lines by step; `unwritten` holds the records that the disk refused, oldest first."""

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        self.path = path
        self.unwritten: list[dict[str, Any]] = []
        self._log, self._warn = MetricsLog(path), warn

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record after those that wait."""
        waiting = bool(self.unwritten)
        self.unwritten.append(dict(record))
        try:
            while self.unwritten:
                self._log.append(self.unwritten[0])
                del self.unwritten[0]
        except OSError as error:
            if not waiting:
                self._warn(f"{self.path}: cannot be written ({error.strerror or error}); its lines are kept until there is room.")

    def begin_after(self, step: int, waiting: str) -> None:
        """Drop what was written of later steps, and take over the records that a checkpoint kept."""
        self._log.cut_after(step)
        self.unwritten = json.loads(waiting)

    def waiting(self) -> str:
        """The unwritten records as text for a checkpoint (a text, as they may hold NaN)."""
        return json.dumps(self.unwritten)

    def sync(self) -> None:
        """Make what was written last, so that a checkpoint never knows more steps than the log."""
        if self.path.exists():
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
