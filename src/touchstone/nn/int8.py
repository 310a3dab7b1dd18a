"""Products in int8: weights with one scale an output, activations with one a row, sums exact in int32.

    q = round(s·x / a),  a = max |s·x| of the row / 127,  y = (q · W_q) · w · a + b

W_q is s⁻¹W rounded in steps of w, one an output; s, where a layer has it, evens out inputs of very different size, in powers of two
so that it rounds nothing by itself. A row's numbers depend on that row alone, and all operators give the same sums, so results are the
same bits for any number of rows and any number of threads.
The fast operators are not torch's public interface and not exact on every machine (without VNNI instructions 16-bit sums overflow), so
`choose_int8_product` tries each against the reference before it measures them.
Sources: Dettmers et al. 2022, LLM.int8() §2 (a scale a row and an output); Xiao et al. 2023, SmoothQuant eq. 3 and 4 (s).
"""

import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

import torch
from jaxtyping import Float, Int, Int8
from torch import Tensor, nn
from torch.nn import functional as F

from touchstone.errors import ConfigError, ShapeError
from touchstone.nn.embedding import TokenTable
from touchstone.nn.linear import Linear, neighbours
from touchstone.nn.products import holds_here

__all__ = ["Int8Choice", "Int8Linear", "Int8ProductName", "Int8Table", "beside", "choose_int8_product", "use_int8_product"]

Int8ProductName = Literal["int_mm", "fbgemm", "qlinear", "reference"]
_LEVELS = 127  # of each sign; -128 is left out, so that both signs round alike
_WIDEST = (1 << 31) // _LEVELS**2  # inputs whose sum of products fits in int32
_SHAPES = ((768, 768), (768, 3072), (3072, 768)) * 8  # (in, out) at which operators are measured: 42 MB, more than most caches hold
_ROWS = 16
_TRIES = 4
_FEW_NUMBERS = 2**17  # a copy of so many stays in a core's cache
_MIN_GAIN = 1.1  # below this a second copy of the weights is not worth it


class Operands:
    """A layer's tensors as the operators take them; a module would look each of them up for as long as an operation takes.

    columns: the weights (I, O), a view. bias, smooth: None where the layer has none.
    """

    def __init__(self, weight: Int8[Tensor, "O I"], scale: Tensor, bias: Tensor | None, smooth: Tensor | None) -> None:
        self.weight, self.columns, self.scale, self.bias, self.smooth = weight, weight.t(), scale, bias, smooth
        self.levels = torch.tensor(float(_LEVELS))
        self.nothing = torch.tensor(0.0)
        self.shift = torch.tensor(128, dtype=torch.uint8)
        self.zero_points = torch.zeros(len(weight), dtype=torch.int32)
        self._packed: dict[str, Any] = {}

    def packed(self, operator: Literal["qlinear", "fbgemm"]) -> Any:
        """A second copy of the weights, laid out for an operator, made when it is first asked for."""
        if operator not in self._packed:
            self._packed[operator] = _PACKINGS[operator](self.weight, self.scale)
        return self._packed[operator]


Int8Product = Callable[[Tensor, Operands], Tensor]
"""From codes, whole numbers in fp32, (M, I), to q · W_q times the scales, (M, O)."""


def int_mm(codes: Float[Tensor, "M I"], by: Operands) -> Float[Tensor, "M O"]:
    """By torch's integer product."""
    if codes.shape[1] == 1:  # torch 2.13 takes the strides of such weights for others and reads elsewhere
        return reference(codes, by)
    return torch._int_mm(codes.char(), by.columns).float().mul_(by.scale)


def fbgemm(codes: Float[Tensor, "M I"], by: Operands) -> Float[Tensor, "M O"]:
    """By FBGEMM's product over packed weights, which turns the codes into uint8 and the sums into fp32 on the way."""
    if not len(codes):
        return torch.empty(0, len(by.scale))
    return torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32.default(codes, 1.0, 128, by.packed("fbgemm"))


def qlinear(codes: Float[Tensor, "M I"], by: Operands) -> Float[Tensor, "M O"]:
    """By oneDNN's product over packed weights; it takes q + 128 in uint8 and removes the 128 from the sums."""
    if not len(codes):
        return torch.empty(0, len(by.scale))
    shifted = codes.char().view(torch.uint8) ^ by.shift
    return torch.ops.onednn.qlinear_pointwise.default(
        shifted, 1.0, 128, by.packed("qlinear"), by.scale, by.zero_points, None, 1.0, 0, torch.float32, "none", [], ""
    )


def reference(codes: Float[Tensor, "M I"], by: Operands) -> Float[Tensor, "M O"]:
    """In float64, which holds the sums exactly."""
    return (codes.char().double() @ by.columns.double()).float() * by.scale


_PRODUCTS: dict[str, Int8Product] = {"int_mm": int_mm, "fbgemm": fbgemm, "qlinear": qlinear, "reference": reference}


def _pack_qlinear(weight: Int8[Tensor, "O I"], scale: Float[Tensor, " O"]) -> Any:
    return torch.ops.onednn.qlinear_prepack(weight, None)


def _pack_fbgemm(weight: Int8[Tensor, "O I"], scale: Float[Tensor, " O"]) -> Any:
    """FBGEMM packs torch's quantized tensors only, whose making warns that they will go; then this operator is left out."""
    engines = torch.backends.quantized
    before = engines.engine
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        tensor = torch._make_per_channel_quantized_tensor(
            weight.contiguous(), scale.double(), torch.zeros(len(weight), dtype=torch.long), 0
        )
        engines.engine = "fbgemm"
        try:
            return torch.ops.quantized.linear_prepack(tensor, None)
        finally:
            engines.engine = before


_PACKINGS: dict[str, Callable[[Tensor, Tensor], Any]] = {"qlinear": _pack_qlinear, "fbgemm": _pack_fbgemm}


class Int8Linear(nn.Module):
    """x W^T + b with W in int8; takes any float type, computes and answers in fp32, on a CPU.

    A row with a value that is not finite gives NaN everywhere. There are no gradients.
    weight: int8 (O, I), the numbers times `scale` (O,), and times `smooth` (I,) where that is not None, are W.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None
    smooth: Tensor | None
    one_row: Int8Product = staticmethod(int_mm)
    more_rows: Int8Product = staticmethod(int_mm)

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
        y = (self.one_row if len(rows) == 1 else self.more_rows)(codes, by).mul_(step)
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
        joined.one_row, joined.more_rows, joined.smooth = self.one_row, self.more_rows, self.smooth
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


def quantise_rows(rows: Float[Tensor, "N I"]) -> tuple[Int8[Tensor, "N I"], Float[Tensor, "N 1"]]:
    """Finite numbers as codes from -127 to 127, and the step of each row; a row of zeros has step 0."""
    step = rows.abs().amax(1, keepdim=True) / _LEVELS
    codes = (rows / step.clamp_min(torch.finfo(rows.dtype).tiny)).round().clamp(-_LEVELS, _LEVELS)
    return codes.to(torch.int8), step


@dataclass(frozen=True)
class Int8Choice:
    """Which operator multiplies a single row, and which several; all give the same bits."""

    one_row: Int8ProductName
    more_rows: Int8ProductName
    reason: str


def use_int8_product(net: nn.Module, one_row: Int8ProductName, more_rows: Int8ProductName | None = None) -> None:
    """Make every int8 layer of the network use these operators; more_rows: None = the same."""
    for module in net.modules():
        if isinstance(module, Int8Linear):
            module.one_row, module.more_rows = _PRODUCTS[one_row], _PRODUCTS[more_rows or one_row]


def choose_int8_product() -> Int8Choice:
    """Try the operators, and measure those that are exact on this machine, with the threads that are set now, in about half a second."""
    fast: tuple[Int8ProductName, ...] = ("int_mm", "fbgemm", "qlinear")
    exact = [name for name in fast if _is_exact(_PRODUCTS[name])]
    if not exact:
        return Int8Choice("reference", "reference", "int8 by float64 products: no integer product of this build of torch is exact here")
    if len(exact) == 1:
        return Int8Choice(exact[0], exact[0], f"int8 by {exact[0]}, the only integer product that is exact here")
    plain, others = exact[0], exact[1:]  # each of the others keeps a second copy of the weights, so one at most is used
    seconds = _measured(exact)
    gains = {name: {n: took[plain] / took[name] for n, took in seconds.items()} for name in others}
    best = max(others, key=lambda name: math.prod(gains[name].values()))
    one, more = (best if gains[best][n] >= _MIN_GAIN else plain for n in (1, _ROWS))
    told = "; ".join(f"{name} {', '.join(f'{gain:.2f} at {n}' for n, gain in gains[name].items())}" for name in others)
    return Int8Choice(one, more, f"int8 by {one} for one row and {more} for more: speed over {plain}'s, by rows: {told}")


@torch.inference_mode()
def _is_exact(product: Int8Product) -> bool:
    """Whether an operator is there and gives the reference's bits, on random codes and on the ones with the largest sums."""
    rng = torch.Generator().manual_seed(0)

    def agrees(n_rows: int, d_in: int, d_out: int) -> bool:
        codes = torch.randint(-_LEVELS, _LEVELS + 1, (n_rows, d_in), generator=rng).float()
        largest = torch.full_like(codes, float(_LEVELS))
        layers = [
            Int8Linear.of_weight(weight, None)._prepare()
            for weight in (torch.randn(d_out, d_in, generator=rng), torch.full((d_out, d_in), -1.0))
        ]
        return all(torch.equal(product(each, by), reference(each, by)) for by in layers for each in (codes, largest, -largest))

    shapes = ((1, 768, 96), (2, 37, 41), (3, 1, 5), (5, 770, 33), (17, 64, 130), (64, 256, 64))
    return holds_here(lambda: all(agrees(*shape) for shape in shapes))


@torch.inference_mode()
def _measured(names: Sequence[Int8ProductName]) -> dict[int, dict[str, float]]:
    """By rows and operator, the seconds of all shapes one after the other, so that no weight comes from a cache; the best of some tries."""
    layers = [
        Operands(torch.randint(-_LEVELS, _LEVELS + 1, (d_out, d_in), dtype=torch.int8), torch.ones(d_out), None, None)
        for d_in, d_out in _SHAPES
    ]
    found: dict[int, dict[str, float]] = {}
    for n_rows in (1, _ROWS):
        codes = {d_in: torch.randint(-_LEVELS, _LEVELS + 1, (n_rows, d_in)).float() for d_in, _ in _SHAPES}
        found[n_rows] = dict.fromkeys(names, math.inf)
        for _ in range(_TRIES):
            for name in names:
                start = time.perf_counter()
                for by in layers:
                    _PRODUCTS[name](codes[by.weight.shape[1]], by)
                found[n_rows][name] = min(found[n_rows][name], time.perf_counter() - start)
    return found


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b or (a is not None and b is not None and torch.equal(a, b))
