"""Generation: requests in, completions or a stream of tokens out.

Choices are decoded in waves, as many at once as fit the cache; within a wave every choice has its own settings, rules and random
numbers, a prompt is read once for all its choices, and a choice that ends leaves the batch. Every check of a request happens before
the first token of any.
"""

import secrets
from collections.abc import Collection, Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from touchstone.errors import ConfigError, NoTokenizer, TouchstoneError, Unsupported
from touchstone.infer.calibration import Calibrated
from touchstone.infer.choice import Choice, Sampled, build_rules
from touchstone.infer.request import DEFAULT_MAX_NEW_TOKENS, Completion, Request, Sampling, TokenEvent, TokenLogprob
from touchstone.infer.runner import LanguageCore, Rows, bound_of, runner_of
from touchstone.infer.sampling import SamplingTable, choose
from touchstone.infer.stop import CompletionText
from touchstone.text.tokenizer import Tokenizer

__all__ = ["Engine"]

MAX_ROWS = 32  # choices decoded together
MAX_CACHED_TOKENS = 2**15  # rows x room of one wave's cache; 124M parameters in fp32 need 2.4 GB for so many
_SEED_BITS = 53  # a drawn seed survives JSON readers that know only doubles


class Engine:
    """Generates from one model.

    defaults: for the sampling fields that a request leaves unset.
    eos_ids: tokens that end a completion.
    max_seq_len: the longest prompt and completion together; None = the model's own bound.
    """

    def __init__(
        self,
        core: LanguageCore,
        tokenizer: Tokenizer | None = None,
        *,
        eos_ids: Collection[int] = (),
        defaults: Sampling | None = None,
        max_seq_len: int | None = None,
        calibrated: Calibrated | None = None,
        max_rows: int = MAX_ROWS,
        max_cached_tokens: int = MAX_CACHED_TOKENS,
    ) -> None:
        self.tokenizer = tokenizer
        self.eos_ids = frozenset(eos_ids)
        self.defaults = defaults if defaults is not None else Sampling()
        self._runner = runner_of(core)
        self._calibrated = calibrated
        self._max_rows = max_rows
        self._max_cached_tokens = max_cached_tokens
        self.max_seq_len = bound_of(core, max_seq_len)
        self._running: set[str] = set()
        self._cancelled: set[str] = set()

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """All choices of all requests, ordered by request, then by choice."""
        finished = [event.completion for event in self.stream(requests) if event.completion is not None]
        return sorted(finished, key=lambda completion: (completion.request_index, completion.index))

    def stream(self, requests: Request | Sequence[Request]) -> Iterator[TokenEvent]:
        """Events as tokens come, the choices interleaved; the checks are done when this returns.

        Raises ConfigError, NoTokenizer or Unsupported, naming the request, before anything is generated.
        """
        requests = [requests] if isinstance(requests, Request) else list(requests)
        choices = [choice for place, request in enumerate(requests) for choice in self._choices(place, request, alone=len(requests) == 1)]
        ids = [request.id for request in requests]
        twice = sorted({id for id in ids if ids.count(id) > 1 or id in self._running})
        if twice:
            raise ConfigError(f"Request ids must differ from each other and from those still running; in use twice: {', '.join(twice)}.")
        return self._run(choices, ids)

    def cancel(self, request_id: str) -> bool:
        """End the request's choices before their next token; False if no such request is running. May be called from any thread."""
        if request_id not in self._running:
            return False
        self._cancelled.add(request_id)
        return True

    def _run(self, choices: list[Choice], ids: list[str]) -> Iterator[TokenEvent]:
        self._running.update(ids)
        try:
            waiting = choices
            with self._runner.running():
                while waiting:
                    wave, waiting = self._next_wave(waiting)
                    yield from self._run_wave(wave)
        finally:
            self._running.difference_update(ids)
            self._cancelled.difference_update(ids)

    def _next_wave(self, waiting: list[Choice]) -> tuple[list[Choice], list[Choice]]:
        """As many as fit if every row takes the room of the longest; at least one."""
        room, n_rows = 0, 0
        for choice in waiting[: self._max_rows]:
            room = max(room, choice.max_length)
            if n_rows and (n_rows + 1) * room > self._max_cached_tokens:
                break
            n_rows += 1
        return waiting[:n_rows], waiting[n_rows:]

    def _run_wave(self, choices: list[Choice]) -> Iterator[TokenEvent]:
        yield from self._end_cancelled(choices)
        alive = [choice for choice in choices if choice.finish_reason is None]
        if not alive:
            return
        rows = self._prefill(alive)
        table = SamplingTable.of([choice.sampling for choice in alive], self._runner.device)
        while True:
            token_ids, events = self._sample(rows, alive, table)
            yield from events
            yield from self._end_cancelled(alive)
            places = [place for place, choice in enumerate(alive) if choice.finish_reason is None]
            if not places:
                return
            if len(places) < len(alive):
                rows.keep(places)
                alive, token_ids = [alive[place] for place in places], [token_ids[place] for place in places]
                table = SamplingTable.of([choice.sampling for choice in alive], self._runner.device)
            rows.step(token_ids)

    def _prefill(self, choices: list[Choice]) -> Rows:
        """Each different request's prompt is read once; its choices then share the state."""
        first = {choice.request_index: choice for choice in reversed(choices)}
        order = sorted(first)
        rows = self._runner.prefill([first[request].prompt for request in order], max(choice.max_length for choice in choices))
        if len(order) < len(choices):
            rows.keep([order.index(choice.request_index) for choice in choices])
        return rows

    @torch.inference_mode()
    def _sample(self, rows: Rows, choices: list[Choice], table: SamplingTable) -> tuple[list[int], list[TokenEvent]]:
        logits = rows.logits
        shaped = logits
        if any(choice.has_rules for choice in choices):
            shaped = torch.stack([choice.shape(row) if choice.has_rules else row for choice, row in zip(choices, logits, strict=True)])
        uniforms = torch.tensor([choice.uniform() for choice in choices], dtype=_widest(logits.device), device=logits.device)
        token_ids = choose(shaped, table, uniforms)
        sampled, possible = self._read(logits, shaped, token_ids, choices)
        events = [choice.accept(step, possible=ok) for choice, step, ok in zip(choices, sampled, possible, strict=True)]
        return [step.token_id for step in sampled], events

    def _read(
        self, logits: Float[Tensor, "B V"], shaped: Float[Tensor, "B V"], token_ids: Int[Tensor, " B"], choices: list[Choice]
    ) -> tuple[list[Sampled], list[bool]]:
        """Everything that leaves the device in this step, in one copy."""
        index = token_ids[:, None]
        logprobs = logits.log_softmax(dim=-1)  # (B, V)
        columns = [index, logprobs.gather(1, index), shaped.gather(1, index)]
        if self._calibrated:
            columns.append(self._calibrated.probability(logits, token_ids)[:, None])
        n_best = min(max((choice.n_top or 0 for choice in choices), default=0), logits.shape[-1])
        if n_best:
            best = logprobs.topk(n_best, dim=-1)
            columns += [best.indices, best.values]
        table = torch.cat([column.to(_widest(logits.device)) for column in columns], dim=1).tolist()
        n_fixed = 4 if self._calibrated else 3
        sampled = []
        for choice, row in zip(choices, table, strict=True):
            token_id, logprob = int(row[0]), row[1]
            top = _top(choice.n_top, token_id, logprob, row[n_fixed : n_fixed + n_best], row[n_fixed + n_best :])
            sampled.append(Sampled(token_id, logprob, top, row[3] if self._calibrated else None))
        return sampled, [abs(row[2]) < float("inf") for row in table]  # NaN compares false too

    def _end_cancelled(self, choices: list[Choice]) -> Iterator[TokenEvent]:
        for choice in choices:
            if choice.finish_reason is None and choice.request.id in self._cancelled:
                yield choice.end("cancelled")

    def _choices(self, place: int, request: Request, *, alone: bool) -> list[Choice]:
        try:
            return self._checked_choices(place, request)
        except TouchstoneError as error:
            raise type(error)(str(error) if alone else f"Request {place}: {error}") from None

    def _checked_choices(self, place: int, request: Request) -> list[Choice]:
        sampling = request.sampling.over(self.defaults)
        if (sampling.num_beams or 1) > 1:
            raise Unsupported(f"Beam search (`num_beams` {sampling.num_beams}) is not built yet; sample `n` choices or use temperature=0.")
        if sampling.stop and self.tokenizer is None:
            raise NoTokenizer("`stop` strings need a tokenizer, and this model has none; use token ids and `max_new_tokens`.")
        prompt = self._prompt(request)
        room = self._room(prompt)
        wanted = sampling.max_new_tokens or DEFAULT_MAX_NEW_TOKENS
        seed = sampling.seed if sampling.seed is not None else secrets.randbits(_SEED_BITS)
        settled = sampling.model_copy(update={"seed": seed, "max_new_tokens": wanted if room is None else min(wanted, room)})
        return [self._choice(request, settled, prompt, (place, index)) for index in range(sampling.n or 1)]

    def _choice(self, request: Request, sampling: Sampling, prompt: tuple[int, ...], place: tuple[int, int]) -> Choice:
        rules = build_rules(request, sampling, prompt, self.eos_ids, self._runner.vocab_size, self._runner.device)
        text = CompletionText(self.tokenizer, prompt, sampling.stop or (), sampling.min_new_tokens or 0) if self.tokenizer else None
        label = (self._calibrated.method, self._calibrated.target) if self._calibrated else None
        return Choice(request, sampling, prompt, place, rules, text, self.eos_ids, label)

    def _prompt(self, request: Request) -> tuple[int, ...]:
        if not isinstance(request.prompt, str):
            prompt = tuple(request.prompt)
        elif self.tokenizer is None:
            raise NoTokenizer("This model has no tokenizer, so a text `prompt` cannot be read; give token ids.")
        else:
            prompt = tuple(self.tokenizer.encode(request.prompt))
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


def _top(
    n_top: int | None, token_id: int, logprob: float, best_ids: list[float], best_logprobs: list[float]
) -> tuple[TokenLogprob, ...] | None:
    """The n_top likeliest, and the sampled token if it is not among them."""
    if n_top is None:
        return None
    best = [TokenLogprob(int(id), value) for id, value in zip(best_ids[:n_top], best_logprobs, strict=False)]
    if all(entry.token_id != token_id for entry in best):
        best.append(TokenLogprob(token_id, logprob))
    return tuple(best)


def _widest(device: torch.device) -> torch.dtype:
    """The type in which ids and log-probabilities leave the device together; mps has no fp64, and fp32 holds ids to 2^24."""
    return torch.float32 if device.type == "mps" else torch.float64
