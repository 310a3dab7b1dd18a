"""Sampling rules: what changes one choice's logits before the draw, and remembers what was drawn.

A rule belongs to one choice of one request, or to one beam, whose logits are log-probabilities. `apply` may look at what was
accepted; `rollback` takes accepted tokens back (beam search, speculation and preemption need it). Rules are applied in the order of
`build_rules`, before temperature and truncation. A prompt is what the decoder reads before its first new token.
Sources: Keskar et al. 2019 (CTRL) §4.1 (repetition penalty, with Hugging Face's treatment of negative logits); OpenAI API
reference, "Frequency and presence penalties"; Paulus et al. 2017, §2.5 (no repeated n-grams).
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = [
    "BannedRuns",
    "BannedTokens",
    "ForcedTokens",
    "FrequencyPenalty",
    "LogitBias",
    "MinNewTokens",
    "NoRepeatedRuns",
    "RepetitionPenalty",
    "Rule",
]


class Rule(Protocol):
    """One choice's part in choosing its next token."""

    @property
    def must_stop(self) -> bool:
        """Whether the completion ends with the token accepted last."""
        ...

    def apply(self, logits: Float[Tensor, " V"]) -> Float[Tensor, " V"]:
        """The changed logits; the argument is left as it was. -inf bans a token."""
        ...

    def accept(self, token_id: int) -> None: ...

    def rollback(self, n: int) -> None:
        """Forget the last n accepted tokens."""
        ...


class LogitBias:
    """Adds a constant to the logits of the named tokens."""

    must_stop = False

    def __init__(self, biases: Mapping[int, float], device: torch.device) -> None:
        self._token_ids = torch.tensor(list(biases), dtype=torch.long, device=device)
        self._values = torch.tensor(list(biases.values()), device=device)

    def apply(self, logits: Float[Tensor, " V"]) -> Float[Tensor, " V"]:
        return logits.index_add(0, self._token_ids, self._values.to(logits.dtype))

    def accept(self, token_id: int) -> None:
        pass

    def rollback(self, n: int) -> None:
        pass


class RepetitionPenalty:
    """Divides positive and multiplies negative logits of every token seen in prompt or completion."""

    must_stop = False

    def __init__(self, penalty: float, prompt: Sequence[int], vocab_size: int, device: torch.device) -> None:
        self._penalty = penalty
        self._counts = _Counts(vocab_size, device)
        self._counts.add_all(prompt)

    def apply(self, logits: Float[Tensor, " V"]) -> Float[Tensor, " V"]:
        penalised = torch.where(logits < 0, logits * self._penalty, logits / self._penalty)
        return torch.where(self._counts.tensor > 0, penalised, logits)

    def accept(self, token_id: int) -> None:
        self._counts.add(token_id)

    def rollback(self, n: int) -> None:
        self._counts.take_back(n)


class FrequencyPenalty:
    """logit - frequency · count - presence · [count > 0], over the tokens of the completion."""

    must_stop = False

    def __init__(self, frequency: float, presence: float, vocab_size: int, device: torch.device) -> None:
        self._frequency = frequency
        self._presence = presence
        self._counts = _Counts(vocab_size, device)

    def apply(self, logits: Float[Tensor, " V"]) -> Float[Tensor, " V"]:
        counts = self._counts.tensor
        return logits - self._frequency * counts - self._presence * (counts > 0)

    def accept(self, token_id: int) -> None:
        self._counts.add(token_id)

    def rollback(self, n: int) -> None:
        self._counts.take_back(n)


class MinNewTokens:
    """Bans the end tokens until enough tokens were accepted."""

    must_stop = False

    def __init__(self, minimum: int, eos_ids: Collection[int], device: torch.device) -> None:
        self._minimum = minimum
        self._eos_ids = torch.tensor(sorted(eos_ids), dtype=torch.long, device=device)
        self._n_accepted = 0

    def apply(self, logits: Float[Tensor, " V"]) -> Float[Tensor, " V"]:
        if self._n_accepted >= self._minimum:
            return logits
        return logits.index_fill(0, self._eos_ids, -torch.inf)

    def accept(self, token_id: int) -> None:
        self._n_accepted += 1

    def rollback(self, n: int) -> None:
        self._n_accepted -= n


class NoRepeatedRuns:
    """Bans each token that would repeat a run of `size` tokens of prompt and completion."""

    must_stop = False

    def __init__(self, size: int, prompt: Sequence[int]) -> None:
        self._size = size
        self._tokens: list[int] = []
        self._next: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)  # a run without its last token -> what came last
        for token_id in prompt:
            self.accept(token_id)

    def apply(self, logits: Float[Tensor, " V"]) -> Float[Tensor, " V"]:
        return _banned(logits, self._next.get(self._end(), ()))

    def accept(self, token_id: int) -> None:
        if len(self._tokens) >= self._size - 1:
            self._next[self._end()].append(token_id)
        self._tokens.append(token_id)

    def rollback(self, n: int) -> None:
        for _ in range(n):
            self._tokens.pop()
            if len(self._tokens) >= self._size - 1:
                self._next[self._end()].pop()

    def _end(self) -> tuple[int, ...]:
        """The last `size` - 1 tokens."""
        return tuple(self._tokens[len(self._tokens) - self._size + 1 :]) if self._size > 1 else ()


class BannedRuns:
    """Bans each token that would complete one of the runs, in prompt and completion together; a run of one token is never there."""

    must_stop = False

    def __init__(self, runs: Collection[tuple[int, ...]], prompt: Sequence[int]) -> None:
        self._runs = [(run[:-1], run[-1]) for run in runs]
        self._tokens = list(prompt)

    def apply(self, logits: Float[Tensor, " V"]) -> Float[Tensor, " V"]:
        return _banned(logits, [last for begin, last in self._runs if self._ends_with(begin)])

    def accept(self, token_id: int) -> None:
        self._tokens.append(token_id)

    def rollback(self, n: int) -> None:
        del self._tokens[len(self._tokens) - n :]

    def _ends_with(self, begin: tuple[int, ...]) -> bool:
        return len(begin) <= len(self._tokens) and tuple(self._tokens[len(self._tokens) - len(begin) :]) == begin


class BannedTokens:
    """Bans tokens at every place, or at one alone. at: how many tokens were accepted before that place; None = every place."""

    must_stop = False

    def __init__(self, token_ids: Collection[int], device: torch.device, at: int | None = None) -> None:
        self._token_ids = torch.tensor(sorted(token_ids), dtype=torch.long, device=device)
        self._at = at
        self._n_accepted = 0

    def apply(self, logits: Float[Tensor, " V"]) -> Float[Tensor, " V"]:
        return logits.index_fill(0, self._token_ids, -torch.inf) if self._at in (None, self._n_accepted) else logits

    def accept(self, token_id: int) -> None:
        self._n_accepted += 1

    def rollback(self, n: int) -> None:
        self._n_accepted -= n


class ForcedTokens:
    """Allows these tokens alone, with logit 0, at one place. at: how many tokens were accepted before it."""

    must_stop = False

    def __init__(self, token_ids: Collection[int], at: int, device: torch.device) -> None:
        self._token_ids = torch.tensor(sorted(token_ids), dtype=torch.long, device=device)
        self._at = at
        self._n_accepted = 0

    def apply(self, logits: Float[Tensor, " V"]) -> Float[Tensor, " V"]:
        if self._n_accepted != self._at:
            return logits
        return torch.full_like(logits, -torch.inf).index_fill(0, self._token_ids, 0.0)

    def accept(self, token_id: int) -> None:
        self._n_accepted += 1

    def rollback(self, n: int) -> None:
        self._n_accepted -= n


def _banned(logits: Float[Tensor, " V"], token_ids: Collection[int]) -> Float[Tensor, " V"]:
    if not token_ids:
        return logits
    return logits.index_fill(0, torch.tensor(list(token_ids), dtype=torch.long, device=logits.device), -torch.inf)


class _Counts:
    """How often each token was seen, with the order in which the accepted ones came."""

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self.tensor = torch.zeros(vocab_size, device=device)
        self._accepted: list[int] = []

    def add_all(self, token_ids: Sequence[int]) -> None:
        ids = torch.tensor(list(token_ids), dtype=torch.long, device=self.tensor.device)
        self.tensor += torch.bincount(ids, minlength=len(self.tensor))

    def add(self, token_id: int) -> None:
        self._accepted.append(token_id)
        self.tensor[token_id] += 1

    def take_back(self, n: int) -> None:
        for _ in range(n):
            self.tensor[self._accepted.pop()] -= 1
