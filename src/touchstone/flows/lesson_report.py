"""report.html of a training on answers or hidden text: how the loss fell, the figures of the test side, and what it was made from."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import yaml

from touchstone import config as settings
from touchstone.flows.lessons import Figure, Lesson
from touchstone.flows.run_record import Chosen, RunRecord
from touchstone.flows.samples import Written
from touchstone.flows.train_report import add_loss_curve
from touchstone.models import ModelSpec, describe
from touchstone.report.page import Page
from touchstone.report.words import Words
from touchstone.train.run_config import RunConfig

__all__ = ["LessonReport", "write_lesson_report"]


@dataclass(frozen=True)
class LessonReport:
    """What the report shows. figures: of the test side; none where nothing was held out. facts: of the training."""

    config: RunConfig
    chosen: Chosen
    record: RunRecord
    lesson: Lesson
    spec: ModelSpec
    figures: Sequence[Figure]
    facts: Mapping[str, Any]
    written: Sequence[Written] = ()  # of held-out sources


def write_lesson_report(report: LessonReport, words: Words) -> None:
    """Write the page into the run folder."""
    page = Page(words("report.train_title", name=report.config.name), words.lang, subtitle=words("lesson.subtitle"))
    facts: list[tuple[str, object, str]] = []
    for figure in report.figures:
        beside = "" if figure.baseline is None else words("lesson.beside", value=f"{figure.baseline:.3f}")
        facts.append((words(f"lesson.{figure.name}"), figure.value, beside))
    facts.append((words("report.parameters"), f"{report.facts['parameters']:,}", ""))
    page.facts(facts)
    if report.figures:
        page.text(words("lesson.score_text", n=f"{report.lesson.n_rows.get('test', 0):,}", method=report.figures[0].value.method))
    add_loss_curve(page, report.record, words, {"valid_loss": words("lesson.valid_loss"), "valid_accuracy": words("lesson.accuracy")})
    if report.written:
        page.heading(words("report.samples"))
        headers = [words(f"lesson.{name}") for name in ("source", "written", "expected")]
        page.table(headers, [(one.source, one.text, one.expected) for one in report.written])
    _add_making(page, report, words)
    page.write(report.record.report)


def _add_making(page: Page, report: LessonReport, words: Words) -> None:
    page.heading(words("report.making"))
    with page.details(words("report.model")):
        page.code(describe(report.spec))
    with page.details(words("lesson.rows_title")):
        page.table(["", words("lesson.examples")], [(words(f"report.{side}"), f"{n:,}") for side, n in report.lesson.n_rows.items()])
        if report.lesson.labels is not None:
            page.list(report.lesson.labels)
        if report.lesson.fit.n:
            page.list([words("lesson.noted", n=f"{n:,}", what=what) for what, n in report.lesson.fit.n.items()])
    with page.details(words("report.configuration")):
        page.code(settings.to_yaml(report.config))
        page.text(words("report.chosen"))
        page.code(yaml.safe_dump(asdict(report.chosen), sort_keys=False, allow_unicode=True, width=120))
