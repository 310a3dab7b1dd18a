"""From what the user typed to a model folder on this disk: a folder, a run, or a name in the local Hugging Face cache."""

import os
import re
from pathlib import Path

from touchstone.errors import ModelFolderError

__all__ = ["hugging_face_cache", "locate_model"]

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_COMMIT = re.compile(r"[0-9a-fA-F]{7,64}")


def locate_model(name: str | os.PathLike[str]) -> Path:
    """The folder that holds `config.json`: the given one, its `model/` if it is a run folder, or the cached snapshot of a name.

    Raises ModelFolderError that says where was looked; nothing is ever downloaded.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return _in_folder(path)
    if path.exists():
        raise ModelFolderError(f"{path}: a model is a folder with `config.json` and its weights; this is a file. Give the folder it is in.")
    text = os.fspath(name)
    if _NAME.fullmatch(text):
        return _in_cache(text)
    raise ModelFolderError(f"{path}: no such folder, and not a name of the form `organisation/model` either.")


def hugging_face_cache() -> Path:
    """Where Hugging Face's tools keep downloaded models: HF_HUB_CACHE, HF_HOME/hub, XDG_CACHE_HOME or ~/.cache/huggingface/hub."""
    if hub := os.environ.get("HF_HUB_CACHE"):
        return Path(hub).expanduser()
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return Path(home).expanduser() / "hub"


def _in_folder(path: Path) -> Path:
    if (path / "config.json").is_file():
        return path
    inside = path / "model"
    if (inside / "config.json").is_file():
        return inside
    if (path / "checkpoints").is_dir():
        raise ModelFolderError(
            f"{path}: this run has no `model/` yet; it is written when the training ends. Resume it with the same command."
        )
    raise ModelFolderError(f"{path}: neither `config.json` (a model folder) nor `model/config.json` (a run folder) is there.")


def _in_cache(name: str) -> Path:
    cache = hugging_face_cache()
    entry = cache / ("models--" + name.replace("/", "--"))
    if not entry.is_dir():
        raise ModelFolderError(
            f"No folder `{name}`, and no model of that name in the local Hugging Face cache ({cache}). Nothing is downloaded;"
            f" fetch it with `hf download {name}` or give a folder."
        )
    try:
        commit = (entry / "refs" / "main").read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        raise ModelFolderError(f"{entry}: `refs/main` is missing, so no snapshot is the current one; fetch the model again.") from None
    if not _COMMIT.fullmatch(commit):
        raise ModelFolderError(f"{entry / 'refs' / 'main'}: a commit hash stands there, not {commit[:40]!r}; fetch the model again.")
    snapshot = entry / "snapshots" / commit
    if not (snapshot / "config.json").is_file():
        raise ModelFolderError(f"{snapshot}: the cached model has no `config.json`; fetch it again.")
    return snapshot
