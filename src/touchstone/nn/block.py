"""One layer of a stack: attention and feed-forward, and between them in a decoder with a source the attention to it; each with a
residual connection and a norm before, after or inside.

pre:   x + Sublayer(Norm(x))      post:  Norm(x + Sublayer(x))      inner: x + Norm(Sublayer(x))
Sources: Xiong et al. 2020 (pre and post); Liu et al. 2021 (Swin v2: inner, "res-post-norm"); Vaswani et al. 2017 §3.1 (the source).
"""

from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

from jaxtyping import Float
from pydantic import Field, field_validator
from torch import Tensor, nn

from touchstone.config import Config
from touchstone.nn.attention import Attention, AttentionSpec, CrossAttention, KernelName, whole_source
from touchstone.nn.cache import LayerCache
from touchstone.nn.dropout import Dropout
from touchstone.nn.experts import ExpertsSpec, build_experts
from touchstone.nn.mlp import MlpSpec, build_mlp
from touchstone.nn.norm import NormSpec, build_norm
from touchstone.nn.shared import Shared

__all__ = ["Block", "BlockOutput", "BlockSpec", "CrossBlock", "build_block"]


class BlockSpec(Config):
    """The parts of one layer."""

    attn: AttentionSpec
    cross: AttentionSpec | None = None  # to the source; None where there is none
    mlp: Annotated[MlpSpec | ExpertsSpec, Field(discriminator="kind")]
    norm: NormSpec = NormSpec()
    norm_place: Literal["pre", "post", "inner"] = "pre"
    dropout: float = Field(0.0, ge=0, lt=1)  # on what each sublayer adds
    attn_dropout: float | None = Field(None, ge=0, lt=1)  # on what the attention adds; None = `dropout`, and DistilBERT has 0

    @field_validator("cross")
    @classmethod
    def _looks_at_all(cls, cross: AttentionSpec | None) -> AttentionSpec | None:
        return whole_source(cross)

    def n_parameters(self, d_model: int) -> int:
        sublayers = [self.attn, self.mlp] + ([self.cross] if self.cross else [])
        return sum(part.n_parameters(d_model) for part in sublayers) + len(sublayers) * self.norm.n_parameters(d_model)


class BlockOutput(NamedTuple):
    """The new hidden states, and the attention weights where they were asked for."""

    hidden: Float[Tensor, "B T D"]
    attention: Float[Tensor, "B H T S"] | None = None
    cross_attention: Float[Tensor, "B H T S"] | None = None


Sublayer = Callable[[Tensor], tuple[Tensor, Tensor | None]]  # what it adds, and its attention weights


class Block(nn.Module):
    """Attention and feed-forward; `attend` and `transform` are the bare sublayers with their dropout."""

    def __init__(self, spec: BlockSpec, d_model: int, kernel: KernelName = "sdpa") -> None:
        super().__init__()
        self.norm1 = build_norm(spec.norm, d_model)
        self.attn = Attention(spec.attn, d_model, kernel)
        self.norm2 = build_norm(spec.norm, d_model)
        self.mlp = build_mlp(spec.mlp, d_model) if isinstance(spec.mlp, MlpSpec) else build_experts(spec.mlp, d_model)
        self.attn_dropout = Dropout(spec.dropout if spec.attn_dropout is None else spec.attn_dropout)
        self.mlp_dropout = Dropout(spec.dropout)
        self.place = _PLACES[spec.norm_place]

    def attend(self, x: Float[Tensor, "B T D"], shared: Shared, cache: LayerCache | None, weights: bool) -> tuple[Tensor, Tensor | None]:
        mixed, attention = self.attn(x, shared, cache, weights=weights)
        return self.attn_dropout(mixed, shared.noise), attention

    def transform(self, x: Float[Tensor, "B T D"], shared: Shared) -> Float[Tensor, "B T D"]:
        return self.mlp_dropout(self.mlp(x, shared), shared.noise)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        shared: Shared,
        cache: LayerCache | None = None,
        source: tuple[Tensor, Tensor] | None = None,
        *,
        weights: bool = False,
        cross_weights: bool = False,
    ) -> BlockOutput:
        """The new hidden states, and the attention weights if asked for."""
        x, attention = self.place(x, self.norm1, lambda y: self.attend(y, shared, cache, weights))
        x, _ = self.place(x, self.norm2, lambda y: (self.transform(y, shared), None))
        return BlockOutput(x, attention)


class CrossBlock(Block):
    """A layer that also looks at a source, between attention and feed-forward."""

    def __init__(self, spec: BlockSpec, d_model: int, kernel: KernelName = "sdpa") -> None:
        super().__init__(spec, d_model, kernel)
        assert spec.cross is not None
        self.norm_cross = build_norm(spec.norm, d_model)
        self.cross_attn = CrossAttention(spec.cross, d_model, kernel)
        self.cross_dropout = Dropout(spec.dropout)

    def consult(self, x: Tensor, source: tuple[Tensor, Tensor], shared: Shared, weights: bool) -> tuple[Tensor, Tensor | None]:
        mixed, attention = self.cross_attn.look(x, source, shared, weights=weights)
        return self.cross_dropout(mixed, shared.noise), attention

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        shared: Shared,
        cache: LayerCache | None = None,
        source: tuple[Tensor, Tensor] | None = None,
        *,
        weights: bool = False,
        cross_weights: bool = False,
    ) -> BlockOutput:
        """source: the keys and values that `cross_attn` made of the memory."""
        assert source is not None
        x, attention = self.place(x, self.norm1, lambda y: self.attend(y, shared, cache, weights))
        x, cross_attention = self.place(x, self.norm_cross, lambda y: self.consult(y, source, shared, cross_weights))
        x, _ = self.place(x, self.norm2, lambda y: (self.transform(y, shared), None))
        return BlockOutput(x, attention, cross_attention)


def build_block(spec: BlockSpec, d_model: int, kernel: KernelName = "sdpa") -> Block:
    """The module for a spec."""
    return CrossBlock(spec, d_model, kernel) if spec.cross is not None else Block(spec, d_model, kernel)


def norm_before(x: Tensor, norm: nn.Module, sublayer: Sublayer) -> tuple[Tensor, Tensor | None]:
    """x + Sublayer(Norm(x))."""
    added, weights = sublayer(norm(x))
    return x + added, weights


def norm_after(x: Tensor, norm: nn.Module, sublayer: Sublayer) -> tuple[Tensor, Tensor | None]:
    """Norm(x + Sublayer(x))."""
    added, weights = sublayer(x)
    return norm(x + added), weights


def norm_inside(x: Tensor, norm: nn.Module, sublayer: Sublayer) -> tuple[Tensor, Tensor | None]:
    """x + Norm(Sublayer(x))."""
    added, weights = sublayer(x)
    return x + norm(added), weights


_PLACES = {"pre": norm_before, "post": norm_after, "inner": norm_inside}
