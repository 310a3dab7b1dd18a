"""The server from its start to its end: the address, the signals, and the engine beside it.

A first SIGTERM or Ctrl-C drains: nothing new is taken, what runs is finished within `drain_s`, and what then still runs ends with an
error that says so. A second one ends at once.
"""

import asyncio
import ipaddress
import resource
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any

import uvicorn

from touchstone.errors import ConfigError
from touchstone.serve.app import build_app
from touchstone.serve.connections import timed_connections
from touchstone.serve.keys import Keys
from touchstone.serve.limits import Guard, Hosts, ServeLimits
from touchstone.serve.service import Service
from touchstone.serve.supervisor import EngineSettings, Supervisor

__all__ = ["ServeSettings", "serve"]

_CLOSING_S = 5  # for connections to end after the last answer
_BACKLOG = 64  # connections that may wait to be accepted, and are accepted in one go
_MOST_FILES = 1 << 16
_OTHER_FILES = 3 * _BACKLOG  # open at the same time: ours, and connections on their way to a refusal


@dataclass(frozen=True)
class ServeSettings:
    """Where and for whom. name: what clients call the model. hosts: names the server may be addressed by, beside those of this machine."""

    name: str
    host: str = "127.0.0.1"
    port: int = 8000
    keys: Keys = field(default_factory=Keys)
    hosts: Sequence[str] = ()
    limits: ServeLimits = field(default_factory=ServeLimits)


def serve(engine: EngineSettings, settings: ServeSettings, announce: Callable[[str, str], None]) -> None:
    """Serve until a signal ends it.

    announce: is told `listening` and later `ready`, with the address. Raises ConfigError for an address that cannot be used or that
    strangers could reach without a key, and ModelFolderError for a model that cannot be opened.
    """
    if not settings.keys and not _is_loopback(settings.host):
        raise ConfigError(
            f"`--host {settings.host}` can be reached from other machines; give API keys with `--api-key-file FILE`"
            " or `TOUCHSTONE_API_KEY`, or stay at 127.0.0.1."
        )
    n_connections = min(settings.limits.max_connections, _most_files() - _OTHER_FILES)
    if n_connections < 1:
        raise ConfigError(f"This process may open {_most_files()} files, too few to serve; allow it more, such as `ulimit -n 1024`.")
    settings = replace(settings, limits=replace(settings.limits, max_connections=n_connections))
    with _bound(settings.host, settings.port) as listener:
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        asyncio.run(_run(engine, settings, listener, f"http://{host}:{listener.getsockname()[1]}", announce))


async def _run(
    engine: EngineSettings, settings: ServeSettings, listener: socket.socket, address: str, announce: Callable[[str, str], None]
) -> None:
    supervisor = Supervisor(engine, settings.limits.step_s)
    service = Service(supervisor, settings.limits, settings.name)
    hosts = Hosts([settings.host, *settings.hosts])
    guard = Guard(build_app(service), settings.limits, settings.keys, hosts, service.gauges.refused)
    server = _Server(_config(guard, settings.limits), service, guard)
    announce("listening", address)
    running = asyncio.create_task(supervisor.run())
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    ready = asyncio.create_task(_announced(supervisor, announce, address))
    await asyncio.wait({running, serving}, return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    await serving
    for task in (ready, running):
        task.cancel()
    await asyncio.gather(ready, return_exceptions=True)
    try:
        await running  # raises what ended it
    except asyncio.CancelledError:
        return


async def _announced(supervisor: Supervisor, announce: Callable[[str, str], None], address: str) -> None:
    await supervisor.is_up.wait()
    announce("ready", address)


class _Server(uvicorn.Server):
    """Ends in two steps: what runs first, the connections then."""

    def __init__(self, config: uvicorn.Config, service: Service, guard: Guard) -> None:
        super().__init__(config)
        self._service = service
        self._guard = guard
        self._draining: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        if self._service.is_draining:  # asked twice
            self._service.supervisor.end_all("The server ends at once.")
            self.should_exit = self.force_exit = True
            return
        self._service.is_draining = True
        self._draining = asyncio.get_running_loop().create_task(self._drain())
        self._guard.end()

    async def _drain(self) -> None:
        try:
            async with asyncio.timeout(self._service.limits.drain_s):
                while self._service.n_open:
                    await asyncio.sleep(0.05)
        except TimeoutError:
            self._service.supervisor.end_all("The server ended before this answer was complete.")
        self.should_exit = True


def _config(app: Any, limits: ServeLimits) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=timed_connections(limits.header_s, limits.body_s, limits.max_connections),
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # who a client says it is proves nothing
        h11_max_incomplete_event_size=limits.max_header_bytes,
        timeout_graceful_shutdown=_CLOSING_S,
        backlog=_BACKLOG,
    )


def _most_files() -> int:
    """Files that this process may have open at once: raised to what the system lets it raise it to."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return _MOST_FILES if soft == resource.RLIM_INFINITY else soft


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _bound(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"`--host {host}`: {error.strerror or error}.") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"{host}:{port} cannot be used: {error.strerror or error}. Choose another with `--port` (0 = any free one)."
        ) from None
    return listener
