"""What the routes share: the engine, who is let in, and the count of what happens."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

from touchstone.serve.api_error import ApiError, ending
from touchstone.serve.gauges import Gauges
from touchstone.serve.limits import ServeLimits, Visit
from touchstone.serve.supervisor import Exchange, Supervisor
from touchstone.serve.told import Answer

__all__ = ["Service"]


class Service:
    """One model that is served.

    name: what clients call it. is_draining: no new work is taken, because the server is about to end.
    """

    def __init__(self, supervisor: Supervisor, limits: ServeLimits, name: str) -> None:
        self.supervisor = supervisor
        self.limits = limits
        self.name = name
        self.gauges = Gauges()
        self.created = int(time.time())
        self.is_draining = False
        self.n_open = 0

    @property
    def state(self) -> str:
        """What `/health` says."""
        if self.is_draining:
            return "draining"
        return "ok" if self.supervisor.state == "ready" else self.supervisor.state

    def check_model(self, asked: str | None) -> None:
        """ApiError (404) for a model that is not here."""
        if asked is not None and asked != self.name:
            raise ApiError(404, f"There is no such model here; this server has `{self.name}`.", param="model", code="model_not_found")

    def check_can(self, ability: str) -> None:
        """ApiError (400) where the model cannot do that; what is not known yet is let through."""
        able = self.supervisor.facts.get("can")
        if able is not None and ability not in able:
            told = ", ".join(able) or "nothing that is served"
            raise ApiError(400, f"This model cannot `{ability}`. It can: {told}.", code="unsupported")

    def admit(self, endpoint: str) -> Callable[[int], None]:
        """Let a request in; what is returned must be called with its status at its end. ApiError (429, 503) where there is no room."""
        if self.is_draining:
            raise ending()
        if self.n_open >= self.limits.max_requests:
            told = f"{self.limits.max_requests} requests are being worked on; ask again soon."
            raise ApiError(429, told, code="too_many_requests", headers={"retry-after": "1"})
        self.n_open += 1
        began = time.monotonic()

        def ended(status: int) -> None:
            self.n_open -= 1
            self.gauges.ended(endpoint, status, time.monotonic() - began)

        return ended

    async def generated(self, message: dict[str, Any], answer: Answer, visit: Visit) -> dict[str, Any]:
        """The whole answer."""
        async for received in self._received(message, answer, visit):
            for _ in answer.pieces(received):
                pass
        return answer.whole()

    async def streamed(
        self, message: dict[str, Any], answer: Answer, visit: Visit, *, includes_usage: bool
    ) -> AsyncGenerator[dict[str, Any]]:
        """The pieces of the answer."""
        async for received in self._received(message, answer, visit):
            for piece in answer.pieces(received):
                yield piece
        if includes_usage:
            yield answer.usage_piece()

    async def read(self, message: dict[str, Any]) -> list[dict[str, Any]]:
        """All that the engine sends for a request that reads."""
        exchange = self.supervisor.open(message)
        try:
            return [received async for received in exchange]
        finally:
            exchange.close()

    async def _received(self, message: dict[str, Any], answer: Answer, visit: Visit) -> AsyncIterator[dict[str, Any]]:
        """The engine's messages, with the time that they took noted."""
        exchange = self.supervisor.open(message)
        cut_by = "cancelled"
        try:
            async for received in self._timed(exchange):
                yield received
        except ApiError:
            cut_by = "error"
            raise
        finally:
            exchange.close()
            self.gauges.wrote([*answer.finish_reasons, *[cut_by] * answer.n_unfinished], answer.prompt_tokens, answer.completion_tokens)
            visit.notes |= {"prompt_tokens": answer.prompt_tokens, "new_tokens": answer.completion_tokens}

    async def _timed(self, exchange: Exchange) -> AsyncIterator[dict[str, Any]]:
        began = time.monotonic()
        last: dict[tuple[int, int], float] = {}
        async for received in exchange:
            if "queued_s" in received:
                self.gauges.queued.observe(received["queued_s"])
            now = time.monotonic()
            for event in received.get("events", ()):
                if "k" not in event:
                    continue
                key = event["i"], event["j"]
                if key in last:
                    self.gauges.next_token.observe(now - last[key])
                else:
                    self.gauges.first_token.observe(now - began)
                last[key] = now
            yield received
