"""Speculative decoding: guesses at the next tokens, checked together in one step of the model.

A guess is either what followed the same words earlier in the text (prompt lookup), or what a smaller model would write. The model then
draws every token from its own distribution with the random number of its step, whether it was guessed or not; a right guess means that
the next one is already known. So the tokens are those that would have come without guessing, for any sampling settings. The smaller
model draws with the same random numbers, which makes its guesses right more often.
Guessing costs time too, and is switched off by itself where it does not pay: both ways are timed in turns.
Sources: Leviathan et al. 2023 and Chen et al. 2023 (draft and verify); Saxena 2023 (prompt lookup); drawing both with common random
numbers is the coupling of Daliri et al. 2025.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from touchstone.errors import ConfigError
from touchstone.infer.blocks import BlockPool, Table
from touchstone.infer.choice import Choice
from touchstone.infer.packed import PackedDecoder
from touchstone.infer.sampled import widest
from touchstone.infer.sampling import SamplingTable, choose
from touchstone.infer.scheduler import Part, Text
from touchstone.models.transformer import Decoder

__all__ = ["DraftModel", "Drafter", "Payoff", "PromptLookup"]


class Drafter(Protocol):
    """Guesses the next tokens of texts."""

    n_drafts: int

    def propose(self, texts: Sequence[tuple[Text, Choice]]) -> None:
        """Set `drafts` of each text, to n_drafts tokens at most; none where there is no guess."""
        ...

    def forget(self, text: Text) -> None:
        """The text is over."""
        ...


class PromptLookup:
    """Guesses that a text goes on as it did after the same tokens before.

    The longest ending of the text, of min_match to max_match tokens, that has come before counts; the last time it came decides.
    """

    def __init__(self, n_drafts: int = 6, *, min_match: int = 2, max_match: int = 4) -> None:
        self.n_drafts = n_drafts
        self._sizes = range(max_match, min_match - 1, -1)
        self._seen: dict[int, tuple[dict[tuple[int, ...], int], int]] = {}  # by the text's number: where a run of tokens ended, up to where

    def propose(self, texts: Sequence[tuple[Text, Choice]]) -> None:
        for text, _ in texts:
            tokens = text.token_ids
            ends, n_known = self._seen.get(text.number, ({}, 0))
            for end in range(n_known + 1, len(tokens)):  # an ending is looked up before it is noted, so that it does not find itself
                for size in self._sizes:
                    if end >= size:
                        ends[tuple(tokens[end - size : end])] = end
            self._seen[text.number] = ends, len(tokens) - 1
            found = (ends.get(tuple(tokens[len(tokens) - size :])) for size in self._sizes if len(tokens) > size)
            place = next((end for end in found if end is not None), None)
            text.drafts = [] if place is None else tokens[place : place + self.n_drafts]

    def forget(self, text: Text) -> None:
        self._seen.pop(text.number, None)


class DraftModel:
    """Guesses what a smaller model would write.

    It reads each text for itself, into a cache of its own of max_cached_tokens; texts that do not fit get no guesses.
    Raises ConfigError if its vocabulary is not that of the model it guesses for.
    """

    def __init__(self, net: Decoder, vocab_size: int, n_drafts: int = 4, *, max_cached_tokens: int = 2**15, block_size: int = 16) -> None:
        if net.spec.vocab_size != vocab_size:
            raise ConfigError(f"The draft model has {net.spec.vocab_size} tokens and the model {vocab_size}; they must be the same tokens.")
        self.n_drafts = n_drafts
        self._max_length = net.spec.max_seq_len
        self._pool = BlockPool(-(-max_cached_tokens // block_size), block_size)
        self._runner = PackedDecoder(net, self._pool)
        self._mirrors: dict[int, Text] = {}

    @torch.inference_mode()
    def propose(self, texts: Sequence[tuple[Text, Choice]]) -> None:
        for text, _ in texts:
            text.drafts = []
        going = [(text, choice, mirror) for text, choice in texts if (mirror := self._caught_up(text)) is not None]
        if not going:
            return
        device = self._runner.net.embed.weight.device
        table = SamplingTable.of([choice.sampling for _, choice, _ in going], device)
        with self._runner.running():
            for n_ahead in range(self.n_drafts):
                logits = self._runner.step([_rest(mirror) for _, _, mirror in going])
                numbers = [choice.uniform(n_ahead) for _, choice, _ in going]
                uniforms = torch.tensor(numbers, dtype=widest(device), device=device)
                for (text, _, mirror), token_id in zip(going, choose(logits, table, uniforms).tolist(), strict=True):
                    mirror.n_computed = len(mirror.token_ids)
                    mirror.token_ids.append(token_id)
                    text.drafts.append(token_id)

    def forget(self, text: Text) -> None:
        mirror = self._mirrors.pop(text.number, None)
        if mirror is not None and mirror.table is not None:
            self._pool.close(mirror.table)

    def _caught_up(self, text: Text) -> Text | None:
        """The text as the draft model has read it, what was guessed wrong taken back; None if there is no room for it."""
        length = len(text.token_ids) + self.n_drafts
        if self._max_length is not None and length > self._max_length:
            return None
        mirror = self._mirrors.get(text.number)
        if mirror is None:
            mirror = self._mirrors[text.number] = Text([], text.max_length, table=Table(None))
        assert mirror.table is not None
        n_same = max(0, mirror.n_computed - self.n_drafts)  # only guesses can be wrong
        while n_same < mirror.n_computed and mirror.token_ids[n_same] == text.token_ids[n_same]:
            n_same += 1
        mirror.n_computed = min(n_same, len(text.token_ids) - 1)
        mirror.token_ids = list(text.token_ids)
        return mirror if self._pool.grow(mirror.table, length) else None


def _rest(mirror: Text) -> Part:
    return Part(mirror, mirror.n_computed, len(mirror.token_ids), 0, is_last=True)


@dataclass
class _Window:
    n_steps: int = 0
    n_tokens: float = 0.0  # a text
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        return self.n_tokens / self.seconds if self.seconds else 0.0


class Payoff:
    """Whether guessing pays, found out by timing some steps with it and some without.

    A text's tokens a second are compared, over n_steps steps each way. The better way is kept for n_kept steps, then both are timed
    again; each time that guessing loses again, it is left alone twice as long.
    """

    def __init__(self, *, n_steps: int = 12, n_kept: int = 240, least_gain: float = 1.03, clock: Callable[[], float] = time.perf_counter):
        self._n_steps = n_steps
        self._n_kept = self._n_left_alone = n_kept
        self._least_gain = least_gain
        self._clock = clock
        self._windows = {True: _Window(), False: _Window()}
        self._n_settled = 0  # steps that the last comparison still holds for
        self._started = 0.0
        self.gain: float | None = None  # tokens a second with guesses over those without, when last compared
        self.pays = True

    @property
    def says(self) -> str:
        """In a sentence."""
        if self.gain is None:
            return "Guessing was not timed yet."
        verdict = "it is used" if self.pays else "it is switched off"
        return f"Guessing gave {self.gain:.2f} times the tokens a second when last timed: {verdict}."

    def begin(self) -> bool:
        """A step begins; whether it is to guess."""
        self._started = self._clock()
        if self._n_settled:
            return self.pays
        return self._windows[False].n_steps >= self._n_steps  # first without, then with

    def end(self, guessed: bool, n_tokens: int, n_texts: int) -> None:
        """The step that began last is over, and brought n_tokens to n_texts."""
        if self._n_settled:
            self._n_settled -= 1
            return
        window = self._windows[guessed]
        window.n_steps += 1
        window.n_tokens += n_tokens / n_texts
        window.seconds += self._clock() - self._started
        if all(window.n_steps >= self._n_steps for window in self._windows.values()):
            self._settle()

    def _settle(self) -> None:
        with_guesses, without = self._windows[True].rate, self._windows[False].rate
        self.gain = with_guesses / without if without else 1.0
        self.pays = self.gain >= self._least_gain
        self._n_settled = self._n_kept if self.pays else self._n_left_alone
        self._n_left_alone = self._n_kept if self.pays else self._n_left_alone * 2
        self._windows = {True: _Window(), False: _Window()}
