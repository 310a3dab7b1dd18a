"""The token table: one trained vector a token, and one a kind of token where there are kinds."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from touchstone.errors import ShapeError

__all__ = ["TokenTable"]


class TokenTable(nn.Module):
    """Looks up token vectors, times a fixed scale; `token_types` are added afterwards."""

    def __init__(self, vocab_size: int, d_model: int, scale: float = 1.0, n_token_types: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, d_model))
        self.token_types = nn.Parameter(torch.empty(n_token_types, d_model)) if n_token_types else None
        self.scale = scale

    def forward(self, token_ids: Int[Tensor, "..."]) -> Float[Tensor, "... D"]:
        vectors = F.embedding(token_ids, self.weight)
        return vectors if self.scale == 1.0 else vectors * self.scale

    def add_types(self, x: Float[Tensor, "... D"], token_types: Int[Tensor, "..."] | None) -> Float[Tensor, "... D"]:
        """With the vector of each token's kind added; None = the first kind. Raises ShapeError for kinds that the model does not have."""
        if self.token_types is None:
            if token_types is not None and bool(token_types.any()):
                raise ShapeError("This model has no token types: leave `token_types` out.")
            return x
        if token_types is None:
            return x + self.token_types[0]
        if int(token_types.min()) < 0 or int(token_types.max()) >= len(self.token_types):
            raise ShapeError(f"`token_types` must be from 0 to {len(self.token_types) - 1}.")
        return x + F.embedding(token_types, self.token_types)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, {self.weight.shape[1]}"
