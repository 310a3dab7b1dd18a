"""API keys: who may ask. Kept as hashes; a key is compared with all of them, each in constant time."""

import hashlib
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from touchstone.errors import ConfigError
from touchstone.files import open_regular

__all__ = ["ENVIRONMENT_NAME", "Keys", "read_keys"]

ENVIRONMENT_NAME = "TOUCHSTONE_API_KEY"
"""The environment variable that holds a key, or several with commas between."""

MIN_CHARS = 16  # shorter ones can be guessed
_MAX_FILE_BYTES = 1 << 20


class Keys:
    """The keys that open the server; none = it is open."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._hashes = [hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def tenant(self, header: bytes | None) -> str | None:
        """Whose request it is, as a name that tells nothing of the key; None if no key of ours stands in the Authorization header."""
        scheme, _, given = (header or b"").partition(b" ")
        digest = hashlib.sha256(given.strip()).digest()
        matches = [secrets.compare_digest(digest, known) for known in self._hashes]  # all of them, so that time tells nothing
        if scheme.lower() != b"bearer" or not any(matches):
            return None
        return hashlib.sha256(b"tenant" + digest).hexdigest()


def read_keys(file: Path | None, environment: Mapping[str, str] = os.environ) -> Keys:
    """The keys of a file (one a line, `#` begins a remark) and of the environment.

    Raises ConfigError for a file that cannot be read, others may read, or that has no key; and for a key that is short or not ASCII.
    """
    named = [key.strip() for key in environment.get(ENVIRONMENT_NAME, "").split(",") if key.strip()]
    _check(named, f"`{ENVIRONMENT_NAME}`")
    if file is None:
        return Keys(named)
    target = os.path.realpath(file)  # secrets are often links
    with os.fdopen(open_regular(target, error=ConfigError), "rb") as opened:
        mode = os.fstat(opened.fileno()).st_mode
        data = opened.read(_MAX_FILE_BYTES + 1)
    if mode & 0o077:
        raise ConfigError(f"{file}: others may read the keys; allow it to yourself alone (chmod 600).")
    if len(data) > _MAX_FILE_BYTES:
        raise ConfigError(f"{file}: is larger than {_MAX_FILE_BYTES} bytes, so it is no list of keys.")
    lines = [line.strip() for line in data.decode("utf-8-sig", "replace").splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise ConfigError(f"{file}: has no key; write one a line.")
    _check(keys, str(file))
    return Keys([*named, *keys])


def _check(keys: Sequence[str], source: str) -> None:
    if any(len(key) < MIN_CHARS or not key.isascii() or not key.isprintable() or " " in key for key in keys):
        raise ConfigError(f"{source}: a key has at least {MIN_CHARS} characters, all of them ASCII and no space.")
