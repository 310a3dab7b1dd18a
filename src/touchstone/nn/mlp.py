"""The feed-forward layer of a block, plain or gated.

Sources: Vaswani et al. 2017 §3.3; Shazeer 2020 (gated); So et al. 2021 (Primer: squared relu); Hendrycks & Gimpel 2016 (gelu).
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from touchstone.config import Config
from touchstone.nn.dropout import Dropout
from touchstone.nn.linear import build_linear
from touchstone.nn.shared import Shared

__all__ = ["ACTIVATIONS", "ActivationName", "GatedMlp", "Mlp", "MlpSpec", "build_mlp"]

ActivationName = Literal["relu", "relu2", "gelu", "gelu_tanh", "silu", "tanh"]


def relu2(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """max(x, 0) squared."""
    kept = F.relu(x)
    return kept * kept  # torch.square's backward costs a power


def gelu_tanh(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The tanh approximation of gelu that GPT-2 was trained with."""
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu2": relu2,
    "gelu": F.gelu,
    "gelu_tanh": gelu_tanh,
    "silu": F.silu,
    "tanh": torch.tanh,
}


class MlpSpec(Config):
    """down(act(up x)), or down(act(gate x) * up x) when gated."""

    kind: Literal["mlp"] = "mlp"
    d_ff: int = Field(gt=0)
    activation: ActivationName = "gelu"
    gated: bool = False
    bias: bool = False
    dropout: float = Field(0.0, ge=0, lt=1)  # on the inner features

    def product_weights(self, d_model: int) -> int:
        """Weights that every token is multiplied by."""
        return (3 if self.gated else 2) * d_model * self.d_ff

    def n_parameters(self, d_model: int) -> int:
        n_up = 2 if self.gated else 1
        return (n_up + 1) * d_model * self.d_ff + (n_up * self.d_ff + d_model if self.bias else 0)


class Mlp(nn.Module):
    """down(act(up x))."""

    def __init__(self, spec: MlpSpec, d_model: int) -> None:
        super().__init__()
        self.up_proj = build_linear(d_model, spec.d_ff, bias=spec.bias)
        self.down_proj = build_linear(spec.d_ff, d_model, bias=spec.bias)
        self.activation = ACTIVATIONS[spec.activation]
        self.dropout = Dropout(spec.dropout)

    def forward(self, x: Float[Tensor, "... D"], shared: Shared | None = None) -> Float[Tensor, "... D"]:
        return self.down_proj(self.dropout(self.activation(self.up_proj(x)), shared.noise if shared else None))


class GatedMlp(Mlp):
    """down(act(gate x) * up x)."""

    def __init__(self, spec: MlpSpec, d_model: int) -> None:
        super().__init__(spec, d_model)
        self.gate_proj = build_linear(d_model, spec.d_ff, bias=spec.bias)

    def forward(self, x: Float[Tensor, "... D"], shared: Shared | None = None) -> Float[Tensor, "... D"]:
        inner = self.activation(self.gate_proj(x)) * self.up_proj(x)
        return self.down_proj(self.dropout(inner, shared.noise if shared else None))


def build_mlp(spec: MlpSpec, d_model: int) -> Mlp:
    """The module for a spec."""
    return GatedMlp(spec, d_model) if spec.gated else Mlp(spec, d_model)
