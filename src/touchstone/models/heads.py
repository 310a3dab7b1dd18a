"""What turns hidden states into answers. Here: scores over the vocabulary, with a weight of its own or the token table's."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from touchstone.models.spec import LmHead
from touchstone.nn.products import Multiplying

__all__ = ["TiedHead", "UntiedHead", "build_head"]


class TiedHead(Multiplying, nn.Module):
    """scale · h E^T + b, with E the token table."""

    def __init__(self, spec: LmHead, vocab_size: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(vocab_size)) if spec.bias else None
        self.scale = spec.scale

    def forward(self, hidden: Float[Tensor, "... D"], table: Float[Tensor, "V D"]) -> Float[Tensor, "... V"]:
        return self.product(hidden if self.scale == 1.0 else hidden * self.scale, table, self.bias)


class UntiedHead(TiedHead):
    """scale · h W^T + b, with W trained."""

    def __init__(self, spec: LmHead, d_hidden: int, vocab_size: int) -> None:
        super().__init__(spec, vocab_size)
        self.weight = nn.Parameter(torch.empty(vocab_size, d_hidden))

    def forward(self, hidden: Float[Tensor, "... D"], table: Float[Tensor, "V _"]) -> Float[Tensor, "... V"]:
        return super().forward(hidden, self.weight)


def build_head(spec: LmHead, d_hidden: int, vocab_size: int) -> TiedHead:
    """The module for a spec."""
    return TiedHead(spec, vocab_size) if spec.tied else UntiedHead(spec, d_hidden, vocab_size)
