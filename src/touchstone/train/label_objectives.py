"""Objectives whose answers are labels: a class for each text, a tag for each word, the two ends of a span.

Beside the loss they sum the answers that were right, which is the accuracy once the trainer has divided.
"""

import torch
from torch import Tensor, nn

from touchstone.errors import ConfigError, ShapeError
from touchstone.nn.dropout import Noise
from touchstone.train.objective import LossSum, TensorBatch, spent_nll, with_balance

__all__ = ["Classify", "Span", "Tag"]


class _Labels:
    """One choice among the last axis of the logits for each target."""

    additive = True
    kind: str
    unit: str

    def __init__(self, label_smoothing: float = 0.0) -> None:
        if not 0 <= label_smoothing < 1:
            raise ConfigError(f"`label_smoothing` ({label_smoothing}) must be from 0 to below 1.")
        self.label_smoothing = label_smoothing

    def __call__(self, net: nn.Module, batch: TensorBatch, noise: Noise | None) -> LossSum:
        """The summed loss of the batch's targets that count."""
        output = net(batch.token_ids, mask=batch.mask, token_types=batch.token_types, noise=noise)
        logits = self.choices(output.logits, batch)
        if logits.shape[:-1] != batch.targets.shape:
            raise ShapeError(
                f"`{self.kind}` has targets {tuple(batch.targets.shape)}, the network gives {tuple(output.logits.shape)};"
                " give the model the head of this objective."
            )
        right = ((logits.detach().argmax(-1) == batch.targets) & batch.counts).sum().float()
        loss = spent_nll(logits, batch.targets, batch.counts, self.label_smoothing)
        return with_balance(LossSum(loss.total, loss.count, self.unit, {**loss.parts, "accuracy": right}), output.aux)

    def scores(self, net: nn.Module, batch: TensorBatch) -> Tensor:
        """Scores of all answers, on the last axis, for each target."""
        return self.choices(net(batch.token_ids, mask=batch.mask, token_types=batch.token_types).logits, batch)

    def choices(self, logits: Tensor, batch: TensorBatch) -> Tensor:
        """The scores that each target is chosen by, on the last axis, from the network's."""
        return logits

    def settings(self) -> dict[str, object]:
        """Plain data that changes when the objective does."""
        return {"kind": self.kind, "label_smoothing": self.label_smoothing}


class Classify(_Labels):
    """Give each text its class, from logits (B, n_labels)."""

    kind, unit = "classify", "nats per text"


class Tag(_Labels):
    """Give each word its tag, from logits (B, T, n_labels)."""

    kind, unit = "tag", "nats per word"


class Span(_Labels):
    """Find the first and the last token of the answer, from logits (B, T, 2); padding is no place for one."""

    kind, unit = "span", "nats per end"

    def __init__(self) -> None:
        super().__init__(0.0)  # smoothing would spread over padding, where no answer may be

    def choices(self, logits: Tensor, batch: TensorBatch) -> Tensor:
        """Scores of all places, (B, 2, T)."""
        ends = logits.transpose(1, 2)
        return ends if batch.mask is None else ends.masked_fill(~batch.mask[:, None, :], torch.finfo(ends.dtype).min)
