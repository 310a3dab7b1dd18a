"""The steps of the engine process: one thread that moves every running request, a step of the batch and a piece of other work in turn.

A request that is cancelled, or whose client has gone, is out before the next step. What goes wrong in one request ends that one.
"""

import queue
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from touchstone.errors import TouchstoneError, Unavailable
from touchstone.infer import Engine, Request, TokenEvent
from touchstone.infer.batching import Ticket

__all__ = ["Beat", "Driver", "Generation", "Reading", "failure_of"]

Send = Callable[[dict[str, Any]], None]
Report = Callable[[str], None]


@dataclass
class Generation:
    """Requests that write. told: how an event is put for the other process."""

    id: int
    requests: list[Request]
    told: Callable[[TokenEvent], dict[str, Any]]
    asked_at: float = field(default_factory=time.monotonic)


@dataclass
class Reading:
    """Work that reads, cut into pieces that do not keep those who write waiting; each piece is a message to send, or nothing.

    then: what follows when it is done.
    """

    id: int
    pieces: Iterator[dict[str, Any] | None]
    then: Generation | None = None


@dataclass(frozen=True)
class Beat:
    """A question whether steps are still made, answered between two of them."""

    id: int


@dataclass
class _Writing:
    """n_left: choices whose last event was not sent yet."""

    job: Generation
    ticket: Ticket
    n_left: int
    has_begun: bool = False


class Driver:
    """Runs jobs until `stop`.

    send: takes what goes to the other process. report: takes what is to be logged of an error of ours.
    """

    def __init__(self, engine: Engine | None, send: Send, report: Report) -> None:
        self._engine = engine
        self._send = send
        self._report = report
        self._inbox: queue.SimpleQueue[Generation | Reading | Beat | int | None] = queue.SimpleQueue()
        self._writing: dict[int, _Writing] = {}
        self._reading: deque[Reading] = deque()
        self.n_steps = 0

    def add(self, job: Generation | Reading | Beat) -> None:
        """From any thread."""
        self._inbox.put(job)

    def cancel(self, job_id: int) -> None:
        """End a job before its next step, without a word; from any thread."""
        self._inbox.put(job_id)

    def stop(self) -> None:
        """End `run`; from any thread."""
        self._inbox.put(None)

    def run(self) -> None:
        """Work until stopped."""
        while self._take_in():
            if self._writing:
                self._step()
            if self._reading:
                self._read()

    def facts(self) -> dict[str, Any]:
        """What is running now, and how full the cache is."""
        batch = self._engine.batch if self._engine is not None else None
        facts: dict[str, Any] = {"running": len(self._writing) + len(self._reading), "waiting": 0, "steps": self.n_steps}
        if batch is not None:
            scheduler, pool = batch.scheduler, batch.scheduler.pool
            facts |= {"running": len(scheduler.running) + len(self._reading), "waiting": len(scheduler.waiting)}
            facts |= {"cache_used": pool.n_used / pool.n_blocks, "prefix_queries": pool.n_asked, "prefix_hits": pool.n_found}
            facts["preemptions"] = scheduler.n_preempted
        return facts

    def _take_in(self) -> bool:
        """Everything that has come, waiting for it if there is nothing to do; False to stop."""
        while True:
            try:
                job = self._inbox.get(block=not (self._writing or self._reading))
            except queue.Empty:
                return True
            if job is None:
                return False
            if isinstance(job, int):
                self._drop(job)
            elif isinstance(job, Beat):
                self._send({"id": job.id, "end": True})
            elif isinstance(job, Reading):
                self._reading.append(job)
            else:
                self._start(job)

    def _drop(self, job_id: int) -> None:
        writing = self._writing.pop(job_id, None)
        if writing is not None:
            self._leave(writing)
        for job in [job for job in self._reading if job.id == job_id]:
            self._reading.remove(job)
            _close(job)

    def _start(self, job: Generation) -> None:
        try:
            assert self._engine is not None
            if self._engine.batch is None:  # one wave step is one piece of reading
                events = self._engine.stream(job.requests)
                self._reading.append(Reading(job.id, (_message(job.id, [job.told(event)]) for event in events)))
            else:
                ticket = self._engine.join(job.requests)
                self._writing[job.id] = _Writing(job, ticket, ticket.n_open)
        except Exception as error:
            self._fail(job.id, error)

    def _step(self) -> None:
        assert self._engine is not None
        assert self._engine.batch is not None
        self.n_steps += 1
        problem: Exception | None = None
        try:
            self._engine.batch.step()
        except Exception as error:  # the texts of the step are out of the batch; the others go on
            problem = error
        for job_id, writing in list(self._writing.items()):
            try:
                self._hand_out(job_id, writing)
            except ConnectionError:  # the other process has gone
                raise
            except Exception as error:  # this one's text cannot be told; the others go on
                self._drop(job_id)
                self._fail(job_id, error)
                continue
            if writing.ticket.n_open:
                continue
            del self._writing[job_id]
            if writing.n_left:
                self._fail(job_id, problem or RuntimeError("choices ended without an event"))
            else:
                self._send({"id": job_id, "end": True})

    def _hand_out(self, job_id: int, writing: _Writing) -> None:
        """Send what the step brought to one job."""
        events = list(writing.ticket.events)
        writing.ticket.events.clear()
        writing.n_left -= sum(event.finish_reason is not None for event in events)
        message = _message(job_id, [writing.job.told(event) for event in events])
        if not writing.has_begun and writing.ticket.has_begun:
            writing.has_begun = True
            message["queued_s"] = time.monotonic() - writing.job.asked_at
        if len(message) > 2 or events:
            self._send(message)

    def _leave(self, writing: _Writing) -> None:
        assert self._engine is not None
        assert self._engine.batch is not None
        self._engine.batch.leave(writing.ticket)

    def _read(self) -> None:
        """One piece of the work that waits longest."""
        job = self._reading[0]  # it stays in the queue meanwhile, so that the figures count it
        try:
            message = next(job.pieces, _END)
            if message is not None and message is not _END:
                self._send(message)
        except ConnectionError:  # the other process has gone
            raise
        except Exception as error:
            self._reading.popleft()
            _close(job)
            self._fail(job.id, error)
            return
        if message is _END:
            self._reading.popleft()
            if job.then is not None:
                self._start(job.then)
            else:
                self._send({"id": job.id, "end": True})
            return
        self._reading.rotate(-1)

    def _fail(self, job_id: int, error: Exception) -> None:
        self._send({"id": job_id, "error": failure_of(error, self._report)})


def failure_of(error: Exception, report: Report) -> dict[str, Any]:
    """What the other process is told of an error: ours with their message, any other without a word of what is inside."""
    if isinstance(error, Unavailable):
        return {"status": 503, "message": str(error), "headers": {"retry-after": "2"}}
    if isinstance(error, TouchstoneError):
        return {"status": 400, "message": str(error)}
    report("".join(traceback.format_exception(error)))
    return {"status": 500, "message": "The engine failed on this request; others go on."}


_END: dict[str, Any] = {}


def _message(job_id: int, events: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": job_id, "events": events}


def _close(job: Reading) -> None:
    """End a job's work where it stands, so that what it held is free."""
    close = getattr(job.pieces, "close", None)
    if close is not None:
        close()
