"""How long steps take: measured before a run whose length is given in minutes, and followed while it goes on."""

import copy
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import nn

from touchstone.runtime import large_buffers_kept
from touchstone.text.batch import Plan
from touchstone.train.objective import Objective
from touchstone.train.optim import build_optimizer
from touchstone.train.settings import TrainConfig
from touchstone.train.signals import StopSignals
from touchstone.train.state import RandomState
from touchstone.train.step import GradientMaker, Source

__all__ = ["Pace", "measure_pace"]

_N_UNMEASURED = 2  # the first steps allocate memory and, compiled, compile


def measure_pace(
    net: nn.Module,
    objective: Objective,
    source: Source,
    config: TrainConfig,
    *,
    n_steps: int = 8,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Seconds of one step, the median of n_steps real ones of the run's first; `resolve_steps` makes a length of it.

    Taken on a copy: the network and all random generators are as before. Needs the memory of a second network for so long.
    """
    before = RandomState.capture()
    twin = copy.deepcopy(net).train()
    optimizer = build_optimizer(twin, config.optim, config.precision)
    gradients = GradientMaker(twin, objective, source, Plan(source.n_examples, config.batch_size, config.seed), config)
    idle, seconds = StopSignals(), []
    with large_buffers_kept():
        for step in range(_N_UNMEASURED + n_steps):
            start = clock()
            gradients.divide(gradients.compute(step, idle), config.clip_norm)
            optimizer.step(0.0)
            optimizer.zero_grad()
            if gradients.device.type == "cuda":
                torch.cuda.synchronize(gradients.device)
            seconds.append(clock() - start)
    before.restore()
    return median(seconds[_N_UNMEASURED:])


class Pace:
    """Counted targets and seconds of the steps since they were last read."""

    def __init__(self) -> None:
        self._n_tokens, self._n_steps, self._seconds = 0, 0, 0.0

    def add(self, n_tokens: int, seconds: float) -> None:
        """Take in one step."""
        self._n_tokens += n_tokens
        self._n_steps += 1
        self._seconds += seconds

    def read(self, n_tokens: int, seconds: float) -> tuple[float, float]:
        """Tokens a second and seconds a step; if no step was added (right after a resume), those of the step given."""
        if self._n_steps == 0:
            self.add(n_tokens, seconds)
        figures = self._n_tokens / self._seconds, self._seconds / self._n_steps
        self._n_tokens, self._n_steps, self._seconds = 0, 0, 0.0
        return figures
