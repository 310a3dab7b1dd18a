"""Linear layers and the token table in int8: weights with one scale an output, activations with one a row, and exact sums.

    q = round(s·x / a),  a = max |s·x| of the row / 127,  y = (q · W_q) · w · a + b

W_q is s⁻¹W rounded in steps of w, one an output; s, where a layer has it, evens out inputs of very different size, in powers of two
so that it rounds nothing by itself. A row's numbers depend on that row alone, and all operators (`int8_products`) give the same sums, so
results are the same bits for any number of rows and any number of threads.
Sources: Dettmers et al. 2022, LLM.int8() §2 (a scale a row and an output); Xiao et al. 2023, SmoothQuant eq. 3 and 4 (s).
"""

from collections.abc import Sequence
from typing import Any, overload

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from touchstone.errors import ConfigError, ShapeError
from touchstone.nn.embedding import TokenTable
from touchstone.nn.int8_products import INT8_PRODUCTS, LEVELS, MANY_ROWS, Int8Product, Int8ProductName, Operands, floats, quantise_rows
from touchstone.nn.linear import Linear, neighbours

__all__ = ["Int8Linear", "Int8Table", "beside", "use_int8_product"]

_WIDEST = (1 << 31) // LEVELS**2  # inputs whose sum of products fits in int32
_FEW_NUMBERS = 2**17  # a copy of so many stays in a core's cache


class Int8Linear(nn.Module):
    """x W^T + b with W in int8; takes any float type, computes and answers in fp32, on a CPU.

    A row with a value that is not finite gives NaN everywhere. There are no gradients.
    weight: int8 (O, I), the numbers times `scale` (O,), and times `smooth` (I,) where that is not None, are W.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None
    smooth: Tensor | None
    one_row: Int8Product = staticmethod(floats)  # until one is chosen: exact on every processor
    more_rows: Int8Product = staticmethod(floats)
    many_rows: Int8Product = staticmethod(floats)

    def __init__(self, in_features: int, out_features: int, *, bias: bool, smooth: bool = False) -> None:
        """A layer whose tensors a loader will fill."""
        super().__init__()
        if in_features > _WIDEST:
            raise ConfigError(f"An int8 product has at most {_WIDEST} inputs, whose sum fits in 32 bits; this layer has {in_features}.")
        self.in_features, self.out_features = in_features, out_features
        self.register_buffer("weight", torch.empty(out_features, in_features, dtype=torch.int8))
        self.register_buffer("scale", torch.empty(out_features))
        self.register_buffer("bias", torch.empty(out_features) if bias else None)
        self.register_buffer("smooth", torch.empty(in_features) if smooth else None)
        self._operands: Operands | None = None

    @classmethod
    def of(cls, linear: nn.Linear, smooth: Float[Tensor, " I"] | None = None) -> "Int8Linear":
        """The int8 form of a layer; smooth: factors on the inputs, powers of two. Raises ConfigError for weights that are not finite."""
        return cls.of_weight(linear.weight, linear.bias, smooth)

    @classmethod
    @torch.no_grad()
    def of_weight(
        cls, weight: Float[Tensor, "O I"], bias: Float[Tensor, " O"] | None, smooth: Float[Tensor, " I"] | None = None
    ) -> "Int8Linear":
        """The int8 form of x W^T + b."""
        if not bool(weight.isfinite().all()):
            raise ConfigError("A weight holds values that are not finite; such a layer has no int8 form.")
        wide = weight.detach().float()
        codes, scale = quantise_rows(wide if smooth is None else wide / smooth)
        layer = cls(weight.shape[1], weight.shape[0], bias=bias is not None, smooth=smooth is not None)
        layer.weight, layer.scale = codes, scale[:, 0]
        if bias is not None:
            layer.bias = bias.detach().float().clone()
        if smooth is not None:
            layer.smooth = smooth.float().clone()
        return layer

    def forward(self, x: Float[Tensor, "... I"]) -> Float[Tensor, "... O"]:
        by = self._operands or self._prepare()
        rows = x.detach() if x.ndim == 2 else x.detach().reshape(-1, x.shape[-1])
        if rows.dtype != torch.float32:
            rows = rows.float()
        if by.smooth is not None:
            rows = rows * by.smooth
        step = _largest(rows).div_(by.levels)
        step.addcmul_(step, by.nothing)  # inf becomes no number
        codes = (rows / step).round_()  # 0/0 and nan become any code: times a step of 0 it is 0, of nan no number
        product = self.one_row if len(rows) == 1 else self.more_rows if len(rows) < MANY_ROWS else self.many_rows
        y = product(codes, by).mul_(step)
        if by.bias is not None:
            y.add_(by.bias)
        return y if x.ndim == 2 else y.view(*x.shape[:-1], self.out_features)

    @torch.no_grad()
    def beside(self, *others: "Int8Linear") -> "Int8Linear":
        """One layer whose outputs are ours and theirs side by side, all having the same input and a bias or none.

        The weights of all become views of its own: nothing is stored twice. Raises ShapeError for layers that treat an input differently.
        """
        layers = (self, *others)
        if any(not _same(layer.smooth, self.smooth) or layer.in_features != self.in_features for layer in others):
            raise ShapeError("Layers beside each other must have one input: the same width and the same `smooth`.")
        joined = Int8Linear(self.in_features, sum(layer.out_features for layer in layers), bias=False)
        joined.one_row, joined.more_rows, joined.many_rows = self.one_row, self.more_rows, self.many_rows
        joined.smooth = self.smooth
        for name in ("weight", "scale", *(("bias",) if self.bias is not None else ())):
            there = neighbours([getattr(layer, name) for layer in layers])
            if there is not None:
                setattr(joined, name, there)
                continue
            whole = torch.cat([getattr(layer, name) for layer in layers])
            setattr(joined, name, whole)
            for layer, piece in zip(layers, whole.split([layer.out_features for layer in layers]), strict=True):
                setattr(layer, name, piece)
        return joined

    def holds(self, *layers: "Int8Linear") -> bool:
        """Whether the weights of these layers, joined by `beside`, still are views of this one's."""
        starts = [sum(layer.out_features for layer in layers[:n]) for n in range(len(layers))]
        return [layer.weight.data_ptr() for layer in layers] == [self.weight.data_ptr() + self.in_features * start for start in starts]

    def extra_repr(self) -> str:
        smooth = ", smooth" if self.smooth is not None else ""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}{smooth}"

    def _prepare(self) -> Operands:
        self._operands = Operands(self.weight, self.scale, self.bias, self.smooth)
        return self._operands

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Tensor):
            self.__dict__["_operands"] = None  # they were of other tensors, as below
        super().__setattr__(name, value)

    def _load_from_state_dict(self, *arguments: Any, **named: Any) -> None:
        self._operands = None
        super()._load_from_state_dict(*arguments, **named)

    def _apply(self, *arguments: Any, **named: Any) -> Any:
        self._operands = None
        return super()._apply(*arguments, **named)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_operands": None}  # the layouts of others cannot be copied


class Int8Table(TokenTable):
    """The token table in int8, one scale a token; `rows` is also the product of a head tied to it."""

    def __init__(self, rows: Int8Linear, scale: float = 1.0, token_types: nn.Parameter | None = None) -> None:
        nn.Module.__init__(self)
        self.rows = rows
        self.scale = scale
        self.token_types = token_types
        # one number, seen as the whole table: who asks its weight for device, type and shape is told, and who multiplies by it gets NaN
        shown = torch.full((1, 1), torch.nan).expand(rows.out_features, rows.in_features)
        self.register_buffer("weight", shown, persistent=False)

    def forward(self, token_ids: Int[Tensor, "..."]) -> Float[Tensor, "... D"]:
        vectors = F.embedding(token_ids, self.rows.weight) * self.rows.scale[token_ids][..., None]
        if self.rows.smooth is not None:
            vectors = vectors * self.rows.smooth
        return vectors if self.scale == 1.0 else vectors * self.scale

    def extra_repr(self) -> str:
        return f"{self.rows.out_features}, {self.rows.in_features}"


@overload
def beside(layers: Sequence[Int8Linear]) -> Int8Linear: ...
@overload
def beside(layers: Sequence[Linear]) -> Linear: ...
def beside(layers: Sequence[Any]) -> Linear | Int8Linear:
    """One layer whose outputs are those of the layers side by side; see `Linear.beside` and `Int8Linear.beside`."""
    joined: Linear | Int8Linear = layers[0].beside(*layers[1:])
    return joined


def _largest(rows: Float[Tensor, "N I"]) -> Float[Tensor, "N 1"]:
    """max |x| of each row; for many numbers without a copy of them all."""
    if rows.numel() < _FEW_NUMBERS:
        return rows.abs().amax(1, True)
    return torch.maximum(rows.amax(1, True), rows.amin(1, True).neg_())


def use_int8_product(
    net: nn.Module, one_row: Int8ProductName, more_rows: Int8ProductName | None = None, many_rows: Int8ProductName | None = None
) -> None:
    """Make every int8 layer of the network use these operators, by the number of rows; None = the one before."""
    one, more, many = (INT8_PRODUCTS[name] for name in (one_row, more_rows or one_row, many_rows or more_rows or one_row))
    for module in net.modules():
        if isinstance(module, Int8Linear):
            module.one_row, module.more_rows, module.many_rows = one, more, many


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b or (a is not None and b is not None and torch.equal(a, b))
