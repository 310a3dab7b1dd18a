"""Linear layers. Which product computes them is the network's numeric scheme, set by `products.use_product`."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from touchstone.nn.products import Multiplying

__all__ = ["Linear", "build_linear", "neighbours"]


class Linear(Multiplying, nn.Linear):
    """x W^T + b; weight (d_out, d_in)."""

    def forward(self, x: Float[Tensor, "... I"]) -> Float[Tensor, "... O"]:
        return self.product(x, self.weight, self.bias)

    @torch.no_grad()
    def beside(self, *others: "Linear") -> "Linear":
        """One layer whose outputs are ours and theirs side by side, all having the same input and a bias or none.

        The weights of all become views of its own: nothing is stored twice, and what trains them trains it.
        """
        layers = (self, *others)
        joined = Linear(self.in_features, sum(layer.out_features for layer in layers), bias=False, device="meta")
        joined.product = self.product
        joined.weight = nn.Parameter(_joined([layer.weight for layer in layers]), requires_grad=False)
        if self.bias is not None:
            joined.bias = nn.Parameter(_joined([layer.bias for layer in layers]), requires_grad=False)
        return joined

    def holds(self, *layers: "Linear") -> bool:
        """Whether the weights of these layers, joined by `beside`, still are views of this one's."""
        places = [layer.weight.data_ptr() for layer in layers]
        step = self.weight.element_size() * self.in_features
        ours = [self.weight.data_ptr() + step * sum(layer.out_features for layer in layers[:n]) for n in range(len(layers))]
        return places == ours


def build_linear(d_in: int, d_out: int, *, bias: bool) -> Linear:
    """The layer for two widths."""
    return Linear(d_in, d_out, bias=bias)


def neighbours(parts: Sequence[Tensor]) -> Tensor | None:
    """The tensor that the parts are made of, one behind the other along their first dimension; None where they lie elsewhere."""
    first, end = parts[0].detach(), parts[0].data_ptr()
    for part in parts:
        if part.data_ptr() != end or not part.is_contiguous() or part.untyped_storage().data_ptr() != first.untyped_storage().data_ptr():
            return None
        end += part.numel() * part.element_size()
    return first.as_strided((sum(map(len, parts)), *first.shape[1:]), first.stride())


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """All parts in one tensor, of which they become views if they are not."""
    there = neighbours(parts)
    if there is not None:
        return there
    whole = torch.cat([part.detach() for part in parts])
    for part, piece in zip(parts, whole.split([len(part) for part in parts]), strict=True):
        part.data = piece
    return whole
