"""Answers on their way to a client that may leave: whole ones, and server-sent events.

Work for a client that has gone is stopped at once, and so is work beyond its time.
Source: WHATWG HTML, server-sent events; their use as in OpenAI's API (`data: [DONE]` ends every stream, also one that failed).
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from typing import Any

from starlette.responses import JSONResponse, Response

from touchstone.serve.api_error import ApiError

__all__ = ["CLIENT_LEFT", "Reply", "StreamedReply", "refusal"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Ended = Callable[[int], None]

CLIENT_LEFT = 499  # what servers log of a request whose client has gone; it is never sent


class Reply(Response):
    """One JSON answer that takes a while.

    work: makes it. seconds: how long it may take. ended: is told the status when it is over, in whatever way.
    """

    def __init__(self, work: Callable[[], Awaitable[Any]], seconds: float, ended: Ended) -> None:
        super().__init__()
        self._work = work
        self._seconds = seconds
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = CLIENT_LEFT
        try:
            response = await _unless_gone(self._made(), receive)
            if response is not None:
                status = response.status_code
                await response(scope, receive, send)
        finally:
            self._ended(status)

    async def _made(self) -> Response:
        try:
            async with asyncio.timeout(self._seconds):
                return JSONResponse(await self._work())
        except TimeoutError:
            return refusal(_too_long(self._seconds))
        except ApiError as error:
            return refusal(error)


class StreamedReply(Response):
    """Server-sent events. pieces: the objects to send; what fails before the first is an ordinary error, and later the last event."""

    def __init__(self, pieces: AsyncGenerator[dict[str, Any]], seconds: float, ended: Ended) -> None:
        super().__init__()
        self._pieces = pieces
        self._seconds = seconds
        self._ended = ended
        self._status = CLIENT_LEFT

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await _unless_gone(self._sent(send), receive)
            if response is not None:
                self._status = response.status_code
                await response(scope, receive, send)
        finally:
            self._ended(self._status)

    async def _sent(self, send: Send) -> Response | None:
        """Send it all; an error that came before anything was sent is returned."""
        has_begun = False
        problem: ApiError | None = None
        try:
            async with asyncio.timeout(self._seconds), contextlib.aclosing(self._pieces) as pieces:
                async for piece in pieces:
                    if not has_begun:
                        has_begun = True
                        await _begin(send)
                    await _event(send, json.dumps(piece, ensure_ascii=False, separators=(",", ":")))
        except TimeoutError:
            problem = _too_long(self._seconds)
        except ApiError as error:
            problem = error
        if problem is not None and not has_begun:
            return refusal(problem)
        self._status = 200 if problem is None else problem.status
        if not has_begun:
            await _begin(send)
        if problem is not None:
            await _event(send, json.dumps(problem.body(), ensure_ascii=False))
        await _event(send, "[DONE]")
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return None


def refusal(error: ApiError) -> Response:
    """An error as an answer."""
    return JSONResponse(error.body(), error.status, headers=error.headers)


async def _begin(send: Send) -> None:
    headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


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
