"""Closed answers: how a model's belief divides over the answers that may be given, and nothing else.

P(answer | legal answers) counts what the model writes up to the end of the longest legal answer that it has written, so an answer that
another begins with ("good", "good enough") does not count the other's share as its own, and the shares add up to one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from touchstone.errors import ConfigError
from touchstone.infer.request import Confidence
from touchstone.infer.score import LogLikelihood

__all__ = ["AnswerSet", "shares_of"]


@dataclass(frozen=True, slots=True)
class AnswerSet:
    """The legal answers to one question, in the order given.

    logprobs: log P(answer | context) in nats, each answer alone. shares: log P(answer | legal answers), exp of which adds up to one.
    n_tokens, n_bytes: of each answer; n_bytes is None where answers were given as token ids. n_truncated: tokens of the context left out.
    confidence: the calibrated probability of each answer; None where no calibration holds, and `confidence_reason` then says why.
    """

    answers: tuple[str | tuple[int, ...], ...]
    logprobs: tuple[float, ...]
    shares: tuple[float, ...]
    n_tokens: tuple[int, ...]
    n_bytes: tuple[int, ...] | None
    n_truncated: int
    confidence: Confidence | None = None
    confidence_reason: str | None = None

    @property
    def best(self) -> int:
        """The number of the likeliest answer, by the calibrated probabilities where there are any; the first of equals."""
        values = self.shares if self.confidence is None else self.confidence.value
        return max(range(len(values)), key=values.__getitem__)

    @property
    def probabilities(self) -> Float64[np.ndarray, " K"]:
        """P(answer | legal answers)."""
        return np.exp(np.array(self.shares))

    @classmethod
    def of(cls, answers: Sequence[str | Sequence[int]], whole: Sequence[Sequence[int]], found: Sequence[LogLikelihood]) -> "AnswerSet":
        """From the likelihood of each answer. whole: context and answer as token ids."""
        texts = [answer for answer in answers if isinstance(answer, str)]
        return cls(
            answers=tuple(answer if isinstance(answer, str) else tuple(answer) for answer in answers),
            logprobs=tuple(each.logprob for each in found),
            shares=shares_of([each.logprob for each in found], whole),
            n_tokens=tuple(len(each.token_logprobs) for each in found),
            n_bytes=tuple(len(text.encode()) for text in texts) if len(texts) == len(answers) else None,
            n_truncated=max(each.n_truncated for each in found),
        )


def shares_of(logprobs: Sequence[float], whole: Sequence[Sequence[int]]) -> tuple[float, ...]:
    """log P(answer | legal answers) from log P of each alone; whole: the tokens of each, behind the same context.

    Raises ConfigError where two answers are the same tokens.
    """
    rows = [tuple(tokens) for tokens in whole]
    numbers = {row: number for number, row in enumerate(rows)}
    if len(numbers) < len(rows):
        twice = next(number for number, row in enumerate(rows) if numbers[row] != number)
        raise ConfigError(f"Answers {twice} and {numbers[rows[twice]]} are the same tokens; leave one out.")
    taken = [0.0] * len(rows)  # what the next longer answers have of each one's probability
    lengths = sorted({len(row) for row in rows}, reverse=True)
    for number, row in enumerate(rows):
        beginning = next((numbers[row[:n]] for n in lengths if n < len(row) and row[:n] in numbers), None)
        if beginning is not None:
            taken[beginning] += math.exp(min(0.0, logprobs[number] - logprobs[beginning]))
    alone = [logprob + math.log1p(-share) if share < 1 else -math.inf for logprob, share in zip(logprobs, taken, strict=True)]
    most = max(alone)
    total = most + math.log(sum(math.exp(each - most) for each in alone))
    return tuple(each - total for each in alone)
