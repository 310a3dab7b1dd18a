"""An evaluation task: examples, what is asked of a model about each, how the answer is scored, and what the scores come to.

    EvalTask = examples + requests + score + metrics + baselines

The examples are a stream that can be read again and again; a row that cannot be used is in it too, as a `BadRow` with file and line. A
scorer is a pure function of an example and the outputs. A task cannot be made without a baseline for each metric: a figure of which nobody
knows what guessing gives is not shown.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from touchstone.errors import ConfigError, DataError
from touchstone.evaluate.ask import Output, Request
from touchstone.evaluate.figures import Metric

__all__ = ["BAD_KINDS", "BadKind", "BadRow", "Baseline", "EvalExample", "EvalTask", "Examples", "Scores"]

Scores = Mapping[str, float]
"""What one example adds to the figures: names of columns with finite numbers."""

BadKind = Literal[
    "not readable", "missing field", "wrong type", "unknown label", "empty text", "repeated answer", "over the context", "refused"
]
BAD_KINDS: tuple[str, ...] = get_args(BadKind)
"""Why a row is not evaluated. `refused`: by the model, with its reason."""


@dataclass(frozen=True, slots=True)
class EvalExample:
    """One row that can be asked about.

    id: no other example of the task has it. source: what it hangs together with (a document, an article, a file); such examples are
    resampled together. fields: plain data. where: `file:line`.
    """

    id: str
    source: str
    fields: Mapping[str, Any]
    where: str


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that is not evaluated. where: `file:line`."""

    where: str
    kind: BadKind
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.kind}: {self.reason}"


class Examples:
    """A stream that begins anew each time it is read: what a function yields."""

    def __init__(self, read: Callable[[], Iterable[EvalExample | BadRow]]) -> None:
        self._read = read

    def __iter__(self) -> Iterator[EvalExample | BadRow]:
        return iter(self._read())


@dataclass(frozen=True)
class Baseline:
    """What a trivial answer scores: `majority`, `random`, `copy`, `lead`, `unigram`, `n-gram` ….

    score: of an example, in the columns that the task's scorer gives. metrics: the names of those that it is a baseline of; None = all.
    """

    name: str
    score: Callable[[EvalExample], Scores]
    metrics: tuple[str, ...] | None = None

    def serves(self, metric: Metric) -> bool:
        """Whether its scores make up this metric."""
        return self.metrics is None or metric.name in self.metrics


@dataclass(frozen=True)
class EvalTask:
    """Everything that a figure depends on but the model.

    version: raised with any change that changes figures. template: the prompt as text, with `{field}` where an example's text goes.
    source: where task and prompt come from. settings: what else it was made with (shots, seed, label words), as plain data.
    data: the files it reads. Raises ConfigError for a stream that can be read once only, and for a metric without a baseline.
    """

    name: str
    description: str
    language: str
    examples: Iterable[EvalExample | BadRow]
    requests: Callable[[EvalExample], Sequence[Request]]
    score: Callable[[EvalExample, Sequence[Output]], Scores]
    metrics: tuple[Metric, ...]
    baselines: tuple[Baseline, ...]
    template: str
    source: str = ""
    version: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)
    data: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.examples, Iterator):
            raise ConfigError(f"Task `{self.name}`: `examples` can be read once only; give a list, or `Examples(function)`.")
        names = [metric.name for metric in self.metrics]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"Task `{self.name}`: it needs one metric or more, each with a name of its own, not {names}.")
        baselines = [baseline.name for baseline in self.baselines]
        if len(set(baselines)) < len(baselines):
            raise ConfigError(f"Task `{self.name}`: each baseline needs a name of its own, not {baselines}.")
        bare = [metric.name for metric in self.metrics if not any(baseline.serves(metric) for baseline in self.baselines)]
        if bare:
            raise ConfigError(
                f"Task `{self.name}`: no baseline for {', '.join(f'`{name}`' for name in bare)}; a figure without one says nothing."
                " Add what a trivial answer scores (`Baseline`)."
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that its metrics read."""
        return tuple(dict.fromkeys(column for metric in self.metrics for column in metric.columns))

    def scored(self, example: EvalExample, outputs: Sequence[Output]) -> dict[str, float]:
        """The scores of an example in the columns of the metrics; DataError, with the place, if the scorer leaves one out."""
        return _picked(self.score(example, outputs), self.columns, f"{example.where}: the scorer of `{self.name}`")

    def baseline_scores(self, baseline: Baseline, example: EvalExample) -> dict[str, float]:
        """The same of a baseline, in the columns of the metrics that it serves."""
        columns = tuple(dict.fromkeys(column for metric in self.metrics if baseline.serves(metric) for column in metric.columns))
        return _picked(baseline.score(example), columns, f"{example.where}: the baseline `{baseline.name}` of `{self.name}`")


def _picked(scores: Scores, columns: Sequence[str], who: str) -> dict[str, float]:
    missing = [column for column in columns if column not in scores]
    if missing:
        raise DataError(f"{who} gives no {', '.join(f'`{name}`' for name in missing)}; it gives {', '.join(scores) or 'nothing'}.")
    return {column: float(scores[column]) for column in columns}
