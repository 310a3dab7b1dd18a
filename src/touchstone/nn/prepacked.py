"""oneDNN's product over weights that are laid out for its kernels once, and not anew in every call; for inference.

For a handful of rows the plain call spends as long on laying out the weight as on multiplying. The layout is a second copy of a weight,
made when it is multiplied by several rows for the second time (so one prompt and its completion do without) and made anew when the weight
has changed. One row needs no layout. The numbers are those of the plain call.
"""

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from touchstone.nn.products import Multiplying, holds_here, multiply_onednn, onednn_product, onednn_works

__all__ = ["PrepackedProduct", "laid_out", "prepack", "prepacking_works"]

_ROWS = 512  # that the layout is made for: measured best, or equal, for 2 to 512 rows


@dataclass
class _Seen:
    """A weight that was multiplied by several rows. ref: takes this away when it ends. state: where it lay, and in which version."""

    ref: weakref.ref[Tensor]
    state: tuple[int, int]
    layout: Tensor | None = None


class PrepackedProduct:
    """x W^T + b for a network; what is no inference in fp32 on a CPU goes to `onednn_product`."""

    def __init__(self) -> None:
        self._seen: dict[int, _Seen] = {}  # by the id of a weight

    def __call__(self, x: Float[Tensor, "... I"], weight: Float[Tensor, "O I"], bias: Float[Tensor, " O"] | None) -> Float[Tensor, "... O"]:
        is_for_us = x.numel() > x.shape[-1] and x.dtype == weight.dtype == torch.float32 and isinstance(weight, nn.Parameter)
        if not is_for_us or torch.is_grad_enabled() or weight.is_inference() or weight.device.type != "cpu":
            return onednn_product(x, weight, bias)
        return multiply_onednn(x, self._best_form(weight), bias)

    @property
    def n_laid_out(self) -> int:
        """How many weights are laid out now."""
        return sum(seen.layout is not None for seen in self._seen.values())

    def __deepcopy__(self, memo: dict[int, Any]) -> "PrepackedProduct":
        return PrepackedProduct()  # a copied network has weights of its own

    def __reduce__(self) -> tuple[type["PrepackedProduct"], tuple[()]]:
        return PrepackedProduct, ()

    def _best_form(self, weight: Tensor) -> Tensor:
        key, state = id(weight), (weight.data_ptr(), weight._version)
        seen = self._seen.get(key)
        if seen is None or seen.state != state:
            self._seen[key] = _Seen(weakref.ref(weight, lambda _: self._seen.pop(key, None)), state)
            return weight
        if seen.layout is None:
            seen.layout = laid_out(weight)
        return seen.layout


def prepack(net: nn.Module) -> PrepackedProduct:
    """Make every layer of the network that multiplies by a weight use one such product, which is returned."""
    product = PrepackedProduct()
    for module in net.modules():
        if isinstance(module, Multiplying):
            module.product = product
    return product


def prepacking_works() -> bool:
    """Whether the operators are there and agree with the plain call."""
    rng = torch.Generator().manual_seed(0)

    def agrees(n_rows: int, d_in: int, d_out: int) -> bool:
        x, weight = torch.randn(n_rows, d_in, generator=rng), torch.randn(d_out, d_in, generator=rng)
        return torch.allclose(multiply_onednn(x, laid_out(weight), None), multiply_onednn(x, weight, None), rtol=1e-5, atol=1e-5)

    return onednn_works() and holds_here(lambda: all(agrees(*shape) for shape in ((2, 7, 11), (9, 33, 5), (64, 96, 130))))


def laid_out(weight: Tensor) -> Tensor:
    """The weight in the layout of oneDNN's kernels for several rows; nothing but `multiply_onednn` can read it."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _ROWS)
    return packed
