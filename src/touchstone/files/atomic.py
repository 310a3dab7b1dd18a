"""Single files: atomic writes, careful reads and hashes.

Everything that saving does to the disk goes through `os.write`, `os.fsync`, `os.replace` and `os.rename`, looked up on `os` at
call time, so that a test can fail the k-th of them for every k.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
import threading
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from touchstone.errors import DataError, ModelFolderError, TouchstoneError, printable

__all__ = [
    "hash_of",
    "open_regular",
    "parse_json",
    "read_json",
    "refuse_pointer",
    "sha256_bytes",
    "sha256_file",
    "sync_folder",
    "write_bytes",
    "write_chunks",
    "write_json",
    "write_text",
]

MAX_DEPTH = 64
"""How deep lists and mappings in a JSON file may lie in each other; ours reach 10, and what walks them afterwards calls itself."""

_CHUNK_BYTES = 8 << 20  # one os.write: large enough to be fast, small enough that a full disk is met early


def write_bytes(path: Path | str, data: bytes) -> None:
    """Replace a file in one step: after a crash at any instant it holds the old bytes or the new ones, and its folder exists.

    Raises OSError as the system does (a full disk, no permission); the old file is then untouched.
    """
    write_chunks(Path(path), [data])


def write_text(path: Path | str, text: str) -> None:
    """`write_bytes` of UTF-8 text; line ends stay as they are."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path | str, obj: Any) -> None:
    """`write_bytes` of readable JSON, keys in the order given; DataError on what JSON cannot hold, not-a-number included."""
    try:
        text = json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        data = text.encode("utf-8")
    except UnicodeEncodeError:  # half a surrogate pair, as a token's text may have
        data = (json.dumps(obj, indent=2, allow_nan=False) + "\n").encode("ascii")
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: not to be written as JSON: {error}.") from None
    write_bytes(path, data)


def read_json(path: Path | str, *, max_bytes: int = 64 << 20, error: type[TouchstoneError] = ModelFolderError) -> Any:
    """The data of a JSON file; one that is missing, not regular, too large, malformed, too deep or repeats a key raises `error`."""
    path = Path(path)
    with os.fdopen(open_regular(path, error=error), "rb") as file:
        data = file.read(max_bytes + 1) if os.fstat(file.fileno()).st_size <= max_bytes else None
    if data is None or len(data) > max_bytes:
        raise error(f"{path}: a JSON file here is at most {max_bytes} bytes, this one is larger.")
    parsed = parse_json(data, path, error)
    if _is_deeper(parsed, MAX_DEPTH):
        raise error(
            f"{path}: lists and mappings are nested deeper than {MAX_DEPTH}; nothing reads that, so the file is damaged or hostile."
        )
    return parsed


def open_regular(path: Path | str, *, error: type[TouchstoneError] = ModelFolderError) -> int:
    """A read-only descriptor of a regular file; a FIFO does not hang and a device is not read.

    A symbolic link is followed only from `snapshots/…` of a Hugging Face cache entry into the `blobs/` of the same entry.
    """
    path = Path(path)
    target = _blob_behind(path, error) if os.path.islink(path) else path  # noqa: PTH114 - Path's own raises on a name too long
    try:
        descriptor = os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise error(f"{path}: no such file.") from None
    except (OSError, ValueError) as reason:  # ValueError: a zero byte in the name
        raise error(f"{printable(str(path), 200)}: cannot be opened: {getattr(reason, 'strerror', None) or reason}.") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise error(f"{path}: must be a regular file.")
    return descriptor


def sha256_file(path: Path | str) -> str:
    """The hexadecimal sha256 of a file's bytes, read in bounded memory."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_bytes(data: bytes) -> str:
    """The hexadecimal sha256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def hash_of(obj: Any) -> str:
    """The sha256 of plain data as canonical JSON: key order does not matter, everything else does."""
    text = json.dumps(obj, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return sha256_bytes(text.encode("ascii"))


def write_chunks(path: Path, chunks: Iterable[Any]) -> None:
    """`write_bytes` of buffers, one after the other; only one of them need exist at a time."""
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}-{threading.get_ident()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            for chunk in chunks:
                _write_all(descriptor, memoryview(chunk).cast("B"))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)  # noqa: PTH105
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last: a rename without it can be lost with the power."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as reason:
        if reason.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems have no fsync of a folder
            raise
    finally:
        os.close(descriptor)


def parse_json(data: bytes, path: Path, error: type[TouchstoneError]) -> Any:
    """Strict JSON: UTF-8, no repeated key, no NaN or Infinity; what is wrong raises `error`, naming the file."""
    refuse_pointer(data, path, error)

    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            raise ValueError(f"duplicate key `{printable(Counter(key for key, _ in pairs).most_common(1)[0][0])}`")
        return made

    def no_constant(word: str) -> None:
        raise ValueError(f"`{word}` is no number of JSON; write null, or a finite one")

    try:
        return json.loads(data.decode("utf-8-sig"), object_pairs_hook=no_duplicates, parse_constant=no_constant)
    except UnicodeDecodeError as reason:
        raise error(f"{path}: not readable as JSON: {reason}; save the file as UTF-8.") from None
    except (ValueError, RecursionError) as reason:
        raise error(f"{path}: not readable as JSON: {' '.join(str(reason).split())}.") from None


def refuse_pointer(start: bytes, path: Path, error: type[TouchstoneError]) -> None:
    """Raise `error` if a file that begins so is what Git LFS leaves in the place of one that was not fetched."""
    if start.startswith(b"version https://git-lfs"):
        raise error(f"{path}: a pointer of Git LFS stands here, not the file; fetch it with `git lfs pull` in the folder.")


def _write_all(descriptor: int, data: memoryview) -> None:
    place = 0
    while place < len(data):
        place += os.write(descriptor, data[place : place + _CHUNK_BYTES])


def _is_deeper(data: Any, most: int) -> bool:
    """True if lists and mappings lie in each other more than `most` deep; looked at level by level, so that no depth is too much."""
    level = [data]
    for _ in range(most + 1):
        level = [item for held in level if isinstance(held, (dict, list)) for item in (held.values() if isinstance(held, dict) else held)]
    return bool(level)


def _blob_behind(path: Path, error: type[TouchstoneError]) -> Path:
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: links in a circle, before Python 3.13
        target = path.resolve(strict=True)
        for folder in path.absolute().parents:
            blobs = folder.parent / "blobs"
            if folder.name == "snapshots" and not blobs.is_symlink() and target.parent == blobs.resolve():
                return target
    raise error(f"{path}: a symbolic link here may point only into the `blobs` of its own Hugging Face cache entry; copy the file instead.")
