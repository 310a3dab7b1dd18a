"""The quickstart: from plain text to a measured, calibrated language model, with no data, no flags and no internet.

Text, machine, decoder, LSTM, 5-gram, compressors, scores, calibration, report - in stages that are told as they go. The networks are
trained in run folders of their own, so the same command goes on wherever it was interrupted.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from touchstone.bench.machine import MachineSpeed, measure_machine, measure_matmul
from touchstone.errors import ConfigError, RunFolderError
from touchstone.files import read_json, write_json
from touchstone.flows.findings import Findings, fit_ngram, measure_findings
from touchstone.flows.net_training import NetTraining, TrainedNet, train_net
from touchstone.flows.plan import show_plan
from touchstone.flows.preparation import prepare_text
from touchstone.flows.quickstart_card import net_facts, quickstart_card
from touchstone.flows.quickstart_report import QuickstartReport, tell_summary, write_quickstart_report
from touchstone.flows.run_record import RunRecord
from touchstone.flows.samples import draw_samples
from touchstone.flows.wanted import override_keys, requested_config
from touchstone.models import ModelSpec
from touchstone.models.checkpoint import save_model
from touchstone.report.terminal import Terminal
from touchstone.runtime import Runtime, choose_runtime, peak_resident_bytes
from touchstone.text.corpora import corpus
from touchstone.text.prepare import Prepared
from touchstone.train.run_config import RunConfig

__all__ = ["PROMPTS", "QuickstartRequest", "run_quickstart"]

LSTM_SHARE = 0.5
"""Of the decoder's training time, given to the LSTM baseline: with a tuned rate it gains little from more."""

OTHER_SECONDS = 90
"""Reading, fitting the 5-gram, compressing, scoring and reporting on two cores, where three minutes of training are asked for."""

TEST_BYTES, VALID_BYTES = 600_000, 200_000
"""Of text scored at the end; with less training less is scored, down to a tenth."""

FULL_MINUTES = 3.0
"""The length of training that those figures belong to."""

PROMPTS = (
    'def read_lines(path):\n    """Return the lines of a file."""\n',
    "import os\nimport sys\n\n\ndef main(argv=None):\n",
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n",
)
"""What the three completions continue: openings that any Python file might have, each ending with a newline."""

_COMPLETION_TOKENS, _COMPLETION_TEMPERATURE, _COMPLETION_SEED = 64, 0.7, 1
_RESULTS = "results.json"


@dataclass(frozen=True)
class QuickstartRequest:
    """What to do, where, and how long. data: paths in place of the named corpus; changes: `key=value` for the decoder's run."""

    out: Path
    minutes: float = FULL_MINUTES
    corpus: str = "python"
    data: tuple[Path, ...] = ()
    changes: tuple[str, ...] = ()
    lstm_changes: tuple[str, ...] = ()
    prompts: tuple[str, ...] = PROMPTS
    command: tuple[str, ...] = ("touchstone", "quickstart")


def run_quickstart(asked: QuickstartRequest, terminal: Terminal, *, dry_run: bool = False) -> dict[str, Any]:
    """Run all stages, or go on with them; the document's status is finished, already-finished, interrupted or dry-run."""
    words = terminal.words
    if not 0 < asked.minutes <= 60 * 24:
        raise ConfigError(f"`--minutes` ({asked.minutes:g}) must be above 0 and at most a day.")
    corpus(asked.corpus)  # an unknown name fails here, before anything is written
    config, record = _config("quickstart", asked, asked.changes), RunRecord(asked.out)
    explicit = override_keys(asked.changes)
    if dry_run:
        terminal.say(words("quickstart.promise", **_promise(asked.minutes, terminal)))
        return show_plan(config, record, terminal, minutes=asked.minutes, explicit=explicit, device="cpu")
    record.check()
    terminal.say(words("quickstart.title"), style="title")
    if record.settled(config, minutes=asked.minutes, explicit=explicit) is not None and record.is_finished:
        return _already(record, terminal)
    terminal.say(words("quickstart.promise", **_promise(asked.minutes, terminal)))
    terminal.say(words("quickstart.safe"))
    return _run_stages(asked, config, record, terminal)


@dataclass(frozen=True)
class _Ground:
    """What all stages stand on."""

    asked: QuickstartRequest
    runtime: Runtime
    speed: MachineSpeed
    prepared: Prepared
    terminal: Terminal


def _run_stages(asked: QuickstartRequest, config: RunConfig, record: RunRecord, terminal: Terminal) -> dict[str, Any]:
    began = time.perf_counter()
    _tell_stage(terminal, 1, "machine")
    runtime = choose_runtime("auto", "float32")
    speed = measure_machine(runtime.device)
    _tell_machine(speed, terminal)
    _tell_stage(terminal, 2, "text")
    ground = _Ground(asked, runtime, speed, prepare_text(config, terminal), terminal)
    _tell_stage(terminal, 3, "decoder")
    decoder = _train(ground, config, record, asked.changes, asked.minutes)
    if decoder.outcome.status == "interrupted":
        return _interrupted(record, decoder, terminal)
    _tell_stage(terminal, 4, "lstm")
    beside = RunRecord(asked.out / "baselines" / "lstm")
    lstm_config = _config("lstm-lm", asked, asked.lstm_changes).replace(data=config.data, tokenizer=config.tokenizer)
    lstm = _train(ground, lstm_config, beside, asked.lstm_changes, LSTM_SHARE * asked.minutes)
    if lstm.outcome.status == "interrupted":
        return _interrupted(record, lstm, terminal)
    _tell_stage(terminal, 5, "measuring")
    findings = _measure(ground, decoder, lstm)
    _tell_stage(terminal, 6, "report")
    return _write(ground, record, decoder, findings, time.perf_counter() - began)


def _measure(ground: _Ground, decoder: TrainedNet, lstm: TrainedNet) -> Findings:
    words = ground.terminal.words
    ngram, seconds = fit_ngram(ground.prepared)
    n_grams = sum(ngram.n_ngrams)
    ground.terminal.say(words("quickstart.ngram", n=f"{n_grams:,}", time=words.duration(seconds)))
    share = max(0.1, min(1.0, ground.asked.minutes / FULL_MINUTES))
    return measure_findings(
        decoder.net,
        lstm.net,
        ngram,
        ground.prepared,
        ground.terminal,
        test_bytes=round(share * TEST_BYTES),
        valid_bytes=round(share * VALID_BYTES),
        facts={"decoder": net_facts(decoder), "lstm": net_facts(lstm), "ngram": {"n_grams": n_grams, "seconds": seconds}},
    )


def _write(ground: _Ground, record: RunRecord, decoder: TrainedNet, findings: Findings, seconds: float) -> dict[str, Any]:
    """The model with its card, the results, the report; the report comes last and means that all is done."""
    prepared, terminal = ground.prepared, ground.terminal
    flops, training_s = net_facts(decoder)["training_flops"], max(decoder.outcome.seconds, 1e-9)
    speed = ground.speed.or_faster(measure_matmul(ground.runtime.device, seconds=0.3)).or_faster(flops / training_s)
    with record.saving():
        save_model(record.model, decoder.net, tokenizer=prepared.tokenizer, card=quickstart_card(decoder, findings, prepared))
    samples = draw_samples(
        decoder.net,
        prepared.tokenizer,
        ground.asked.prompts,
        n_new=min(_COMPLETION_TOKENS, decoder.config.context // 2),
        temperature=_COMPLETION_TEMPERATURE,
        seed=_COMPLETION_SEED,
    )
    document = {
        "status": "finished",
        "folder": str(record.folder),
        "model": str(record.model),
        "report": str(record.report),
        "minutes": ground.asked.minutes,
        "seconds_of_this_start": seconds,
        "peak_resident_bytes": peak_resident_bytes(),
        "machine": speed.to_dict(),
        "peak_fraction": speed.fraction(flops, training_s),
        "weights_sha256": decoder.outcome.weights_sha256,
        "completions": [{"prompt": sample.prompt, "text": sample.text} for sample in samples],
        **findings.to_dict(),
    }
    report = QuickstartReport(decoder, record, prepared.report, findings, samples, speed, document)
    with record.saving():
        write_json(record.folder / _RESULTS, document)
        write_quickstart_report(report, terminal.words)
    tell_summary(document, terminal)
    return document


def _config(recipe: str, asked: QuickstartRequest, changes: Sequence[str]) -> RunConfig:
    config = requested_config(recipe, asked.data, changes)
    return config if asked.data else config.replace(data=config.data.replace(corpus=asked.corpus))


def _train(ground: _Ground, config: RunConfig, record: RunRecord, changes: Sequence[str], minutes: float) -> TrainedNet:
    words, asked = ground.terminal.words, ground.asked
    spec = config.to_spec(ground.prepared.tokenizer.vocab_size)
    assert isinstance(spec, ModelSpec)
    ground.terminal.say(words("quickstart.training", parameters=f"{spec.n_parameters():,}", time=words.duration(60 * minutes)))
    training = NetTraining(
        config,
        record,
        ground.prepared,
        ground.runtime,
        asked.command,
        minutes=minutes,
        explicit=override_keys(changes),
        prompts=asked.prompts[:1],
        peak=ground.speed.matmul_flops_per_s,
    )
    trained = train_net(training, ground.terminal)
    if trained.outcome.was_finished:
        ground.terminal.say(words("quickstart.was_trained", folder=record.folder))
    return trained


def _already(record: RunRecord, terminal: Terminal) -> dict[str, Any]:
    """A finished quickstart tells its results again."""
    document = read_json(record.folder / _RESULTS, error=RunFolderError)
    terminal.say(terminal.words("quickstart.already", folder=record.folder))
    tell_summary(document, terminal)
    return {**document, "status": "already-finished"}


def _interrupted(record: RunRecord, trained: TrainedNet, terminal: Terminal) -> dict[str, Any]:
    outcome = trained.outcome
    terminal.say(terminal.words("train.interrupted", step=f"{outcome.step:,}", n_steps=f"{outcome.n_steps:,}"))
    return {"status": "interrupted", "folder": str(record.folder), "step": outcome.step, "n_steps": outcome.n_steps}


def _promise(minutes: float, terminal: Terminal) -> Mapping[str, str]:
    """How long it will take, said before it begins."""
    words, share = terminal.words, max(0.3, min(1.0, minutes / FULL_MINUTES))
    train, lstm = 60 * minutes, 60 * LSTM_SHARE * minutes
    return {
        "total": words.duration(train + lstm + share * OTHER_SECONDS),
        "train": words.duration(train),
        "lstm": words.duration(lstm),
    }


def _tell_stage(terminal: Terminal, number: int, name: str) -> None:
    words = terminal.words
    terminal.say()
    terminal.say(words("quickstart.stage", number=number, n=6, name=words(f"quickstart.stage_{name}")), style="title")


def _tell_machine(speed: MachineSpeed, terminal: Terminal) -> None:
    gflops, gbytes = f"{speed.matmul_flops_per_s / 1e9:.0f}", f"{speed.read_bytes_per_s / 1e9:.1f}"
    terminal.say(terminal.words("quickstart.machine", gflops=gflops, gbytes=gbytes, threads=speed.n_threads, dtype=speed.dtype))
