"""Training a network on a lesson, in its run folder: choices settled, display fed, the test side judged, model, card and report written."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from touchstone.errors import ConfigError
from touchstone.flows.choices import choose
from touchstone.flows.comparison import interval_dict
from touchstone.flows.lesson_report import LessonReport, write_lesson_report
from touchstone.flows.lessons import Figure, Lesson, make_lesson
from touchstone.flows.net_training import TrainedNet, shortened_by, today
from touchstone.flows.run_record import Chosen, RunRecord
from touchstone.flows.samples import Written, write_targets
from touchstone.models import LanguageNet, ModelSpec, build
from touchstone.models.card import Card, Lineage, Score
from touchstone.models.checkpoint import SavedModel, save_model
from touchstone.report.terminal import Terminal
from touchstone.runtime import Runtime, environment
from touchstone.train import MaskedLm, Seq2Seq, StepReport, Trainer
from touchstone.train.run_config import RunConfig

__all__ = ["LessonTraining", "train_lesson"]


@dataclass(frozen=True)
class LessonTraining:
    """What `train_lesson` is asked for; the fields are those of NetTraining."""

    config: RunConfig
    record: RunRecord
    runtime: Runtime
    command: Sequence[str]
    minutes: float | None = None
    explicit: Collection[str] = ()


def train_lesson(asked: LessonTraining, terminal: Terminal) -> dict[str, Any]:
    """Begin, resume or find finished a training of any objective but the causal one; the document is that of the verb `train`."""
    words = terminal.words
    lesson = make_lesson(asked.config, terminal)
    trained = _train(asked, lesson, terminal)
    outcome, record = trained.outcome, asked.record
    if outcome.status == "interrupted":
        terminal.say(words("train.interrupted", step=f"{outcome.step:,}", n_steps=f"{outcome.n_steps:,}"))
        return {"status": "interrupted", "folder": str(record.folder), "step": outcome.step, "n_steps": outcome.n_steps}
    with terminal.progress(words("lesson.judging")):
        figures = lesson.judge(trained.net)
    _tell(figures, terminal)
    card = _with_scores(_card(trained.config, lesson), figures, lesson)
    facts = {
        "step": outcome.step,
        "n_steps": outcome.n_steps,
        "seconds": outcome.seconds,
        "n_tokens": outcome.n_tokens,
        "n_skipped": outcome.n_skipped,
        "parameters": trained.spec.n_parameters(),
        "weights_sha256": outcome.weights_sha256,
    }
    with record.saving():
        saved = _save(record.model, trained.net, lesson, card)
        written = _written(trained.net, lesson, trained.config)
        write_lesson_report(LessonReport(trained.config, trained.chosen, record, lesson, trained.spec, figures, facts, written), words)
    terminal.say(words("train.next"))
    terminal.say(f"  touchstone inspect {record.folder}", style="command")
    terminal.say(words("train.report", path=record.report))
    return {
        "status": outcome.status,
        "folder": str(record.folder),
        "model": str(record.model),
        "report": str(record.report),
        "opens_in_transformers": saved.opens_in_transformers,
        "labels": list(lesson.labels) if lesson.labels is not None else None,
        "n_rows": lesson.n_rows,
        **facts,
        "test": {figure.name: {**interval_dict(figure.value), "commonest": figure.baseline} for figure in figures},
    }


def _train(asked: LessonTraining, lesson: Lesson, terminal: Terminal) -> TrainedNet:
    n_labels = len(lesson.labels) if lesson.labels is not None else None
    spec = asked.config.to_spec(lesson.tokenizer.vocab_size, n_labels)
    assert isinstance(spec, ModelSpec)
    config, chosen = _settle(asked, spec, lesson)
    assert config.train is not None
    if config.train.early_stopping_patience is not None and lesson.valid is None:
        raise ConfigError("`early_stopping_patience` needs a validation side: set `data.valid_fraction` above 0.")
    net = build(spec, seed=config.train.seed, product=chosen.product).to(asked.runtime.device)  # type: ignore[arg-type]

    def save(folder: Path) -> None:
        _save(folder, net, lesson, _card(config, lesson))

    def write(net: Any, step: int) -> list[dict[str, Any]]:
        return [one.to_record() for one in _written(net, lesson, config)]

    with terminal.training() as display:
        trainer = Trainer(
            net,
            config.objective.build(),
            lesson.source,
            config.train,
            asked.record.folder,
            evaluate=lesson.validate if lesson.valid is not None else None,
            sample=write if lesson.pairs else None,
            save_model=save,
            on_step=_shown_on(display.update, counts_tokens=isinstance(lesson.objective, MaskedLm | Seq2Seq)),
            warn=terminal.warn,
            on_shortened=shortened_by(terminal, config.train.n_steps),
            fingerprint={"tokenizer": lesson.tokenizer.fingerprint, "product": chosen.product, "labels": list(lesson.labels or ())},
        )
        outcome = trainer.run()
    return TrainedNet(net.eval(), spec, config, chosen, outcome)


def _settle(asked: LessonTraining, spec: ModelSpec, lesson: Lesson) -> tuple[RunConfig, Chosen]:
    """The choices of the run in the folder, or new ones, written down before anything is trained."""
    found = asked.record.settled(asked.config, minutes=asked.minutes, explicit=asked.explicit)
    if found is not None:
        return found
    evaluation_s = 0.0
    if asked.minutes is not None and lesson.valid is not None:
        start = time.perf_counter()
        lesson.validate(build(spec).to(asked.runtime.device))
        evaluation_s = time.perf_counter() - start
    config, chosen = choose(
        asked.config, spec, lesson.source, asked.runtime, minutes=asked.minutes, explicit=asked.explicit, evaluation_s=evaluation_s
    )
    asked.record.begin(config, chosen, asked.command)
    return config, chosen


def _shown_on(update: Callable[[Mapping[str, Any]], None], *, counts_tokens: bool) -> Callable[[StepReport], None]:
    """Reports of steps as the display wants them; counts_tokens: the targets are tokens, so their pace is one of tokens."""

    def show(report: StepReport) -> None:
        update(
            {
                "step": report.step,
                "n_steps": report.n_steps,
                "loss": report.parts.get("nll", report.loss),
                "tokens_per_s": report.tokens_per_s if counts_tokens else None,
                "eta_s": report.eta_s,
                "skipped": report.skipped,
                "valid_loss": report.valid_loss,
            }
        )

    return show


def _written(net: LanguageNet, lesson: Lesson, config: RunConfig) -> list[Written]:
    """What the network writes of the lesson's held-out sources; nothing where it has none."""
    if not lesson.pairs:
        return []
    assert lesson.generation is not None
    start_id = lesson.generation["decoder_start_token_id"]
    return write_targets(net, lesson.tokenizer, lesson.pairs, start_id=start_id, context=config.context)


def _save(folder: Path, net: LanguageNet, lesson: Lesson, card: Card) -> SavedModel:
    return save_model(folder, net, tokenizer=lesson.tokenizer, card=card, generation_config=lesson.generation)


def _card(config: RunConfig, lesson: Lesson) -> Card:
    versions = environment()["packages"]
    lineage = Lineage(
        data_hash=lesson.data_hash,
        tokenizer_hash=lesson.tokenizer.fingerprint,
        config=config.model_dump(mode="json"),
        software={key: value for key, value in versions.items() if value != "not installed"},
    )
    return Card(name=config.name, lineage=lineage, labels=lesson.labels)


def _with_scores(card: Card, figures: Sequence[Figure], lesson: Lesson) -> Card:
    """The card with every figure of the test side."""
    scores = [
        Score(
            name=figure.name.replace("_", " "),
            value=figure.value.value,
            interval=(figure.value.low, figure.value.high) if figure.value.n > 1 else None,
            level=figure.value.level,
            n=figure.value.n,
            method=figure.value.method,
            on="held-out test rows of the training data",
            on_hash=lesson.test.fingerprint if lesson.test is not None else None,
            baselines={} if figure.baseline is None else {"commonest answer": figure.baseline},
            date=today(),
        )
        for figure in figures
    ]
    return card.replace(scores=[*card.scores, *scores])


def _tell(figures: Sequence[Figure], terminal: Terminal) -> None:
    words = terminal.words
    for figure in figures:
        name = words(f"lesson.{figure.name}")
        beside = "-" if figure.baseline is None else f"{figure.baseline:.3f}"
        terminal.say(words("lesson.figure", name=name, value=figure.value, n=f"{figure.value.n:,}", commonest=beside), style="good")
