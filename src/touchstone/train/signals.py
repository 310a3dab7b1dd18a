"""SIGTERM and SIGINT as requests: the run saves and returns, wherever it is.

The first signal asks: the training loop finishes its step and saves. The second insists: what is being computed is dropped and the
state after the last finished step is saved at once. Code that changes or saves the state is never broken into - a signal waits until
it is done - and code that is free to be repeated says so with `breakable`.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, Self

__all__ = ["StopNow", "StopSignals"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopNow(BaseException):
    """Leaves repeatable work at once; no Exception, so that `except Exception` in a callback cannot swallow it."""


class StopSignals:
    """While entered, counts SIGTERM and SIGINT instead of ending the process; the handlers before it come back on exit.

    Outside the main thread Python allows no handlers: then nothing is counted and signals do what they did.
    """

    def __init__(self) -> None:
        self.count = 0
        self.name: str | None = None  # of the first signal
        self._break_at: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self.count > 0

    @contextlib.contextmanager
    def breakable(self, at: int) -> Iterator[None]:
        """Inside, the at-th signal of the run raises StopNow; at once if it has come already."""
        self._break_at = at
        try:
            if self.count >= at:
                raise StopNow
            yield
        finally:
            self._break_at = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        self.name = self.name or signal.Signals(number).name
        if self._break_at is not None and self.count >= self._break_at:
            self._break_at = None  # before raising: what catches it must not be broken into
            raise StopNow
