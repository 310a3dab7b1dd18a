"""The token table: one trained vector a token."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["TokenTable"]


class TokenTable(nn.Module):
    """Looks up token vectors, times a fixed scale."""

    def __init__(self, vocab_size: int, d_model: int, scale: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, d_model))
        self.scale = scale

    def forward(self, token_ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        vectors = F.embedding(token_ids, self.weight)
        return vectors if self.scale == 1.0 else vectors * self.scale

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, {self.weight.shape[1]}"
