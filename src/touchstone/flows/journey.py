"""The verb `train`: from a recipe and text to a model folder with a report; the same command resumes, or says that all is done."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from touchstone.bench.machine import measure_matmul
from touchstone.errors import ConfigError
from touchstone.evaluate.compressors import score_compressors
from touchstone.evaluate.language import LanguageScore, encode_documents, sample_documents, score_language
from touchstone.flows.comparison import interval_dict
from touchstone.flows.lesson_training import LessonTraining, train_lesson
from touchstone.flows.net_training import NetTraining, new_card, today, train_net
from touchstone.flows.plan import show_plan
from touchstone.flows.preparation import prepare_text
from touchstone.flows.run_record import Chosen, RunRecord
from touchstone.flows.samples import draw_samples, openings
from touchstone.flows.train_report import TrainReport, write_train_report
from touchstone.flows.wanted import explicit_settings, override_keys, requested_config
from touchstone.infer.runner import LanguageCore
from touchstone.models.card import Card, Score
from touchstone.models.checkpoint import save_model
from touchstone.models.ngram import NgramModel, NgramSpec
from touchstone.report.terminal import Terminal
from touchstone.runtime import choose_runtime
from touchstone.text.prepare import Prepared
from touchstone.train.run_config import RunConfig

__all__ = ["Journey", "travel", "with_score"]

TEST_BYTES = 200_000
"""Of the test text scored at the end: some seconds for a small model."""

_N_SAMPLES, _SAMPLE_TOKENS = 3, 80


@dataclass(frozen=True)
class Journey:
    """One `train` command. recipe: a name or a settings file; out: None = runs/NAME; command: as typed, for the record."""

    recipe: str
    data: tuple[Path, ...] = ()
    valid: tuple[Path, ...] = ()  # rows to choose by, given apart from the data; and to judge by
    test: tuple[Path, ...] = ()
    out: Path | None = None
    overrides: tuple[str, ...] = ()
    minutes: float | None = None
    device: str = "auto"
    command: tuple[str, ...] = ("touchstone", "train")


def travel(journey: Journey, terminal: Terminal, *, dry_run: bool = False) -> dict[str, Any]:
    """Train, measure, save and report; the document's status is finished, already-finished, early-stopped, interrupted or dry-run."""
    words = terminal.words
    config = requested_config(journey.recipe, journey.data, journey.overrides, valid=journey.valid, test=journey.test)
    _check_minutes(journey.minutes)
    record = RunRecord(journey.out if journey.out is not None else Path("runs") / config.name)
    if journey.minutes is not None and "train.n_steps" in override_keys(journey.overrides):
        raise ConfigError("`--minutes` and `train.n_steps` both set the length of the run; give one of them.")
    explicit = explicit_settings(journey.recipe, journey.overrides)
    if dry_run:
        return show_plan(config, record, terminal, minutes=journey.minutes, explicit=explicit, device=journey.device)
    runtime = choose_runtime(journey.device, "float32")
    config.to_spec(config.tokenizer.vocab_size or 4096)  # sizes that do not fit each other fail here, before the text is read
    record.check()
    found = record.settled(config, minutes=journey.minutes, explicit=explicit)
    if found is not None and record.is_finished:
        terminal.say(words("train.already", folder=record.folder))
        _tell_next(record, terminal, is_language_model=config.objective.kind == "causal")
        return {"status": "already-finished", "folder": str(record.folder), "model": str(record.model), "report": str(record.report)}
    if config.objective.kind != "causal":
        asked_lesson = LessonTraining(config, record, runtime, journey.command, minutes=journey.minutes, explicit=explicit)
        return train_lesson(asked_lesson, terminal)
    prepared = prepare_text(config, terminal)
    if isinstance(config.to_spec(prepared.tokenizer.vocab_size), NgramSpec):
        return _count(config, record, prepared, journey, terminal)
    peak = measure_matmul(runtime.device, seconds=0.5)
    asked = NetTraining(
        config,
        record,
        prepared,
        runtime,
        journey.command,
        minutes=journey.minutes,
        explicit=explicit,
        prompts=openings(prepared.valid_documents, _N_SAMPLES),
        peak=peak,
    )
    trained = train_net(asked, terminal)
    outcome = trained.outcome
    if outcome.status == "interrupted":
        terminal.say(words("train.interrupted", step=f"{outcome.step:,}", n_steps=f"{outcome.n_steps:,}"))
        return {"status": "interrupted", "folder": str(record.folder), "step": outcome.step, "n_steps": outcome.n_steps}
    facts = {
        "step": outcome.step,
        "n_steps": outcome.n_steps,
        "seconds": outcome.seconds,
        "n_tokens": outcome.n_tokens,
        "n_skipped": outcome.n_skipped,
        "parameters": trained.spec.n_parameters(),
        "weights_sha256": outcome.weights_sha256,
    }
    return _finish(trained.net, trained.config, trained.chosen, record, prepared, terminal, status=outcome.status, facts=facts)


def _check_minutes(minutes: float | None) -> None:
    if minutes is not None and not 0 < minutes <= 60 * 24 * 365:
        raise ConfigError(f"`--minutes` ({minutes:g}) must be above 0 and at most a year.")


def _count(config: RunConfig, record: RunRecord, prepared: Prepared, journey: Journey, terminal: Terminal) -> dict[str, Any]:
    """The n-gram model's whole training."""
    spec = config.to_spec(prepared.tokenizer.vocab_size)
    assert isinstance(spec, NgramSpec)
    if journey.minutes is not None:
        raise ConfigError("`--minutes` is for models that are trained; an n-gram model is counted once, in seconds. Leave it out.")
    chosen = Chosen()
    record.begin(config, chosen, journey.command)
    start = time.perf_counter()
    shards = prepared.train
    model = NgramModel.fit(spec, shards.read(0, shards.n_tokens), shards.document_starts[:-1])
    facts = {"seconds": time.perf_counter() - start, "n_tokens": shards.n_tokens, "n_grams": sum(model.n_ngrams)}
    return _finish(model, config, chosen, record, prepared, terminal, status="finished", facts=facts)


def _finish(
    core: LanguageCore,
    config: RunConfig,
    chosen: Chosen,
    record: RunRecord,
    prepared: Prepared,
    terminal: Terminal,
    *,
    status: str,
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Score the test text, save the model with its card, draw samples, write the report, tell what to do next."""
    words = terminal.words
    score, baselines = _final_score(core, prepared, terminal)
    card = new_card(config, prepared)
    if score is not None:
        card = with_score(card, score, baselines, prepared)
        terminal.say(words("train.scored", value=score.bits_per_byte(), n=len(score.sources), perplexity=score.perplexity()), style="good")
        for name, value in baselines.items():
            terminal.say(words("train.baseline", name=name, value=f"{value:.3f}"))
    with record.saving():
        saved = save_model(record.model, core, tokenizer=prepared.tokenizer, card=card)
    samples = draw_samples(core, prepared.tokenizer, openings(prepared.test_documents, _N_SAMPLES), n_new=_SAMPLE_TOKENS)
    with record.saving():
        write_train_report(TrainReport(config, chosen, record, prepared.report, core.spec, score, baselines, samples, facts), words)
    _tell_next(record, terminal)
    document: dict[str, Any] = {
        "status": status,
        "folder": str(record.folder),
        "model": str(record.model),
        "report": str(record.report),
        "opens_in_transformers": saved.opens_in_transformers,
        **facts,
    }
    if score is not None:
        document["test"] = {
            "bits_per_byte": interval_dict(score.bits_per_byte()),
            "perplexity": interval_dict(score.perplexity()),
            "n_documents": len(score.sources),
            "n_bytes": int(score.n_bytes.sum()),
            "method": score.method,
            "baselines": baselines,
        }
    return document


def with_score(card: Card, score: LanguageScore, baselines: dict[str, float], prepared: Prepared) -> Card:
    """The card with the bits per byte of the test text."""
    found = score.bits_per_byte()
    bounds = (found.low, found.high) if found.n > 1 else None
    entry = Score(
        name="bits per byte",
        value=found.value,
        interval=bounds,
        level=found.level,
        n=len(score.sources),
        method=f"{score.method}; {found.method}",
        on="held-out test documents of the training text",
        on_hash=prepared.test.fingerprint,
        baselines=baselines,
        date=today(),
    )
    return card.replace(scores=[*card.scores, entry])


def _final_score(core: LanguageCore, prepared: Prepared, terminal: Terminal) -> tuple[LanguageScore | None, dict[str, float]]:
    documents = (
        sample_documents([document for document in prepared.test_documents if document.text], TEST_BYTES) if prepared.test_documents else []
    )
    if not documents:
        return None, {}
    with terminal.progress(terminal.words("train.scoring")):
        score = score_language(core, encode_documents(prepared.tokenizer, documents))
        report = score_compressors([document.text for document in documents])
    return score, {compressor.name: compressor.bits_per_byte().value for compressor in report.scores if compressor.name in ("xz", "zstd")}


def _tell_next(record: RunRecord, terminal: Terminal, *, is_language_model: bool = True) -> None:
    words = terminal.words
    terminal.say(words("train.next"))
    of_texts = (f'touchstone generate {record.folder} "…"', f"touchstone evaluate {record.folder}") if is_language_model else ()
    for command in (*of_texts, f"touchstone inspect {record.folder}"):
        terminal.say(f"  {command}", style="command")
    terminal.say(words("train.report", path=record.report))
