"""The invariant mode: what a token's numbers are does not depend on what is computed beside them.

Products and activations usually round differently with the number of rows, since libraries pick another kernel or another place where
vectors end. Here every product is oneDNN's over at least two rows, whose kernels give a row the same bits for any number of rows up to
the bound, and every activation is made of operations that round each value alone. Norms, softmax and rotations are steady as they are.
Attention has its own part in this: see `touchstone.infer.tiled`.
That this holds is a property of a build on a machine, found by trying, so `check_steady` tries it before it is promised.
Source: He et al. 2025, "Defeating nondeterminism in LLM inference" (the problem); the way here was found by measurement.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from touchstone.errors import Unsupported
from touchstone.nn.experts import ExpertsAndOne
from touchstone.nn.mlp import Mlp, gelu_tanh
from touchstone.nn.prepacked import PrepackedProduct, laid_out
from touchstone.nn.products import Multiplying, Product, multiply_onednn, onednn_works

__all__ = ["MAX_ROWS", "check_steady", "make_steady", "steady_gelu_tanh", "steady_product", "steady_sigmoid", "steady_silu"]

MAX_ROWS = 512  # of one product: as many as were tried
_MIN_ROWS = 2  # one row has a kernel of its own


def steady_product(
    x: Float[Tensor, "... I"], weight: Float[Tensor, "O I"], bias: Float[Tensor, " O"] | None, multiply: Product = multiply_onednn
) -> Float[Tensor, "... O"]:
    """x W^T + b, a row's bits the same beside any other rows; fp32 on a CPU. multiply: oneDNN's product of several rows, in some form."""
    rows = x.reshape(-1, x.shape[-1])
    n = len(rows)
    if n == 0:
        return F.linear(x, weight, bias)
    if n < _MIN_ROWS:
        rows = rows.expand(_MIN_ROWS, -1)
    if n <= MAX_ROWS:
        product = multiply(rows.contiguous(), weight, bias)[:n]
    else:
        product = torch.cat([steady_product(part, weight, bias, multiply) for part in rows.split(MAX_ROWS)])
    return product.view(*x.shape[:-1], -1)


def steady_sigmoid(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """1 / (1 + exp(-x))."""
    return 1.0 / ((-x).exp() + 1.0)


def steady_silu(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """x / (1 + exp(-x))."""
    return x / ((-x).exp() + 1.0)


def steady_gelu_tanh(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """x/2 (1 + tanh(sqrt(2/π) (x + 0.044715 x³)))."""
    inner = (x * x * x * 0.044715 + x) * 0.7978845608028654
    return (inner.tanh() + 1.0) * (x * 0.5)


_STEADY: dict[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]] = {
    F.silu: steady_silu,
    gelu_tanh: steady_gelu_tanh,
    torch.sigmoid: steady_sigmoid,
}
_TRIED_ROWS = (1, 2, 3, 5, 8, 15, 16, 17, 64, 257, MAX_ROWS)
_WIDE = 8192  # outputs above which fewer rows are tried: such a product makes scores over a vocabulary


def make_steady(net: nn.Module) -> None:
    """Make the network compute in the invariant mode from now on; raises Unsupported where it cannot be had."""
    product = _steady_for(net)
    for module in net.modules():
        if isinstance(module, Multiplying):
            module.product = product
        if isinstance(module, Mlp):
            module.activation = _STEADY.get(module.activation, module.activation)
        if isinstance(module, ExpertsAndOne):
            module.squash = steady_sigmoid


def check_steady(net: nn.Module) -> None:
    """Raises Unsupported unless a row's product is the same bits for any number of rows, tried at the shapes of this network."""
    _steady_for(net)


def _steady_for(net: nn.Module) -> Product:
    """Over weights that are laid out once where the network's product is and both forms give the same bits, else over plain ones."""
    if any(p.dtype != torch.float32 or p.device.type != "cpu" for p in net.parameters()):
        raise Unsupported("The invariant mode computes in float32 (or int8) on a CPU; load with device='cpu', dtype='float32'.")
    if not onednn_works():
        raise Unsupported("The invariant mode needs oneDNN's products, which this build of torch does not have.")
    shapes = sorted({(p.shape[0], p.shape[1]) for p in net.parameters() if p.ndim == 2})
    is_prepacked = any(isinstance(module, Multiplying) and isinstance(module.product, PrepackedProduct) for module in net.modules())
    if is_prepacked and all(_rounds_alike(d_out, d_in, [Tensor.detach, laid_out]) for d_out, d_in in shapes):
        return partial(steady_product, multiply=PrepackedProduct())
    for d_out, d_in in shapes:
        if not _rounds_alike(d_out, d_in, [Tensor.detach]):
            raise Unsupported(
                f"On this machine a product of shape {d_out} x {d_in} rounds differently for different numbers of rows, so the"
                " invariant mode cannot be promised; load without `invariant`."
            )
    return steady_product


@torch.inference_mode()
def _rounds_alike(d_out: int, d_in: int, forms: Sequence[Callable[[Tensor], Tensor]]) -> bool:
    """Whether a row's product is the same bits among any number of rows; of terms that cancel, so that their order shows.

    forms: of the weight; all must give the same.
    """
    rng = torch.Generator().manual_seed(0)
    half = torch.randn(MAX_ROWS, d_in, generator=rng)
    x = torch.cat([half, -half], dim=1)[:, d_in // 2 : d_in // 2 + d_in]
    weight = torch.randn(d_out, d_in, generator=rng)
    tried = [n for n in _TRIED_ROWS if d_out <= _WIDE or n <= 64]
    laid = [form(weight) for form in forms]
    return len({steady_product(x[:n].contiguous(), each, None)[0].numpy().tobytes() for n in tried for each in laid}) == 1
