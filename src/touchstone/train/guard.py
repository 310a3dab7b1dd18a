"""The guard before the optimiser: which steps must not be taken, and when to stop hoping.

A step is bad when its loss or gradient norm is not finite, or when the norm leaps far above what it has been (a spike that clipping
would turn into a full-sized step in an arbitrary direction). A bad step is skipped before the optimiser is touched. The guard's memory
is part of the training state, so a resumed run judges as the uninterrupted one.
"""

import math
from collections import deque
from statistics import median
from typing import Any

__all__ = ["StepGuard"]

_WINDOW = 64  # accepted norms that are remembered: enough for a steady median, short enough to follow a schedule
_MIN_SEEN = 16  # no leap is judged before: the first steps of a run fall from large norms


class StepGuard:
    """Judges steps one after the other and counts the bad ones.

    max_bad_steps: bad steps in a row after which the run goes back. spike_factor: how many times the median of the last accepted
    gradient norms is a leap; None = only what is not finite is bad. floor: a median below this counts as this, so that a run that
    has nearly nothing left to learn may meet new text.
    """

    def __init__(self, max_bad_steps: int, spike_factor: float | None, floor: float = 1.0) -> None:
        self.max_bad_steps, self.spike_factor, self.floor = max_bad_steps, spike_factor, floor
        self.n_bad = 0  # of the whole run
        self.n_in_a_row = 0
        self._norms: deque[float] = deque(maxlen=_WINDOW)

    def judge(self, loss: float, gradient_norm: float) -> str | None:
        """Why this step must be skipped, or None; counts it."""
        reason = self._reason(loss, gradient_norm)
        if reason is None:
            self.n_in_a_row = 0
            self._norms.append(gradient_norm)
        else:
            self.n_bad += 1
            self.n_in_a_row += 1
        return reason

    @property
    def exhausted(self) -> bool:
        """Whether too many steps in a row were bad."""
        return self.n_in_a_row >= self.max_bad_steps

    def forgive(self) -> None:
        """Start a new row, after the run went back; norms seen on the way to the bad stretch are forgotten."""
        self.n_in_a_row = 0
        self._norms.clear()

    def state(self) -> dict[str, Any]:
        """Plain data from which `load_state` continues."""
        return {"n_bad": self.n_bad, "n_in_a_row": self.n_in_a_row, "norms": list(self._norms)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from what `state` gave."""
        self.n_bad, self.n_in_a_row = state["n_bad"], state["n_in_a_row"]
        self._norms = deque(state["norms"], maxlen=_WINDOW)

    def _reason(self, loss: float, gradient_norm: float) -> str | None:
        if not math.isfinite(loss):
            return "loss not finite"
        if not math.isfinite(gradient_norm):
            return "gradient not finite"
        if self.spike_factor is None or len(self._norms) < _MIN_SEEN:
            return None
        is_leap = gradient_norm > self.spike_factor * max(median(self._norms), self.floor)
        return f"gradient norm over {self.spike_factor:g} times the usual" if is_leap else None
