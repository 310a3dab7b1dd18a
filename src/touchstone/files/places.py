"""Where files may go: the cache folder, whether a folder can be written, and how much room is left."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from pathlib import Path

from touchstone.errors import RunFolderError

__all__ = ["cache_folder", "check_writable", "free_bytes"]


def cache_folder() -> Path:
    """Where caches live: TOUCHSTONE_CACHE, else XDG_CACHE_HOME/touchstone, else ~/.cache/touchstone; made if it is not there.

    Where that cannot be written, a folder of this user alone among the system's temporary ones.
    """
    chosen, xdg = os.environ.get("TOUCHSTONE_CACHE"), os.environ.get("XDG_CACHE_HOME")
    with contextlib.suppress(RunFolderError, RuntimeError):  # RuntimeError: no home folder
        return check_writable(Path(chosen).expanduser() if chosen else (Path(xdg) if xdg else Path.home() / ".cache") / "touchstone")
    own = Path(tempfile.gettempdir()) / f"touchstone-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        own.mkdir(mode=0o700)
    found = own.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise RunFolderError(f"{own}: must be a folder that only this user can write; set TOUCHSTONE_CACHE to another one.")
    return check_writable(own)


def check_writable(folder: Path | str) -> Path:
    """The folder, made if it is not there; RunFolderError if a file cannot be created in it."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as reason:
        raise RunFolderError(
            f"{folder}: cannot be written: {reason.strerror or reason}; choose another folder or change its permissions."
        ) from None
    return folder


def free_bytes(path: Path | str) -> int:
    """Bytes this user may still write on the disk of `path`, which need not exist yet."""
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free
