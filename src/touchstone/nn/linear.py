"""Linear layers. Which product computes them is the network's numeric scheme, set by `products.use_product`."""

from jaxtyping import Float
from torch import Tensor, nn

from touchstone.nn.products import Multiplying

__all__ = ["Linear", "build_linear"]


class Linear(Multiplying, nn.Linear):
    """x W^T + b; weight (d_out, d_in)."""

    def forward(self, x: Float[Tensor, "... I"]) -> Float[Tensor, "... O"]:
        return self.product(x, self.weight, self.bias)


def build_linear(d_in: int, d_out: int, *, bias: bool) -> Linear:
    """The layer for two widths."""
    return Linear(d_in, d_out, bias=bias)
