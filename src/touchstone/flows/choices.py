"""What a run decides by measuring, once, before its first step: matrix product, numeric type, micro-batch, number of steps."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch

from touchstone.bench.machine import measure_matmul
from touchstone.errors import ConfigError
from touchstone.flows.run_record import Chosen
from touchstone.models import ModelSpec, build
from touchstone.nn.products import choose_product
from touchstone.runtime import Runtime, memory_bytes
from touchstone.train.estimate import estimate
from touchstone.train.pace import measure_pace
from touchstone.train.run_config import RunConfig
from touchstone.train.schedule import resolve_steps
from touchstone.train.settings import TrainConfig
from touchstone.train.step import Source

__all__ = ["choose", "fitted_to_memory", "scaled_to_steps"]

MEMORY_SHARE = 0.7
"""Of the memory this process may use, for a training: the estimate is right to a fifth, and others need some too."""

_MIN_BF16_MATMUL_GAIN = 1.2  # on a CPU: bfloat16 products slower than this cannot pay for the casts, so nothing else is measured
_MIN_BF16_GAIN = 1.05  # of a whole step; a smaller one does not pay for eight bits of mantissa
_TIMED_STEPS, _TIMED_STEPS_IF_SLOW, _SLOW_S = 8, 2, 1.0


def choose(
    config: RunConfig,
    spec: ModelSpec,
    source: Source,
    runtime: Runtime,
    *,
    minutes: float | None,
    explicit: Collection[str],
    evaluation_s: float = 0.0,
) -> tuple[RunConfig, Chosen]:
    """The configuration with everything open decided, and a record of the choices.

    explicit: settings that the command names itself, which stay. evaluation_s: seconds of one evaluation, for `minutes`.
    """
    assert config.train is not None
    changes: dict[str, Any] = {}
    reasons: dict[str, str] = {"device": runtime.reasons["device"], "threads": runtime.reasons["threads"]}
    train = config.train
    if "train.micro_batch_size" not in explicit:
        micro = fitted_to_memory(config, spec.vocab_size)
        if micro != (train.micro_batch_size or train.batch_size):
            changes["train.micro_batch_size"] = micro
            reasons["micro_batch_size"] = f"{micro}: the most that fits {MEMORY_SHARE:.0%} of the memory."
            train = train.replace(micro_batch_size=micro)
    product, reasons["product"] = _product(runtime)
    pace = _Pace(spec, config, train, source, runtime)
    if "train.precision" not in explicit:
        precision, reasons["precision"] = _precision(pace, train, product, runtime)
        if precision != train.precision:
            changes["train.precision"] = precision
            train = train.replace(precision=precision)
    if train.precision == "bfloat16":
        product = "torch"
    if minutes is not None:
        step_s = pace.seconds(train, product)
        changes |= _length(train, minutes, step_s, evaluation_s)
        reasons["n_steps"] = f"{changes['train.n_steps']}: a step takes {step_s:.3f} s here, and {minutes:g} minutes were asked for."
    chosen = Chosen(minutes=minutes, settings=changes, product=product, reasons=reasons)
    return chosen.apply(config, but=explicit), chosen


def fitted_to_memory(config: RunConfig, vocab_size: int, *, available: int | None = None) -> int:
    """The largest micro-batch of the form batch / 2^k that fits; changes no result.

    Raises ConfigError if even one example at a time does not fit.
    """
    assert config.train is not None
    room = MEMORY_SHARE * (memory_bytes() if available is None else available)
    micro = config.train.micro_batch_size or config.train.batch_size
    while True:
        needed = estimate(config.replace(train=config.train.replace(micro_batch_size=micro)), vocab_size).memory_bytes
        if needed <= room:
            return micro
        if micro == 1:
            raise ConfigError(
                f"Training `{config.name}` needs about {needed / 2**30:.1f} GiB, and {room / 2**30:.1f} GiB may be used here; "
                "choose a smaller recipe, or lower `context` or the sizes under `model`."
            )
        micro = math.ceil(micro / 2)


def scaled_to_steps(train: TrainConfig, n_steps: int) -> dict[str, Any]:
    """The settings of a run of another length: schedules move with it, and no checkpoint comes later than before."""
    share = n_steps / train.n_steps
    changes: dict[str, Any] = {"train.n_steps": n_steps, "train.save_every": max(1, min(train.save_every, round(train.save_every * share)))}
    for name in ("eval_every", "sample_every"):
        if (every := getattr(train, name)) is not None:
            changes[f"train.{name}"] = max(1, round(every * share))
    if (warmup := train.schedule.warmup_steps) is not None:
        changes["train.schedule.warmup_steps"] = min(warmup, n_steps // 5)
    return changes


def _length(train: TrainConfig, minutes: float, step_s: float, evaluation_s: float) -> dict[str, Any]:
    n_evaluations = 1 + train.n_steps // (train.eval_every or train.n_steps)
    return scaled_to_steps(train, resolve_steps(step_s, minutes, reserved_s=min(n_evaluations * evaluation_s, 20 * minutes)))


def _product(runtime: Runtime) -> tuple[str, str]:
    if runtime.device.type != "cpu":
        return "torch", f"torch: the only one on {runtime.device.type}."
    choice = choose_product()
    return choice.name, f"{choice.name}: {choice.reason}."


def _precision(pace: "_Pace", train: TrainConfig, product: str, runtime: Runtime) -> tuple[str, str]:
    """bfloat16 where whole steps are measured to be faster by it."""
    kind = runtime.device.type
    if kind == "mps":
        return "float32", "float32: autocast on mps was not measured to be safe."
    if kind == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "float32", "float32: this GPU has no bfloat16 units."
    if kind == "cpu":
        gain = measure_matmul("cpu", torch.bfloat16, seconds=0.2) / measure_matmul("cpu", torch.float32, seconds=0.2)
        if gain < _MIN_BF16_MATMUL_GAIN:
            return "float32", f"float32: bfloat16 products measured {gain:.2f} times its speed."
    gain = pace.seconds(train, product) / pace.seconds(train.replace(precision="bfloat16"), "torch")
    chosen = "bfloat16" if gain >= _MIN_BF16_GAIN else "float32"
    return chosen, f"{chosen}: a step in bfloat16 measured {gain:.2f} times the speed of one in float32."


@dataclass
class _Pace:
    """Times steps of the run on throw-away networks, each setting once."""

    spec: ModelSpec
    config: RunConfig
    train: TrainConfig
    source: Source
    runtime: Runtime

    def __post_init__(self) -> None:
        self._known: dict[tuple[str, str], float] = {}

    def seconds(self, train: TrainConfig, product: str) -> float:
        """Of one optimiser step: micro-batches are timed and multiplied."""
        key = (train.precision, product)
        if key not in self._known:
            micro = train.micro_batch_size or train.batch_size
            guess = estimate(self.config, self.spec.vocab_size).seconds / train.n_steps * micro / train.batch_size
            timed = train.replace(batch_size=micro, micro_batch_size=None)
            net = build(self.spec, product=product).to(self.runtime.device)  # type: ignore[arg-type]
            n_steps = _TIMED_STEPS if guess < _SLOW_S else _TIMED_STEPS_IF_SLOW
            one = measure_pace(net, self.config.objective.build(), self.source, timed, n_steps=n_steps)
            self._known[key] = one * train.batch_size / micro
        return self._known[key]
