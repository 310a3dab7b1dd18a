"""What goes between the two processes: JSON, each message behind its length in four bytes. Nothing that could run code is ever read."""

import asyncio
import json
import socket
import threading
from typing import Any

from touchstone.errors import ConfigError

__all__ = ["Channel", "packed", "read_frame"]

MAX_FRAME_BYTES = 256 << 20  # a text of a megabyte in pieces, a token each, comes to fifty


def packed(message: dict[str, Any]) -> bytes:
    """A message as it goes over the socket; ConfigError for one so large that the other side would take it for damage."""
    data = json.dumps(message, ensure_ascii=True, separators=(",", ":")).encode("ascii")
    if len(data) > MAX_FRAME_BYTES:
        raise ConfigError(f"What was asked, or its answer, has {len(data)} bytes; at most {MAX_FRAME_BYTES} can be handled. Ask for less.")
    return len(data).to_bytes(4, "big") + data


async def read_frame(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    """The next message; None when the other side has gone."""
    try:
        n_bytes = int.from_bytes(await reader.readexactly(4), "big")
        if n_bytes > MAX_FRAME_BYTES:
            return None
        message: dict[str, Any] = json.loads(await reader.readexactly(n_bytes))
    except (asyncio.IncompleteReadError, OSError):
        return None
    return message


class Channel:
    """The blocking end of the socket; any thread may send."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._reader = connection.makefile("rb")
        self._lock = threading.Lock()

    def send(self, message: dict[str, Any]) -> None:
        """OSError if the other side has gone."""
        data = packed(message)
        with self._lock:
            self._socket.sendall(data)

    def receive(self) -> dict[str, Any] | None:
        """The next message; None when the other side has gone."""
        try:
            head = self._reader.read(4)
            n_bytes = int.from_bytes(head, "big")
            data = self._reader.read(n_bytes) if len(head) == 4 and n_bytes <= MAX_FRAME_BYTES else b""
        except OSError:
            return None
        message: dict[str, Any] | None = json.loads(data) if data and len(data) == n_bytes else None
        return message
