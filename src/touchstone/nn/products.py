"""The matrix products of linear layers: torch's own, or oneDNN's fp32 kernels where they are measured to be faster.

torch hands fp32 products on a CPU to MKL, which leaves half of an AMD core's speed unused; oneDNN's kernels, which torch ships for its
compiler, do not. They are reached by a private operator, so `choose_product` first checks it against torch's product and falls back to that
whenever anything is amiss. The choice is a numeric scheme: made once, recorded, and never switched inside a run.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

__all__ = [
    "Multiplying",
    "Product",
    "ProductChoice",
    "ProductName",
    "choose_product",
    "holds_here",
    "multiply_onednn",
    "onednn_product",
    "onednn_works",
    "torch_product",
    "use_product",
]

ProductName = Literal["torch", "onednn"]
Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]

_SHAPES = ((1024, 192, 768), (2048, 384, 384), (1024, 192, 4096))  # (rows, in, out) of small models: MLP, attention, head
_DECODED_ROWS = (1, 8)
_MAX_MEASURED = 2**25  # weights, 128 MB: more than most caches hold
_MAX_TRIES = 5
_SECONDS = 0.15  # for each number of rows, twice through all weights in any case
_WIDEST = 2**16
_MIN_GAIN = 1.1  # below this the difference is noise, and torch's product is the known one


def torch_product(x: Float[Tensor, "... I"], weight: Float[Tensor, "O I"], bias: Float[Tensor, " O"] | None) -> Float[Tensor, "... O"]:
    """x W^T + b by torch's own dispatch."""
    return F.linear(x, weight, bias)


def onednn_product(x: Float[Tensor, "... I"], weight: Float[Tensor, "O I"], bias: Float[Tensor, " O"] | None) -> Float[Tensor, "... O"]:
    """x W^T + b by oneDNN, forward and backward; fp32 on a CPU only, everything else goes to torch."""
    if x.dtype != torch.float32 or weight.dtype != torch.float32 or x.device.type != "cpu" or x.numel() == 0:
        return F.linear(x, weight, bias)
    return _OneDnn.apply(x, weight, bias) if torch.is_grad_enabled() else multiply_onednn(x, weight, bias)


class Multiplying:
    """A module that multiplies by a weight; `use_product` sets how."""

    product: Product = staticmethod(torch_product)


@dataclass(frozen=True)
class ProductChoice:
    """What `choose_product` found: the name, and oneDNN's speed over torch's (None where it was not measured)."""

    name: ProductName
    gain: float | None
    reason: str


def choose_product(net: nn.Module | None = None) -> ProductChoice:
    """Measure both products on this machine, with the threads that are set now.

    net: whose weights are multiplied, by one row and by a few, as when it decodes: each weight comes from memory, not from a cache. None =
        products of a small model's training, with those of its gradients.
    """
    if not onednn_works():
        return ProductChoice("torch", None, "oneDNN's fp32 product is not to be had in this build of torch")
    with torch.inference_mode(net is not None):
        gain = _gain(_training_works() if net is None else _decoding_works(net))
    if gain < _MIN_GAIN:
        return ProductChoice("torch", gain, f"oneDNN's fp32 products measured {gain:.2f} times the speed of torch's: no gain")
    return ProductChoice("onednn", gain, f"oneDNN's fp32 products measured {gain:.2f} times the speed of torch's")


def use_product(net: nn.Module, name: ProductName) -> None:
    """Make every layer of the network that multiplies by a weight use this product."""
    for module in net.modules():
        if isinstance(module, Multiplying):
            module.product = _PRODUCTS[name]


class _OneDnn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return multiply_onednn(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])
        to_x = multiply_onednn(rows, weight.t(), None).view(x.shape) if ctx.needs_input_grad[0] else None
        to_weight = _to_weight(rows, x.reshape(-1, x.shape[-1])) if ctx.needs_input_grad[1] else None
        return to_x, to_weight, rows.sum(0) if ctx.needs_input_grad[2] else None


_PRODUCTS: dict[str, Product] = {"torch": torch_product, "onednn": onednn_product}


def multiply_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b by oneDNN, without gradients; both may be views with any strides."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _to_weight(grad: Float[Tensor, "M O"], x: Float[Tensor, "M I"]) -> Float[Tensor, "O I"]:
    """grad^T x. The operator copies its first operand where it lies transposed, so that is the narrower of the two."""
    if grad.shape[1] <= x.shape[1]:
        return multiply_onednn(grad.t(), x.t(), None)
    return multiply_onednn(x.t(), grad.t(), None).t().contiguous()


def onednn_works() -> bool:
    """Whether the private operator is there and agrees with torch, gradients included."""
    if not torch.backends.mkldnn.is_available():
        return False
    rng = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*shape, generator=rng, requires_grad=True) for shape in ((2, 5, 7), (11, 7), (11,)))

    def agrees() -> bool:
        ours, theirs = _OneDnn.apply(x, weight, bias), F.linear(x, weight, bias)
        pairs = zip(
            (ours, *torch.autograd.grad(ours.square().sum(), (x, weight, bias))),
            (theirs, *torch.autograd.grad(theirs.square().sum(), (x, weight, bias))),
            strict=True,
        )
        return all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in pairs)

    return holds_here(agrees)


def holds_here(trial: Callable[[], bool]) -> bool:
    """What a trial of a private operator says; no where this build of torch has no such operator, or it refuses its operands."""
    try:
        return trial()
    except (AttributeError, NotImplementedError, RuntimeError):
        return False


_Work = list[Callable[[Product], object]]  # multiplications that are timed as one


def _training_works() -> list[_Work]:
    """Forward and backward: a kernel may be the faster one for x W^T and the slower one by far for the gradients' products."""
    return [[_trained(torch.randn(n_rows, d_in), torch.randn(d_out, d_in))] for n_rows, d_in, d_out in _SHAPES]


def _trained(x: Tensor, weight: Tensor) -> Callable[[Product], object]:
    operands = (x.requires_grad_(), weight.requires_grad_())
    to_out = torch.randn(len(x), len(weight))
    return lambda product: torch.autograd.grad(product(*operands, None), operands, to_out)


def _decoding_works(net: nn.Module) -> list[_Work]:
    weights = [w.detach() for w in net.parameters() if w.ndim == 2 and w.shape[1] <= _WIDEST]
    kept, n = [], 0
    for weight in weights:
        kept += [weight] if n < _MAX_MEASURED else []
        n += weight.numel()
    return [[_decoded(torch.randn(n_rows, weight.shape[1]), weight) for weight in kept] for n_rows in _DECODED_ROWS]


def _decoded(x: Tensor, weight: Tensor) -> Callable[[Product], object]:
    return lambda product: product(x, weight, None)


def _gain(works: list[_Work]) -> float:
    """The geometric mean over the works of torch's time divided by oneDNN's; of each product the best of several interleaved tries."""
    gains = []
    for work in works:
        best = {name: [float("inf")] * len(work) for name in _PRODUCTS}
        begun = time.perf_counter()
        for n_tries in range(_MAX_TRIES):
            for name, product in _PRODUCTS.items():
                for place, multiply in enumerate(work):  # one after the other: a weight that was just used would come from a cache
                    start = time.perf_counter()
                    multiply(product)
                    best[name][place] = min(best[name][place], time.perf_counter() - start)
            if n_tries and time.perf_counter() - begun > _SECONDS:
                break
        gains.append(sum(best["torch"]) / sum(best["onednn"]) if work else 1.0)
    return float(torch.tensor(gains).log().mean().exp())
