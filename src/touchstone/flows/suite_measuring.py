"""The verb `evaluate --suite`: benchmarks by name, each figure with its standard error, its interval and its baselines beside it."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from touchstone.errors import ConfigError, TouchstoneError
from touchstone.evaluate.run import Policy, run_task
from touchstone.evaluate.suites import SUITES, suite_task
from touchstone.evaluate.task import EvalTask
from touchstone.evaluate.task_result import Figure, TaskResult
from touchstone.infer import LanguageModel, load
from touchstone.report.chinese_suites import CHINESE_NEEDS, CHINESE_SUITES
from touchstone.report.terminal import Terminal

__all__ = ["measure_suites", "show_suites"]

_ROUNDING = 1e-12  # a standard error below this share of its value is none: what is left of adding up equal numbers


def measure_suites(
    folder: Path,
    names: Sequence[str],
    terminal: Terminal,
    *,
    data: Path | None = None,
    limit: int | None = None,
    shots: int = 0,
    results: Path | None = None,
    policy: Policy = "count",
    device: str = "auto",
    dtype: str = "auto",
) -> dict[str, Any]:
    """Score a model on benchmarks; show a table of each and return plain data.

    data: the file of one benchmark, or the folder that holds the files of all. results: keeps each benchmark's answers and its document,
    and a run that was cut off goes on there. Of several, one that fails is told (`failed`, status "problem") and the others go on.
    Raises what `suite_task` raises, and for a single one what `run_task` raises.
    """
    if len(set(names)) < len(names):
        raise ConfigError(f"Each suite is measured once; these are {', '.join(names)}.")
    if data is not None and data.is_file() and len(names) > 1:
        raise ConfigError(f"{data}: one file, and {len(names)} suites; give the folder that holds the files of all.")
    for name in names:
        suite_task(name, data, shots=shots)  # every name and file is right before a model is loaded and hours go by
    model = load(os.fspath(folder), device=device, dtype=dtype)
    found: dict[str, TaskResult] = {}
    failed: dict[str, str] = {}
    for name in names:
        task = suite_task(name, data, model=model, shots=shots)
        try:
            found[name] = _asked(model, name, task, terminal, results=results, limit=limit, policy=policy)
        except TouchstoneError as error:
            if len(names) == 1:
                raise
            failed[name] = str(error)
            terminal.error(f"{name}: {error}")
        else:
            _show(name, found[name], terminal)
    return {
        "status": "problem" if failed else "ok",
        "model": os.fspath(folder),
        "results": None if results is None else os.fspath(results),
        "suites": {name: result.model_dump(mode="json") for name, result in found.items()},
        "failed": failed,
    }


def show_suites(terminal: Terminal) -> dict[str, Any]:
    """All suites: what each asks, its language, of which kind of model, and where its files lie in a folder of data."""
    words = terminal.words
    headers = ("name", "language", "needs", "file", "about")
    listed = [
        {"name": name, "language": suite.language, "needs": suite.needs, "files": dict(suite.files), "about": suite.description}
        for name, suite in SUITES.items()
    ]
    needs, about = (CHINESE_NEEDS, CHINESE_SUITES) if terminal.words.lang == "zh" else ({}, {})
    rows = [
        (name, suite.language, needs.get(suite.needs, suite.needs), suite.files.get("path", "-"), about.get(name, suite.description))
        for name, suite in SUITES.items()
    ]
    terminal.table([words(f"suite.{header}") for header in headers], rows)
    return {"status": "ok", "suites": listed}


def _asked(
    model: LanguageModel, name: str, task: EvalTask, terminal: Terminal, *, results: Path | None, limit: int | None, policy: Policy
) -> TaskResult:
    with terminal.progress(terminal.words("suite.asking", name=name)) as advance:
        done = 0

        def tell(n: int, of: int) -> None:
            nonlocal done
            advance(n - done)
            done = n

        return run_task(model, task, folder=results, limit=limit, policy=policy, progress=tell)


def _show(name: str, result: TaskResult, terminal: Terminal) -> None:
    words = terminal.words
    terminal.say(words("suite.on", name=name, about=result.description, n=f"{result.n_examples:,}", clusters=f"{result.n_clusters:,}"))
    rows = [row for figure in result.figures for row in _rows(figure, words("suite.undefined"))]
    headers = ("metric", "value", "interval", "n", "baseline", "its_value", "above")
    terminal.table([words(f"suite.{header}") for header in headers], rows)
    if result.n_cut:
        terminal.warn(words("suite.cut", n=result.n_cut))
    if result.bad_rows.total:
        kinds = ", ".join(f"{n} × {kind}" for kind, n in result.bad_rows.n.items())
        terminal.warn(words("suite.bad", n=result.bad_rows.total, kinds=kinds))
        for line in result.bad_rows.shown[:5]:
            terminal.say(f"  {line}", style="dim")


def _rows(figure: Figure, undefined: str) -> list[tuple[str, ...]]:
    """A row for each baseline; the figure itself stands in the first."""
    first = (figure.metric.name, _with_error(figure.value, figure.standard_error), _interval(figure.low, figure.high), f"{figure.n:,}")
    beside = [
        (
            baseline.name,
            _with_error(baseline.value, baseline.standard_error),
            "-"
            if baseline.difference is None
            else f"{baseline.difference:+.4g} {_interval(baseline.difference_low, baseline.difference_high)}",
        )
        for baseline in figure.baselines
    ]
    if figure.value is None:
        first = (figure.metric.name, f"{undefined} ({figure.reason})", "-", f"{figure.n:,}")
    return [(*(first if place == 0 else ("", "", "", "")), *row) for place, row in enumerate(beside)]


def _with_error(value: float | None, error: float | None) -> str:
    if value is None:
        return "-"
    if error is None:
        return f"{value:.4g} ± -"
    return f"{value:.4g} ± {0 if error < _ROUNDING * abs(value) else error:.2g}"


def _interval(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"[{low:.4g}, {high:.4g}]"
