"""report.html of a training: how the loss fell, what the model scores and writes, and everything it was made from."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import yaml

from touchstone import config as settings
from touchstone.evaluate.language import LanguageScore
from touchstone.flows.comparison import method_text
from touchstone.flows.run_record import Chosen, RunRecord
from touchstone.flows.samples import Sample
from touchstone.models import ModelSpec, describe
from touchstone.models.ngram import NgramSpec
from touchstone.report.log import read_log
from touchstone.report.page import Page
from touchstone.report.plot import loss_curve
from touchstone.report.words import Words
from touchstone.text.prepare import PreparedReport
from touchstone.train.run_config import RunConfig

__all__ = ["TrainReport", "add_loss_curve", "add_making", "write_train_report"]


@dataclass(frozen=True)
class TrainReport:
    """What the report shows. score: of the test text; None where nothing was held out. facts: of the training."""

    config: RunConfig
    chosen: Chosen
    record: RunRecord
    text: PreparedReport
    spec: ModelSpec | NgramSpec
    score: LanguageScore | None
    baselines: Mapping[str, float]
    samples: Sequence[Sample]
    facts: Mapping[str, Any]


def write_train_report(report: TrainReport, words: Words) -> None:
    """Write the page into the run folder."""
    page = Page(words("report.train_title", name=report.config.name), words.lang, subtitle=words("report.train_subtitle"))
    _add_figures(page, report, words)
    add_loss_curve(page, report.record, words)
    if report.samples:
        page.heading(words("report.samples"))
        page.text(words("report.samples_text"))
        for sample in report.samples:
            page.tokens(sample.coloured)
    add_making(page, words, config=report.config, chosen=report.chosen, text=report.text, spec=report.spec)
    page.heading(words("report.next"))
    folder = report.record.folder
    page.code(
        "\n".join(
            [f'touchstone generate {folder} "…"', f"touchstone evaluate {folder} --data other_texts/", f"touchstone inspect {folder}"]
        )
    )
    page.write(report.record.report)


def add_loss_curve(page: Page, record: RunRecord, words: Words, columns: Mapping[str, str] | None = None) -> None:
    """The curve of metrics.jsonl, with its table of validations; nothing where nothing was trained.

    columns: the figures of a validation by their names in metrics.jsonl, and their headers; None = those of language models.
    """
    shown = columns or {"valid_loss": words("report.valid_loss"), "valid_bits_per_byte": words("report.bits_per_byte")}
    steps = [line for line in (read_log(record.metrics) if record.metrics.exists() else []) if "loss" in line]
    if not steps:
        return
    valid = [line for line in steps if "valid_loss" in line]
    page.heading(words("report.curve"))
    plot = loss_curve(
        [line["step"] for line in steps],
        [float(line.get("nll", line["loss"])) for line in steps],
        words,
        valid_steps=[line["step"] for line in valid],
        valid_losses=[line["valid_loss"] for line in valid],
    )
    page.figure(plot, words("report.curve_caption", n=f"{len(steps):,}"))
    skipped = [line for line in steps if "skipped" in line]
    if skipped:
        page.note(words("report.skipped", n=len(skipped), steps=", ".join(str(line["step"]) for line in skipped[:20])))
    if valid:
        with page.details(words("report.validations")):
            rows = [(f"{line['step']:,}", *(_figure(line.get(name)) for name in shown)) for line in valid]
            page.table([words("report.step"), *shown.values()], rows)


def add_making(page: Page, words: Words, *, config: RunConfig, chosen: Chosen, text: PreparedReport, spec: ModelSpec | NgramSpec) -> None:
    """The model, the text and the whole configuration: what it takes to make it again."""
    page.heading(words("report.making"))
    if isinstance(spec, ModelSpec):
        with page.details(words("report.model")):
            page.code(describe(spec))
    with page.details(words("report.text")):
        sides = ("train", "valid", "test")
        rows = [(words(f"report.{s}"), f"{text.n_documents[s]:,}", f"{text.n_bytes[s]:,}", f"{text.n_tokens[s]:,}") for s in sides]
        page.table(["", words("report.documents"), words("report.bytes"), words("report.tokens")], rows)
        page.text(words("report.near_copies", n=text.n_near_copies, hash=text.documents_hash[:16]))
    with page.details(words("report.configuration")):
        page.code(settings.to_yaml(config))
        page.text(words("report.chosen"))
        page.code(yaml.safe_dump(asdict(chosen), sort_keys=False, allow_unicode=True, width=120))


def _add_figures(page: Page, report: TrainReport, words: Words) -> None:
    facts: list[tuple[str, object, str]] = []
    if report.score is not None:
        bpb, perplexity = report.score.bits_per_byte(), report.score.perplexity()
        beside = ", ".join(f"{name} {value:.3f}" for name, value in report.baselines.items())
        facts.append((words("report.bits_per_byte"), bpb, words("report.beside", others=beside) if beside else ""))
        facts.append((words("report.perplexity"), perplexity, words("report.per_token")))
    if "parameters" in report.facts:
        facts.append((words("report.parameters"), f"{report.facts['parameters']:,}", ""))
    if "n_tokens" in report.facts:
        seconds = words.duration(report.facts.get("seconds", 0.0))
        facts.append((words("report.trained_on"), f"{report.facts['n_tokens']:,}", words("report.tokens_in", time=seconds)))
    page.facts(facts)
    if report.score is not None:
        page.text(
            words(
                "report.score_text",
                n=len(report.score.sources),
                bytes=f"{int(report.score.n_bytes.sum()):,}",
                method=method_text(report.score.window, report.score.stride, words),
            )
        )


def _figure(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.4f}"
