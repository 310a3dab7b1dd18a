"""Numeric types while training: bfloat16 autocast where it was measured to gain, with float32 kept where sums are long.

Weights, gradients and optimiser state stay float32; autocast computes matrix products in bfloat16; norms,
softmax and the loss are float32 islands inside it (torch's autocast lists, and `.float()` before the loss is summed).
It gains on hardware with bfloat16 matrix units and loses without them (0.75 times the speed on a server CPU without AMX), so it is
chosen by `measure_bf16_gain` and recorded with its figures, never assumed.
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Literal

import torch
from torch import nn

from touchstone.errors import DeviceError
from touchstone.train.objective import Objective, TensorBatch

__all__ = ["Bf16Gain", "Precision", "autocast", "measure_bf16_gain"]

Precision = Literal["float32", "bfloat16"]

_MIN_GAIN = 1.05  # a smaller gain does not pay for eight bits of mantissa


@dataclass(frozen=True)
class Bf16Gain:
    """What was measured: seconds of one forward and backward pass in each type, the medians of n interleaved tries."""

    seconds_float32: float
    seconds_bfloat16: float
    n: int

    @property
    def ratio(self) -> float:
        """Speed in bfloat16 over speed in float32."""
        return self.seconds_float32 / self.seconds_bfloat16

    @property
    def chosen(self) -> Precision:
        """bfloat16 if it gains at least 5 %."""
        return "bfloat16" if self.ratio >= _MIN_GAIN else "float32"

    def __str__(self) -> str:
        return (
            f"{self.chosen}: a pass takes {self.seconds_float32:.4f} s in float32 and {self.seconds_bfloat16:.4f} s in bfloat16, "
            f"{self.ratio:.2f} times the speed (medians of {self.n})"
        )


def autocast(precision: Precision, device: torch.device | str) -> contextlib.AbstractContextManager[None]:
    """The context a forward pass runs in; does nothing for float32. DeviceError where the device has no bfloat16."""
    if precision == "float32":
        return contextlib.nullcontext()
    kind = torch.device(device).type
    if kind == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise DeviceError("This GPU has no bfloat16 units; set `precision` to float32.")
    return torch.autocast(kind, torch.bfloat16)


def measure_bf16_gain(
    net: nn.Module, objective: Objective, batch: TensorBatch, *, n: int = 5, clock: Callable[[], float] = time.perf_counter
) -> Bf16Gain:
    """Time forward and backward passes of both types in turn, after one unmeasured try of each; weights and gradients stay as they are.

    Torch's random numbers go on as if nothing had happened.
    """
    device = batch.token_ids.device
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    seconds: dict[Precision, list[float]] = {"float32": [], "bfloat16": []}

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    with torch.random.fork_rng():
        for attempt in range(n + 1):
            for precision in seconds:
                wait()
                start = clock()
                with autocast(precision, device):
                    loss = objective(net, batch, None)
                torch.autograd.grad(loss.total, trained, allow_unused=True)
                wait()
                taken = clock() - start
                if attempt:
                    seconds[precision].append(taken)
    return Bf16Gain(median(seconds["float32"]), median(seconds["bfloat16"]), n)
