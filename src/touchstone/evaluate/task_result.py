"""What an evaluation found, as one document: every figure with its interval, its standard error and its baselines, and all it hangs on.

Two results of the same task on the same examples are compared pair by pair (`compare_results`): the difference has its own interval, far
narrower than two intervals side by side would suggest.
"""

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64

from touchstone.config import Config, parse
from touchstone.errors import DataError, RunFolderError
from touchstone.evaluate.figures import Metric, PairedFigure, figure_of, paired_figure, standard_error
from touchstone.evaluate.ledger import LedgerRow, read_rows
from touchstone.files import read_json
from touchstone.stats import Interval

__all__ = [
    "RESULT",
    "SCHEMA_VERSION",
    "BadRows",
    "BaselineFigure",
    "Figure",
    "Identity",
    "ScoreTable",
    "TaskResult",
    "compare_results",
    "figures_of",
    "read_result",
]

SCHEMA_VERSION: Literal[1] = 1
RESULT = "result.json"


class Identity(Config):
    """What the scores of examples depend on; a partial file goes on only where all of it is the same.

    data_sha256: of all examples. prompts_sha256: of all that is asked about them. weights_sha256: by value. settings: the task's own.
    over_context: what is done with texts over the model's context.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    task: str
    task_version: int
    settings: dict[str, Any]
    data_sha256: str
    prompts_sha256: str
    weights_sha256: str
    tokenizer_sha256: str | None
    numeric_scheme: str
    invariant: bool
    over_context: Literal["left out", "cut"]
    versions: dict[str, str]


class BaselineFigure(Config):
    """What a trivial answer scores on the same examples, and how far the model is above it: model - baseline, paired.

    value None: not defined for it; `reason` says why.
    """

    name: str
    value: float | None
    standard_error: float | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    verdict: Literal["better", "worse", "tie"] | None = None  # what may be said of the model
    reason: str | None = None


class Figure(Config):
    """One metric. low, high, standard_error: None where one cluster leaves nothing to resample; value None: not defined, see `reason`."""

    metric: Metric
    value: float | None
    standard_error: float | None
    low: float | None
    high: float | None
    level: float
    n: int  # what was resampled: examples, or clusters of them
    method: str
    baselines: tuple[BaselineFigure, ...]
    reason: str | None = None


class BadRows(Config):
    """Rows that were not evaluated: how many of each kind, and the first of them as `file:line: kind: reason`."""

    n: dict[str, int]
    shown: tuple[str, ...]

    @property
    def total(self) -> int:
        return sum(self.n.values())


class TaskResult(Config):
    """One task, one model. template, sample: the prompt's form, and what was really asked about one example. files: names of the data's.

    n_examples: that the figures are made of. n_cut: of these, that lost tokens to the model's context. limit: None = all examples.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    description: str
    language: str
    source: str
    template: str
    sample: tuple[dict[str, Any], ...]
    files: tuple[str, ...]
    identity: Identity
    limit: int | None
    n_examples: int
    n_clusters: int
    n_cut: int
    figures: tuple[Figure, ...]
    bad_rows: BadRows

    def figure(self, name: str) -> Figure:
        """The figure of a metric; KeyError if the task has none of that name."""
        return {figure.metric.name: figure for figure in self.figures}[name]


@dataclass(frozen=True)
class ScoreTable:
    """Scores of examples in columns, in the order of their ids. clusters: None where each example stands alone."""

    ids: tuple[str, ...]
    clusters: tuple[str, ...] | None
    columns: Mapping[str, Float64[np.ndarray, " N"]]

    @classmethod
    def of(cls, rows: Iterable[LedgerRow], baseline: str | None = None) -> "ScoreTable":
        """From the rows of a ledger that were scored; baseline: whose scores; None = the model's. Memory: the numbers and the names."""
        ids: list[str] = []
        sources: list[str] = []
        columns: dict[str, array[float]] = {}
        for row in rows:
            if "scores" not in row:
                continue
            ids.append(row["id"])
            sources.append(row["source"])
            for name, value in (row["scores"] if baseline is None else row["baselines"][baseline]).items():
                columns.setdefault(name, array("d")).append(value)
        order = sorted(range(len(ids)), key=ids.__getitem__)
        clusters = tuple(sources[n] for n in order) if len(set(sources)) < len(sources) else None
        return cls(tuple(ids[n] for n in order), clusters, {name: np.array(values)[order] for name, values in columns.items()})

    def matrix(self, columns: Sequence[str]) -> Float64[np.ndarray, "N C"]:
        return np.stack([self.columns[name] for name in columns], axis=1)

    def only(self, ids: set[str]) -> "ScoreTable":
        """The rows of these examples."""
        kept = [n for n, id in enumerate(self.ids) if id in ids]
        sources = None if self.clusters is None else tuple(self.clusters[n] for n in kept)
        return ScoreTable(tuple(self.ids[n] for n in kept), sources, {name: column[kept] for name, column in self.columns.items()})


def figures_of(
    metrics: Sequence[Metric], table: ScoreTable, baselines: Mapping[str, tuple[ScoreTable, Sequence[str]]], *, level: float = 0.95
) -> tuple[Figure, ...]:
    """Every metric with its error bars and the baselines that serve it: {name: (its scores, names of the metrics)}."""
    return tuple(_figure(metric, table, baselines, level) for metric in metrics)


def compare_results(a: Path | str, b: Path | str, *, level: float = 0.95) -> tuple[PairedFigure, ...]:
    """a - b for every metric that both have, over the examples that both scored: two folders that hold a `result.json`.

    Raises RunFolderError if the folders are of different tasks, data or prompts, DataError if no example is in both.
    """
    first, second = read_result(a), read_result(b)
    other = [
        f"{name}: {getattr(first.identity, name)} and {getattr(second.identity, name)}"
        for name in ("task", "task_version", "settings", "data_sha256", "prompts_sha256")
        if getattr(first.identity, name) != getattr(second.identity, name)
    ]
    if other:
        raise RunFolderError(f"{a} and {b}: not of the same examples and prompts: {'; '.join(other)}.")
    tables = [ScoreTable.of(read_rows(Path(folder))) for folder in (a, b)]
    shared = set(tables[0].ids) & set(tables[1].ids)
    if not shared:
        raise DataError(f"{a} and {b}: no example was scored in both; run both with the same limit.")
    ours, theirs = (table.only(shared) for table in tables)
    return tuple(
        paired_figure(metric, ours.matrix(metric.columns), theirs.matrix(metric.columns), ours.clusters, level=level)
        for metric in (figure.metric for figure in first.figures)
        if metric in {figure.metric for figure in second.figures}
    )


def read_result(folder: Path | str) -> TaskResult:
    """The result that an evaluation left in its folder."""
    path = Path(folder) / RESULT
    return parse(TaskResult, read_json(path, error=RunFolderError), source=str(path))


def _figure(metric: Metric, table: ScoreTable, baselines: Mapping[str, tuple[ScoreTable, Sequence[str]]], level: float) -> Figure:
    rows = table.matrix(metric.columns)
    beside = tuple(
        _baseline(name, metric, rows, scores.matrix(metric.columns), table.clusters, level)
        for name, (scores, served) in baselines.items()
        if metric.name in served
    )
    try:
        found = figure_of(metric, rows, table.clusters, level=level)
    except DataError as error:
        return Figure(
            metric=metric,
            value=None,
            standard_error=None,
            low=None,
            high=None,
            level=level,
            n=len(rows),
            method="not defined",
            baselines=beside,
            reason=str(error),
        )
    return Figure(
        metric=metric,
        value=found.value,
        standard_error=_finite(standard_error(metric, rows, table.clusters)),
        low=_finite(found.low),
        high=_finite(found.high),
        level=level,
        n=found.n,
        method=found.method,
        baselines=beside,
    )


def _baseline(
    name: str,
    metric: Metric,
    rows: Float64[np.ndarray, "N C"],
    theirs: Float64[np.ndarray, "N C"],
    clusters: Sequence[str] | None,
    level: float,
) -> BaselineFigure:
    try:
        value: Interval = figure_of(metric, theirs, clusters, level=level)
    except DataError as error:
        return BaselineFigure(name=name, value=None, reason=str(error))
    error_bar = _finite(standard_error(metric, theirs, clusters))
    try:
        pair = paired_figure(metric, rows, theirs, clusters, level=level)
    except DataError as error:
        return BaselineFigure(name=name, value=value.value, standard_error=error_bar, reason=str(error))
    low, high = _finite(pair.difference.low), _finite(pair.difference.high)
    return BaselineFigure(
        name=name,
        value=value.value,
        standard_error=error_bar,
        difference=pair.difference.value,
        difference_low=low,
        difference_high=high,
        verdict=pair.verdict if low is not None else None,
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
