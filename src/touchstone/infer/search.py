"""Beam search: the likeliest whole completions of a request, found by growing several beams side by side.

Hugging Face's search. A beam's score is the sum of its tokens' scores, which are log-probabilities after the rules; a finished one is
ranked by it over its length to the power of `length_penalty`. Each step looks at `num_beams` times (1 + number of end tokens)
candidates, at least twice as many as beams, so that enough go on if all the best end. With a temperature, candidates are drawn in
proportion to their beams' probabilities, none twice, instead of ranked. One difference: where there are fewer continuations than
beams, as under a grammar, there are fewer beams for a while; Hugging Face fills up with copies of score -1e9.
Sources: transformers 5 `GenerationMixin._beam_search`; Vijayakumar et al. 2018, §2 (the plain search); Wu et al. 2016, §7 (length).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from touchstone.infer.asked import Asked
from touchstone.infer.choice import NOT_FINITE, Choice, Failure, apply_rules, failure
from touchstone.infer.request import FinishReason, TokenEvent
from touchstone.infer.rules import Rule
from touchstone.infer.sampled import Sampled, widest
from touchstone.infer.sampling import SamplingTable, Uniforms, keep_min_p, keep_top_k, keep_top_p, scale

__all__ = ["Candidates", "Search", "draw_distinct"]


@dataclass(frozen=True)
class Candidates:
    """Continuations of a search's beams, best (or first drawn) first: which beam, the token, and the score of both."""

    beams: Int[Tensor, " K"]
    token_ids: Int[Tensor, " K"]
    scores: Float[Tensor, " K"]


class Search:
    """The beam search of one request, a step at a time; it knows no network.

    choices: what the completions will be told as, best first.
    new_rules: makes the rules of one beam, stop strings among them.
    """

    def __init__(self, asked: Asked, choices: Sequence[Choice], new_rules: Callable[[], Sequence[Rule]]) -> None:
        sampling = asked.sampling
        self.asked = asked
        self.n_rows = sampling.num_beams or 1
        self.is_over = False
        self._choices = choices
        self._new_rules = new_rules
        self._tracks = [_Track(new_rules())]  # one a beam, in their order
        self._can_stop = bool(sampling.stop) or sampling.constraint is not None
        self._draws = bool(sampling.temperature)
        self._n_kept = max(2, 1 + len(asked.end_ids))  # candidates a beam; no truncation leaves fewer tokens
        self._uniforms = Uniforms(asked.seed, 0)
        self._beams = [_Beam((), 0.0)]  # best first
        self._parents = [0]
        self._finished: list[_Finished] = []  # best first
        self._length = 0
        self._error: Failure | None = None

    @property
    def n_alive(self) -> int:
        """How many beams there are now, each a row of the batch."""
        return len(self._beams)

    @property
    def n_top(self) -> int | None:
        return self.asked.sampling.top_logprobs

    @property
    def parents(self) -> list[int]:
        """For each beam, the number its beginning had one step ago."""
        return self._parents

    @property
    def last_tokens(self) -> list[int]:
        """The newest token of each beam."""
        return [beam.steps[-1].token_id for beam in self._beams]

    def candidates(self, logprobs: Float[Tensor, "B V"]) -> Candidates:
        """What may come next, from the model's log-probabilities after each beam."""
        so_far = torch.tensor([beam.score for beam in self._beams], dtype=logprobs.dtype, device=logprobs.device)
        scores = self._scores(logprobs)
        n_wanted, vocab_size = min(self._n_kept * self.n_rows, scores.numel()), logprobs.shape[-1]
        if not self._draws:  # the best of all are among the best of each beam, and beams are looked through side by side
            best = scores.topk(min(n_wanted, vocab_size), dim=-1)
            totals, index = (best.values + so_far[:, None]).flatten().topk(n_wanted)
            return Candidates(index // best.indices.shape[1], best.indices.flatten()[index], totals)
        totals = (scores + so_far[:, None]).flatten()
        first = self._length * self._n_kept * self.n_rows
        weights = totals.to(widest(totals.device)).softmax(dim=-1)
        index = draw_distinct(weights, [self._uniforms.at(first + place) for place in range(n_wanted)])
        used_up = torch.arange(n_wanted, device=index.device) >= (weights > 0).sum()
        scores = totals[index].masked_fill(used_up, -torch.inf)
        return Candidates(index // vocab_size, index % vocab_size, scores)

    def advance(self, beams: Sequence[int], steps: Sequence[Sampled]) -> None:
        """Take in the candidates, each as the beam it continues and the token; the beams are then the next ones, none if it is over."""
        self._length += 1
        if self._error is None:
            try:
                self._grow([(beam, step) for beam, step in zip(beams, steps, strict=True) if math.isfinite(step.score)])
            except Exception as error:  # a constraint is foreign code; its failure must not end the neighbours in the batch
                self._error = failure(error)
        if self._error is not None or not self._goes_on():
            self._end()

    def events(self) -> Iterator[TokenEvent]:
        """The completions found, token by token, best first."""
        n_found = len(self._finished) if self._error is None else 0
        problem = self._error or (Failure(NOT_FINITE) if not n_found else Failure(self._too_few(), "request"))
        for place, choice in enumerate(self._choices):
            if place < n_found:
                found = self._finished[place]
                yield from choice.replay(found.steps, found.reason, found.score)
            else:
                yield choice.end("error", problem)

    def cancel(self) -> Iterator[TokenEvent]:
        """End without a completion; a search knows none before it is over."""
        self._end()
        return (event for choice in self._choices for event in choice.cancel())

    def _scores(self, logprobs: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        """What each token adds to its beam."""
        scores = logprobs
        if any(track.rules for track in self._tracks):
            try:
                scores = torch.stack([apply_rules(track.rules, row) for track, row in zip(self._tracks, logprobs, strict=True)])
            except Exception as error:  # as in `advance`
                self._error = failure(error)
        if self._draws:
            scores = self._truncated(scores)
        return scores.log_softmax(dim=-1) if self.asked.sampling.renormalize_logits else scores

    def _truncated(self, scores: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        """Temperature, top-k, top-p and min-p; the likeliest tokens stay, so that an end token is never the only one."""
        sampling = self.asked.sampling
        if sampling.top_k:
            sampling = sampling.model_copy(update={"top_k": max(sampling.top_k, self._n_kept)})
        table = SamplingTable.of([sampling] * len(scores), scores.device)
        scaled = scale(scores, table.temperature)
        kept = keep_top_k(scaled, table.top_k, table.max_top_k) if table.max_top_k else scaled
        kept = keep_min_p(keep_top_p(kept, table.tail), table.min_p)
        best = scaled.topk(min(self._n_kept, scaled.shape[-1]), dim=-1)
        return kept.scatter(1, best.indices, best.values)

    def _grow(self, candidates: Sequence[tuple[int, Sampled]]) -> None:
        going: list[tuple[int, _Beam]] = []
        ended: list[_Finished] = []
        for place, (parent, step) in enumerate(candidates):
            reason = self._reason(parent, step.token_id)
            steps = (*self._beams[parent].steps, step)
            if reason is None:
                going.append((parent, _Beam(steps, step.score)))
            elif place < self.n_rows:  # the rest of the candidates only stand in for these
                ended.append(_Finished(steps, self._ranked(step.score, self._length), reason))
        going = sorted(going, key=lambda entry: -entry[1].score)[: self.n_rows]
        self._finished = sorted([*self._finished, *ended], key=lambda found: -found.score)[: self.n_rows]
        self._parents, self._beams = [parent for parent, _ in going], [beam for _, beam in going]
        self._follow()

    def _reason(self, beam: int, token_id: int) -> FinishReason | None:
        if token_id in self.asked.end_ids or (self._can_stop and self._tracks[beam].would_stop(token_id)):
            return "stop"
        return "length" if self._length == self.asked.max_new_tokens else None

    def _goes_on(self) -> bool:
        """Whether a beam can still be better than the worst that finished."""
        if not self._beams:
            return False
        if len(self._finished) < self.n_rows:
            return True
        early = self.asked.sampling.early_stopping
        if early is True:
            return False
        length = self.asked.max_new_tokens if early == "never" and self._length_penalty > 0 else self._length
        return self._ranked(self._beams[0].score, length) > self._finished[-1].score

    @property
    def _length_penalty(self) -> float:
        penalty = self.asked.sampling.length_penalty
        return 1.0 if penalty is None else penalty

    def _ranked(self, score: float, length: int) -> float:
        return score / float(length) ** self._length_penalty

    def _follow(self) -> None:
        """Bring the rules to the new beams: each goes on with its parent's where it can, else with some that are free or new."""
        free = dict(enumerate(self._tracks))
        tracks = [free.pop(parent, None) for parent in self._parents]
        spare = list(free.values())
        self._tracks = [track or (spare.pop() if spare else _Track(self._new_rules())) for track in tracks]
        for track, beam in zip(self._tracks, self._beams, strict=True):
            track.move_to([step.token_id for step in beam.steps])

    def _end(self) -> None:
        self.is_over = True
        self._beams, self._parents, self._tracks = [], [], []

    def _too_few(self) -> str:
        n_found, n_asked = len(self._finished), len(self._choices)
        return f"The search found {n_found} completions where `n` asks for {n_asked}; there are no more, or `num_beams` is too small."


def draw_distinct(weights: Float[Tensor, " N"], uniforms: Sequence[float]) -> Int[Tensor, " K"]:
    """A place for each uniform number from [0, 1): drawn in proportion to its weight, which is then 0.

    What is drawn after the last weight above 0 means nothing.
    """
    weights = weights.clone()
    drawn = []
    for uniform in uniforms:
        cumulative = weights.cumsum(dim=0)
        total = cumulative[-1:]
        target = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
        place = torch.searchsorted(cumulative, target, right=True).clamp(max=len(weights) - 1)
        weights[place] = 0.0
        drawn.append(place)
    return torch.cat(drawn)


@dataclass(frozen=True)
class _Beam:
    """A completion that goes on. score: the sum over its tokens."""

    steps: tuple[Sampled, ...]
    score: float


@dataclass(frozen=True)
class _Finished:
    """A whole completion. score: what it is ranked by."""

    steps: tuple[Sampled, ...]
    score: float
    reason: FinishReason


class _Track:
    """The rules of one beam and the tokens they have accepted."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = rules
        self._accepted: list[int] = []

    def move_to(self, token_ids: list[int]) -> None:
        """Be as if these tokens, and no others, had been accepted."""
        if not self.rules:
            return
        n_same = next((n for n, pair in enumerate(zip(self._accepted, token_ids, strict=False)) if pair[0] != pair[1]), None)
        n_same = min(len(self._accepted), len(token_ids)) if n_same is None else n_same
        if n_same < len(self._accepted):
            self._roll_back(len(self._accepted) - n_same)
        for token_id in token_ids[n_same:]:
            self._accept(token_id)

    def would_stop(self, token_id: int) -> bool:
        """Whether a rule ends the completion with this token."""
        self._accept(token_id)
        stops = any(rule.must_stop for rule in self.rules)
        self._roll_back(1)
        return stops

    def _accept(self, token_id: int) -> None:
        for rule in self.rules:
            rule.accept(token_id)
        self._accepted.append(token_id)

    def _roll_back(self, n: int) -> None:
        for rule in self.rules:
            rule.rollback(n)
        del self._accepted[len(self._accepted) - n :]
