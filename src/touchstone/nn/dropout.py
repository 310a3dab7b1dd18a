"""Dropout whose mask can be a pure function of the example, so that micro-batches drop what the big batch drops.

With `Noise(keys)` the mask of a row depends on its key, the place of the layer in the network and the position inside the row -
not on the batch, the padding or torch's generator. Without it, torch's generator draws.
Source: Srivastava et al. 2014 (dropout); the mixing function is MurmurHash3's 32-bit finaliser (Appleby, public domain).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Dropout", "Noise", "number_dropouts"]

_LOW32 = 0xFFFFFFFF
_TOKEN = 0x5851F42D4C957F2D  # Knuth's MMIX multiplier: spreads token numbers over the bits of a key
_STRIDES = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D)  # odd constants of xxHash32, one an axis


@dataclass(frozen=True)
class Noise:
    """Where the random numbers of one forward pass come from: one key a row, drawn from (seed, epoch, step, example)."""

    keys: Int[Tensor, " B"]

    def at(self, places: Int[Tensor, " N"], n_tokens: int) -> "Noise":
        """One key for each of these tokens, numbered through the rows of n_tokens each."""
        return Noise(self.keys[places // n_tokens] + (places % n_tokens + 1) * _TOKEN)

    def uniform(self, shape: torch.Size, *, site: int) -> Float[Tensor, "B ..."]:
        """Numbers from [0, 1), for a tensor of this shape (first axis = rows); a site has its own."""
        return _mixed(self.keys, shape, site).double() / 2**32


class Dropout(nn.Module):
    """Zeroes a share p of the values in train mode and scales the rest by 1 / (1 - p)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.site = 0  # place in the network, set by number_dropouts

    def forward(self, x: Float[Tensor, "B ..."], noise: Noise | None = None) -> Float[Tensor, "B ..."]:
        if not self.training or self.p == 0.0:
            return x
        if noise is None:
            return F.dropout(x, self.p)
        return x * self.kept(x.shape, noise) / (1.0 - self.p)

    def kept(self, shape: torch.Size, noise: Noise) -> Bool[Tensor, "B ..."]:
        """Which values survive, for a tensor of this shape (first axis = rows of the batch)."""
        return _mixed(noise.keys, shape, self.site) >= int(self.p * 2**32)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def number_dropouts(net: nn.Module) -> None:
    """Give every dropout of a network its own site number, in module order."""
    for site, module in enumerate(m for m in net.modules() if isinstance(m, Dropout)):
        module.site = site


def _mixed(keys: Int[Tensor, " B"], shape: torch.Size, site: int) -> Int[Tensor, "B ..."]:
    """32 random bits for every place of a tensor."""
    key = _mix(_mix(keys) ^ (keys >> 32) ^ (site * 0x27D4EB2F))  # all 64 bits of a key count
    mixed = key.view(-1, *[1] * (len(shape) - 1))
    for axis, size in enumerate(shape[1:], start=1):
        place = torch.arange(size, device=keys.device) * _STRIDES[axis - 1]
        mixed = mixed + place.view(-1, *[1] * (len(shape) - 1 - axis))
    return _mix(mixed)


def _mix(x: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """A 32-bit avalanche: every input bit changes about half of the output bits."""
    x = x & _LOW32
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & _LOW32
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & _LOW32
    return x ^ (x >> 16)
