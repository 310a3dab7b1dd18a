"""What is refused before it is read: strangers, foreign hosts, bodies that are too large, too slow or no JSON; and the access log.

An ASGI layer around all routes. Who may ask is decided on the path as it came over the wire, before anything interprets it; only
`/health` and the page, which holds nothing of the model, are open to all. No header of ours lets a page of another origin read an answer.
"""

import asyncio
import contextlib
import ipaddress
import json
import math
import re
import socket
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from touchstone.errors import ConfigError, printable
from touchstone.serve.api_error import ApiError, ending
from touchstone.serve.keys import Keys
from touchstone.serve.logs import log

__all__ = ["Guard", "Hosts", "ServeLimits", "Visit", "read_json_body"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_OPEN_PATHS = (b"/health", b"/", b"/words.js", b"/tokens.js", b"/page.js", b"/page.css")
_LINGER_S = 5.0  # for a refused body to come in, so that its sender reads why
_LINGER_BYTES = 256 << 20
_HOST_NAME = re.compile(r"[A-Za-z0-9._-]{1,253}")
_HOST = re.compile(rb"(?P<name>%b|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?" % _HOST_NAME.pattern.encode())
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)  # one without an end goes to the end: never tried twice
_BRACKET = re.compile(rb"[\[\]{}]")


@dataclass(frozen=True)
class ServeLimits:
    """max_body_bytes, max_depth: of a request's JSON. max_header_bytes: of its path and headers. header_s: for those to arrive.

    body_s: for its body to arrive, and for a client to take some of what it is sent.
    max_requests: that are worked on at once, those that wait included; more are told to come again. request_s: for one answer.
    step_s: for one step of the engine; one that takes longer hangs, and the engine is killed and started again.
    drain_s: for what runs to be finished when the server is told to end.
    """

    max_body_bytes: int = 1 << 20
    max_depth: int = 64
    max_header_bytes: int = 16 << 10
    max_connections: int = 1024
    max_requests: int = 256
    header_s: float = 10.0
    body_s: float = 30.0
    request_s: float = 600.0
    step_s: float = 300.0
    drain_s: float = 30.0


@dataclass
class Visit:
    """One request on its way: what a route and the access log know of it."""

    id: str
    tenant: str = ""
    body: Any = None
    notes: dict[str, Any] = field(default_factory=dict)


class Hosts:
    """The names that a request may be addressed to: those given, this machine's, and any IP address.

    A page of a stranger can make a browser ask a name of its own that leads here (DNS rebinding), but never an address or our name.
    Raises ConfigError for a name that no Host header can hold.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        given = list(names)
        wrong = next((name for name in given if not (_HOST_NAME.fullmatch(name) or _is_address(name))), None)
        if wrong is not None:
            meant = _host_meant(wrong)
            near = f": `--allow-host {meant}`" if meant else ", such as `--allow-host models.example.org`"
            raise ConfigError(
                f"`--allow-host {printable(wrong)}` is no host name; give the name alone, without http://, port or path{near}."
            )
        self._names = {name.lower() for name in ("localhost", socket.gethostname(), *given)}

    def allow(self, header: bytes) -> bool:
        """Whether a Host header names this server."""
        found = _HOST.fullmatch(header)
        if found is None:
            return False
        name = found["name"].decode("ascii").lower()
        return name in self._names or _is_address(name)


class Guard:
    """Stands before the application. refused: is told the path and the status of what never gets there."""

    def __init__(self, app: Any, limits: ServeLimits, keys: Keys, hosts: Hosts, refused: Callable[[str, int], None]) -> None:
        self._app = app
        self._limits = limits
        self._keys = keys
        self._hosts = hosts
        self._refused = refused
        self._is_ending = False
        self._arriving: set[asyncio.Timeout] = set()

    def end(self) -> None:
        """Wait for no body any more: those that are not all there are refused."""
        self._is_ending = True
        for waiting in self._arriving:
            if not waiting.expired():  # else it ends by itself, at its own time
                waiting.reschedule(asyncio.get_running_loop().time())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:  # there are no websockets here
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        visit, began, status = Visit(uuid.uuid4().hex), time.monotonic(), 0
        scope["state"] = {**scope.get("state", {}), "visit": visit}

        async def answer(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                ours = [(b"x-request-id", visit.id.encode()), (b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]
                message["headers"] = [*message.get("headers", ()), *ours]
            await send(message)

        try:
            await self._admitted(scope, receive, answer, visit)
        except Exception:  # a fault of ours, which the server's log tells
            if not status:
                await _refuse(receive, answer, ApiError(500, "The server failed on this request; others go on."), expects_more=False)
            raise
        finally:
            self._log(scope, visit, status, time.monotonic() - began)

    async def _admitted(self, scope: Scope, receive: Receive, send: Send, visit: Visit) -> None:
        body = None
        try:
            self._check(scope, visit)
            if scope["method"] == "POST":
                body = await self._body(scope, receive)
                visit.body = read_json_body(body, self._limits.max_depth)
        except ApiError as error:
            self._refused(scope["path"], error.status)
            await _refuse(receive, send, error, expects_more=body is None and error.status != 408 and not self._is_ending)
            return
        await self._app(scope, _rest(receive), send)

    def _check(self, scope: Scope, visit: Visit) -> None:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        raw = scope.get("raw_path") or b""
        if len(raw) + len(scope["query_string"]) + sum(len(name) + len(value) for name, value in headers) > self._limits.max_header_bytes:
            told = f"The path and headers are larger than {self._limits.max_header_bytes} bytes."
            raise ApiError(431, told, code="headers_too_large")
        if {name for name, _ in headers} >= {b"content-length", b"transfer-encoding"}:  # a proxy may have read the other one
            raise ApiError(400, "`Content-Length` and `Transfer-Encoding` exclude each other; send one.", code="two_lengths")
        hosts = [value for name, value in headers if name == b"host"]
        if len(hosts) != 1 or not self._hosts.allow(hosts[0]):
            raise ApiError(400, "This server does not answer for that host name; `--allow-host` adds one.", code="unknown_host")
        is_open = raw in _OPEN_PATHS and scope["path"].encode() == raw
        if self._keys:
            given = [value for name, value in headers if name == b"authorization"]
            tenant = self._keys.tenant(given[0] if len(given) == 1 else None)
            if tenant is None and not is_open:
                challenge = {"www-authenticate": "Bearer"}
                raise ApiError(401, "An API key is needed: `Authorization: Bearer KEY`.", code="invalid_api_key", headers=challenge)
            visit.tenant = tenant or ""

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind != b"application/json":
            raise ApiError(415, "The body must be JSON: send `Content-Type: application/json`.")
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise ApiError(415, "Compressed bodies are not read.")
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > self._limits.max_body_bytes:
            raise self._too_large()
        try:
            async with asyncio.timeout(0 if self._is_ending else self._limits.body_s) as waiting:
                self._arriving.add(waiting)
                return await self._read(receive)
        except TimeoutError:
            if self._is_ending:
                raise ending() from None
            raise ApiError(408, f"The body did not arrive within {self._limits.body_s:g} s.") from None
        finally:
            self._arriving.discard(waiting)

    async def _read(self, receive: Receive) -> bytes:
        data = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ApiError(400, "The body is not complete.")
            data += message.get("body", b"")
            if len(data) > self._limits.max_body_bytes:
                raise self._too_large()
            if not message.get("more_body", False):
                return bytes(data)

    def _too_large(self) -> ApiError:
        return ApiError(413, f"The body is larger than {self._limits.max_body_bytes} bytes.", code="body_too_large")

    def _log(self, scope: Scope, visit: Visit, status: int, seconds: float) -> None:
        client = scope.get("client") or ("", 0)
        path = (scope.get("raw_path") or b"").decode("ascii", "backslashreplace")
        log(
            request=visit.id,
            client=client[0],
            method=printable(scope["method"], 20),
            path=printable(path, 200),
            status=status,
            seconds=round(seconds, 4),
            **visit.notes,
        )


def _is_address(name: str) -> bool:
    try:
        return bool(ipaddress.ip_address(name.strip("[]")))
    except ValueError:
        return False


def _host_meant(text: str) -> str | None:
    """The host name in what is an address in place of one."""
    try:
        host = urlsplit(text if "://" in text else f"//{text}").hostname
    except ValueError:
        return None
    return host if host and _HOST_NAME.fullmatch(host) else None


def read_json_body(data: bytes, max_depth: int) -> Any:
    """Strict JSON: UTF-8, no NaN, no repeated key, no half characters, not too deep; ApiError (400) says which."""
    depth = 0
    for bracket in _BRACKET.finditer(_STRING.sub(b"", data)):
        depth += 1 if bracket.group() in b"[{" else -1
        if depth > max_depth:
            raise ApiError(400, f"The JSON is nested deeper than {max_depth} levels.", code="too_deep")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise ApiError(400, "The body is not UTF-8.") from None
    try:
        body = json.loads(text, parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        told = str(error) if isinstance(error, _Unreadable) else "it cannot be parsed"
        raise ApiError(400, f"The body is no JSON: {told}.") from None
    if "\\u" in text and _has_half_character(body):
        raise ApiError(400, "A text holds half of a surrogate pair, which is no character.")
    return body


class _Unreadable(ValueError):
    """What is wrong with a body, in words of ours."""


def _no_constant(name: str) -> Any:
    raise _Unreadable(f"{name} is no number of JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise _Unreadable(f"{printable(digits, 40)} is too large a number")
    return number


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
        raise _Unreadable(f"the key `{printable(twice, 60)}` is there twice")
    return found


def _has_half_character(body: Any) -> bool:
    try:
        json.dumps(body, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def _rest(receive: Receive) -> Receive:
    """What a route may still receive once the body was read: that the client has gone."""
    first = True

    async def rest() -> MutableMapping[str, Any]:
        nonlocal first
        if first:
            first = False
            return {"type": "http.request", "body": b"", "more_body": False}
        return await receive()

    return rest


async def _refuse(receive: Receive, send: Send, error: ApiError, *, expects_more: bool) -> None:
    """Answer, and let what still comes of the body run into nothing: a sender whose connection breaks never reads the answer."""
    body = json.dumps(error.body()).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close", **error.headers}
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": raw})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    n_bytes = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            while expects_more and n_bytes < _LINGER_BYTES:
                message = await receive()
                n_bytes += len(message.get("body", b""))
                expects_more = message["type"] != "http.disconnect" and message.get("more_body", False)
    await send({"type": "http.response.body", "body": b"", "more_body": False})
