"""The training loss of a batch of logits, which turns the logits into their own gradient where they lie.

A row of logits is as wide as the vocabulary, so for a small model the loss moves more memory than the body. Written out, log-softmax,
its gradient and a tensor of zeros take three more buffers of the logits' size; here the forward pass ends with the gradient in the
logits' place, and the backward pass hands it on. With p the softmax, Z its normaliser, s the label smoothing, z the z-loss factor:
    total = (1 - s) nll + s mean_v(-log p_v) + z log(Z)^2        d total / d logits = (1 + 2 z log Z) p - (1 - s) onehot - s / V
The plain formula is objective.token_nll, against which this is tested.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["overwriting_nll"]

_CACHED = 2**17  # logits a core, 512 KiB in fp32


def overwriting_nll(
    logits: Float[Tensor, "N V"], targets: Int[Tensor, " N"], counts: Bool[Tensor, " N"], label_smoothing: float, z_loss: float
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The loss to minimise and the plain negative log-likelihood, each summed over the targets that count.

    Logits of fp32 and more are overwritten: nobody may read them afterwards, and autograd refuses a network whose own backward pass
    would. The loss can be differentiated once.
    """
    total, nll = _OverwritingNll.apply(logits, targets, counts, label_smoothing, z_loss)
    return total, nll


class _OverwritingNll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, counts: Tensor, label_smoothing: float, z_loss: float) -> tuple[Tensor, Tensor]:
        x = logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
        row = targets.masked_fill(~counts, 0)[:, None]
        total, nll = torch.empty_like(x[:, 0]), torch.empty_like(x[:, 0])
        n = _rows_at_once(x)
        for start in range(0, len(x), n):
            rows = slice(start, start + n)
            total[rows], nll[rows] = _overwrite(x[rows], row[rows], counts[rows], label_smoothing, z_loss)
        ctx.gradient, ctx.dtype = x, logits.dtype
        sums = total.sum(), nll.sum()
        ctx.mark_non_differentiable(sums[1])
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_total: Tensor, _to_nll: Tensor) -> tuple[Tensor, None, None, None, None]:
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            raise RuntimeError("The gradient of this loss has been handed on already; compute the loss again.")
        return gradient.mul_(to_total).to(ctx.dtype), None, None, None, None


def _rows_at_once(x: Tensor) -> int:
    """On a CPU as many rows as its cores' caches hold: they are passed over several times."""
    if x.device.type != "cpu":
        return max(1, len(x))
    return max(1, _CACHED * torch.get_num_threads() // x.shape[1])


def _overwrite(
    x: Float[Tensor, "n V"], row: Int[Tensor, "n 1"], counts: Bool[Tensor, " n"], label_smoothing: float, z_loss: float
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Logits become their gradient; returned are the loss and the plain negative log-likelihood of each row."""
    peak = x.amax(-1, keepdim=True)
    x.sub_(peak)
    at_target, on_average = x.gather(1, row)[:, 0], x.mean(-1) if label_smoothing else None
    mass = x.exp_().sum(-1, keepdim=True)
    log_mass, counted = mass.log(), counts[:, None].to(x.dtype)
    log_z = peak + log_mass
    nll = (log_mass[:, 0] - at_target) * counts
    total = nll
    if on_average is not None:
        total = (1.0 - label_smoothing) * nll + label_smoothing * (log_mass[:, 0] - on_average) * counts
    if z_loss:
        total = total + z_loss * log_z[:, 0].square() * counts
    x.mul_((1.0 + 2.0 * z_loss * log_z) * counted / mass)
    if label_smoothing:
        x.sub_(counted * (label_smoothing / x.shape[-1]))
    x.scatter_add_(1, row, (label_smoothing - 1.0) * counted)
    return total, nll
