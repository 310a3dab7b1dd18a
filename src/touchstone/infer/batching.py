"""Continuous batching: choices of any requests decode together, join and leave between steps, and each stream gets its own events.

Whoever reads a stream drives the batch: a step runs when a reader finds nothing waiting for it, and it moves every text, so any number
of streams, in one thread or in many, share the work. What a choice gets depends on its own request alone: up to the rounding of the
products, and in the invariant mode to the last bit.
"""

import math
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import accumulate

import torch
from jaxtyping import Float
from torch import Tensor

from touchstone.infer.asked import Asked
from touchstone.infer.calibration import Calibrated
from touchstone.infer.choice import Choice
from touchstone.infer.packed import PackedDecoder
from touchstone.infer.request import TokenEvent
from touchstone.infer.sampled import Sampled, read_sampled, widest
from touchstone.infer.sampling import SamplingTable, choose
from touchstone.infer.scheduler import Limits, Part, Scheduler, Text
from touchstone.infer.speculative import Drafter, Payoff

__all__ = ["ContinuousBatch", "Ticket"]


class Ticket:
    """Choices that joined the batch together.

    n_open: how many are not over. events: what was not read yet. texts: one a choice, while it is decoded and after.
    """

    def __init__(self, n_open: int) -> None:
        self.n_open = n_open
        self.events: deque[TokenEvent] = deque()
        self.texts: list[Text] = []

    @property
    def has_begun(self) -> bool:
        """Whether any of the choices was given room."""
        return any(text.table is not None or text.is_read for text in self.texts)


class _Live:
    """A choice that is being decoded."""

    def __init__(self, choice: Choice, text: Text, ticket: Ticket) -> None:
        self.choice = choice
        self.text = text
        self.ticket = ticket


class ContinuousBatch:
    """The choices that run on one packed decoder.

    is_cancelled: says of a request's id whether it is to end.
    shares_prefixes: requests of one salt reuse each other's prompts; else only the choices of one request do.
    drafter: what guesses tokens ahead; it is used while `payoff` finds that it pays.
    """

    def __init__(
        self,
        runner: PackedDecoder,
        limits: Limits,
        *,
        is_cancelled: Callable[[str], bool],
        calibrated: Calibrated | None = None,
        shares_prefixes: bool = True,
        drafter: Drafter | None = None,
        payoff: Payoff | None = None,
    ) -> None:
        self.runner = runner
        self.scheduler = Scheduler(runner.pool, limits)
        self._is_cancelled = is_cancelled
        self._calibrated = calibrated
        self._shares_prefixes = shares_prefixes
        self._drafter = drafter
        self.payoff = payoff if payoff is not None else Payoff()
        self._lives: dict[int, _Live] = {}  # by the text's number
        self._lock = threading.Lock()
        self._n_written = 0
        self._table: tuple[list[Choice], SamplingTable] | None = None

    def stream(self, choices: Sequence[Choice]) -> Iterator[TokenEvent]:
        """The events of these choices; they join the batch with the first event asked for, and leave it when the stream is closed."""
        ticket = self.join(choices)
        try:
            while ticket.n_open or ticket.events:
                if not ticket.events:
                    with self._lock:
                        if not ticket.events and ticket.n_open:
                            self._step()
                while ticket.events:
                    yield ticket.events.popleft()
        finally:
            self.leave(ticket)

    def join(self, choices: Sequence[Choice]) -> Ticket:
        """Take choices in, for one who calls `step` and reads the ticket's events in between; `leave` ends it."""
        ticket = Ticket(len(choices))
        with self._lock:
            self._join(choices, ticket)
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """The choices end without another event, if they are not over."""
        with self._lock:
            for text in ticket.texts:
                if (live := self._lives.get(text.number)) is not None:
                    self._leave(live)

    def step(self) -> None:
        """One step of all choices. What a step raises ended the choices that it computed, without an event."""
        with self._lock:
            self._step()

    def _join(self, choices: Sequence[Choice], ticket: Ticket) -> None:
        first: dict[int, tuple[Hashable, Text]] = {}
        for choice in choices:
            asked = choice.asked
            salt, before = first.get(id(asked), (self._salt(asked), None))
            text = Text(list(asked.prompt), asked.max_length, salt, after=before)
            if before is None and len(asked.prompt) > self.scheduler.pool.block_size:  # the others will find its blocks
                first[id(asked)] = salt, text
            self.scheduler.add(text)
            ticket.texts.append(text)
            self._lives[text.number] = _Live(choice, text, ticket)

    def _salt(self, asked: Asked) -> Hashable:
        return asked.request.salt if self._shares_prefixes else object()

    def _leave(self, live: _Live, *, forget: bool = False) -> None:
        if self._lives.pop(live.text.number, None) is not None:
            live.ticket.n_open -= 1
            if forget and live.text.table is not None:
                self.runner.wipe(live.text)
            self.scheduler.remove(live.text, forget=forget)
            if self._drafter is not None:
                self._drafter.forget(live.text)

    def _step(self) -> None:
        self._end_cancelled()
        if self._drafter is None or not self._only_writes():
            self._advance()
            return
        guesses = self.payoff.begin()
        if guesses:
            self._drafter.propose([(live.text, live.choice) for live in self._lives.values() if live.text.table is not None])
        n_texts, n_before = len(self.scheduler.running), self._n_written
        self._advance()
        self.payoff.end(guesses, self._n_written - n_before, n_texts)

    def _only_writes(self) -> bool:
        """Whether no prompt is being read: then steps with and without guesses can be compared."""
        running = self.scheduler.running
        return bool(running) and not self.scheduler.waiting and all(text.n_left == 1 for text in running)

    def _advance(self) -> None:
        with self.runner.running():
            parts = self.scheduler.plan()
            if not parts:
                return
            try:
                logits = self.runner.step(parts)
            except BaseException:
                self._fail_all(parts)
                raise
        for part in parts:
            self.scheduler.computed(part)
        last = [part for part in parts if part.is_last]
        if last:
            self._sample(logits, last)

    def _fail_all(self, parts: Sequence[Part]) -> None:
        """The step broke down: nothing of it may be believed, and the streams end by the error that is raised."""
        for part in parts:
            self._leave(self._lives[part.text.number], forget=True)

    def _end_cancelled(self) -> None:
        for live in list(self._lives.values()):
            if self._is_cancelled(live.choice.asked.request.id):
                live.ticket.events.extend(live.choice.cancel())
                self._leave(live)

    @torch.inference_mode()
    def _sample(self, logits: Float[Tensor, "M V"], parts: Sequence[Part]) -> None:
        """Choose what comes next; where a draft said the same, go on to the row behind it.

        Every token is drawn from its own distribution with its own random number, so a draft changes when a token is known, never which.
        """
        first = list(accumulate((part.n_drafts + 1 for part in parts), initial=0))
        going = [(part, row, self._lives[part.text.number]) for part, row in zip(parts, first, strict=False)]
        n_true = 0
        while going:
            rows = [row + n_true for _, row, _ in going]
            sampled = self._choose(logits if len(rows) == len(logits) else logits[rows], [live.choice for _, _, live in going])
            going_on = []
            for (part, row, live), step in zip(going, sampled, strict=True):
                if not self._accept(live, step):
                    continue
                if n_true < part.n_drafts and part.text.drafts[n_true] == step.token_id:
                    going_on.append((part, row, live))
                else:
                    self.scheduler.checked(part, n_true)
            going, n_true = going_on, n_true + 1

    def _choose(self, logits: Float[Tensor, "B V"], choices: list[Choice]) -> list[Sampled]:
        shaped = logits
        if any(choice.has_rules for choice in choices):
            shaped = torch.stack([choice.shape(row) if choice.has_rules else row for choice, row in zip(choices, logits, strict=True)])
        uniforms = torch.tensor([choice.uniform() for choice in choices], dtype=widest(logits.device), device=logits.device)
        token_ids = choose(shaped, self._table_of(choices, logits.device), uniforms)
        rows = torch.arange(len(choices), device=logits.device)
        n_top = [choice.n_top for choice in choices]
        return read_sampled(logits, logits.log_softmax(dim=-1), rows, token_ids, shaped[rows, token_ids], n_top, self._calibrated)

    def _table_of(self, choices: list[Choice], device: torch.device) -> SamplingTable:
        """The settings of these choices; those of the last step serve again while the batch is the same."""
        if self._table is None or self._table[0] != choices:
            self._table = (choices, SamplingTable.of([choice.sampling for choice in choices], device))
        return self._table[1]

    def _accept(self, live: _Live, step: Sampled) -> bool:
        """Give the choice its token; whether it goes on."""
        event = live.choice.accept(step, self._problem(live) if math.isnan(step.logprob) else None)
        live.ticket.events.append(event)
        self._n_written += 1
        if live.choice.is_over:
            self._leave(live, forget=event.finish_reason == "error")
            return False
        live.text.token_ids.append(step.token_id)
        return True

    def _problem(self, live: _Live) -> str | None:
        place = self.runner.where_not_finite(live.text.token_ids)
        return None if place is None else f"The model's numbers stop being finite in its {place}, after {len(live.text.token_ids)} tokens."
