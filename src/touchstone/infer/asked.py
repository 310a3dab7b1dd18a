"""A request that was checked: its prompt as tokens, its settings settled, and the rules and text that its choices begin with."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from touchstone.errors import ConfigError
from touchstone.infer.request import Request, Sampling
from touchstone.infer.rules import (
    BannedRuns,
    BannedTokens,
    ForcedTokens,
    FrequencyPenalty,
    LogitBias,
    MinNewTokens,
    NoRepeatedRuns,
    RepetitionPenalty,
    Rule,
)
from touchstone.infer.stop import CompletionText
from touchstone.text.tokenizer import Tokenizer

__all__ = ["Asked", "build_rules"]


@dataclass(frozen=True)
class Asked:
    """A request ready to be decoded.

    index: which request of the call. sampling: defaults filled in, seed and max_new_tokens set.
    start: what the decoder begins with while the prompt is its source; None = it goes on from the prompt.
    """

    request: Request
    index: int
    sampling: Sampling
    prompt: tuple[int, ...]
    start: tuple[int, ...] | None
    eos_ids: frozenset[int]

    @property
    def before(self) -> tuple[int, ...]:
        """What the decoder reads before its first new token."""
        return self.prompt if self.start is None else self.start

    @property
    def end_ids(self) -> frozenset[int]:
        """The tokens that end a completion of this request."""
        return frozenset() if self.sampling.ignore_eos else self.eos_ids

    @property
    def max_new_tokens(self) -> int:
        assert self.sampling.max_new_tokens is not None
        return self.sampling.max_new_tokens

    @property
    def max_length(self) -> int:
        """Tokens at most that the decoder reads and writes."""
        return len(self.before) + self.max_new_tokens

    @property
    def n_cached(self) -> int:
        """Tokens at most that a cache holds of it, those of a source included."""
        return self.max_length + (0 if self.start is None else len(self.prompt))

    @property
    def seed(self) -> int:
        assert self.sampling.seed is not None
        return self.sampling.seed

    def text(self, tokenizer: Tokenizer) -> CompletionText:
        """The text of one choice, still empty; a translator may write with a vocabulary of its own."""
        before, writes = (self.prompt, tokenizer) if self.start is None else ((), tokenizer.target or tokenizer)
        return CompletionText(writes, before, self.sampling.stop or (), self.sampling.min_new_tokens or 0)


def build_rules(asked: Asked, vocab_size: int, device: torch.device) -> list[Rule]:
    """The rules of one choice in the order they are applied, which is Hugging Face's; the caller's constraint comes last.

    Raises ConfigError if a setting names a token that does not exist.
    """
    sampling, before, eos_ids = asked.sampling, asked.before, asked.eos_ids
    _check_tokens(sampling, vocab_size)
    rules: list[Rule] = []
    if sampling.logit_bias:
        rules.append(LogitBias(sampling.logit_bias, device))
    if sampling.repetition_penalty is not None and sampling.repetition_penalty != 1.0:
        rules.append(RepetitionPenalty(sampling.repetition_penalty, before, vocab_size, device))
    frequency, presence = sampling.frequency_penalty or 0.0, sampling.presence_penalty or 0.0
    if frequency or presence:
        rules.append(FrequencyPenalty(frequency, presence, vocab_size, device))
    if sampling.no_repeat_ngram_size:
        rules.append(NoRepeatedRuns(sampling.no_repeat_ngram_size, before))
    if runs := [run for run in sampling.bad_words_ids or () if len(run) > 1 or run[0] not in eos_ids]:  # an end token alone stays allowed
        rules.append(BannedRuns(runs, before))
    if sampling.min_new_tokens and asked.end_ids:
        rules.append(MinNewTokens(sampling.min_new_tokens, asked.end_ids, device))
    rules += _placed_rules(sampling, len(before), device)
    if sampling.constraint is not None:
        rules.append(sampling.constraint(asked.request))
    return rules


def _placed_rules(sampling: Sampling, n_before: int, device: torch.device) -> Iterator[Rule]:
    """What forces or bans tokens at a place, or everywhere."""
    assert sampling.max_new_tokens is not None
    starts = bool(sampling.forced_bos_ids) and n_before == 1
    if sampling.forced_bos_ids and starts:
        yield ForcedTokens(sampling.forced_bos_ids, 0, device)
    if sampling.forced_eos_ids:
        yield ForcedTokens(sampling.forced_eos_ids, sampling.max_new_tokens - 1, device)
    if sampling.suppress_tokens:
        yield BannedTokens(sampling.suppress_tokens, device)
    if sampling.begin_suppress_tokens:
        yield BannedTokens(sampling.begin_suppress_tokens, device, at=1 if starts else 0)


def _check_tokens(sampling: Sampling, vocab_size: int) -> None:
    named = {
        "logit_bias": sampling.logit_bias or (),
        "bad_words_ids": [token for run in sampling.bad_words_ids or () for token in run],
        "suppress_tokens": sampling.suppress_tokens or (),
        "begin_suppress_tokens": sampling.begin_suppress_tokens or (),
        "forced_bos_ids": sampling.forced_bos_ids or (),
        "forced_eos_ids": sampling.forced_eos_ids or (),
    }
    beyond = [f"`{name}` names token {max(tokens)}" for name, tokens in named.items() if tokens and max(tokens) >= vocab_size]
    if beyond:
        raise ConfigError(f"{' and '.join(beyond)}; the model's tokens are 0 to {vocab_size - 1}.")
