"""Training objectives: what is summed over the targets of a batch, and how many there were.

An objective never divides. The trainer adds the totals of all micro-batches and divides the gradient once, by the count of the whole
batch; so accumulation equals the big batch however ragged the rows are.
The head and the loss are taken in one go: in chunks of rows they were 0.94 to 1.04 times as fast in whole training steps, no gain. While
training, the loss overwrites the logits (cross_entropy.py); under torch.compile, which fuses it, and without gradients it is the formula.
Sources: Szegedy et al. 2016 §7 (label smoothing); Chowdhery et al. 2022 §5 (z-loss).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from touchstone.errors import ConfigError, ShapeError
from touchstone.nn.dropout import Noise
from touchstone.text.batch import TokenBatch
from touchstone.train.cross_entropy import overwriting_nll

__all__ = ["Answering", "Causal", "LossSum", "Objective", "TensorBatch", "spent_nll", "token_nll", "with_balance"]

_UNCOUNTED = -100  # the target that torch's cross entropy leaves out
_OPTIONAL = ("mask", "segments", "token_types", "source_ids", "source_mask")  # fields of a batch that may be None


@dataclass(frozen=True)
class LossSum:
    """A loss that was summed and not yet divided."""

    total: Float[Tensor, ""]  # what is minimised
    count: Int[Tensor, ""]  # targets it was summed over
    unit: str = "nats per token"  # of total / count
    parts: dict[str, Float[Tensor, ""]] = field(default_factory=dict)  # sums for the log, detached; "nll" is always the plain one


@dataclass(frozen=True)
class TensorBatch:
    """A TokenBatch on the device of the network; the fields mean the same."""

    token_ids: Int[Tensor, "B T"]
    targets: Int[Tensor, "B ..."]
    counts: Bool[Tensor, "B ..."]
    mask: Bool[Tensor, "B T"] | None = None
    segments: Int[Tensor, "B T"] | None = None
    token_types: Int[Tensor, "B T"] | None = None
    source_ids: Int[Tensor, "B S"] | None = None
    source_mask: Bool[Tensor, "B S"] | None = None

    @classmethod
    def of(cls, batch: TokenBatch, device: torch.device | str = "cpu") -> "TensorBatch":
        """The batch as tensors."""

        def tensor(array: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)

        optional = {name: getattr(batch, name) for name in _OPTIONAL}
        return cls(
            tensor(batch.token_ids),
            tensor(batch.targets),
            tensor(batch.counts),
            **{name: None if array is None else tensor(array) for name, array in optional.items()},
        )


class Objective(Protocol):
    """What the trainer minimises; `additive`: the sum over a batch is the sum over any parts it is cut into.

    Random numbers come from `noise` or torch's generators, which a resumed run continues; not from NumPy's.
    """

    additive: bool

    def __call__(self, net: nn.Module, batch: TensorBatch, noise: Noise | None) -> LossSum:
        """The loss of a batch; `noise` keys the dropout masks by example."""

    def settings(self) -> dict[str, object]:
        """Plain data that changes when the objective does; a run is not resumed with another."""


class Answering(Objective, Protocol):
    """An objective whose targets are choices, so that it can be judged by how often the right one is made."""

    def scores(self, net: nn.Module, batch: TensorBatch) -> Tensor:
        """Scores of all answers, on the last axis, for each target; without noise."""


class Causal:
    """Predict every next token.

    label_smoothing: share of the target's mass spread evenly over the vocabulary. z_loss: factor on log(Z)^2, which keeps the
    logits' scale from drifting; 1e-4 in PaLM.
    """

    additive = True

    def __init__(self, label_smoothing: float = 0.0, z_loss: float = 0.0) -> None:
        if not (0 <= label_smoothing < 1 and z_loss >= 0):
            raise ConfigError(f"`label_smoothing` ({label_smoothing}) must be from 0 to below 1, `z_loss` ({z_loss}) at least 0.")
        self.label_smoothing, self.z_loss = label_smoothing, z_loss

    def __call__(self, net: nn.Module, batch: TensorBatch, noise: Noise | None) -> LossSum:
        """The summed loss of the batch's targets that count."""
        output = net(batch.token_ids, mask=batch.mask, segments=batch.segments, noise=noise)
        return with_balance(spent_nll(output.logits, batch.targets, batch.counts, self.label_smoothing, self.z_loss), output.aux)

    def settings(self) -> dict[str, object]:
        """Plain data that changes when the objective does."""
        return {"kind": "causal", "label_smoothing": self.label_smoothing, "z_loss": self.z_loss}


def token_nll(
    logits: Float[Tensor, "*B V"], targets: Int[Tensor, "*B"], counts: Bool[Tensor, "*B"], label_smoothing: float = 0.0
) -> LossSum:
    """Negative log-likelihood of the targets, summed over those that count.

    counts: True where a target is scored; padding is False.
    Returns the total in nats and the number of targets; the caller divides, so shards and accumulation add up exactly.
    Raises ShapeError if nothing counts: a mean over zero tokens is a silent NaN.
    """
    if not bool(counts.any()):
        raise ShapeError(f"No target of this batch of {counts.numel()} counts; give `counts` at least one True.")
    return _sum_nll(logits, targets, counts, label_smoothing, 0.0)


def spent_nll(
    logits: Float[Tensor, "*B V"], targets: Int[Tensor, "*B"], counts: Bool[Tensor, "*B"], label_smoothing: float = 0.0, z_loss: float = 0.0
) -> LossSum:
    """The loss of a training step: `token_nll` with z-loss, the logits spent on it, and a count that may be 0."""
    if not logits.requires_grad or torch.compiler.is_compiling():
        return _sum_nll(logits, targets, counts, label_smoothing, z_loss)
    rows = logits.reshape(-1, logits.shape[-1])
    total, nll = overwriting_nll(rows, targets.reshape(-1), counts.reshape(-1), label_smoothing, z_loss)
    return LossSum(total, counts.sum(), parts={"nll": nll})


def with_balance(loss: LossSum, aux: Mapping[str, Tensor]) -> LossSum:
    """The loss with the terms of a network with experts, which are means: each counts once for each target.

    They are no sums over examples, so a step with them is never cut into micro-batches (step.GradientMaker).
    """
    total, parts = loss.total, dict(loss.parts)
    for name, term in aux.items():
        counted = term * loss.count
        total, parts[name] = total + counted, counted.detach()
    return replace(loss, total=total, parts=parts)


def _sum_nll(logits: Tensor, targets: Tensor, counts: Tensor, label_smoothing: float, z_loss: float) -> LossSum:
    """(1 - s) nll + s mean_v(-log p_v) + z log(Z)^2 over the counted targets, in float32 at least."""
    flat = logits.reshape(-1, logits.shape[-1]).to(torch.promote_types(logits.dtype, torch.float32))
    wanted = targets.masked_fill(~counts, _UNCOUNTED).reshape(-1)
    count = counts.sum()
    if label_smoothing:
        log_p = F.log_softmax(flat, dim=-1)
        nll = F.nll_loss(log_p, wanted, ignore_index=_UNCOUNTED, reduction="sum")
        spread = -(log_p.mean(-1) * counts.reshape(-1)).sum()
        total = (1.0 - label_smoothing) * nll + label_smoothing * spread
    else:
        total = nll = F.cross_entropy(flat, wanted, ignore_index=_UNCOUNTED, reduction="sum")
    if z_loss:
        total = total + z_loss * (flat.logsumexp(-1).square() * counts.reshape(-1)).sum()
    return LossSum(total, count, parts={"nll": nll.detach()})
