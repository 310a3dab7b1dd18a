"""How well a network answers held-out examples: its loss, how often it is right, and the same of one who always says the commonest.

Works for every objective whose targets are choices: classes, tags, ends of spans, hidden tokens, tokens of a target. Examples that are
corrupted get their noise from their number, so every network is judged on the same ones.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from touchstone.errors import DataError
from touchstone.evaluate.labels import accuracy
from touchstone.infer.runner import evaluating
from touchstone.models.net import LanguageNet
from touchstone.stats import Interval, bootstrap_ratio
from touchstone.text.batch import TokenBatch, permute
from touchstone.train.objective import Answering, TensorBatch
from touchstone.train.step import CorruptingSource, FixedSource, Source

__all__ = ["AnswerScore", "Commonest", "score_answers"]

_ROWS = 16  # examples of one forward pass: the scores of a vocabulary for each token of them stay within some tens of megabytes
_COUNTED = 2048  # training examples that the commonest answer is counted on
_DRAW = 0  # the key of the samples: every network is judged on the same examples


@dataclass(frozen=True, eq=False)
class AnswerScore:
    """One entry for each target that counts, in order: its example, -log P of it, what was answered and what is right."""

    rows: NDArray[np.int64]
    nats: NDArray[np.float64]
    predicted: NDArray[np.int64]
    expected: NDArray[np.int64]

    @property
    def loss(self) -> float:
        """Nats a target."""
        return float(self.nats.mean())

    def nll(self, *, level: float = 0.95) -> Interval:
        """Nats a target; the interval resamples examples."""
        totals, sizes = self._by_row(self.nats), self._by_row(np.ones_like(self.nats))
        return bootstrap_ratio(totals, sizes, level=level)

    def accuracy(self, *, level: float = 0.95) -> Interval:
        """The share of right answers: exact where examples have one target each, else resampling examples."""
        right = (self.predicted == self.expected).astype(np.float64)
        sizes = self._by_row(np.ones_like(right))
        if (sizes == 1).all():
            return accuracy(self.predicted, self.expected, level=level)
        return bootstrap_ratio(self._by_row(right), sizes, level=level)

    def _by_row(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sums over the targets of each example that has any."""
        _, places = np.unique(self.rows, return_inverse=True)
        return np.bincount(places, weights=values).astype(np.float64)


class Commonest:
    """The answer that training examples give most often, whatever is asked: the baseline beside every accuracy and loss."""

    def __init__(self, source: Source) -> None:
        """Counted on a sample where there are many examples."""
        counts: dict[int, int] = {}
        for batch in _batches(source, min(_COUNTED, source.n_examples)):
            values, n = np.unique(batch.targets[batch.counts], return_counts=True)
            for value, times in zip(values.tolist(), n.tolist(), strict=True):
                counts[value] = counts.get(value, 0) + times
        if not counts:
            raise DataError("no target of the training examples counts, so there is no commonest answer.")
        self.counts, self.total = counts, sum(counts.values())
        self.answer = max(counts, key=lambda value: (counts[value], -value))

    def accuracy(self, score: AnswerScore) -> float:
        """The share of the expected answers that are the commonest one."""
        return float((score.expected == self.answer).mean())

    def nll(self, score: AnswerScore) -> float:
        """Nats a target of the answers' frequencies, with one more of each and of one that was not seen."""
        n_kinds = len(self.counts) + 1
        seen = np.array([self.counts.get(value, 0) + 1 for value in score.expected.tolist()])
        return float(-np.log(seen / (self.total + n_kinds)).mean())


def score_answers(net: nn.Module, objective: Answering, source: Source, *, n_examples: int | None = None) -> AnswerScore:
    """Answers to examples of a source, in its order; n_examples: a sample of so many, None = all."""
    device = next(net.parameters()).device
    rows, nats, predicted, expected = [], [], [], []
    with evaluating(cast(LanguageNet, net)), torch.no_grad():
        for batch in _batches(source, min(n_examples or source.n_examples, source.n_examples)):
            on_device = TensorBatch.of(batch, device)
            scores = objective.scores(net, on_device)[on_device.counts].float()
            targets = on_device.targets[on_device.counts]
            nats.append(torch.nn.functional.cross_entropy(scores, targets, reduction="none").double().cpu().numpy())
            predicted.append(scores.argmax(-1).cpu().numpy())
            expected.append(targets.cpu().numpy())
            owners = np.broadcast_to(batch.example_ids.reshape(-1, *[1] * (batch.counts.ndim - 1)), batch.counts.shape)
            rows.append(owners[batch.counts])
    if not sum(map(len, expected)):
        raise DataError("all labels are masked: no target of the held-out examples counts.")
    return AnswerScore(np.concatenate(rows), np.concatenate(nats), np.concatenate(predicted), np.concatenate(expected))


def _batches(source: Source, n_examples: int) -> Iterator[TokenBatch]:
    """So many examples drawn from all of the source, always the same ones: files are often sorted by their answers."""
    drawn = np.sort(permute(np.arange(n_examples), source.n_examples, _DRAW))
    for start in range(0, n_examples, _ROWS):
        ids = drawn[start : start + _ROWS]
        yield cast(CorruptingSource, source).batch(ids, ids) if getattr(source, "corrupts", False) else cast(FixedSource, source).batch(ids)
