"""How a run trains: its length, its batches, what happens on schedule, and what it is reported as."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from touchstone.config import Config
from touchstone.train.optim import OptimConfig
from touchstone.train.precision import Precision
from touchstone.train.schedule import ScheduleConfig

__all__ = ["Outcome", "Status", "StepReport", "TrainConfig"]

Status = Literal["finished", "early-stopped", "interrupted"]


class TrainConfig(Config):
    """A training run; whatever is chosen by measuring is resolved before, and stands here as its result."""

    n_steps: int = Field(gt=0)  # optimiser steps, the skipped ones included
    batch_size: int = Field(gt=0)  # examples a step
    micro_batch_size: int | None = Field(None, gt=0)  # examples in memory at once; None = batch_size; changes no result
    clip_norm: float | None = Field(1.0, gt=0)  # longest mean gradient; 1 is the field's custom; None = no clipping
    seed: int = Field(0, ge=0)  # of the order of the data, dropout and all global generators
    eval_every: int | None = Field(None, gt=0)  # steps; None = after the last step alone
    sample_every: int | None = Field(None, gt=0)  # steps; None = after the last step alone
    save_every: int = Field(500, gt=0)  # steps; after the last one it is saved anyway
    max_seconds: float | None = Field(None, gt=0)  # of all steps; a slower run is shortened at its checkpoints; None = n_steps, always
    log_every: int = Field(1, gt=0)  # steps between reports to the display; metrics.jsonl has every step
    keep_checkpoints: int = Field(2, gt=0)  # newest ones; the best and the newest point of return stay besides
    precision: Precision = "float32"  # measured by precision.measure_bf16_gain where bfloat16 is wanted
    compile: bool = False  # torch.compile: half a minute at the start, 0-16 % faster steps on a CPU
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    early_stopping_patience: int | None = Field(None, gt=0)  # evaluations without a new best; None = train to the end
    max_bad_steps: int = Field(5, gt=0)  # non-finite or leaping steps in a row before the run goes back
    spike_factor: float | None = Field(1000.0, gt=1)  # leap of the gradient norm over its median that makes a step bad; None = none does

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.micro_batch_size is not None and self.micro_batch_size > self.batch_size:
            raise ValueError(f"`micro_batch_size` ({self.micro_batch_size}) must be at most `batch_size` ({self.batch_size}).")
        if (n_warmup := self.schedule.n_warmup(self.n_steps)) >= self.n_steps > 1:
            raise ValueError(f"the warm-up ({n_warmup} steps) must be shorter than `n_steps` ({self.n_steps}).")
        if self.early_stopping_patience is not None and self.eval_every is None:
            raise ValueError("`early_stopping_patience` counts evaluations: give `eval_every`.")
        return self


@dataclass(frozen=True)
class StepReport:
    """One step, for a display."""

    step: int  # steps done, from 1
    n_steps: int
    epoch: float  # passes over the data so far
    loss: float  # raw, per counted target in the objective's unit; may be NaN
    parts: dict[str, float]  # of the loss, such as "nll": plain nats per token
    gradient_norm: float  # before clipping; may be NaN
    learning_rate: float
    n_tokens: int  # counted targets of this step
    seconds: float  # of this step, without evaluation and saving
    tokens_per_s: float  # counted targets a second since the last report
    eta_s: float  # of the steps that are left, at the pace since the last report
    skipped: int  # bad steps so far, this one included
    skip_reason: str | None = None  # why the optimiser was not touched
    valid_loss: float | None = None  # if there was an evaluation after this step
    valid: dict[str, float] = field(default_factory=dict)  # all that it returned


@dataclass(frozen=True)
class Outcome:
    """How a call of `Trainer.run` ended."""

    status: Status
    step: int  # steps done, of n_steps
    n_steps: int  # as the run stands, shortened or not
    weights_sha256: str  # of the network as it is now
    checkpoint: Path | None  # the newest complete one
    was_finished: bool = False  # the run was over before this call, and nothing was done
    resumed_from: int | None = None  # step of the checkpoint this call began at; None = from the beginning
    best_step: int | None = None  # with early stopping: where the final weights are from
    best_loss: float | None = None  # lowest validation loss
    n_skipped: int = 0  # bad steps
    n_rollbacks: int = 0
    n_failed_saves: int = 0  # of this call
    seconds: float = 0.0  # of all steps of the run
    n_tokens: int = 0  # counted targets of all steps of the run
    figures: dict[str, Any] = field(default_factory=dict)  # of the last evaluation
