"""Keeps the engine process alive: starts it, joins requests to its answers, and starts it again when it dies.

One that is alive and does nothing any more is asked for a sign of life in vain, and killed.
What was in flight when it died is told so at once. A model that cannot be opened the first time ends the server; later, after a death,
it is tried again with growing pauses.
"""

import asyncio
import contextlib
import itertools
import socket
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from touchstone.errors import ConfigError, ModelFolderError
from touchstone.serve.api_error import ApiError
from touchstone.serve.frames import packed, read_frame
from touchstone.serve.logs import log

__all__ = ["EngineSettings", "Exchange", "Supervisor"]

_STABLE_S = 60.0  # an engine that lived so long is started again at once
_LONGEST_PAUSE_S = 30.0
_END_S = 5.0  # for an engine to end by itself once its socket is closed
_BEAT_S = 5.0  # between two questions for a sign of life


@dataclass(frozen=True)
class EngineSettings:
    """What the engine process opens, and how."""

    model: str
    device: str = "auto"
    dtype: str = "auto"
    weights: Literal["int8"] | None = None
    invariant: bool = False
    draft: str | None = None


class Exchange:
    """One request to the engine and what comes back, in order."""

    def __init__(self, supervisor: "Supervisor", job_id: int) -> None:
        self.id = job_id
        self._supervisor = supervisor
        self.inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        """The messages until the last; ApiError where the engine refuses, fails or dies."""
        while True:
            message = await self.inbox.get()
            if "error" in message:
                told = message["error"]
                raise ApiError(told["status"], told["message"], param=_named(told["message"]), headers=told.get("headers"))
            yield message
            if message.get("end"):
                return

    def close(self) -> None:
        """The answer is not wanted any more, if it is not complete: the engine stops working on it."""
        self._supervisor.drop(self.id)


class Supervisor:
    """The engine process of one model. state: what `/health` says. step_s: one that needs longer than that for a step is killed."""

    def __init__(self, settings: EngineSettings, step_s: float) -> None:
        self._settings = settings
        self._step_s = step_s
        self.state: Literal["loading", "ready", "dead", "ended"] = "loading"
        self.facts: dict[str, Any] = {}
        self.n_starts = 0
        self.pid: int | None = None
        self.is_up = asyncio.Event()
        self._exchanges: dict[int, Exchange] = {}
        self._ids = itertools.count(1)
        self._writer: asyncio.StreamWriter | None = None

    async def run(self) -> None:
        """Keep the engine running until cancelled; raises ModelFolderError if the model cannot be opened at the start."""
        pause = 0.0
        try:
            while True:
                began = time.monotonic()
                problem = await self._one_life()
                if problem is not None and not self.facts:
                    raise ModelFolderError(problem)
                pause = 0.0 if time.monotonic() - began > _STABLE_S else min(_LONGEST_PAUSE_S, 2 * pause or 0.25)
                await asyncio.sleep(pause)
        finally:
            self.state = "ended"

    def open(self, message: dict[str, Any]) -> Exchange:
        """Send a request; ApiError (503) while there is no engine."""
        if self.state != "ready" or self._writer is None:
            raise self._unavailable()
        exchange = Exchange(self, next(self._ids))
        try:
            data = packed({**message, "id": exchange.id})
        except ConfigError as error:
            raise ApiError(413, str(error), code="body_too_large") from None
        self._exchanges[exchange.id] = exchange
        self._writer.write(data)
        return exchange

    async def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """A request that has one answer."""
        exchange = self.open(message)
        try:
            async for answer in exchange:
                return answer
        finally:
            exchange.close()
        raise self._unavailable()

    def drop(self, job_id: int) -> None:
        """Forget an exchange; the engine is told if it had not finished it."""
        if self._exchanges.pop(job_id, None) is not None and self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.write(packed({"do": "cancel", "job": job_id}))

    def end_all(self, message: str) -> None:
        """Everything in flight ends with this error."""
        for exchange in self._exchanges.values():
            exchange.inbox.put_nowait({"error": {"status": 503, "message": message, "headers": {"retry-after": "5"}}})

    async def _one_life(self) -> str | None:
        """Start an engine and stay until it has ended; why, if it could not open the model."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.state, self.n_starts = "loading", self.n_starts + 1
        command = [sys.executable, "-m", "touchstone.serve.engine_process", str(theirs.fileno())]
        process = await asyncio.create_subprocess_exec(*command, pass_fds=[theirs.fileno()], stdin=asyncio.subprocess.DEVNULL)
        theirs.close()
        self.pid = process.pid
        reader, self._writer = await asyncio.open_unix_connection(sock=ours)
        watching = asyncio.create_task(self._watch(process))
        try:
            self._writer.write(packed(asdict(self._settings)))
            return await self._serve(reader)
        except asyncio.CancelledError:
            if not self.is_up.is_set():  # it still opens its model, looks at no socket, and has nothing to finish
                _kill(process)
            raise
        finally:
            watching.cancel()
            self.is_up.clear()
            self.state = "dead"
            self._fail_all()
            self._writer.close()
            self._writer = None
            await _ended(process)
            if self.facts:
                log(event="engine_ended", exit_code=process.returncode)

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Ask for a sign of life between two steps again and again; kill a process that gives none."""
        await self.is_up.wait()
        with contextlib.suppress(ApiError):  # it ended by itself
            while True:
                try:
                    async with asyncio.timeout(self._step_s):
                        await self.ask({"do": "beat"})
                except TimeoutError:
                    log(event="engine_hung", seconds=self._step_s)
                    _kill(process)
                    return
                await asyncio.sleep(_BEAT_S)

    async def _serve(self, reader: asyncio.StreamReader) -> str | None:
        while (message := await read_frame(reader)) is not None:
            if message.get("event") == "ready":
                self.facts, self.state = message["facts"], "ready"
                self.is_up.set()
            elif message.get("event") == "failed":
                return str(message["message"])
            elif (exchange := self._exchanges.get(message["id"])) is not None:
                if message.get("end") or "error" in message:
                    del self._exchanges[exchange.id]
                exchange.inbox.put_nowait(message)
        return None if self.facts else "The engine process ended before it had opened the model; what it said stands above."

    def _fail_all(self) -> None:
        message = "The engine stopped while it worked on this request; it is being started again. Send the request again."
        for exchange in self._exchanges.values():
            exchange.inbox.put_nowait({"error": {"status": 503, "message": message, "headers": {"retry-after": "2"}}})
        self._exchanges.clear()

    def _unavailable(self) -> ApiError:
        why = {"loading": "The model is being loaded", "dead": "The engine is being started again"}.get(self.state, "The server is ending")
        return ApiError(503, f"{why}; try again soon.", code="unavailable", headers={"retry-after": "2"})


async def _ended(process: asyncio.subprocess.Process) -> None:
    """Wait for the process, which ends when its socket is closed; one that does not is killed."""
    try:
        await asyncio.wait_for(process.wait(), _END_S)
    except (TimeoutError, asyncio.CancelledError):
        _kill(process)
        await process.wait()


def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()


def _named(message: str) -> str | None:
    """The field that a message is about: the first name in backticks."""
    parts = message.split("`")
    return parts[1] if len(parts) > 2 and parts[1].replace("_", "").isalnum() else None
