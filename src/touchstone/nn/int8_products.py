"""The operators that multiply whole numbers of 8 bits: whatever the machine, the same sums to the last bit.

The fast ones are not torch's public interface, and each is fast, or exact, on some processors only. Without VNNI instructions `fbgemm` and
`qlinear` add pairs of products in 16 bits, which overflow, and `int_mm` is a plain loop; there `halves` and `floats` are exact and
fast. `int8_choice` finds out which to use.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int8
from torch import Tensor

__all__ = ["INT8_PRODUCTS", "LEVELS", "MANY_ROWS", "Int8Product", "Int8ProductName", "Operands", "quantise_rows"]

Int8ProductName = Literal["int_mm", "fbgemm", "qlinear", "halves", "floats", "reference"]
LEVELS = 127
"""Of each sign; -128 is left out, so that both signs round alike."""
MANY_ROWS = 128
"""From here on a product is bound by arithmetic, and another operator may be the fastest."""

_EXACT = 2**24  # up to here fp32 holds every whole number
_HALF = 64  # a half lies in [-64, 64], and with 64 added in [0, 128]: 2 * 128 * 127 < 2^15
_HALVED_COLUMNS = _EXACT // (_HALF * LEVELS)  # so many products h * w have a sum that fp32 holds
_WHOLE_COLUMNS = _EXACT // LEVELS**2  # and so many products q * w
_FLOATS_AT_ONCE = 2**21  # weights, 8 MB in fp32: they stay in a cache between being made and being read


class Operands:
    """A layer's tensors as the operators take them; a module would look each of them up for as long as an operation takes.

    columns: the weights (I, O), a view. bias, smooth: None where the layer has none.
    """

    def __init__(self, weight: Int8[Tensor, "O I"], scale: Tensor, bias: Tensor | None, smooth: Tensor | None) -> None:
        self.weight, self.columns, self.scale, self.bias, self.smooth = weight, weight.t(), scale, bias, smooth
        self.levels = torch.tensor(float(LEVELS))
        self.nothing = torch.tensor(0.0)
        self.shift = torch.tensor(128, dtype=torch.uint8)
        self.quarters = torch.tensor([-0.25, 0.25])[:, None, None]
        self.zero_points = torch.zeros(len(weight), dtype=torch.int32)
        self._packed: dict[str, Any] = {}

    def packed(self, operator: Literal["qlinear", "fbgemm", "halves"]) -> Any:
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
        return codes.new_empty(0, len(by.scale))
    return _by_fbgemm(codes, 128, by.packed("fbgemm"))


def qlinear(codes: Float[Tensor, "M I"], by: Operands) -> Float[Tensor, "M O"]:
    """By oneDNN's product over packed weights; it takes q + 128 in uint8 and removes the 128 from the sums."""
    if not len(codes):
        return codes.new_empty(0, len(by.scale))
    shifted = codes.char().view(torch.uint8) ^ by.shift
    return torch.ops.onednn.qlinear_pointwise.default(
        shifted, 1.0, 128, by.packed("qlinear"), by.scale, by.zero_points, None, 1.0, 0, torch.float32, "none", [], ""
    )


def halves(codes: Float[Tensor, "M I"], by: Operands) -> Float[Tensor, "M O"]:
    """By FBGEMM's product of twice as many rows, q = floor(q/2) + ceil(q/2): in 7 bits and a sign two products' sum fits in 16 bits.

    Both rows read the weights once, and reading is what a few rows wait for. FBGEMM rounds q/2 -+ 1/4 to the halves by itself.
    """
    if not len(codes):
        return codes.new_empty(0, len(by.scale))
    both = torch.add(by.quarters, codes, alpha=0.5)
    packed = by.packed("halves")
    if len(packed) == 1:
        lower, upper = _by_fbgemm(both, _HALF, packed[0]).unbind()
        return lower.add_(upper).mul_(by.scale)
    sums = [_by_fbgemm(part, _HALF, weights) for part, weights in zip(both.split(_HALVED_COLUMNS, -1), packed, strict=True)]
    return _total([half for each in sums for half in each]).mul_(by.scale)


def floats(codes: Float[Tensor, "M I"], by: Operands) -> Float[Tensor, "M O"]:
    """By fp32 products of so few columns that every sum is a whole number that fp32 holds."""
    parts = codes.nan_to_num(0.0, 0.0, 0.0).split(_WHOLE_COLUMNS, 1)  # any code, as the others have it
    out = codes.new_empty(len(codes), len(by.weight))
    n = max(1, _FLOATS_AT_ONCE // by.weight.shape[1])
    for columns, weights in zip(out.split(n, 1), by.weight.split(n), strict=True):
        columns.copy_(_total([part @ few.float().t() for part, few in zip(parts, weights.split(_WHOLE_COLUMNS, 1), strict=True)]))
    return out.mul_(by.scale)


def reference(codes: Float[Tensor, "M I"], by: Operands) -> Float[Tensor, "M O"]:
    """In float64, which holds the sums exactly."""
    return (codes.char().double() @ by.columns.double()).float() * by.scale


INT8_PRODUCTS: dict[Int8ProductName, Int8Product] = {
    "int_mm": int_mm,
    "fbgemm": fbgemm,
    "qlinear": qlinear,
    "halves": halves,
    "floats": floats,
    "reference": reference,
}
"""Every operator by its name."""


def quantise_rows(rows: Float[Tensor, "N I"]) -> tuple[Int8[Tensor, "N I"], Float[Tensor, "N 1"]]:
    """Finite numbers as codes from -127 to 127, and the step of each row; a row of zeros has step 0."""
    step = rows.abs().amax(1, keepdim=True) / LEVELS
    codes = (rows / step.clamp_min(torch.finfo(rows.dtype).tiny)).round().clamp(-LEVELS, LEVELS)
    return codes.to(torch.int8), step


def _by_fbgemm(codes: Tensor, zero_point: int, packed: Any) -> Tensor:
    return torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32.default(codes, 1.0, zero_point, packed)


def _total(parts: Sequence[Float[Tensor, "M O"]]) -> Float[Tensor, "M O"]:
    """The sum of whole numbers, rounded to fp32 once. The first part is overwritten."""
    if len(parts) == 1:
        return parts[0]
    if len(parts) == 2:
        return parts[0].add_(parts[1])
    total = parts[0].double()
    for part in parts[1:]:
        total += part
    return total.float()


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


def _pack_halves(weight: Int8[Tensor, "O I"], scale: Float[Tensor, " O"]) -> list[Any]:
    return [_pack_fbgemm(part, torch.ones_like(scale)) for part in weight.split(_HALVED_COLUMNS, 1)]


_PACKINGS: dict[str, Callable[[Tensor, Tensor], Any]] = {"qlinear": _pack_qlinear, "fbgemm": _pack_fbgemm, "halves": _pack_halves}
