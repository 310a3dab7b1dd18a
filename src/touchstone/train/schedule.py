"""Learning-rate schedules: a factor on the peak rate, a pure function of the step, so that a resumed run needs no state for it.

With n steps, w of them warm-up, and final the last factor (p runs from 0 to 1 over what follows the warm-up):
    warm-up    (step + 1) / w                                          for step < w
    cosine     final + (1 - final) (1 + cos(pi p)) / 2                 Loshchilov & Hutter 2017
    linear     1 - (1 - final) p
    wsd        1, then linear to final over the last decay_fraction    Hu et al. 2024 (MiniCPM): warm-up, stable, decay
    constant   1
"""

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from touchstone.config import Config
from touchstone.errors import ConfigError

__all__ = ["ScheduleConfig", "resolve_steps", "schedule_factor"]


class ScheduleConfig(Config):
    """How the learning rate moves over the run; warm-up is given in steps or as a fraction of them, not both."""

    kind: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    warmup_steps: int | None = Field(None, ge=0)  # None = warmup_fraction
    warmup_fraction: float | None = Field(None, ge=0, lt=1)  # of all steps, rounded; None with warmup_steps None = no warm-up
    decay_fraction: float = Field(0.2, gt=0, le=1)  # wsd only: 10-20 % recovers nearly all of a full decay (Hu et al. 2024, fig. 5)
    final_fraction: float = Field(0.0, ge=0, le=1)  # of the peak rate, reached after the last step

    @model_validator(mode="after")
    def _one_warmup(self) -> Self:
        if self.warmup_steps is not None and self.warmup_fraction is not None:
            raise ValueError("give `warmup_steps` or `warmup_fraction`, not both.")
        return self

    def n_warmup(self, n_steps: int) -> int:
        """Warm-up steps of a run of n_steps."""
        return self.warmup_steps if self.warmup_steps is not None else round((self.warmup_fraction or 0.0) * n_steps)


def schedule_factor(config: ScheduleConfig, step: float, n_steps: int) -> float:
    """The factor on the peak learning rate for the step with this index, 0 to n_steps - 1; places between two steps have one too."""
    n_warmup = config.n_warmup(n_steps)
    if step < n_warmup:
        return (step + 1) / n_warmup
    fall = 1.0 - config.final_fraction
    done = (step - n_warmup) / max(1, n_steps - n_warmup)
    if config.kind == "cosine":
        return config.final_fraction + fall * (1.0 + math.cos(math.pi * done)) / 2
    if config.kind == "linear":
        return 1.0 - fall * done
    if config.kind == "wsd":
        n_decay = max(1, round(config.decay_fraction * n_steps))
        return 1.0 - fall * max(0, step - max(n_steps - n_decay, n_warmup)) / min(n_decay, max(1, n_steps - n_warmup))
    return 1.0


def resolve_steps(seconds_per_step: float, minutes: float, *, reserved_s: float = 0.0) -> int:
    """How many steps fit into so many minutes, at least 1; decided once, written to the configuration and never measured again.

    reserved_s: what evaluations, samples and saves will take of the time.
    """
    if not (seconds_per_step > 0 and math.isfinite(seconds_per_step)):
        raise ConfigError(f"`seconds_per_step` ({seconds_per_step}) must be a positive number; measure some steps first.")
    if not (minutes > 0 and math.isfinite(minutes)):
        raise ConfigError(f"`minutes` ({minutes}) must be a positive number.")
    return max(1, int((minutes * 60.0 - reserved_s) / seconds_per_step))
