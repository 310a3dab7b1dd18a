"""What this machine can do: its matrix-product peak and the speed of reading memory, measured in under two seconds.

A fraction of the peak says how well a training run uses the machine. A peak looked up by the machine's name would be wrong on most, so
it is measured, with the threads of the run and with every product that a run may use (nn/products.py): the fastest is the peak.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch

from touchstone.nn.products import onednn_product, onednn_works, torch_product

__all__ = ["MachineSpeed", "matmul_flops", "measure_machine", "measure_matmul", "measure_reading"]

Clock = Callable[[], float]

QUICK_SHAPES = ((1024, 1024, 1024), (2048, 768, 3072), (512, 2048, 512))
"""(rows, inner, columns): which one is fastest differs by processor and library; each is near a CPU's peak and takes milliseconds."""

QUICK_BYTES = 256 << 20
"""Bytes read in one pass: far beyond any cache, so that memory is measured and not the cache."""


@dataclass(frozen=True)
class MachineSpeed:
    """The best rates seen; `dtype` and `n_threads` say what they hold for."""

    matmul_flops_per_s: float
    read_bytes_per_s: float
    dtype: str
    device: str
    n_threads: int

    def fraction(self, flops: float, seconds: float) -> float:
        """The share of the matrix-product peak that this many operations in this time use."""
        return flops / seconds / self.matmul_flops_per_s

    def or_faster(self, matmul_flops_per_s: float) -> "MachineSpeed":
        """The same with the higher of two measured peaks: a busy moment only ever makes one too low."""
        return replace(self, matmul_flops_per_s=max(self.matmul_flops_per_s, matmul_flops_per_s))

    def to_dict(self) -> dict[str, float | int | str]:
        return asdict(self)


def measure_machine(
    device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, *, seconds: float = 1.5, clock: Clock = time.perf_counter
) -> MachineSpeed:
    """Measure both rates, spending about `seconds` in all."""
    device = torch.device(device)
    return MachineSpeed(
        matmul_flops_per_s=measure_matmul(device, dtype, seconds=seconds * 2 / 3, clock=clock),
        read_bytes_per_s=measure_reading(device, seconds=seconds / 3, clock=clock),
        dtype=str(dtype).removeprefix("torch."),
        device=str(device),
        n_threads=torch.get_num_threads(),
    )


def matmul_flops(m: int, k: int, n: int) -> float:
    """Operations of an (m, k) by (k, n) product; a multiply and an add count as two."""
    return 2.0 * m * k * n


@torch.inference_mode()
def measure_matmul(
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    shapes: Sequence[tuple[int, int, int]] = QUICK_SHAPES,
    seconds: float = 1.0,
    clock: Clock = time.perf_counter,
) -> float:
    """Floating-point operations a second of the fastest of these products, by torch or by oneDNN's fp32 product where torch has it.

    They take turns, so that a slow spell of the machine meets all of them.
    """
    device = torch.device(device)
    products = [torch_product]
    if device.type == "cpu" and dtype == torch.float32 and onednn_works():
        products.append(onednn_product)
    works: list[tuple[float, Callable[[], object]]] = []
    for m, k, n in shapes:
        a, b = (torch.full((rows, k), 0.5, device=device, dtype=dtype) for rows in (m, n))
        works += [(matmul_flops(m, k, n), partial(product, a, b, None)) for product in products]
    for _, work in works:
        work()
    _finish(device)
    best, start, end = 0.0, clock(), 0.0
    while best == 0.0 or end - start < seconds:
        for flops, work in works:
            begin = clock()
            work()
            _finish(device)
            end = clock()
            best = max(best, flops / (end - begin))
    return best


@torch.inference_mode()
def measure_reading(
    device: torch.device | str = "cpu", *, n_bytes: int = QUICK_BYTES, seconds: float = 0.5, clock: Clock = time.perf_counter
) -> float:
    """Bytes a second of the fastest sum over `n_bytes`. A product of one row reads as much; not every library's is as fast."""
    device = torch.device(device)
    numbers = torch.full((max(1, n_bytes // 4),), 0.5, device=device)
    return 4.0 * len(numbers) / _fastest(numbers.sum, device, seconds, clock)


def _fastest(work: Callable[[], object], device: torch.device, seconds: float, clock: Clock) -> float:
    """Seconds of the fastest of the runs that fit; the first run only warms up, and at least one is timed."""
    work()
    _finish(device)
    best, start = float("inf"), clock()
    while True:
        begin = clock()
        work()
        _finish(device)
        end = clock()
        best = min(best, end - begin)
        if end - start >= seconds:
            return best


def _finish(device: torch.device) -> None:
    """Wait for work that a device does on its own time."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
