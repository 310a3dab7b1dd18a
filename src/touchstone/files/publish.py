"""Folders that are there complete or not at all, and the lock that keeps a second process out.

A folder is filled beside its place, fsynced, renamed, then marked by `COMPLETE.json` (files, sizes, sha256); only a marked one is
ever loaded. A lock on the temporary folder itself tells a publication that died from one that is alive.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from touchstone.errors import RunFolderError
from touchstone.files.atomic import read_json, sha256_file, sync_folder, write_json
from touchstone.files.places import check_writable

__all__ = ["COMPLETE", "change_folder", "is_complete", "lock_folder", "publish_folder", "settle_folder", "verify_folder"]

COMPLETE = "COMPLETE.json"
"""The mark of a published folder: {"files": {name: {"bytes": n, "sha256": hex}}}."""

_PENDING = "PENDING.json"  # the mark before its folder stands in its final place


def publish_folder(final: Path | str, fill: Callable[[Path], None]) -> None:
    """Let `fill` write a folder and put it at `final`, complete or not at all.

    `fill` gets an empty folder beside `final` and writes regular files (subfolders allowed). An unmarked `final` that a crash
    left is replaced; one that we did not write is moved aside to `.NAME.replaced-…`, never deleted; a complete one is replaced
    with no instant at which neither the old nor the new one can be found (`settle_folder` brings the old one back).
    Whatever `fill` or the disk raises is passed on, and the previous state stays.
    """
    final = Path(final)
    if final.is_symlink() or (final.exists() and not final.is_dir()):
        raise RunFolderError(f"{final}: must be a folder or not there; move away what stands in its place.")
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = _new_temporary(final)
    try:
        with _claim(temporary):
            fill(temporary)
            write_json(temporary / _PENDING, _sync_and_list(temporary))
            _put(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        settle_folder(final)
        raise


def change_folder(folder: Path | str, change: Callable[[Path], None]) -> None:
    """Let `change` write files of a folder anew, in turn with every other process that changes it in this way.

    A published folder is exchanged for one that is published again, so its mark says what stands there: `change` then gets a copy beside
    it, in which files are to be replaced and never written in place, since they are hard links where the disk has them. Any other folder
    is given as it is.
    """
    folder = Path(folder).resolve()
    with _claim(folder.parent, wait=True):  # not the folder's own, which is another one after an exchange
        if not is_complete(folder):
            return change(folder)

        def fill(copy: Path) -> None:
            shutil.copytree(folder, copy, copy_function=_link_or_copy, dirs_exist_ok=True, ignore=shutil.ignore_patterns(COMPLETE))
            change(copy)

        publish_folder(folder, fill)


def is_complete(folder: Path | str) -> bool:
    """True if the folder is marked complete and every file in its mark is there with the size it had; hashes are not read."""
    folder = Path(folder)
    settle_folder(folder)
    try:
        return all(_size(folder / name) == entry["bytes"] for name, entry in _mark(folder).items())
    except (OSError, RunFolderError):
        return False


def verify_folder(folder: Path | str) -> None:
    """Raise RunFolderError unless the folder is marked complete and every file has its size and its sha256; names the damaged one."""
    folder = Path(folder)
    settle_folder(folder)
    for name, entry in _mark(folder).items():
        path = folder / name
        size = _size(path)
        if size != entry["bytes"]:
            raise RunFolderError(
                f"{path}: damaged: {'missing' if size is None else f'{size} bytes'}, {COMPLETE} says {entry['bytes']} bytes."
            )
        if sha256_file(path) != entry["sha256"]:
            raise RunFolderError(f"{path}: damaged: its sha256 is not the one in {COMPLETE}.")


def settle_folder(final: Path | str) -> None:
    """Bring back the old folder where a crash fell between taking it away and putting the new one in its place.

    Does nothing in every other case, and nothing while another process is at that very place.
    """
    final = Path(final)
    old = final.with_name(f".{final.name}.old")
    if final.exists() or not old.is_dir():
        return
    with _claim(old) as ours, contextlib.suppress(OSError):
        if ours and not final.exists():
            os.rename(old, final)  # noqa: PTH104


@contextlib.contextmanager
def lock_folder(folder: Path | str) -> Iterator[None]:
    """Hold a folder for this process, making it if it is not there; the system lets go when the process ends, however it ends.

    Raises RunFolderError, naming the process, when another one holds it.
    """
    folder = check_writable(folder)
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as reason:
            if reason.errno not in (errno.EAGAIN, errno.EACCES):
                raise RunFolderError(f"{folder}: its file system cannot lock ({reason.strerror}); use a folder on a local disk.") from None
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise RunFolderError(f"{folder}: in use by process {holder}; wait until it ends, stop it, or use another folder.") from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
        yield
    finally:
        os.close(descriptor)


def _sync_and_list(folder: Path) -> dict[str, Any]:
    """Fsync every file and folder below, deepest first, and list the files as the mark does."""
    files = {}
    for place, folders, names in os.walk(folder, topdown=False):
        for name in [*names, *folders]:
            path = Path(place, name)
            if path.is_symlink() or (name in names and not path.is_file()):
                raise RunFolderError(f"{path}: a published folder holds regular files only; copy what the link points to.")
        for name in names:
            path = Path(place, name)
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        sync_folder(Path(place))
    return {"files": dict(sorted(files.items()))}


def _new_temporary(final: Path) -> Path:
    """An empty folder beside `final`; those of publications that died are deleted (a living one holds a lock on its own)."""
    settle_folder(final)
    temporary = final.with_name(f".{final.name}.tmp-{os.getpid()}")
    for folder in final.parent.glob(f".{_literal(final.name)}.tmp-*"):
        with _claim(folder) as ours:
            if ours or folder == temporary:
                shutil.rmtree(folder)
    temporary.mkdir()
    return temporary


def _put(temporary: Path, final: Path) -> None:
    """Rename to `final` and mark it; where another process puts its own there at the same time, the later one stays."""
    for last in (False, False, True):
        with _claim(final, wait=True):  # where there is none yet, nothing is held
            if is_complete(final):
                return _replace(temporary, final)
            if final.is_dir():
                _make_room(final)
            try:
                os.rename(temporary, final)  # noqa: PTH104
            except OSError as reason:
                if last or reason.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                continue
        sync_folder(final.parent)
        os.replace(final / _PENDING, final / COMPLETE)  # noqa: PTH105
        sync_folder(final)
        return sync_folder(final.parent)


def _replace(temporary: Path, final: Path) -> None:
    """Exchange a complete `final`, which the caller holds, for a new folder that is marked before it takes its place."""
    os.replace(temporary / _PENDING, temporary / COMPLETE)  # noqa: PTH105
    sync_folder(temporary)
    old = final.with_name(f".{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)  # left by a crash after its replacement stood
    os.rename(final, old)  # noqa: PTH104
    os.rename(temporary, final)  # noqa: PTH104
    sync_folder(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def _make_room(final: Path) -> None:
    if (final / _PENDING).exists() or (final / COMPLETE).exists() or not any(final.iterdir()):
        shutil.rmtree(final)
    else:
        os.rename(final, tempfile.mkdtemp(prefix=f".{final.name}.replaced-", dir=final.parent))  # noqa: PTH104


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _literal(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


@contextlib.contextmanager
def _claim(folder: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold a lock on the folder itself, which moves with it when renamed; yields False where it is not to be had."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = True
        except OSError:
            held = False
        yield held
    finally:
        os.close(descriptor)


def _mark(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / COMPLETE
    data = read_json(path, error=RunFolderError)
    files = data.get("files") if isinstance(data, dict) else None
    if not isinstance(files, dict):
        raise RunFolderError(f"{path}: damaged: it lists no files.")
    for name, entry in files.items():
        whole = isinstance(entry, dict) and isinstance(entry.get("bytes"), int) and isinstance(entry.get("sha256"), str)
        if not whole or Path(name).is_absolute() or ".." in Path(name).parts:
            raise RunFolderError(f"{path}: damaged: the entry of `{name}` is not to be used.")
    return files


def _size(path: Path) -> int | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None
