"""Requests as bytes, as no library would send them, and what is looked for in the answers and the processes."""

import contextlib
import http.client
import io
import json
import os
import re
import socket
import time
from dataclasses import dataclass
from pathlib import Path

LEAK = re.compile(r"0x[0-9a-f]{6,}|/home|/tmp|/root|/usr|Traceback|\.py\b|site-packages|pydantic|<class", re.IGNORECASE)
PATIENCE_S = 60
ERROR_KINDS = {401: "authentication_error", 429: "rate_limit_error"}


@dataclass(frozen=True)
class Answer:
    """What a server sent until it closed the connection. status: 0 = it closed without a word."""

    status: int
    headers: dict
    body: bytes

    def json(self):
        return json.loads(self.body)

    def error(self):
        """The error that it tells, in the one form that all errors have; nothing of the server's inside is in it."""
        assert self.headers["content-type"] == "application/json"
        told = self.json()
        assert set(told) == {"error"}
        error = told["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert isinstance(error["message"], str)
        assert error["message"]
        assert error["type"] == ERROR_KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        assert all(error[name] is None or isinstance(error[name], str) for name in ("param", "code"))
        assert not LEAK.search(self.body.decode())
        assert int(self.headers["content-length"]) == len(self.body)
        return error


class _Bytes:
    def __init__(self, data):
        self._data = data

    def makefile(self, mode):
        return io.BytesIO(self._data)


def read_answer(data, method="GET"):
    """The first answer in these bytes."""
    if not data:
        return Answer(0, {}, b"")
    response = http.client.HTTPResponse(_Bytes(data), method=method)
    response.begin()
    return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())


def head(method, target, *, hosts=("127.0.0.1",), headers=(), close=True):
    """A request's first lines. hosts: a Host header each."""
    lines = [f"{method} {target} HTTP/1.1", *(f"host: {host}" for host in hosts), *headers]
    return "\r\n".join([*lines, *(["connection: close"] if close else []), "", ""]).encode("latin-1")


def with_body(method, target, body, *, headers=(), **options):
    """A request of JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return head(method, target, headers=["content-type: application/json", f"content-length: {len(data)}", *headers], **options) + data


def connected(port, timeout=PATIENCE_S):
    return socket.create_connection(("127.0.0.1", port), timeout=timeout)


def until_closed(connection):
    """All that comes until the other side closes."""
    parts = []
    try:
        while part := connection.recv(1 << 16):
            parts.append(part)
    except ConnectionError:
        pass
    return b"".join(parts)


def sent(port, data, method="GET"):
    """The answer to these bytes on a connection of their own."""
    with connected(port) as connection:
        with contextlib.suppress(ConnectionError):  # it was closed before it had read all
            connection.sendall(data)
        return read_answer(until_closed(connection), method)


def asked(port, path, body, **options):
    """The answer to a POST of JSON."""
    return sent(port, with_body("POST", path, body, **options), "POST")


def rss_bytes(pid):
    """Resident memory of a process, without what it shares with files."""
    told = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(re.search(r"RssAnon:\s+(\d+) kB", told)[1]) << 10


def family(pid):
    """A process and all that came from it."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):  # it ended meanwhile
                continue
    found = {pid}
    while new := {child for child, parent in parents.items() if parent in found} - found:
        found |= new
    return found


def is_running(pid):
    """Whether the process is there, and no zombie that waits to be noticed."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def eventually(holds, seconds=PATIENCE_S):
    """Wait until it holds; it must within the time."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.02)
    return found


class Canary:
    """An address and a file that nobody must touch. url: of the address; file_url: of a FIFO, which is seen to be open."""

    def __init__(self, folder):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self._fifo = folder / "canary"
        os.mkfifo(self._fifo)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/canary"
        self.file_url = self._fifo.as_uri()

    def was_touched(self):
        try:
            self._listener.accept()[0].close()
        except BlockingIOError:
            pass
        else:
            return True
        try:
            os.close(os.open(self._fifo, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:  # nobody reads it
            return False
        return True

    def close(self):
        self._listener.close()
