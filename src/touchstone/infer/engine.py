"""Generation: requests in, completions or a stream of tokens out. Every check of a request happens before the first token of any.

The choices of a decoder run in one continuous batch, which requests join and leave between steps. Other models, and beam searches, are
decoded in waves, as many choices or beams at once as fit the cache. Either way each has its own settings, rules and random numbers, and a
prompt is read once for all of its request.
"""

import secrets
from collections.abc import Collection, Iterator, Sequence
from itertools import accumulate

import torch

from touchstone.errors import ConfigError, NoTokenizer, TouchstoneError, Unsupported
from touchstone.infer.asked import Asked, build_rules
from touchstone.infer.batching import ContinuousBatch, Ticket
from touchstone.infer.blocks import BlockPool
from touchstone.infer.calibration import Calibrated
from touchstone.infer.choice import Choice
from touchstone.infer.packed import PackedDecoder
from touchstone.infer.packed_body import can_pack
from touchstone.infer.request import DEFAULT_MAX_NEW_TOKENS, Completion, Request, Sampling, TokenEvent
from touchstone.infer.rules import Rule
from touchstone.infer.runner import LanguageCore, Rows, bound_of, runner_of
from touchstone.infer.sampled import read_sampled, widest
from touchstone.infer.sampling import SamplingTable, choose
from touchstone.infer.scheduler import Limits
from touchstone.infer.search import Search
from touchstone.infer.speculative import Drafter
from touchstone.infer.tiled import TILE
from touchstone.models.transformer import Decoder
from touchstone.text.tokenizer import Tokenizer

__all__ = ["Engine"]

MAX_ROWS = 64  # choices or beams decoded together, unless one search has more beams
MAX_CACHED_TOKENS = 2**15  # 124M parameters in fp32 need 2.4 GB for so many
BLOCK_SIZE = 16  # tokens of a block of the continuous batch's cache
_SEED_BITS = 53  # a drawn seed survives JSON readers that know only doubles


class Engine:
    """Generates from one model.

    defaults: for the sampling fields that a request leaves unset.
    eos_ids: tokens that end a completion.
    max_seq_len: the longest prompt and completion together; None = the model's own bound. Of an encoder-decoder, the longest completion.
    decoder_start_id: what the decoder of an encoder-decoder begins with; a model without an encoder has no use for it.
    max_rows: choices or beams that are decoded together. max_cached_tokens: tokens whose keys and values are held at once, those of
        finished prompts included; None = MAX_CACHED_TOKENS, or the model's context if that is more.
    limits: how many tokens a step of the continuous batch computes. prefix_cache: whether a prompt that begins like an earlier one of
        the same salt takes over what was computed. drafter: guesses tokens ahead (see `speculative`).
    invariant: what a request gets is the same to the last bit whatever runs beside it; the network must be `steady`. Waves then hold one
        choice or search each.
    """

    def __init__(
        self,
        core: LanguageCore,
        tokenizer: Tokenizer | None = None,
        *,
        eos_ids: Collection[int] = (),
        defaults: Sampling | None = None,
        max_seq_len: int | None = None,
        decoder_start_id: int | None = None,
        calibrated: Calibrated | None = None,
        max_rows: int = MAX_ROWS,
        max_cached_tokens: int | None = None,
        limits: Limits | None = None,
        prefix_cache: bool = True,
        drafter: Drafter | None = None,
        invariant: bool = False,
    ) -> None:
        self.tokenizer = tokenizer
        self.eos_ids = frozenset(eos_ids)
        self.defaults = defaults if defaults is not None else Sampling()
        self._runner = runner_of(core, decoder_start_id=decoder_start_id)
        self._calibrated = calibrated
        self._max_rows = 1 if invariant else max_rows
        self.max_seq_len = bound_of(core, max_seq_len)
        self._max_cached_tokens = max_cached_tokens or max(MAX_CACHED_TOKENS, self.max_seq_len or 0)
        self._running: set[str] = set()
        self._cancelled: set[str] = set()
        self.batch: ContinuousBatch | None = None
        if isinstance(core, Decoder) and can_pack(core):
            size = TILE if invariant else BLOCK_SIZE
            self.batch = ContinuousBatch(
                PackedDecoder(core, BlockPool(-(-self._max_cached_tokens // size), size), invariant=invariant),
                limits or Limits(max_texts=max_rows),
                is_cancelled=self._cancelled.__contains__,
                calibrated=calibrated,
                shares_prefixes=prefix_cache,
                drafter=drafter,
            )
        elif drafter is not None:
            raise Unsupported("Only a decoder that runs in a continuous batch can check guesses: this model decodes in waves.")

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """All choices of all requests, ordered by request, then by choice."""
        finished = [event.completion for event in self.stream(requests) if event.completion is not None]
        return sorted(finished, key=lambda completion: (completion.request_index, completion.index))

    def stream(self, requests: Request | Sequence[Request]) -> Iterator[TokenEvent]:
        """Events as tokens come, the choices interleaved; the checks are done when this returns.

        A beam search's events come together when it is over, best completion first.
        Raises ConfigError, NoTokenizer or Unsupported, naming the request, before anything is generated.
        """
        requests = [requests] if isinstance(requests, Request) else list(requests)
        jobs = self._all_jobs(requests)
        ids = [request.id for request in requests]
        twice = sorted({id for id in ids if ids.count(id) > 1 or id in self._running})
        if twice:
            raise ConfigError(f"Request ids must differ from each other and from those still running; in use twice: {', '.join(twice)}.")
        return self._run(jobs, ids)

    def join(self, requests: Sequence[Request]) -> Ticket:
        """Put requests into the continuous batch, for one who drives its steps (`batch.step`, `batch.leave`); the checks are those of
        `stream`. Raises Unsupported for a model that decodes in waves, and for beams.
        """
        jobs = self._all_jobs(requests)
        choices = [job for job in jobs if isinstance(job, Choice)]
        if self.batch is None or len(choices) < len(jobs):
            raise Unsupported("Only the choices of a decoder without beams run in the continuous batch; use `stream`.")
        return self.batch.join(choices)

    def cancel(self, request_id: str) -> bool:
        """End the request's choices before their next token; False if no such request is running. May be called from any thread."""
        if request_id not in self._running:
            return False
        self._cancelled.add(request_id)
        return True

    def _run(self, waiting: list[Choice | Search], ids: list[str]) -> Iterator[TokenEvent]:
        self._running.update(ids)
        try:
            if self.batch is not None:
                yield from self.batch.stream([job for job in waiting if isinstance(job, Choice)])
                waiting = [job for job in waiting if not isinstance(job, Choice)]
            with self._runner.running():
                while waiting:
                    wave, waiting = self._next_wave(waiting)
                    yield from self._end_cancelled(wave)
                    yield from self._run_choices([job for job in wave if isinstance(job, Choice) and not job.is_over])
                    yield from self._run_searches([job for job in wave if isinstance(job, Search) and not job.is_over])
        finally:
            self._running.difference_update(ids)
            self._cancelled.difference_update(ids)

    def _next_wave(self, waiting: list[Choice | Search]) -> tuple[list[Choice | Search], list[Choice | Search]]:
        """Choices or searches, as many as fit if every row takes the room of the longest; at least one."""
        room, n_rows, n_jobs = 0, 0, 0
        for job in waiting:
            room, n_rows = max(room, job.asked.n_cached), n_rows + job.n_rows
            fits = n_rows <= self._max_rows and n_rows * room <= self._max_cached_tokens
            if n_jobs and not (fits and type(job) is type(waiting[0])):
                break
            n_jobs += 1
        return waiting[:n_jobs], waiting[n_jobs:]

    def _run_choices(self, alive: list[Choice]) -> Iterator[TokenEvent]:
        if not alive:
            return
        rows = self._prefill(alive)
        table = SamplingTable.of([choice.sampling for choice in alive], self._runner.device)
        while True:
            token_ids, events = self._sample(rows, alive, table)
            yield from events
            yield from self._end_cancelled(alive)
            places = [place for place, choice in enumerate(alive) if not choice.is_over]
            if not places:
                return
            if len(places) < len(alive):
                rows.keep(places)
                alive, token_ids = [alive[place] for place in places], [token_ids[place] for place in places]
                table = SamplingTable.of([choice.sampling for choice in alive], self._runner.device)
            rows.step(token_ids)

    def _prefill(self, choices: list[Choice]) -> Rows:
        """Each different request's prompt is read once; its choices then share the state."""
        first = {choice.asked.index: choice.asked for choice in reversed(choices)}
        order = sorted(first)
        rows = self._runner.prefill([first[index].prompt for index in order], max(asked.max_length for asked in first.values()))
        if len(order) < len(choices):
            rows.keep([order.index(choice.asked.index) for choice in choices])
        return rows

    def _run_searches(self, alive: list[Search]) -> Iterator[TokenEvent]:
        if not alive:
            return
        rows = self._runner.prefill([search.asked.prompt for search in alive], max(search.asked.max_length for search in alive))
        while True:
            first_rows = list(accumulate((search.n_alive for search in alive), initial=0))
            self._advance(rows, alive, first_rows)
            for search in alive:
                if search.is_over:
                    yield from search.events()
            going = [(search, first) for search, first in zip(alive, first_rows, strict=False) if not search.is_over]
            yield from self._end_cancelled([search for search, _ in going])
            going = [(search, first) for search, first in going if not search.is_over]
            if not going:
                return
            parents = [first + parent for search, first in going for parent in search.parents]
            if parents != list(range(first_rows[-1])):
                rows.keep(parents)
            alive = [search for search, _ in going]
            rows.step([token_id for search in alive for token_id in search.last_tokens])

    @torch.inference_mode()
    def _advance(self, rows: Rows, searches: list[Search], first_rows: list[int]) -> None:
        """One step of every search. first_rows: where the beams of each begin among the rows, and the number of all."""
        logits = rows.logits
        logprobs = logits.log_softmax(dim=-1)  # (B, V)
        found = [search.candidates(logprobs[first : first + search.n_alive]) for search, first in zip(searches, first_rows, strict=False)]
        sampled = read_sampled(
            logits,
            logprobs,
            torch.cat([candidates.beams + first for candidates, first in zip(found, first_rows, strict=False)]),
            torch.cat([candidates.token_ids for candidates in found]),
            torch.cat([candidates.scores for candidates in found]),
            [search.n_top for search, candidates in zip(searches, found, strict=True) for _ in range(len(candidates.beams))],
            self._calibrated,
        )
        steps = iter(sampled)
        for search, candidates in zip(searches, found, strict=True):
            beams = candidates.beams.tolist()
            search.advance(beams, [next(steps) for _ in beams])

    @torch.inference_mode()
    def _sample(self, rows: Rows, choices: list[Choice], table: SamplingTable) -> tuple[list[int], list[TokenEvent]]:
        logits = rows.logits
        shaped = logits
        if any(choice.has_rules for choice in choices):
            shaped = torch.stack([choice.shape(row) if choice.has_rules else row for choice, row in zip(choices, logits, strict=True)])
        uniforms = torch.tensor([choice.uniform() for choice in choices], dtype=widest(logits.device), device=logits.device)
        token_ids = choose(shaped, table, uniforms)
        rows_of = torch.arange(len(choices), device=logits.device)
        scores = shaped[rows_of, token_ids]
        n_top = [choice.n_top for choice in choices]
        sampled = read_sampled(logits, logits.log_softmax(dim=-1), rows_of, token_ids, scores, n_top, self._calibrated)
        events = [choice.accept(step) for choice, step in zip(choices, sampled, strict=True)]
        return [step.token_id for step in sampled], events

    def _end_cancelled(self, jobs: Sequence[Choice | Search]) -> Iterator[TokenEvent]:
        for job in jobs:
            if not job.is_over and job.asked.request.id in self._cancelled:
                yield from job.cancel()

    def _all_jobs(self, requests: Sequence[Request]) -> list[Choice | Search]:
        return [job for place, request in enumerate(requests) for job in self._jobs(place, request, alone=len(requests) == 1)]

    def _jobs(self, place: int, request: Request, *, alone: bool) -> Sequence[Choice] | Sequence[Search]:
        try:
            return self._checked_jobs(self._asked(place, request))
        except TouchstoneError as error:
            raise type(error)(str(error) if alone else f"Request {place}: {error}") from None

    def _asked(self, place: int, request: Request) -> Asked:
        sampling = request.sampling.over(self.defaults)
        if sampling.stop and self.tokenizer is None:
            raise NoTokenizer("`stop` strings need a tokenizer, and this model has none; use token ids and `max_new_tokens`.")
        prompt, start = self._prompt(request), self._runner.start
        room = self._room(prompt) if start is None else self._target_room(len(prompt), len(start))
        wanted = sampling.max_new_tokens or DEFAULT_MAX_NEW_TOKENS
        seed = sampling.seed if sampling.seed is not None else secrets.randbits(_SEED_BITS)
        settled = sampling.model_copy(update={"seed": seed, "max_new_tokens": wanted if room is None else min(wanted, room)})
        asked = Asked(request, place, settled, prompt, start, self.eos_ids | request.end_ids)
        if self.batch is not None:
            self.batch.scheduler.check_fits(asked.max_length)
        return asked

    def _checked_jobs(self, asked: Asked) -> Sequence[Choice] | Sequence[Search]:
        n, beams = asked.sampling.n or 1, (asked.sampling.num_beams or 1) > 1
        label = (self._calibrated.method, self._calibrated.target) if self._calibrated else None

        def choice(index: int) -> Choice:
            text = asked.text(self.tokenizer) if self.tokenizer else None
            return Choice(asked, index, () if beams else self._rules(asked), text, label)

        def beam_rules() -> list[Rule]:
            stops = [asked.text(self.tokenizer)] if self.tokenizer and asked.sampling.stop else []
            return [*self._rules(asked), *stops]

        choices = [choice(index) for index in range(n)]
        return [Search(asked, choices, beam_rules)] if beams else choices

    def _rules(self, asked: Asked) -> list[Rule]:
        return build_rules(asked, self._runner.vocab_size, self._runner.device)

    def _prompt(self, request: Request) -> tuple[int, ...]:
        if not isinstance(request.prompt, str):
            prompt = tuple(request.prompt)
        elif self.tokenizer is None:
            raise NoTokenizer("This model has no tokenizer, so a text `prompt` cannot be read; give token ids.")
        elif self._runner.start is None:
            prompt = (*self.tokenizer.prefix_ids, *self.tokenizer.encode(request.prompt))
        else:
            prompt = self.tokenizer.encode_special(request.prompt).token_ids
        if not prompt:
            raise ConfigError("`prompt` is empty; give at least one token, for example the model's beginning-of-text id.")
        wrong = next((token for token in prompt if not 0 <= token < self._runner.vocab_size), None)
        if wrong is not None:
            raise ConfigError(f"`prompt` holds token {wrong}; the model's tokens are 0 to {self._runner.vocab_size - 1}.")
        return prompt

    def _room(self, prompt: tuple[int, ...]) -> int | None:
        """How many tokens may follow; None = any number."""
        if self.max_seq_len is None:
            return None
        if len(prompt) >= self.max_seq_len:
            raise ConfigError(
                f"The prompt has {len(prompt)} tokens and the context holds {self.max_seq_len}, at least one of them new;"
                f" shorten it to {self.max_seq_len - 1} or fewer."
            )
        return self.max_seq_len - len(prompt)

    def _target_room(self, n_source: int, n_start: int) -> int | None:
        """How many tokens may come after a decoder's start, the prompt being its source; None = any number."""
        bound = self._runner.max_source_len
        if bound is not None and n_source > bound:
            raise ConfigError(f"The prompt has {n_source} tokens and the encoder reads {bound}; shorten it.")
        if self.max_seq_len is not None and self.max_seq_len <= n_start:
            raise ConfigError(f"`max_seq_len` ({self.max_seq_len}) leaves no room after the {n_start} tokens that the decoder starts from.")
        return None if self.max_seq_len is None else self.max_seq_len - n_start
