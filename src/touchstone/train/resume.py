"""The whole state of a training run on disk: complete or not there, verified, rotated, and never of another run.

    checkpoints/RUN.json             which run this is: its id and everything that must not change between starts
    checkpoints/step-00000100/       model.safetensors, optimizer.safetensors, state.json, COMPLETE.json (sizes, sha256)
    checkpoints/FINISHED.json        the run is over, and how it ended

Only a checkpoint with its mark, whose files have the sizes and hashes that the mark says, is loaded; a damaged one is passed over for
the one before, loudly. Nothing is pickled: tensors are safetensors, the rest is JSON.
"""

import errno
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from touchstone.errors import ModelFolderError, RunFolderError
from touchstone.files import (
    COMPLETE,
    free_bytes,
    is_complete,
    load_tensors,
    publish_folder,
    read_json,
    save_tensors,
    settle_folder,
    verify_folder,
    write_json,
)

__all__ = ["Checkpoint", "Checkpoints", "NotFinite"]

_NAME = re.compile(r"step-(\d{8,})")
_SPARE_BYTES = 1 << 20  # of room beside the tensors: the JSON files and the folder itself


class NotFinite(ValueError):
    """A tensor that was to be saved holds an infinity or is not a number."""


@dataclass(frozen=True)
class Checkpoint:
    """What `Checkpoints.load` read; `facts` is the plain data that was saved with the tensors."""

    step: int
    facts: dict[str, Any]
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]


class Checkpoints:
    """The checkpoints of one run folder, which the caller has locked.

    warn: told in one sentence of everything that was passed over.
    """

    def __init__(self, folder: Path, warn: Callable[[str], None]) -> None:
        self.folder = folder
        self._warn = warn
        self._complete: set[int] = set()
        self._rollback_points: set[int] = set()  # of them, those saved on schedule, outside of a bad stretch
        self._n_damaged = 0

    def open(self, run_id: str) -> None:
        """See what is there, clear what dead processes left, and refuse with RunFolderError what another run wrote."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(self.folder.iterdir()):
            if re.fullmatch(r"\.step-\d+\.old", path.name):
                settle_folder(path.with_name(path.name[1:].removesuffix(".old")))
        for path in sorted(self.folder.iterdir()):
            if re.fullmatch(r"\.step-\d+\.(old|gone|tmp-.*)", path.name):
                shutil.rmtree(path)
            elif (found := _NAME.fullmatch(path.name)) and (path / COMPLETE).exists():
                self._see(int(found[1]), path, run_id)

    def steps(self) -> list[int]:
        """The steps of the complete checkpoints, ascending."""
        return sorted(self._complete)

    def path(self, step: int) -> Path:
        """The folder of a step's checkpoint."""
        return self.folder / f"step-{step:08d}"

    def save(self, step: int, model: Mapping[str, Tensor], optimizer: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Write a checkpoint, complete or not at all.

        Raises NotFinite, before anything is written, for a tensor that is not finite; OSError if the disk is full or cannot be
        written - older checkpoints are then as they were.
        """
        _check_finite(model, optimizer)
        self._check_room(model, optimizer)

        def fill(folder: Path) -> None:
            save_tensors(folder / "model.safetensors", model)
            save_tensors(folder / "optimizer.safetensors", optimizer)
            write_json(folder / "state.json", {"step": step, **facts})

        publish_folder(self.path(step), fill)
        self._remember(step, facts, facts["run_id"])

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that verifies; None if there never was one. RunFolderError if all are damaged."""
        found = self._newest_of(self.steps())
        if found is None and self._n_damaged:
            raise RunFolderError(f"{self.folder}: no checkpoint is whole; move the folder away to train from the beginning.")
        return found

    def newest_rollback_point(self) -> Checkpoint | None:
        """The newest checkpoint that was saved on schedule and not amid bad steps; None if there is none that verifies."""
        return self._newest_of(sorted(self._rollback_points))

    def load(self, step: int) -> Checkpoint:
        """Read and verify one checkpoint; RunFolderError names the damaged file."""
        folder = self.path(step)
        verify_folder(folder)
        try:
            model, optimizer = (load_tensors(folder / f"{name}.safetensors") for name in ("model", "optimizer"))
        except ModelFolderError as error:
            raise RunFolderError(str(error)) from None
        return Checkpoint(step, self._facts(folder), model, optimizer)

    def rotate(self, keep: int, protected: set[int]) -> None:
        """Delete the oldest complete checkpoints until `keep` are left; the newest, the newest point of return and `protected` stay."""
        kept = {*self.steps()[-max(1, keep) :], *protected, max(self._rollback_points, default=-1)}
        for step in self.steps():
            if step not in kept:
                gone = self.folder / f".step-{step:08d}.gone"
                os.rename(self.path(step), gone)  # noqa: PTH104 - looked up on os, and at once: never half a checkpoint
                self._complete.discard(step)
                self._rollback_points.discard(step)
                shutil.rmtree(gone, ignore_errors=True)

    def _newest_of(self, steps: list[int]) -> Checkpoint | None:
        for step in reversed(steps):
            try:
                return self.load(step)
            except RunFolderError as error:
                self._pass_over(step, error)
        return None

    def _see(self, step: int, path: Path, run_id: str) -> None:
        try:
            if not is_complete(path):
                verify_folder(path)  # names the damaged file
            facts = self._facts(path)
        except RunFolderError as error:
            self._pass_over(step, error)
        else:
            self._remember(step, facts, run_id)

    def _pass_over(self, step: int, error: RunFolderError) -> None:
        self._warn(f"{error} That checkpoint is passed over for the one before it.")
        self._n_damaged += 1
        self._complete.discard(step)
        self._rollback_points.discard(step)

    def _check_room(self, *groups: Mapping[str, Tensor]) -> None:
        needed = sum(t.numel() * t.element_size() for group in groups for t in group.values()) + _SPARE_BYTES
        free = free_bytes(self.folder)
        if needed > free:
            raise OSError(errno.ENOSPC, f"a checkpoint needs {needed >> 20} MiB, {free >> 20} MiB are free", str(self.folder))

    def _remember(self, step: int, facts: Mapping[str, Any], run_id: str) -> None:
        if facts.get("run_id") != run_id:
            raise RunFolderError(
                f"{self.path(step)}: written by another run (id {facts.get('run_id')}, this folder's is {run_id}); "
                "move it out of the folder to go on."
            )
        self._complete.add(step)
        self._rollback_points.discard(step)
        if facts["is_rollback_point"]:
            self._rollback_points.add(step)

    def _facts(self, folder: Path) -> dict[str, Any]:
        path = folder / "state.json"
        facts = read_json(path, error=RunFolderError)
        if not isinstance(facts, dict) or not {"run_id", "is_rollback_point"} <= facts.keys():
            raise RunFolderError(f"{path}: damaged: it does not say which run wrote it.")
        return facts


@torch.no_grad()
def _check_finite(*groups: Mapping[str, Tensor]) -> None:
    bad = sorted(name for group in groups for name, tensor in group.items() if not bool(torch.isfinite(tensor).all()))
    if bad:
        raise NotFinite(f"not finite: {', '.join(bad[:5])}{f' and {len(bad) - 5} more' if len(bad) > 5 else ''}")
