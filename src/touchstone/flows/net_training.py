"""Training one network in its run folder: choices settled, display fed, validation and samples taken, the model saved.

Shared by the verb `train` and by the quickstart, which trains two networks this way.
"""

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from touchstone.bench.machine import measure_matmul
from touchstone.config import Config
from touchstone.errors import ConfigError
from touchstone.evaluate.language import EncodedTexts, encode_documents, sample_documents, score_language
from touchstone.flows.choices import choose
from touchstone.flows.run_record import Chosen, RunRecord
from touchstone.flows.samples import draw_samples
from touchstone.models import LanguageNet, ModelSpec, build
from touchstone.models.card import Card, Lineage
from touchstone.models.checkpoint import save_model
from touchstone.report.terminal import Terminal
from touchstone.runtime import Runtime, environment
from touchstone.text.batch import PackedWindows
from touchstone.text.prepare import Prepared
from touchstone.train import Outcome, StepReport, Trainer
from touchstone.train.run_config import RunConfig

__all__ = ["NetTraining", "TrainedNet", "Validation", "new_card", "shortened_by", "today", "train_net"]

VALIDATION_BYTES = 96_000
"""Of validation text scored while training: a second or two for a small model, and an error of about a hundredth of a bit."""

SAMPLE_TOKENS = 64
"""Of each completion in samples.jsonl."""


@dataclass(frozen=True)
class NetTraining:
    """What `train_net` is asked for.

    config: with what may still be open (see flows/choices.py). explicit: settings that the command names itself.
    minutes: the length asked for; None = as configured. prompts: what the samples continue. peak: operations a second of this machine's
    fastest product; None = measured.
    """

    config: RunConfig
    record: RunRecord
    prepared: Prepared
    runtime: Runtime
    command: Sequence[str]
    minutes: float | None = None
    explicit: Collection[str] = ()
    prompts: Sequence[str] = ()
    peak: float | None = None


@dataclass(frozen=True)
class TrainedNet:
    """A trained network, how its training ended, and what it was."""

    net: LanguageNet
    spec: ModelSpec
    config: RunConfig
    chosen: Chosen
    outcome: Outcome


class Validation:
    """Scores a network on held-out text: the figures of `evaluate` while training, by the scoring path of every other figure."""

    def __init__(self, texts: EncodedTexts, context: int) -> None:
        self.texts, self.context = texts, context

    def __call__(self, net: nn.Module) -> Mapping[str, float]:
        """Nats a token and bits a byte, in disjoint windows of the training's context: half the work of the reported figure."""
        assert isinstance(net, LanguageNet)
        window = None if net.spec.max_seq_len is None else self.context  # a recurrent network carries its state instead
        score = score_language(net, self.texts, stride=window, max_seq_len=window)
        return {"loss": float(score.nats.sum()) / score.n_tokens, "bits_per_byte": score.bits_per_byte().value}


def train_net(asked: NetTraining, terminal: Terminal) -> TrainedNet:
    """Begin, resume or find finished the training of a network; a signal saves and ends with the status "interrupted".

    Raises DataError for a context longer than the data, RunFolderError for a folder that is locked or holds another run.
    """
    prepared, config = asked.prepared, asked.config
    spec = config.to_spec(prepared.tokenizer.vocab_size)
    if not isinstance(spec, ModelSpec) or config.train is None:
        raise ConfigError(f"`{config.name}` is an n-gram model, which is counted and not trained.")
    source = PackedWindows(prepared.train, config.context, isolate_documents=config.isolate_documents)
    validation = _validation(prepared, config)
    config, chosen = _settle(asked, spec, source, validation)
    net = build(spec, seed=config.train.seed if config.train else 0, product=chosen.product).to(asked.runtime.device)  # type: ignore[arg-type]
    assert config.train is not None
    peak = asked.peak or measure_matmul(asked.runtime.device, seconds=0.5)

    def save(folder: Path) -> None:
        save_model(folder, net, tokenizer=prepared.tokenizer, card=new_card(config, prepared))

    def draw(net: nn.Module, step: int) -> list[dict[str, Any]]:
        assert isinstance(net, LanguageNet)
        n_new = min(SAMPLE_TOKENS, max(1, (spec.max_seq_len or SAMPLE_TOKENS * 2) // 2))
        return [sample.to_record() for sample in draw_samples(net, prepared.tokenizer, asked.prompts, n_new=n_new)]

    with terminal.training() as display:
        trainer = Trainer(
            net,
            config.objective.build(),
            source,
            config.train,
            asked.record.folder,
            evaluate=validation,
            sample=draw if asked.prompts else None,
            save_model=save,
            on_step=_shown_on(display.update, prepared, 3 * spec.flops_per_token(config.context), peak),
            warn=terminal.warn,
            on_shortened=shortened_by(terminal, config.train.n_steps),
            fingerprint={"tokenizer": prepared.tokenizer.fingerprint, "product": chosen.product},
        )
        outcome = trainer.run()
    return TrainedNet(net.eval(), spec, config, chosen, outcome)


def new_card(config: Config, prepared: Prepared, *, name: str | None = None, about: str | None = None) -> Card:
    """A card that says where a model comes from."""
    versions = environment()["packages"]
    lineage = Lineage(
        data_hash=prepared.report.documents_hash,
        tokenizer_hash=prepared.tokenizer.fingerprint,
        config=config.model_dump(mode="json"),
        software={key: value for key, value in versions.items() if value != "not installed"},
    )
    return Card(name=name or getattr(config, "name", None), about=about, lineage=lineage)


def shortened_by(terminal: Terminal, n_planned: int) -> Callable[[int], None]:
    """What tells that a run will take fewer steps than planned."""
    return lambda n_steps: terminal.warn(terminal.words("train.shortened", n_steps=f"{n_steps:,}", n_planned=f"{n_planned:,}"))


def today() -> str:
    """The date for a card."""
    return time.strftime("%Y-%m-%d")


def _settle(asked: NetTraining, spec: ModelSpec, source: PackedWindows, validation: Validation | None) -> tuple[RunConfig, Chosen]:
    """The choices of the run in the folder, or new ones, written down before anything is trained."""
    found = asked.record.settled(asked.config, minutes=asked.minutes, explicit=asked.explicit)
    if found is not None:
        return found
    evaluation_s = 0.0
    if asked.minutes is not None and validation is not None:
        start = time.perf_counter()
        validation(build(spec).to(asked.runtime.device))
        evaluation_s = time.perf_counter() - start
    config, chosen = choose(
        asked.config, spec, source, asked.runtime, minutes=asked.minutes, explicit=asked.explicit, evaluation_s=evaluation_s
    )
    asked.record.begin(config, chosen, asked.command)
    return config, chosen


def _validation(prepared: Prepared, config: RunConfig) -> Validation | None:
    documents = [document for document in prepared.valid_documents if document.text]
    if not documents:
        return None
    return Validation(encode_documents(prepared.tokenizer, sample_documents(documents, VALIDATION_BYTES)), config.context)


def _shown_on(
    update: Callable[[Mapping[str, Any]], None], prepared: Prepared, flops_per_token: float, peak: float
) -> Callable[[StepReport], None]:
    """Reports of steps as the display wants them: with bits per byte, and the share of the machine's peak.

    A step that is faster than the peak shows that the peak was measured at a busy moment; then it is what the step reached.
    """
    bits_per_nat = prepared.train.n_tokens / max(1, prepared.train.n_bytes) / math.log(2)

    def show(report: StepReport) -> None:
        nonlocal peak
        rate = report.tokens_per_s * flops_per_token
        peak = max(peak, rate)
        update(
            {
                "step": report.step,
                "n_steps": report.n_steps,
                "loss": report.parts.get("nll", report.loss),
                "bits_per_byte": report.parts.get("nll", report.loss) * bits_per_nat,
                "tokens_per_s": report.tokens_per_s,
                "peak_fraction": rate / peak,
                "eta_s": report.eta_s,
                "skipped": report.skipped,
                "valid_loss": report.valid_loss,
                "valid_bits_per_byte": report.valid.get("bits_per_byte"),
            }
        )

    return show
