"""Which run a folder holds: an id, and everything that must be the same at every start for a resumed run to be the same run."""

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from touchstone.errors import RunFolderError
from touchstone.files import hash_of, read_json, write_json

__all__ = ["differences", "settle_identity"]

_MAX_SHOWN = 12  # differences in one message: more than fit a screen help nobody


def settle_identity(path: Path, identity: Mapping[str, Any], *, traces: list[Path]) -> str:
    """The id of the run that `path` (RUN.json) describes, made and written if there is none yet.

    traces: what only a run leaves behind; if one is there without `path`, the folder is somebody else's.
    Raises RunFolderError, with the differences, if the identity is not the one the run began with.
    """
    if not path.exists():
        found = [trace for trace in traces if trace.exists()]
        if found:
            raise RunFolderError(f"{found[0]}: there already, but {path.name} is not: not a run to go on with; choose another folder.")
        run_id = uuid.uuid4().hex
        try:
            write_json(path, {"run_id": run_id, "identity": identity})
        except OSError as error:
            raise RunFolderError(
                f"{path}: cannot be written: {error.strerror or error}; free some room or choose another folder."
            ) from None
        return run_id
    began = read_json(path, error=RunFolderError)
    if not isinstance(began, dict) or not isinstance(began.get("run_id"), str) or not isinstance(began.get("identity"), dict):
        raise RunFolderError(f"{path}: damaged; move the folder away to train from the beginning.")
    if hash_of(began["identity"]) != hash_of(identity):
        lines = differences(began["identity"], identity)
        more = f"; and {len(lines) - _MAX_SHOWN} more" if len(lines) > _MAX_SHOWN else ""
        raise RunFolderError(
            f"{path.parent.parent}: holds a run that began differently: {'; '.join(lines[:_MAX_SHOWN])}{more}. "
            "Choose another folder, or go back to the settings it began with."
        )
    return began["run_id"]


def differences(old: Any, new: Any, place: str = "") -> list[str]:
    """One line for each leaf of plain data that differs, `a.b: 1 -> 2`."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            line
            for key in dict.fromkeys([*old, *new])
            for line in differences(old.get(key, "absent"), new.get(key, "absent"), f"{place}.{key}" if place else str(key))
        ]
    if hash_of(old) == hash_of(new):
        return []
    return [f"{place}: {old} -> {new}"]
