"""What a run decides by measuring, once, before its first step: matrix product, numeric type, micro-batch, number of steps."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from touchstone.bench.machine import measure_matmul
from touchstone.errors import ConfigError
from touchstone.flows.run_record import Chosen
from touchstone.models import ModelSpec, build
from touchstone.nn.products import ProductName, choose_product
from touchstone.runtime import Runtime, memory_bytes
from touchstone.train.estimate import estimate
from touchstone.train.pace import measure_pace
from touchstone.train.precision import Precision
from touchstone.train.run_config import RunConfig
from touchstone.train.schedule import resolve_steps
from touchstone.train.settings import TrainConfig
from touchstone.train.step import Source

__all__ = ["choose", "fitted_to_memory", "scaled_to_steps"]

MEMORY_SHARE = 0.7
"""Of the memory this process may use, for a training: the estimate is right to a fifth, and others need some too."""

_MIN_BF16_MATMUL_GAIN = 1.2  # on a CPU: bfloat16 products slower than this cannot pay for the casts, so nothing else is measured
_HOPELESS_PRODUCT_GAIN = 0.8  # of oneDNN's fp32 products alone: so slow, whole steps are not timed
_MIN_GAIN = 1.05  # of a whole step; a smaller one is noise, and does not pay for eight bits of mantissa
_ROUNDS, _TIMED_STEPS, _TIMED_STEPS_IF_SLOW, _SLOW_S = 5, 4, 2, 1.0


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
    trials = _Trials(spec, config, source, runtime)
    scheme = _scheme(trials, train, runtime, is_open="train.precision" not in explicit)
    reasons |= scheme.reasons
    if scheme.precision != train.precision:
        changes["train.precision"] = scheme.precision
        train = train.replace(precision=scheme.precision)
    if minutes is not None:
        step_s = scheme.step_s
        changes |= _length(train, minutes, step_s, evaluation_s)
        reasons["n_steps"] = f"{changes['train.n_steps']}: a step takes {step_s:.3f} s here, and {minutes:g} minutes were asked for."
    chosen = Chosen(minutes=minutes, settings=changes, product=scheme.product, reasons=reasons)
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
    reserved_s = min(n_evaluations * evaluation_s, 20 * minutes)
    changes = scaled_to_steps(train, resolve_steps(step_s, minutes, reserved_s=reserved_s))
    return changes | {"train.max_seconds": round(60 * minutes - reserved_s, 3)}


@dataclass(frozen=True)
class _Scheme:
    """The numeric scheme of a run, the seconds of one of its steps, and why."""

    precision: Precision
    product: ProductName
    step_s: float
    reasons: dict[str, str]


def _scheme(trials: "_Trials", train: TrainConfig, runtime: Runtime, *, is_open: bool) -> _Scheme:
    """The fastest of the schemes that may win here, by whole steps; is_open: the precision is not fixed by the command."""
    reasons: dict[str, str] = {}
    candidates: list[tuple[Precision, ProductName]] = [] if train.precision == "bfloat16" and not is_open else [("float32", "torch")]
    if candidates:
        if why_not := _why_not_onednn(runtime):
            reasons["product"] = f"torch: {why_not}."
        else:
            candidates.append(("float32", "onednn"))
    if is_open and (why_not := _why_not_bfloat16(runtime)):
        reasons["precision"] = f"float32: {why_not}."
    elif is_open or not candidates:
        candidates.append(("bfloat16", "torch"))
    seconds = trials.seconds([(train.replace(precision=precision), product) for precision, product in candidates])
    paces = dict(zip(candidates, seconds, strict=True))
    chosen = candidates[0]
    for candidate in candidates[1:]:
        gain = paces[chosen] / paces[candidate]
        asked, name, rival = ("precision", "bfloat16", "float32") if candidate[0] == "bfloat16" else ("product", "onednn", "torch")
        is_taken = gain >= _MIN_GAIN
        reasons[asked] = f"{name if is_taken else rival}: a step with {name} measured {gain:.2f} times the speed of one with {rival}."
        if is_taken:
            chosen = candidate
    if chosen == ("bfloat16", "torch"):
        reasons["product"] = "torch: it has the bfloat16 products."
    return _Scheme(*chosen, paces[chosen], reasons)


def _why_not_onednn(runtime: Runtime) -> str | None:
    """What rules oneDNN's fp32 products out before whole steps are timed."""
    if runtime.device.type != "cpu":
        return f"the only one on {runtime.device.type}"
    choice = choose_product()
    return choice.reason if choice.gain is None or choice.gain < _HOPELESS_PRODUCT_GAIN else None


def _why_not_bfloat16(runtime: Runtime) -> str | None:
    """What rules bfloat16 out before whole steps are timed."""
    kind = runtime.device.type
    if kind == "mps":
        return "autocast on mps was not measured to be safe"
    if kind == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "this GPU has no bfloat16 units"
    if kind == "cpu":
        gain = measure_matmul("cpu", torch.bfloat16, seconds=0.2) / measure_matmul("cpu", torch.float32, seconds=0.2)
        if gain < _MIN_BF16_MATMUL_GAIN:
            return f"bfloat16 products measured {gain:.2f} times its speed"
    return None


@dataclass(frozen=True)
class _Trials:
    """Times steps of the run on throw-away networks."""

    spec: ModelSpec
    config: RunConfig
    source: Source
    runtime: Runtime

    def seconds(self, schemes: Sequence[tuple[TrainConfig, ProductName]]) -> list[float]:
        """Of one optimiser step under each: the median over rounds in which they take turns, so that a slow spell meets all of them."""
        train, _ = schemes[0]
        micro = train.micro_batch_size or train.batch_size
        guess = estimate(self.config, self.spec.vocab_size).seconds / train.n_steps * micro / train.batch_size
        n_rounds, n_steps = (_ROUNDS, _TIMED_STEPS) if guess < _SLOW_S else (1, _TIMED_STEPS_IF_SLOW)
        taken = [[self._one(*scheme, n_steps) for scheme in schemes] for _ in range(n_rounds)]
        return [median(times) for times in zip(*taken, strict=True)]

    def _one(self, train: TrainConfig, product: ProductName, n_steps: int) -> float:
        """Micro-batches are timed and multiplied."""
        micro = train.micro_batch_size or train.batch_size
        net = build(self.spec, product=product).to(self.runtime.device)
        timed = train.replace(batch_size=micro, micro_batch_size=None)
        return measure_pace(net, self.config.objective.build(), self.source, timed, n_steps=n_steps) * train.batch_size / micro
