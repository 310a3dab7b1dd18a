"""HTTP connections that do not wait for ever: one whose headers do not come in time is closed.

The server library times the pause between two requests only; a client that sends half a header and falls silent, or that never reads
its answer, would hold its connection for good. What is no HTTP is told so in the form of every other error.
"""

import asyncio
import sys
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["timed_connections"]


_NO_HTTP = b'{"error":{"message":"This is no HTTP request.","type":"invalid_request_error","param":null,"code":"no_http"}}'
_TOO_LARGE = (
    b'{"error":{"message":"The path and headers are too large.","type":"invalid_request_error","param":null,"code":"headers_too_large"}}'
)
_NO_ROOM = (
    b'{"error":{"message":"Too many connections; come again soon.","type":"server_error","param":null,"code":"too_many_connections"}}'
)
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\nconnection: close\r\n\r\n%s" % (len(_NO_ROOM), _NO_ROOM)
)


def timed_connections(header_s: float, read_s: float, max_connections: int) -> type[H11Protocol]:
    """A protocol class whose requests must have arrived, headers and all, header_s after their connection or their first byte.

    read_s: for a client to take some of what it is sent; one that takes nothing for so long is cut off, and so its request ends.
    """

    class TimedConnection(H11Protocol):
        _timer: asyncio.TimerHandle | None = None
        _reading: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.set_write_buffer_limits(high=0)  # `pause_writing` is then called whenever the system takes no more
            if len(self.connections) > max_connections:
                transport.write(_FULL)
                transport.close()
                return
            self._arm()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._is_waiting():
                self._arm()
            else:
                self._disarm()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._watch(self.transport.get_write_buffer_size())

        def resume_writing(self) -> None:
            self._unwatch()
            super().resume_writing()

        def connection_lost(self, exc: Exception | None) -> None:
            self._disarm()
            self._unwatch()
            super().connection_lost(exc)

        def send_400_response(self, msg: str) -> None:
            is_large = getattr(sys.exception(), "error_status_hint", None) == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            status, body = (431, _TOO_LARGE) if is_large else (400, _NO_HTTP)
            headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
            try:
                head = h11.Response(status_code=status, headers=headers, reason=HTTPStatus(status).phrase.encode())
                parts = [head, h11.Data(data=body), h11.EndOfMessage()]
                self.transport.write(b"".join(self.conn.send(part) or b"" for part in parts))
            except h11.LocalProtocolError:  # an answer was on its way already
                pass
            self.transport.close()

        def _is_waiting(self) -> bool:
            """Whether a request has begun, or should, and its headers are not all there."""
            return self.cycle is None or self.cycle.response_complete

        def _arm(self) -> None:
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(header_s, self._end)

        def _disarm(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _watch(self, n_left: int) -> None:
            """Look again in a while whether less is left to send."""
            self._reading = asyncio.get_running_loop().call_later(read_s, self._look, n_left)

        def _look(self, n_before: int) -> None:
            n_left = self.transport.get_write_buffer_size()
            if n_left < n_before:
                self._watch(n_left)
            else:
                self.transport.abort()

        def _unwatch(self) -> None:
            if self._reading is not None:
                self._reading.cancel()
                self._reading = None

        def _end(self) -> None:
            self._timer = None
            if self._is_waiting() and not self.transport.is_closing():
                self.transport.close()

    return TimedConnection
