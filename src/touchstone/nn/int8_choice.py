"""Which operators multiply in int8 on this machine: of those that are exact here, the fastest for one row, for more, and for many."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from touchstone.nn.int8_products import INT8_PRODUCTS, LEVELS, MANY_ROWS, Int8Product, Int8ProductName, Operands, quantise_rows
from touchstone.nn.products import holds_here

__all__ = ["Int8Choice", "choose_int8_product", "is_exact"]

_PLAIN: tuple[Int8ProductName, ...] = ("int_mm", "floats")
_PACKED: tuple[Int8ProductName, ...] = ("fbgemm", "qlinear", "halves")  # each keeps a second copy of the weights, so one at most is used

_ONE, _MORE, _MANY = 1, 16, 2 * MANY_ROWS  # rows
_SHAPES = ((768, 768), (768, 3072), (3072, 768))  # (in, out)
_REPEATED = 8  # 42 MB of weights, more than most caches hold
_TRIES = 4  # of which the first may lay weights out, too
_LONG_S = 0.05  # a second try that takes so long tells enough
_OUT_OF_RACE = 4.0  # an operator so many times as slow as the best is not measured with more rows
_MIN_GAIN = 1.1  # below this a second copy of the weights is not worth it

_Seconds = dict[int, dict[Int8ProductName, float]]  # by rows


@dataclass(frozen=True)
class Int8Choice:
    """Which operator multiplies a single row, which several, and which MANY_ROWS and more; all give the same bits."""

    one_row: Int8ProductName
    more_rows: Int8ProductName
    many_rows: Int8ProductName
    reason: str

    @property
    def operators(self) -> tuple[Int8ProductName, Int8ProductName, Int8ProductName]:
        """By the number of rows, as `use_int8_product` takes them."""
        return self.one_row, self.more_rows, self.many_rows


def choose_int8_product() -> Int8Choice:
    """Try the operators, and measure those that are exact on this machine, with the threads that are set now, in a second or two."""
    exact = [name for name in (*_PLAIN, *_PACKED) if is_exact(INT8_PRODUCTS[name])]
    if not exact:
        why = "int8 by float64 products: no integer product of this build of torch is exact here"
        return Int8Choice("reference", "reference", "reference", why)
    seconds = _measured(exact)
    plain = [name for name in _PLAIN if name in exact]
    choices = [_fastest(seconds, plain, packed) for packed in (None, *(name for name in _PACKED if name in exact)) if packed or plain]
    one, more, many = min(choices, key=lambda names: math.prod(seconds[n][name] for n, name in zip(seconds, names, strict=True)))
    return Int8Choice(one, more, many, f"int8 by {one} for one row, {more} for more, {many} from {MANY_ROWS} on: {_told(seconds)}")


@torch.inference_mode()
def is_exact(product: Int8Product) -> bool:
    """Whether an operator is there and gives the reference's bits, on random codes and on some whose sums are nearly the largest."""
    rng = torch.Generator().manual_seed(0)
    reference = INT8_PRODUCTS["reference"]

    def agrees(n_rows: int, d_in: int, d_out: int) -> bool:
        codes = torch.randint(-LEVELS, LEVELS + 1, (n_rows, d_in), generator=rng).float()
        largest = torch.full_like(codes, float(LEVELS)) - torch.randint(0, 2, codes.shape, generator=rng)
        operands = [
            Operands(weight, scale[:, 0], None, None)
            for weight, scale in map(quantise_rows, (torch.randn(d_out, d_in, generator=rng), torch.full((d_out, d_in), -1.0)))
        ]
        return all(torch.equal(product(each, by), reference(each, by)) for by in operands for each in (codes, largest, -largest))

    shapes = ((1, 768, 96), (2, 37, 41), (3, 1, 5), (5, 770, 33), (17, 64, 130), (64, 256, 64), (3, 1500, 9), (3, 2100, 9), (150, 96, 33))
    return holds_here(lambda: all(agrees(*shape) for shape in shapes))


def _fastest(seconds: _Seconds, plain: Sequence[Int8ProductName], packed: Int8ProductName | None) -> tuple[Int8ProductName, ...]:
    """By rows, the fastest of the plain operators and one that keeps a copy, where that gains by it."""

    def at(found: dict[Int8ProductName, float]) -> Int8ProductName:
        if packed is None:
            return min(plain, key=lambda name: found[name])
        best = min(plain, key=lambda name: found[name], default=packed)
        return packed if found[best] >= _MIN_GAIN * found[packed] else best

    return tuple(at(found) for found in seconds.values())


@torch.inference_mode()
def _measured(names: Sequence[Int8ProductName]) -> _Seconds:
    """The seconds of all shapes one after the other, so that with few rows no weight comes from a cache; the best of some tries."""
    found: _Seconds = {}
    racing = list(names)
    drawn = {(d_in, d_out): _codes(d_out, d_in).char() for d_in, d_out in _SHAPES}
    for n_rows in (_ONE, _MORE, _MANY):
        repeated = _REPEATED if n_rows < MANY_ROWS else 1
        layers = [Operands(drawn[shape].clone(), torch.ones(shape[1]), None, None) for shape in _SHAPES * repeated]
        inputs = {d_in: _codes(n_rows, d_in) for d_in, _ in _SHAPES}
        took = dict.fromkeys(names, math.inf)
        for n_tries in range(_TRIES):
            for name in racing:
                if n_tries > 1 and took[name] > _LONG_S:
                    continue
                start = time.perf_counter()
                for by in layers:
                    INT8_PRODUCTS[name](inputs[by.weight.shape[1]], by)
                took[name] = min(took[name], time.perf_counter() - start)
        found[n_rows] = took
        racing = [name for name in racing if took[name] <= _OUT_OF_RACE * min(took.values())]
    return found


def _told(seconds: _Seconds) -> str:
    times = (
        f"{n}: " + ", ".join(f"{name} {1e3 * took:.1f}" for name, took in found.items() if took < math.inf) for n, found in seconds.items()
    )
    return f"milliseconds by rows {'; '.join(times)}"


def _codes(n_rows: int, n_columns: int) -> torch.Tensor:
    return torch.randint(-LEVELS, LEVELS + 1, (n_rows, n_columns)).float()
