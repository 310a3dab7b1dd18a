"""The gradient of one step: micro-batches whose sums are added up, and divided once by what the whole batch counted.

Everything here is a function of the step's index in the plan: which examples, in which order, and which units dropout silences. So a
step can be dropped half-way and taken again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from touchstone.errors import ConfigError, DataError
from touchstone.nn.dropout import Noise
from touchstone.text.batch import Plan, TokenBatch
from touchstone.train.objective import Objective, TensorBatch
from touchstone.train.precision import autocast
from touchstone.train.settings import TrainConfig
from touchstone.train.signals import StopNow, StopSignals

__all__ = ["CorruptingSource", "FixedSource", "Gradient", "GradientMaker", "Source", "noise_keys"]

_STEPS_AHEAD = 64  # whose examples are computed in one go: one step's alone take half a millisecond
_MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0x9E3779B97F4A7C15)  # SplitMix64 (Steele, Lea & Flood 2014)


class FixedSource(Protocol):
    """Examples by number, such as text.batch's PackedWindows and PaddedRows; the same number is always the same example."""

    @property
    def n_examples(self) -> int:
        """How many there are."""

    @property
    def fingerprint(self) -> str:
        """Changes when any example does."""

    def batch(self, example_ids: NDArray[np.int64]) -> TokenBatch:
        """These examples, in this order."""


class CorruptingSource(Protocol):
    """A source that makes its examples anew each time, such as text.corrupted's; `corrupts` is True."""

    corrupts: bool

    @property
    def n_examples(self) -> int:
        """How many there are."""

    @property
    def fingerprint(self) -> str:
        """Changes when any example does, whatever its key."""

    def batch(self, example_ids: NDArray[np.int64], keys: NDArray[np.int64]) -> TokenBatch:
        """These examples, in this order, each a pure function of its key."""


Source = FixedSource | CorruptingSource
"""What a trainer takes examples from."""


@dataclass(frozen=True)
class Gradient:
    """What one step's forward and backward passes gave; the gradients themselves are on the parameters, summed and not yet divided."""

    loss: float  # per counted target; may be NaN
    norm: float  # of the mean gradient, before clipping; may be NaN
    count: int
    parts: dict[str, float]  # per counted target


class GradientMaker:
    """Computes the summed gradients of any step of a plan."""

    def __init__(self, net: nn.Module, objective: Objective, source: Source, plan: Plan, config: TrainConfig) -> None:
        self.micro_batch_size = config.micro_batch_size or config.batch_size
        if self.micro_batch_size < config.batch_size and (why := _why_not_additive(objective, net)) is not None:
            raise ConfigError(
                f"`micro_batch_size` ({self.micro_batch_size}) below `batch_size` ({config.batch_size}): {why}, "
                "so parts of a batch do not add up; leave `micro_batch_size` out."
            )
        self.net, self.objective, self.source = net, objective, source
        self._examples = _maker(source)
        self._lengths: NDArray[np.int64] | None = getattr(source, "lengths", None)  # of rows; windows have one length
        self._ahead = Plan(plan.n_examples, plan.batch_size * _STEPS_AHEAD, plan.seed)
        self._block: tuple[int, NDArray[np.int64]] | None = None  # its place in `_ahead`, and the examples
        self.seed, self.precision = config.seed, config.precision
        self._parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
        self.device = self._parameters[0].device
        self._forward = torch.compile(self._plain_forward) if config.compile else self._plain_forward
        self._number = torch.float32 if self.device.type == "mps" else torch.float64  # mps has no float64

    def compute(self, step: int, stop: StopSignals) -> Gradient:
        """Leave the summed gradients of a step on the parameters, which must have none.

        Raises StopNow between micro-batches if a stop was requested, and DataError if no target of the whole batch counts.
        """
        example_ids = self.example_ids(step)
        keys = noise_keys(self.seed, step, len(example_ids))
        example_ids, keys = self._by_length(example_ids, keys)
        sums: dict[str, Tensor] = {}
        for start in range(0, len(example_ids), self.micro_batch_size):
            if start and stop.requested:
                raise StopNow
            rows = slice(start, start + self.micro_batch_size)
            batch = self._examples(example_ids[rows], keys[rows])
            if not batch.counts.any():
                continue
            total, count, parts = self._forward(TensorBatch.of(batch, self.device), torch.from_numpy(keys[rows]).to(self.device))
            total.backward()
            for name, value in {"total": total.detach(), "count": count, **parts}.items():
                sums[name] = sums[name] + value.to(self._number) if name in sums else value.to(self._number)
        if not sums:
            raise DataError(f"Step {step}: no target of the examples {example_ids.tolist()} counts; leave such examples out.")
        return self._read(step, sums)

    def example_ids(self, step: int) -> NDArray[np.int64]:
        """The examples of a step, as its plan has them."""
        place, row = divmod(step, _STEPS_AHEAD)
        if self._block is None or self._block[0] != place:  # the plan in longer rows is the same plan
            self._block = place, self._ahead.example_ids(place).reshape(_STEPS_AHEAD, -1)
        return self._block[1][row]

    def gradients(self) -> list[Tensor]:
        """The gradients that are there."""
        return [parameter.grad for parameter in self._parameters if parameter.grad is not None]

    def divide(self, gradient: Gradient, clip_norm: float | None) -> None:
        """Make the summed gradients the mean over the counted targets, shortened to clip_norm where they are longer."""
        factor = 1.0 / gradient.count
        if clip_norm is not None and gradient.norm > clip_norm:
            factor *= clip_norm / gradient.norm
        torch._foreach_mul_(self.gradients(), factor)

    def _by_length(self, example_ids: NDArray[np.int64], keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows of like length together, each with its key, where a step is cut: less padding, and the same sum."""
        if self._lengths is None or self.micro_batch_size >= len(example_ids):
            return example_ids, keys
        order = np.argsort(self._lengths[example_ids], kind="stable")
        return example_ids[order], keys[order]

    def _plain_forward(self, batch: TensorBatch, keys: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        with autocast(self.precision, self.device):
            loss = self.objective(self.net, batch, Noise(keys))
        return loss.total, loss.count, loss.parts

    def _read(self, step: int, sums: dict[str, Tensor]) -> Gradient:
        """Everything the host wants to know, in one transfer."""
        gradients = self.gradients()
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        names = [name for name in sums if name not in ("total", "count")]
        total, count, length, *parts = torch.stack(
            [sums["total"], sums["count"], norm.to(self._number), *(sums[n] for n in names)]
        ).tolist()
        n = int(count)
        if n == 0:
            raise DataError(f"Step {step}: the objective counted no target.")
        return Gradient(total / n, length / n, n, {name: value / n for name, value in zip(names, parts, strict=True)})


def _why_not_additive(objective: Objective, net: nn.Module) -> str | None:
    """What makes a loss no sum over examples: the objective itself, or experts whose terms are means over all tokens of a batch."""
    if not objective.additive:
        return f"the loss of {type(objective).__name__} is not a sum over examples"
    for name in ("balance_weight", "z_weight"):
        if any(getattr(module, name, 0.0) for module in net.modules()):
            return f"the experts' `{name}` adds means over the tokens of a batch to the loss"
    return None


def _maker(source: Source) -> Callable[[NDArray[np.int64], NDArray[np.int64]], TokenBatch]:
    """What makes the examples with these numbers and keys."""
    if getattr(source, "corrupts", False):
        return cast(CorruptingSource, source).batch
    fixed = cast(FixedSource, source)
    return lambda example_ids, _: fixed.batch(example_ids)


def noise_keys(seed: int, step: int, n_rows: int) -> NDArray[np.int64]:
    """One key a row of a step's batch, however the batch is cut: a hash of (seed, step, row).

    Epoch and example follow from step and row through the plan.
    """
    keys: NDArray[Any] = np.full(n_rows, seed % (1 << 64), dtype=np.uint64)
    for value in (np.full(n_rows, step, dtype=np.uint64), np.arange(n_rows, dtype=np.uint64)):
        keys = _mixed(keys + (value + np.uint64(1)) * np.uint64(_MIX[2]))
    return keys.view(np.int64)


def _mixed(x: NDArray[Any]) -> NDArray[Any]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(_MIX[0])
    x = (x ^ (x >> np.uint64(27))) * np.uint64(_MIX[1])
    return x ^ (x >> np.uint64(31))
