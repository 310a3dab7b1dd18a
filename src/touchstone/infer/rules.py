"""Sampling rules: what changes one choice's logits before the draw, and remembers what was drawn.

A rule belongs to one choice of one request. `apply` may look at what was accepted; `rollback` takes accepted tokens back
(speculation and preemption need it). Rules are applied in the order of `build_rules`, before temperature and truncation.
Sources: Keskar et al. 2019 (CTRL) §4.1 (repetition penalty, with Hugging Face's treatment of negative logits); OpenAI API
reference, "Frequency and presence penalties".
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["FrequencyPenalty", "LogitBias", "MinNewTokens", "RepetitionPenalty", "Rule"]


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
