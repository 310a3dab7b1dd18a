"""Several models on the same held-out documents: bits per byte of each, and whether one is really better than another.

A difference is paired by document; when its interval covers zero the verdict is a tie, whichever figure looks smaller. Without an interval
nothing is known.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from touchstone.calibrate.measure import Measurement
from touchstone.errors import ConfigError
from touchstone.report.words import Words
from touchstone.stats import Interval, bootstrap_ratio, paired_ratio_difference

__all__ = ["Comparison", "Difference", "Entry", "Verdict", "interval_dict", "measurement_dict", "method_text", "verdict_of"]

Verdict = Literal["better", "worse", "tie", "unknown"]


@dataclass(frozen=True)
class Entry:
    """One model: the bits it needs for each document, and what else is known of it."""

    key: str
    bits: NDArray[np.float64]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """Bits per byte of `a` minus those of `b`; below zero, `a` is the better one."""

    a: str
    b: str
    interval: Interval

    @property
    def verdict(self) -> Verdict:
        return verdict_of(self.interval)


class Comparison:
    """Entries over one list of documents, in the order in which they were added.

    sources: the file of each document; blocks of one file are resampled together.
    """

    def __init__(self, sources: Iterable[str], n_bytes: NDArray[np.int64], *, level: float = 0.95, seed: int = 0) -> None:
        self.sources = tuple(sources)
        self.n_bytes = n_bytes
        self.level = level
        self._seed = seed
        self._entries: dict[str, Entry] = {}

    @property
    def entries(self) -> tuple[Entry, ...]:
        return tuple(self._entries.values())

    def add(self, key: str, bits: NDArray[np.float64], **facts: Any) -> None:
        """One bits figure a document; ConfigError if there are not as many as documents, or the key is taken."""
        if len(bits) != len(self.sources) or key in self._entries:
            raise ConfigError(f"`{key}` needs bits of each of the {len(self.sources)} documents, once; these are {len(bits)}.")
        self._entries[key] = Entry(key, np.asarray(bits, dtype=np.float64), facts)

    def interval(self, key: str) -> Interval:
        """Bits per byte of one model over all documents."""
        return bootstrap_ratio(self._entries[key].bits, self.n_bytes, level=self.level, seed=self._seed, clusters=self.sources)

    def difference(self, a: str, b: str) -> Difference:
        first, second = self._entries[a].bits, self._entries[b].bits
        found = paired_ratio_difference(first, second, self.n_bytes, level=self.level, seed=self._seed, clusters=self.sources)
        return Difference(a, b, found)

    def to_dict(self, pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
        """Plain data: each model's figure and the differences of these pairs."""
        differences = [self.difference(a, b) for a, b in pairs]
        return {
            "n_documents": len(self.sources),
            "n_bytes": int(self.n_bytes.sum()),
            "models": {entry.key: {"bits_per_byte": interval_dict(self.interval(entry.key)), **entry.facts} for entry in self.entries},
            "differences": [{"a": d.a, "b": d.b, **interval_dict(d.interval), "verdict": d.verdict} for d in differences],
        }


def verdict_of(difference: Interval) -> Verdict:
    """What an interval of a difference in bits per byte allows to be said; where there is none, as of one document alone: nothing."""
    if not _has_ends(difference):
        return "unknown"
    if difference.high < 0:
        return "better"
    return "worse" if difference.low > 0 else "tie"


def method_text(window: int | None, stride: int | None, words: Words) -> str:
    """How documents were read, in the reader's language; None = the state was carried through each."""
    return words("method.carried") if window is None else words("method.windows", stride=stride, window=window)


def interval_dict(interval: Interval) -> dict[str, Any]:
    """Plain data for JSON; where one bound does not exist, both are None. A value beyond any number is None too."""
    low, high = (interval.low, interval.high) if _has_ends(interval) else (None, None)
    value = interval.value if math.isfinite(interval.value) else None
    return {"value": value, "low": low, "high": high, "level": interval.level, "n": interval.n, "method": interval.method}


def measurement_dict(found: Measurement) -> dict[str, Any]:
    """Plain data for JSON of a calibration error with its interval and its noise floor."""
    intervals = {"interval": found.interval, "noise_floor": found.noise_floor}
    known = {name: interval_dict(ends) if ends is not None and _has_ends(ends) else None for name, ends in intervals.items()}
    return {"name": found.name, "value": found.value, "estimator": found.estimator, "bins": found.bins, "n": found.n, **known}


def _has_ends(interval: Interval) -> bool:
    return math.isfinite(interval.low) and math.isfinite(interval.high)
