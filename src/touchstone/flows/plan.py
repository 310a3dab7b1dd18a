"""What `train --dry-run` shows: the resolved configuration, its size, memory and time; nothing is written."""

from collections.abc import Collection
from typing import Any

from touchstone import config as settings
from touchstone.bench.machine import measure_matmul
from touchstone.flows.answer_data import data_files
from touchstone.flows.run_record import RunRecord
from touchstone.models import ModelSpec
from touchstone.report.terminal import Terminal
from touchstone.runtime import choose_runtime
from touchstone.train.estimate import estimate
from touchstone.train.run_config import RunConfig

__all__ = ["show_plan"]

REFERENCE_FLOPS_PER_S = 280e9
"""Matrix-product peak of the machine that the paces of train/estimate.py were measured on (fp32, two cores)."""


def show_plan(
    config: RunConfig, record: RunRecord, terminal: Terminal, *, minutes: float | None, explicit: Collection[str], device: str
) -> dict[str, Any]:
    """Estimates for the vocabulary that the tokenizer is asked for; the time follows this machine's measured peak."""
    words = terminal.words
    resumes = record.settled(config, minutes=minutes, explicit=explicit) is not None
    n_files = len(data_files(config))
    vocab_size = config.tokenizer.vocab_size or 4096
    expected, spec = estimate(config, vocab_size), config.to_spec(vocab_size)
    runtime = choose_runtime(device, "float32")
    seconds = (
        minutes * 60 if minutes is not None else expected.seconds * REFERENCE_FLOPS_PER_S / measure_matmul(runtime.device, seconds=0.5)
    )
    n_parameters = spec.n_parameters() if isinstance(spec, ModelSpec) else None
    terminal.say(settings.to_yaml(config).rstrip())
    terminal.say()
    rows = [
        (words("plan.folder"), words("plan.resumes", folder=record.folder) if resumes else str(record.folder)),
        (words("plan.data"), ", ".join(config.data.sources) or str(config.data.corpus)),
        (words("plan.parameters"), "-" if n_parameters is None else f"{n_parameters:,}"),
        (words("plan.memory"), words.size(expected.memory_bytes)),
        (words("plan.time"), words.duration(seconds)),
        (words("plan.tokens"), f"{expected.n_tokens:,}" if minutes is None else words("plan.by_time")),
    ]
    terminal.table([words("plan.what"), words("plan.value")], rows)
    terminal.say(words("plan.nothing"))
    return {
        "status": "dry-run",
        "folder": str(record.folder),
        "resumes": resumes,
        "n_files": n_files,
        "parameters": n_parameters,
        "memory_bytes": expected.memory_bytes,
        "seconds": seconds,
        "n_tokens": expected.n_tokens if minutes is None else None,
        "config": config.model_dump(mode="json"),
    }
