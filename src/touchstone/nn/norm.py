"""Layer normalisation and root-mean-square normalisation over the last axis.

Sources: Ba et al. 2016 (LayerNorm); Zhang & Sennrich 2019 (RMSNorm).
"""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from touchstone.config import Config

__all__ = ["LayerNorm", "NormSpec", "RMSNorm", "build_norm"]


class NormSpec(Config):
    """Which normalisation, and its numerical guard."""

    kind: Literal["layer", "rms"] = "rms"
    norm_eps: float = Field(1e-5, ge=0)  # added to the variance (layer) or mean square (rms)
    bias: bool = True  # layer only; rms has none

    def n_parameters(self, width: int) -> int:
        return width * (2 if self.kind == "layer" and self.bias else 1)


class LayerNorm(nn.LayerNorm):
    """(x - mean) / sqrt(variance + eps) * weight + bias."""

    def __init__(self, width: int, spec: NormSpec) -> None:
        super().__init__(width, eps=spec.norm_eps, bias=spec.bias)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight, the mean square taken in at least fp32."""

    def __init__(self, width: int, spec: NormSpec) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.norm_eps = spec.norm_eps

    def forward(self, x: Float[Tensor, "... W"]) -> Float[Tensor, "... W"]:
        if x.dtype in (torch.float32, torch.float64):
            return F.rms_norm(x, self.weight.shape, self.weight, self.norm_eps)
        wide = F.rms_norm(x.float(), self.weight.shape, None, self.norm_eps)
        return self.weight * wide.to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, eps={self.norm_eps}"


def build_norm(spec: NormSpec, width: int) -> LayerNorm | RMSNorm:
    """The module for a spec, over `width` features."""
    return LayerNorm(width, spec) if spec.kind == "layer" else RMSNorm(width, spec)
