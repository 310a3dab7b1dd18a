"""Live confidences of one model, held against those that its calibrations were measured on; a warning, once, where they drift apart.

One confidence a question is watched: the one in a classifier's label, and the one in the likeliest of closed answers. Completions are not:
how their tokens are picked (greedily, drawn, under rules) decides those confidences as much as the questions do, and tokens of one text
hang together, so no rate of false alarms could be stated.
"""

import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from touchstone.calibrate.drift import DriftCheck
from touchstone.errors import ConfigError
from touchstone.models.card import Calibration

__all__ = ["Watch"]

FALSE_ALARM_RATE = 0.01
"""The probability that a calibration whose questions stay as they were is ever warned about."""


class Watch:
    """The checks of a model's calibrations by name: "class", or "answer-set" and the task, such as "answer-set reviews"."""

    def __init__(self) -> None:
        self._checks: dict[str, tuple[Calibration, DriftCheck]] = {}

    @property
    def checks(self) -> Mapping[str, DriftCheck]:
        return {name: check for name, (_, check) in list(self._checks.items())}  # a list: another thread may begin one meanwhile

    def observe(self, record: Calibration, confidences: Sequence[float]) -> None:
        """Take in live confidences under a record; UserWarning at the one that raises its alarm.

        A record that keeps no confidences of its fit, or some that cannot be read, is not watched. A newer record begins anew.
        """
        if not record.confidences:
            return
        name = record.target if record.task is None else f"{record.target} {record.task}"
        known = self._checks.get(name)
        if known is None or known[0] != record:
            try:
                known = self._checks[name] = (record, DriftCheck(record.confidences, false_alarm_rate=FALSE_ALARM_RATE))
            except ConfigError:
                return
        alarm = known[1].observe(np.array(confidences))
        if alarm is not None:
            warnings.warn(
                f"The confidences of `{name}` have drifted from those that its calibration was measured on: after {alarm.n:,} answers"
                f" the two distributions differ by {alarm.distance:.2f} (Kolmogorov-Smirnov). Questions may be of another kind now; measure"
                " on labelled ones like these, and fit it again with `touchstone calibrate`.",
                stacklevel=3,
            )
