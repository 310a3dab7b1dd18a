"""Answers on their way to a client that may leave: whole ones, and server-sent events.

Work for a client that has gone is stopped at once, and so is work beyond its time.
Source: WHATWG HTML, server-sent events; their use as in OpenAI's API (`data: [DONE]` ends every stream, also one that failed).
"""

import asyncio
import contextlib
import json
from abc import abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from starlette.responses import JSONResponse, Response

from touchstone.serve.api_error import ApiError

__all__ = ["CLIENT_LEFT", "Reply", "StreamedReply", "refusal"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Ended = Callable[[int], None]

_LAST_WORDS_S = 5.0
_BREAKS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}  # JSON lets them stand; some clients end a line there
CLIENT_LEFT = 499  # what servers log of a request whose client has gone; it is never sent


class _Answering(Response):
    """An answer that takes a while and whose client may leave. ended: is told the status when it is over, in whatever way."""

    def __init__(self, seconds: float, ended: Ended) -> None:
        super().__init__()
        self._seconds = seconds
        self._ended = ended
        self._status = CLIENT_LEFT

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await _unless_gone(self._work(send), receive)
            if response is not None:
                self._status = response.status_code
                await response(scope, receive, send)
        finally:
            self._ended(self._status)

    @abstractmethod
    async def _work(self, send: Send) -> Response | None:
        """Answer; what is returned is still to be sent."""


class Reply(_Answering):
    """One JSON answer. make: makes it. seconds: how long that may take."""

    def __init__(self, make: Callable[[], Awaitable[Any]], seconds: float, ended: Ended) -> None:
        super().__init__(seconds, ended)
        self._make = make

    async def _work(self, send: Send) -> Response:
        try:
            async with asyncio.timeout(self._seconds):
                return JSONResponse(await self._make())
        except TimeoutError:
            return refusal(_too_long(self._seconds))
        except ApiError as error:
            return refusal(error)


class StreamedReply(_Answering):
    """Server-sent events. pieces: the objects to send; what fails before the first is an ordinary error, and later the last event."""

    def __init__(self, pieces: AsyncGenerator[dict[str, Any]], seconds: float, ended: Ended) -> None:
        super().__init__(seconds, ended)
        self._pieces = pieces

    async def _work(self, send: Send) -> Response | None:
        has_begun = False
        problem: ApiError | None = None
        try:
            async with asyncio.timeout(self._seconds), contextlib.aclosing(self._pieces) as pieces:
                async for piece in pieces:
                    if not has_begun:
                        has_begun = True
                        await _begin(send)
                    await _event(send, _line(piece))
        except TimeoutError:
            problem = _too_long(self._seconds)
        except ApiError as error:
            problem = error
        if problem is not None and not has_begun:
            return refusal(problem)
        self._status = 200 if problem is None else problem.status
        with contextlib.suppress(TimeoutError):  # a client that reads hardly anything does not keep its place for that
            async with asyncio.timeout(_LAST_WORDS_S):
                if not has_begun:
                    await _begin(send)
                if problem is not None:
                    await _event(send, _line(problem.body()))
                await _event(send, "[DONE]")
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        return None


def refusal(error: ApiError) -> Response:
    """An error as an answer."""
    return JSONResponse(error.body(), error.status, headers=error.headers)


async def _begin(send: Send) -> None:
    headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


def _line(piece: Mapping[str, Any]) -> str:
    return json.dumps(piece, ensure_ascii=False, separators=(",", ":")).translate(_BREAKS)


async def _event(send: Send, data: str) -> None:
    await send({"type": "http.response.body", "body": f"data: {data}\n\n".encode(), "more_body": True})


async def _unless_gone(work: Any, receive: Receive) -> Any:
    """What the work gives; None, with the work stopped, once the client has gone."""
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else None
    finally:
        for task in (working, gone):
            if not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _too_long(seconds: float) -> ApiError:
    return ApiError(504, f"The answer was not complete after {seconds:g} s; ask for less.", code="timeout")
