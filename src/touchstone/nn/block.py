"""One layer of a stack: attention and feed-forward, each with a residual connection and a norm before, after or inside.

pre:   x + Sublayer(Norm(x))      post:  Norm(x + Sublayer(x))      inner: x + Norm(Sublayer(x))
Sources: Xiong et al. 2020 (pre and post); Liu et al. 2021 (Swin v2: inner, "res-post-norm").
"""

from typing import Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from touchstone.config import Config
from touchstone.nn.attention import Attention, AttentionSpec, Shared
from touchstone.nn.cache import LayerCache
from touchstone.nn.dropout import Dropout
from touchstone.nn.mlp import MlpSpec, build_mlp
from touchstone.nn.norm import NormSpec, build_norm

__all__ = ["Block", "BlockSpec", "InnerNormBlock", "PostNormBlock", "PreNormBlock", "build_block"]


class BlockSpec(Config):
    """The parts of one layer."""

    attn: AttentionSpec
    mlp: MlpSpec
    norm: NormSpec = NormSpec()
    norm_place: Literal["pre", "post", "inner"] = "pre"
    dropout: float = Field(0.0, ge=0, lt=1)  # on what each sublayer adds

    def n_parameters(self, d_model: int) -> int:
        return self.attn.n_parameters(d_model) + self.mlp.n_parameters(d_model) + 2 * self.norm.n_parameters(d_model)


class Block(nn.Module):
    """What all norm places share; `attend` and `transform` are the bare sublayers with their dropout."""

    def __init__(self, spec: BlockSpec, d_model: int, kernel: Literal["reference", "sdpa"] = "sdpa") -> None:
        super().__init__()
        self.norm1 = build_norm(spec.norm, d_model)
        self.attn = Attention(spec.attn, d_model, kernel)
        self.norm2 = build_norm(spec.norm, d_model)
        self.mlp = build_mlp(spec.mlp, d_model)
        self.attn_dropout = Dropout(spec.dropout)
        self.mlp_dropout = Dropout(spec.dropout)

    def attend(
        self, x: Float[Tensor, "B T D"], shared: Shared, cache: LayerCache | None, weights: bool
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B H T S"] | None]:
        mixed, attention = self.attn(x, shared, cache, weights=weights)
        return self.attn_dropout(mixed, shared.noise), attention

    def transform(self, x: Float[Tensor, "B T D"], shared: Shared) -> Float[Tensor, "B T D"]:
        return self.mlp_dropout(self.mlp(x, shared.noise), shared.noise)

    def forward(
        self, x: Float[Tensor, "B T D"], shared: Shared, cache: LayerCache | None = None, *, weights: bool = False
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B H T S"] | None]:
        """The new hidden states, and the attention weights if asked for."""
        raise NotImplementedError


class PreNormBlock(Block):
    """x + Sublayer(Norm(x))."""

    def forward(
        self, x: Float[Tensor, "B T D"], shared: Shared, cache: LayerCache | None = None, *, weights: bool = False
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B H T S"] | None]:
        mixed, attention = self.attend(self.norm1(x), shared, cache, weights)
        x = x + mixed
        return x + self.transform(self.norm2(x), shared), attention


class PostNormBlock(Block):
    """Norm(x + Sublayer(x))."""

    def forward(
        self, x: Float[Tensor, "B T D"], shared: Shared, cache: LayerCache | None = None, *, weights: bool = False
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B H T S"] | None]:
        mixed, attention = self.attend(x, shared, cache, weights)
        x = self.norm1(x + mixed)
        return self.norm2(x + self.transform(x, shared)), attention


class InnerNormBlock(Block):
    """x + Norm(Sublayer(x))."""

    def forward(
        self, x: Float[Tensor, "B T D"], shared: Shared, cache: LayerCache | None = None, *, weights: bool = False
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B H T S"] | None]:
        mixed, attention = self.attend(x, shared, cache, weights)
        x = x + self.norm1(mixed)
        return x + self.norm2(self.transform(x, shared)), attention


_PLACES: dict[str, type[Block]] = {"pre": PreNormBlock, "post": PostNormBlock, "inner": InnerNormBlock}


def build_block(spec: BlockSpec, d_model: int, kernel: Literal["reference", "sdpa"] = "sdpa") -> Block:
    """The module for a spec."""
    return _PLACES[spec.norm_place](spec, d_model, kernel)
