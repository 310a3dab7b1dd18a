"""What a training leaves in its run folder before the first step, and what the same command finds when it comes again.

    runs/NAME/{config.yaml, command.txt, environment.json, metrics.jsonl, samples.jsonl, checkpoints/, model/, report.html}

`config.yaml` holds the resolved configuration. What of it was chosen by measuring stands under `chosen` in `environment.json`: it is never
measured again, and is no change of configuration when the command that left the choice open comes again.
"""

import json
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from touchstone import config as settings
from touchstone.errors import RunFolderError, SaveFailed
from touchstone.files import check_writable, is_complete, lock_folder, read_json, write_json, write_text
from touchstone.runtime import environment
from touchstone.train.run_config import RunConfig

__all__ = ["Chosen", "RunRecord"]


@dataclass(frozen=True)
class Chosen:
    """What was measured once, at the start of a run.

    minutes: what `--minutes` asked for; None = the recipe's own length.
    settings: settings of the configuration, by dotted key.
    product: the matrix product, a name of `nn.products`. reasons: a sentence for each choice.
    """

    minutes: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    product: str = "torch"
    reasons: Mapping[str, str] = field(default_factory=dict)

    def apply(self, config: RunConfig, *, but: Collection[str] = ()) -> RunConfig:
        """The configuration with these choices, except for the settings named in `but`."""
        overrides = [f"{key}={json.dumps(value)}" for key, value in self.settings.items() if key not in but]
        return settings.parse(RunConfig, settings.apply_overrides(config.model_dump(mode="json"), overrides))


class RunRecord:
    """The parts of one run folder by name."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.config = self.folder / "config.yaml"
        self.command = self.folder / "command.txt"
        self.environment = self.folder / "environment.json"
        self.metrics = self.folder / "metrics.jsonl"
        self.samples = self.folder / "samples.jsonl"
        self.model = self.folder / "model"
        self.report = self.folder / "report.html"

    @property
    def is_finished(self) -> bool:
        """Whether the model and the report are there, which are the last things a training writes."""
        return is_complete(self.model) and self.report.is_file()

    def check(self) -> None:
        """Raise RunFolderError if the folder cannot be written or another process is at work in it."""
        check_writable(self.folder)
        with lock_folder(self.folder):
            pass

    def begin(self, config: RunConfig, chosen: Chosen, command: Sequence[str]) -> None:
        """Write the configuration last, so that a folder that has one has the rest too."""
        check_writable(self.folder)
        write_json(self.environment, {**environment(), "chosen": asdict(chosen)})
        write_text(self.command, shlex.join([Path(command[0]).name, *command[1:]]) + "\n")
        write_text(self.config, settings.to_yaml(config))

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Turn what a disk raises while the results are written into SaveFailed: the training itself is safe by then."""
        try:
            yield
        except OSError as error:
            raise SaveFailed(
                f"{self.folder}: trained, but its model, card or report could not be written ({error.strerror or error}); "
                "make room and repeat the command, nothing is trained again."
            ) from None

    def settled(self, wanted: RunConfig, *, minutes: float | None, explicit: Collection[str]) -> tuple[RunConfig, Chosen] | None:
        """The configuration and choices of the run that is in the folder; None where there is none yet.

        explicit: settings that the command names itself. Raises RunFolderError, with every difference, if the command asks for
        something else than the folder holds.
        """
        if not self.config.exists():
            return None
        found = settings.load(RunConfig, self.config)
        chosen = self._chosen()
        changed = settings.differences(found, chosen.apply(wanted, but=explicit))
        if found == wanted:  # the run's own config.yaml: whatever was open then is settled in it
            changed = []
        if minutes != chosen.minutes and not (minutes is None and found == wanted):
            changed.append(f"--minutes: {_minutes(chosen.minutes)} -> {_minutes(minutes)}")
        if changed:
            raise RunFolderError(
                f"{self.folder}: holds a run with another configuration ({'; '.join(changed)}). "
                f"Repeat the command it was made with (command.txt), or choose another --out."
            )
        return found, chosen

    def _chosen(self) -> Chosen:
        data = read_json(self.environment, error=RunFolderError)
        try:
            return Chosen(**data["chosen"])
        except (KeyError, TypeError):
            raise RunFolderError(f"{self.environment}: damaged: what the run chose is missing; choose another --out.") from None


def _minutes(minutes: float | None) -> str:
    return "not given" if minutes is None else f"{minutes:g}"
