"""Objectives over the tokens of a text that is hidden or translated: masked LM, and sequence to sequence.

Span corruption and denoising are sequence to sequence; what differs is the source of their examples (text.corrupted).
"""

from typing import cast

from torch import Tensor, nn

from touchstone.errors import ConfigError
from touchstone.models.net import LanguageNet
from touchstone.nn.dropout import Noise
from touchstone.train.objective import LossSum, TensorBatch, spent_nll, with_balance

__all__ = ["MaskedLm", "Seq2Seq"]


class MaskedLm:
    """Restore the tokens that were hidden; the others are not scored, and no scores are made for them."""

    additive = True

    def __call__(self, net: nn.Module, batch: TensorBatch, noise: Noise | None) -> LossSum:
        """The summed loss of the hidden tokens of the batch."""
        body = cast(LanguageNet, net).body(
            batch.token_ids, mask=batch.mask, segments=batch.segments, token_types=batch.token_types, noise=noise
        )
        logits = cast(LanguageNet, net).head(body.hidden[batch.counts])  # (N, V)
        loss = spent_nll(logits, batch.targets[batch.counts], batch.counts[batch.counts])
        return with_balance(loss, body.aux)

    def scores(self, net: nn.Module, batch: TensorBatch) -> Tensor:
        """Scores of all tokens, on the last axis, for each target."""
        return net(batch.token_ids, mask=batch.mask, segments=batch.segments, token_types=batch.token_types).logits

    def settings(self) -> dict[str, object]:
        """Plain data that changes when the objective does."""
        return {"kind": "masked-lm"}


class Seq2Seq:
    """Write the target of a source, each token after those before it. label_smoothing: as in Causal; 0.1 in Vaswani et al. 2017 §5.4."""

    additive = True

    def __init__(self, label_smoothing: float = 0.0) -> None:
        if not 0 <= label_smoothing < 1:
            raise ConfigError(f"`label_smoothing` ({label_smoothing}) must be from 0 to below 1.")
        self.label_smoothing = label_smoothing

    def __call__(self, net: nn.Module, batch: TensorBatch, noise: Noise | None) -> LossSum:
        """The summed loss of the batch's targets that count."""
        output = net(batch.token_ids, mask=batch.mask, source_ids=batch.source_ids, source_mask=batch.source_mask, noise=noise)
        return with_balance(spent_nll(output.logits, batch.targets, batch.counts, self.label_smoothing), output.aux)

    def scores(self, net: nn.Module, batch: TensorBatch) -> Tensor:
        """Scores of all tokens, on the last axis, for each target."""
        return net(batch.token_ids, mask=batch.mask, source_ids=batch.source_ids, source_mask=batch.source_mask).logits

    def settings(self) -> dict[str, object]:
        """Plain data that changes when the objective does."""
        return {"kind": "seq2seq", "label_smoothing": self.label_smoothing}
