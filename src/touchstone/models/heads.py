"""What turns hidden states into answers: scores over the vocabulary, over labels of a text or of each token, ends of a span, one vector.

A head is a module of the network named after what it does (`MODULES`); a model without one gives its hidden states.
"""

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from touchstone.config import Config
from touchstone.nn.dropout import Dropout, Noise
from touchstone.nn.linear import build_linear
from touchstone.nn.mlp import ACTIVATIONS, ActivationName
from touchstone.nn.norm import NormSpec, build_norm
from touchstone.nn.products import Multiplying

__all__ = [
    "MODULES",
    "ClassifyHead",
    "Head",
    "HeadModule",
    "LmHead",
    "MaskedLmHead",
    "PoolHead",
    "Pooling",
    "SpanHead",
    "TagHead",
    "TiedHead",
    "UntiedHead",
    "build_head",
    "pool",
]

Pooling = Literal["first", "last", "mean", "max"]


class LmHead(Config):
    """Scores over the vocabulary."""

    kind: Literal["lm"] = "lm"
    tied: bool  # the weight is the token table's
    bias: bool = False
    scale: float = Field(1.0, gt=0)  # factor on the hidden state

    def n_parameters(self, d_hidden: int, vocab_size: int) -> int:
        return (0 if self.tied else vocab_size * d_hidden) + (vocab_size if self.bias else 0)

    def flops(self, d_hidden: int, vocab_size: int) -> float:
        return 2.0 * vocab_size * d_hidden


class MaskedLmHead(LmHead):
    """Scores over the vocabulary after a dense layer, an activation and a norm."""

    kind: Literal["masked-lm"] = "masked-lm"  # type: ignore[assignment]
    tied: bool = True
    bias: bool = True
    activation: ActivationName = "gelu"
    norm: NormSpec = NormSpec(kind="layer")

    def n_parameters(self, d_hidden: int, vocab_size: int) -> int:
        return super().n_parameters(d_hidden, vocab_size) + d_hidden * (d_hidden + 1) + self.norm.n_parameters(d_hidden)

    def flops(self, d_hidden: int, vocab_size: int) -> float:
        return super().flops(d_hidden, vocab_size) + 2.0 * d_hidden * d_hidden


class ClassifyHead(Config):
    """Scores over the labels of a whole text, from one pooled hidden state."""

    kind: Literal["classify"] = "classify"
    n_labels: int = Field(gt=0)
    pooling: Pooling = "first"
    activation: ActivationName | None = None  # of a dense layer before the scores; None = no such layer
    bias: bool = True
    dropout: float = Field(0.0, ge=0, lt=1)  # before the scores, and before the dense layer where `drop_pooled`
    drop_pooled: bool = False
    problem: Literal["single-label", "multi-label", "regression"] = "single-label"

    def n_parameters(self, d_hidden: int, vocab_size: int) -> int:
        dense = d_hidden * (d_hidden + 1) if self.activation else 0
        return dense + self.n_labels * (d_hidden + (1 if self.bias else 0))

    def flops(self, d_hidden: int, vocab_size: int) -> float:
        return 0.0  # once a text


class TagHead(Config):
    """Scores over the labels of each token."""

    kind: Literal["tag"] = "tag"
    n_labels: int = Field(gt=0)
    bias: bool = True
    dropout: float = Field(0.0, ge=0, lt=1)

    def n_parameters(self, d_hidden: int, vocab_size: int) -> int:
        return self.n_labels * (d_hidden + (1 if self.bias else 0))

    def flops(self, d_hidden: int, vocab_size: int) -> float:
        return 2.0 * self.n_labels * d_hidden


class SpanHead(Config):
    """Two scores a token: that the answer begins here, and that it ends here."""

    kind: Literal["span"] = "span"
    dropout: float = Field(0.0, ge=0, lt=1)

    def n_parameters(self, d_hidden: int, vocab_size: int) -> int:
        return 2 * (d_hidden + 1)

    def flops(self, d_hidden: int, vocab_size: int) -> float:
        return 4.0 * d_hidden


class PoolHead(Config):
    """One vector a text: a pooled hidden state through a dense layer."""

    kind: Literal["pool"] = "pool"
    pooling: Pooling = "first"
    activation: ActivationName = "tanh"

    def n_parameters(self, d_hidden: int, vocab_size: int) -> int:
        return d_hidden * (d_hidden + 1)

    def flops(self, d_hidden: int, vocab_size: int) -> float:
        return 0.0  # once a text


Head = Annotated[LmHead | MaskedLmHead | ClassifyHead | TagHead | SpanHead | PoolHead, Field(discriminator="kind")]
"""Told apart by `kind`."""

MODULES = {
    "lm": "lm_head",
    "masked-lm": "lm_head",
    "classify": "classify_head",
    "tag": "tag_head",
    "span": "span_head",
    "pool": "pool_head",
}
"""The module of a network that is its head, by the head's kind."""


class HeadModule(nn.Module):
    """What all heads share.

    table: the token table, for a tied head. mask: which tokens count, for one that pools.
    """

    def forward(
        self,
        hidden: Float[Tensor, "... D"],
        table: Float[Tensor, "V _"],
        mask: Bool[Tensor, "B T"] | None = None,
        noise: Noise | None = None,
    ) -> Float[Tensor, "..."]:
        raise NotImplementedError


class TiedHead(Multiplying, HeadModule):
    """scale · h E^T + b, with E the token table."""

    def __init__(self, spec: LmHead, vocab_size: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(vocab_size)) if spec.bias else None
        self.scale = spec.scale

    def forward(
        self,
        hidden: Float[Tensor, "... D"],
        table: Float[Tensor, "V _"],
        mask: Bool[Tensor, "B T"] | None = None,
        noise: Noise | None = None,
    ) -> Float[Tensor, "... V"]:
        return self.product(hidden if self.scale == 1.0 else hidden * self.scale, table, self.bias)


class UntiedHead(TiedHead):
    """scale · h W^T + b, with W trained."""

    def __init__(self, spec: LmHead, d_hidden: int, vocab_size: int) -> None:
        super().__init__(spec, vocab_size)
        self.weight = nn.Parameter(torch.empty(vocab_size, d_hidden))

    def forward(
        self,
        hidden: Float[Tensor, "... D"],
        table: Float[Tensor, "V _"],
        mask: Bool[Tensor, "B T"] | None = None,
        noise: Noise | None = None,
    ) -> Float[Tensor, "... V"]:
        return super().forward(hidden, self.weight)


class Masked(HeadModule):
    """The scores of an `LmHead` over norm(act(dense h))."""

    def __init__(self, spec: MaskedLmHead, d_hidden: int, vocab_size: int) -> None:
        super().__init__()
        self.dense = build_linear(d_hidden, d_hidden, bias=True)
        self.activation = ACTIVATIONS[spec.activation]
        self.norm = build_norm(spec.norm, d_hidden)
        self.scores = TiedHead(spec, vocab_size) if spec.tied else UntiedHead(spec, d_hidden, vocab_size)

    def forward(
        self,
        hidden: Float[Tensor, "... D"],
        table: Float[Tensor, "V _"],
        mask: Bool[Tensor, "B T"] | None = None,
        noise: Noise | None = None,
    ) -> Float[Tensor, "... V"]:
        return self.scores(self.norm(self.activation(self.dense(hidden))), table)


class Pooler(HeadModule):
    """act(dense pool(h))."""

    def __init__(self, pooling: Pooling, activation: ActivationName, d_hidden: int) -> None:
        super().__init__()
        self.pooling = pooling
        self.dense = build_linear(d_hidden, d_hidden, bias=True)
        self.activation = ACTIVATIONS[activation]

    def forward(
        self,
        hidden: Float[Tensor, "B T D"],
        table: Float[Tensor, "V _"],
        mask: Bool[Tensor, "B T"] | None = None,
        noise: Noise | None = None,
    ) -> Float[Tensor, "B D"]:
        return self.activation(self.dense(pool(hidden, mask, self.pooling)))


class Classifier(HeadModule):
    """scores(act(dense pool(h))), or scores(pool(h))."""

    def __init__(self, spec: ClassifyHead, d_hidden: int) -> None:
        super().__init__()
        self.pooling = spec.pooling
        self.dense: nn.Module = build_linear(d_hidden, d_hidden, bias=True) if spec.activation else nn.Identity()
        self.activation: Callable[[Tensor], Tensor] = ACTIVATIONS[spec.activation] if spec.activation else nn.Identity()
        self.out = build_linear(d_hidden, spec.n_labels, bias=spec.bias)
        self.pooled_dropout = Dropout(spec.dropout if spec.drop_pooled else 0.0)
        self.dropout = Dropout(spec.dropout)

    def forward(
        self,
        hidden: Float[Tensor, "B T D"],
        table: Float[Tensor, "V _"],
        mask: Bool[Tensor, "B T"] | None = None,
        noise: Noise | None = None,
    ) -> Float[Tensor, "B L"]:
        pooled = self.pooled_dropout(pool(hidden, mask, self.pooling), noise)
        return self.out(self.dropout(self.activation(self.dense(pooled)), noise))


class Tagger(HeadModule):
    """scores(h), for each token."""

    def __init__(self, n_labels: int, bias: bool, dropout: float, d_hidden: int) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.out = build_linear(d_hidden, n_labels, bias=bias)

    def forward(
        self,
        hidden: Float[Tensor, "B T D"],
        table: Float[Tensor, "V _"],
        mask: Bool[Tensor, "B T"] | None = None,
        noise: Noise | None = None,
    ) -> Float[Tensor, "B T L"]:
        return self.out(self.dropout(hidden, noise))


def build_head(spec: Head, d_hidden: int, vocab_size: int) -> HeadModule:
    """The module for a spec."""
    if isinstance(spec, MaskedLmHead):
        return Masked(spec, d_hidden, vocab_size)
    if isinstance(spec, LmHead):
        return TiedHead(spec, vocab_size) if spec.tied else UntiedHead(spec, d_hidden, vocab_size)
    if isinstance(spec, ClassifyHead):
        return Classifier(spec, d_hidden)
    if isinstance(spec, TagHead):
        return Tagger(spec.n_labels, spec.bias, spec.dropout, d_hidden)
    if isinstance(spec, SpanHead):
        return Tagger(2, True, spec.dropout, d_hidden)
    return Pooler(spec.pooling, spec.activation, d_hidden)


def pool(hidden: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"] | None, how: Pooling) -> Float[Tensor, "B D"]:
    """One vector a row, of the tokens that count (mask None: all); the row needs one at least."""
    if mask is None:
        mask = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
    if how == "mean":
        counts = mask[:, :, None].to(hidden.dtype)
        return (hidden * counts).sum(1) / counts.sum(1)
    if how == "max":
        return hidden.masked_fill(~mask[:, :, None], -torch.inf).amax(1)
    place = torch.arange(mask.shape[1], device=mask.device)
    chosen = torch.where(mask, place, place.max() + 1).amin(1) if how == "first" else torch.where(mask, place, -1).amax(1)
    return hidden[torch.arange(len(hidden), device=hidden.device), chosen]
