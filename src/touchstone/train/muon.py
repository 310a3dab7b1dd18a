"""Muon: momentum whose matrices are made orthogonal before they are added, for the hidden matrices of a network.

The orthogonal factor U V^T of a matrix U S V^T is approximated by the quintic Newton-Schulz iteration
X <- a X + b (X X^T) X + c (X X^T)^2 X, whose coefficients are tuned for speed: after five steps the singular values lie within 0.5
and 1.5 rather than at 1, which does not hurt training.
Unusual here: fp32 unless the whole training is in bfloat16 (whose products are slower on most CPUs), and then the iteration in the plain
form, which rounding hurts less; in fp32 a matrix whose sides differ by more than half works on its small Gram
matrix A = X X^T alone - every factor is a polynomial of A, so they commute - and touches X twice instead of ten times; matrices of one
shape go together in batched products, or one by one where the network's own product (nn.products) is faster than those.
Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks", and its code (momentum, Nesterov, scale).
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import groupby

import torch
from jaxtyping import Float
from torch import Tensor, nn

from touchstone.nn.products import Product, torch_product

__all__ = ["QUINTIC", "Muon", "orthogonalise"]

QUINTIC = (3.4445, -4.7750, 2.0315)
"""a, b, c of Jordan et al. 2024: the steepest at zero whose values stay near 1."""

MultiplyAdd = Callable[[Tensor | None, float, Tensor, Tensor, float], Tensor]  # (c, β, left, right, α) -> β c + α left right

_GRAM_FROM = 1.5  # long side over short side from which the Gram form needs fewer operations: 4 m²n + 34 m³ against 20 m²n + 10 m³
_EPS = 1e-7  # keeps a zero matrix at zero


class Muon:
    """Momentum and orthogonalised updates for matrices; the rate is given at every step.

    An update is scaled by sqrt(max(1, rows / columns)), decay is decoupled. A parameter without a gradient is left as it is.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        *,
        momentum: float,
        n_iterations: int,
        weight_decay: float = 0.0,
        product: Product = torch_product,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.parameters = dict(parameters)
        self.momentum, self.n_iterations, self.weight_decay = momentum, n_iterations, weight_decay
        self.product, self.dtype = product, dtype
        self.buffers = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Update every parameter that has a gradient."""
        live = [name for name, parameter in self.parameters.items() if parameter.grad is not None]
        for shape, group in groupby(sorted(live, key=self._shape), key=self._shape):
            names = list(group)
            parameters: list[Tensor] = [self.parameters[name] for name in names]
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            buffers = [self.buffers[name] for name in names]
            torch._foreach_lerp_(buffers, gradients, 1.0 - self.momentum)
            ahead = torch._foreach_lerp(gradients, buffers, self.momentum)  # Nesterov
            updates = self._orthogonalise(ahead)
            if self.weight_decay:
                torch._foreach_mul_(parameters, 1.0 - learning_rate * self.weight_decay)
            torch._foreach_add_(parameters, updates, alpha=-learning_rate * max(1.0, shape[0] / shape[1]) ** 0.5)

    def _orthogonalise(self, matrices: Iterable[Tensor]) -> list[Tensor]:
        if self.product is torch_product:
            return list(orthogonalise(torch.stack(list(matrices)), self.n_iterations, dtype=self.dtype).unbind())
        return [orthogonalise(matrix, self.n_iterations, self.product, self.dtype) for matrix in matrices]

    def _shape(self, name: str) -> tuple[int, int]:
        n_rows, n_columns = self.parameters[name].shape
        return n_rows, n_columns


def orthogonalise(
    matrices: Float[Tensor, "*N R C"], n_iterations: int = 5, product: Product = torch_product, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "*N R C"]:
    """The matrices with their singular values driven towards 1; a zero matrix stays zero.

    product: how x W^T is computed; anything but torch's takes one matrix at a time. dtype: bfloat16 rounds the iteration to it.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True) + _EPS)
    multiply_add = _batched if product is torch_product else _one_by(product)
    if dtype == torch.bfloat16:
        x = _direct(x.bfloat16(), n_iterations, multiply_add).to(matrices.dtype)
    else:
        step = _through_gram if x.shape[-1] >= _GRAM_FROM * x.shape[-2] else _direct
        x = step(x, n_iterations, multiply_add)
    return x.mT if tall else x


def _direct(x: Tensor, n_iterations: int, multiply_add: MultiplyAdd) -> Tensor:
    """The iteration as the formula has it."""
    a, b, c = QUINTIC
    for _ in range(n_iterations):
        gram = multiply_add(None, 0.0, x, x.mT, 1.0)
        x = multiply_add(x, a, multiply_add(gram, b, gram, gram, c), x, 1.0)
    return x


def _through_gram(x: Tensor, n_iterations: int, multiply_add: MultiplyAdd) -> Tensor:
    """The same product of polynomials, gathered on the short side: X_n = P_n ... P_1 X with P_k = a I + b A_k + c A_k^2."""
    a, b, c = QUINTIC
    gram = multiply_add(None, 0.0, x, x.mT, 1.0)
    total: Tensor | None = None
    for iteration in range(n_iterations):
        factor = multiply_add(gram, b, gram, gram, c)
        factor.diagonal(dim1=-2, dim2=-1).add_(a)
        total = factor if total is None else multiply_add(None, 0.0, factor, total, 1.0)
        if iteration + 1 < n_iterations:
            gram = multiply_add(None, 0.0, multiply_add(None, 0.0, factor, gram, 1.0), factor, 1.0)
    return x if total is None else multiply_add(None, 0.0, total, x, 1.0)


def _batched(added: Tensor | None, beta: float, left: Tensor, right: Tensor, alpha: float) -> Tensor:
    if added is None:
        return left @ right
    if left.ndim == 2:
        return torch.addmm(added, left, right, beta=beta, alpha=alpha)
    return torch.baddbmm(added, left, right, beta=beta, alpha=alpha)


def _one_by(product: Product) -> MultiplyAdd:
    def multiply_add(added: Tensor | None, beta: float, left: Tensor, right: Tensor, alpha: float) -> Tensor:
        multiplied = product(left, right.mT, None)
        return multiplied if added is None else torch.add(beta * added, multiplied, alpha=alpha)

    return multiply_add
