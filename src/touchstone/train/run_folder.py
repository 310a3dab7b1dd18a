"""The run folder as the trainer sees it: begin or resume, save, log, and mark the end.

metrics.jsonl   one line a step, raw losses      samples.jsonl   what `sample` returned
checkpoints/    see resume.py                    model/          the final network, written by the caller's `save_model`
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from touchstone.errors import RunFolderError
from touchstone.files import read_json, write_json
from touchstone.train.identity import settle_identity
from touchstone.train.journal import Journal
from touchstone.train.resume import Checkpoint, Checkpoints
from touchstone.train.settings import Status
from touchstone.train.state import TrainingState, net_tensors

__all__ = ["RunFolder"]


class RunFolder:
    """One run on disk; the caller holds the folder's lock. warn: told of what was survived."""

    def __init__(self, folder: Path, warn: Callable[[str], None], *, keep: int) -> None:
        self.folder, self.warn, self.keep = folder, warn, keep
        self.checkpoints = Checkpoints(folder / "checkpoints", warn)
        self.metrics = Journal(folder / "metrics.jsonl", warn)
        self.samples = Journal(folder / "samples.jsonl", warn)
        self.n_failed_saves = 0
        self._run_id = ""

    def begin(self, identity: Mapping[str, Any]) -> Checkpoint | None:
        """The checkpoint to resume from; None if the run has none yet and begins now.

        Raises RunFolderError for the folder of another run, of one that began with another identity, and for one that is damaged.
        """
        inside = self.checkpoints.folder
        inside.mkdir(exist_ok=True)
        traces = [self.metrics.path, self.folder / "model", *sorted(inside.glob("step-*"))]
        self._run_id = settle_identity(inside / "RUN.json", identity, traces=traces)
        self.checkpoints.open(self._run_id)
        newest = self.checkpoints.newest()
        if newest is None:
            self._set_logs(0, {})
        elif self.finished(newest.step) is None:
            self._set_logs(newest.step - (newest.facts["progress"]["unclosed"] is not None), newest.facts["unwritten"])
            self._tell_changes(newest.facts["environment"])
        return newest

    def save(self, state: TrainingState, *, on_schedule: bool, protected: set[int]) -> bool:
        """Save a checkpoint and rotate; False, after a loud warning, if the disk would not take it - older ones are then as they were.

        on_schedule: an uninterrupted run saves here too, so it may go back to here. Raises NotFinite for weights that are not.
        """
        step = state.progress.position
        facts = {
            "run_id": self._run_id,
            "is_rollback_point": on_schedule and state.guard.n_in_a_row == 0,
            "environment": _environment(),
            "unwritten": {"metrics": self.metrics.waiting(), "samples": self.samples.waiting()},
            **state.facts(),
        }
        try:
            self.metrics.sync()
            self.samples.sync()
            self.checkpoints.save(step, net_tensors(state.net), state.optimizer.state(), facts)
        except (OSError, RunFolderError) as error:
            self.n_failed_saves += 1
            self.warn(f"NOT SAVED at step {step}: {error}. Training goes on and tries again at the next save; {self._last_saved()}.")
            return False
        try:
            self.checkpoints.rotate(self.keep, protected)
        except OSError as error:
            self.warn(f"{self.checkpoints.folder}: saved step {step}, but old checkpoints could not be removed: {error}.")
        return True

    def finished(self, step: int) -> Status | None:
        """How the run ended, if it did at this step."""
        record = self._finished_record()
        return record["status"] if record is not None and record["step"] == step else None

    def final_figures(self) -> dict[str, float]:
        """What the last evaluation of a finished run gave."""
        record = self._finished_record()
        return {} if record is None else json.loads(record["figures"])

    def mark_finished(self, status: Status, step: int, figures: Mapping[str, float]) -> None:
        """Write that the run is over; OSError as the disk has it."""
        record = {"run_id": self._run_id, "status": status, "step": step, "figures": json.dumps(dict(figures))}
        write_json(self._finished_path, record)

    def not_saved(self, reason: object = None) -> str:
        """The message of a run whose end could not be saved."""
        because = f" ({reason})" if reason else ""
        return f"{self.folder}: the end of the training could not be saved{because}; {self._last_saved()}. Free some room and start again."

    @property
    def _finished_path(self) -> Path:
        return self.checkpoints.folder / "FINISHED.json"

    def _finished_record(self) -> dict[str, Any] | None:
        if not self._finished_path.exists():
            return None
        record = read_json(self._finished_path, error=RunFolderError)
        if record.get("run_id") != self._run_id:
            raise RunFolderError(f"{self._finished_path}: written by another run than this folder's; remove it to go on.")
        return record

    def _set_logs(self, step: int, unwritten: Mapping[str, str]) -> None:
        self.metrics.begin_after(step, unwritten.get("metrics", "[]"))
        self.samples.begin_after(step, unwritten.get("samples", "[]"))

    def _last_saved(self) -> str:
        steps = self.checkpoints.steps()
        return f"the last complete checkpoint is {self.checkpoints.path(steps[-1])}" if steps else "no checkpoint was saved so far"

    def _tell_changes(self, before: Mapping[str, Any]) -> None:
        now = _environment()
        changed = [f"{name}: {before.get(name)} -> {value}" for name, value in now.items() if before.get(name) != value]
        if changed:
            self.warn(f"Resumed elsewhere ({', '.join(changed)}): the last bits may differ from those of an uninterrupted run.")


def _environment() -> dict[str, Any]:
    """What may change the last bits of a result."""
    return {"torch": torch.__version__, "n_threads": torch.get_num_threads()}
