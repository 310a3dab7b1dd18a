"""What a training leaves in its run folder before the first step, and what the same command finds when it comes again.

    runs/NAME/{config.yaml, command.txt, environment.json, metrics.jsonl, samples.jsonl, checkpoints/, model/, report.html}

`config.yaml` holds the resolved configuration. What was chosen by measuring (the number of steps of `--minutes`) is in it, is never
measured again, and is no change of configuration.
"""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from touchstone import config as settings
from touchstone.config import Config
from touchstone.errors import RunFolderError
from touchstone.files import check_writable, is_complete, lock_folder, write_json, write_text
from touchstone.runtime import environment

__all__ = ["RunRecord", "settled_config"]

C = TypeVar("C", bound=Config)


class RunRecord:
    """Names of the parts of one run folder."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.config = self.folder / "config.yaml"
        self.command = self.folder / "command.txt"
        self.metrics = self.folder / "metrics.jsonl"
        self.samples = self.folder / "samples.jsonl"
        self.model = self.folder / "model"
        self.report = self.folder / "report.html"

    @property
    def is_finished(self) -> bool:
        """Whether the model was saved whole, which is the last thing a training does."""
        return is_complete(self.model)

    def check(self) -> None:
        """Raise RunFolderError if the folder cannot be written or another process is at work in it."""
        check_writable(self.folder)
        with lock_folder(self.folder):
            pass

    def begin(self, config: Config, command: Sequence[str]) -> None:
        """Write the configuration, the command and where it runs."""
        check_writable(self.folder)
        write_json(self.folder / "environment.json", environment())
        write_text(self.command, shlex.join([Path(command[0]).name, *command[1:]]) + "\n")
        write_text(self.config, settings.to_yaml(config))


def settled_config(record: RunRecord, wanted: C, *, with_measured: Callable[[C, C], C]) -> C | None:
    """The configuration of the run that is in the folder, or None where there is none yet.

    with_measured: (found, wanted) -> `wanted` with what `found` chose by measuring.
    Raises RunFolderError, with every difference, if the command asks for something else than what the folder holds.
    """
    if not record.config.exists():
        return None
    found = settings.load(type(wanted), record.config)
    changed = settings.differences(found, with_measured(found, wanted))
    if changed:
        raise RunFolderError(
            f"{record.folder}: holds a run with another configuration ({'; '.join(changed)}). "
            f"Repeat the command it was made with, or choose another --out."
        )
    return found
