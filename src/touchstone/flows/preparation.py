"""Text made ready to train on, with what was found told: the verb `prepare`, and the first stage of every training."""

from pathlib import Path
from typing import Any

from touchstone.files import cache_folder
from touchstone.flows.answer_data import answer_data, data_files, needs_answers
from touchstone.flows.wanted import requested_config
from touchstone.report.terminal import Terminal
from touchstone.text.prepare import Prepared, prepare
from touchstone.text.read import ReadReport
from touchstone.train.run_config import RunConfig

__all__ = ["prepare_ahead", "prepare_text"]

_STAGES = ("reading", "comparing documents", "learning the vocabulary", "encoding train", "encoding valid", "encoding test")


def prepare_ahead(
    recipe: str, data: tuple[Path, ...], overrides: tuple[str, ...], terminal: Terminal, *, dry_run: bool = False
) -> dict[str, Any]:
    """Prepare the text of a recipe with these paths and changes, or say what would be read."""
    words = terminal.words
    config = requested_config(recipe, data, overrides)
    if dry_run:
        report = ReadReport()
        files = data_files(config, report)
        n_bytes = sum(file.stat().st_size for file in files)
        terminal.say(
            words("prepare.plan", n=f"{len(files):,}", size=words.size(n_bytes), skipped=len(report.skipped), cache=cache_folder())
        )
        terminal.say(words("plan.nothing"))
        settings = {"data": config.data.model_dump(mode="json"), "tokenizer": config.tokenizer.model_dump(mode="json")}
        return {"status": "dry-run", "n_files": len(files), "n_bytes": n_bytes, "skipped": report.skipped[:1000], **settings}
    if needs_answers(config):
        return _prepare_answers(config, terminal)
    prepared = prepare_text(config, terminal)
    terminal.say(words("prepare.done", folder=prepared.folder))
    return {
        "status": "ok",
        "folder": str(prepared.folder),
        "vocab_size": prepared.tokenizer.vocab_size,
        **prepared.report.model_dump(mode="json"),
    }


def prepare_text(config: RunConfig, terminal: Terminal) -> Prepared:
    """The prepared corpus of a configuration, from the cache if it was prepared before."""
    words = terminal.words
    with terminal.progress(words("prepare.working"), len(_STAGES)) as advance:
        n_begun = 0

        def told(label: str, done: int, total: int | None) -> None:
            nonlocal n_begun
            begun = _STAGES.index(label) + 1 if label in _STAGES else n_begun
            if begun > n_begun:
                advance(begun - max(1, n_begun))
                n_begun = begun

        prepared = prepare(config.data, config.tokenizer, cache_folder(), told)
    _tell(prepared, terminal)
    return prepared


def _prepare_answers(config: RunConfig, terminal: Terminal) -> dict[str, Any]:
    """Read and divide rows, and learn their vocabulary, which the training then finds in the cache."""
    data = answer_data(config, terminal)
    report = data.sides.report
    return {
        "status": "ok",
        "vocab_size": data.tokenizer.vocab_size,
        "n_rows": data.sides.sizes,
        "n_near_copies": data.sides.n_near_copies,
        "n_files": report.n_files,
        "noted": report.n_rows,
        "skipped": report.skipped[:1000],
        "rows_hash": data.sides.rows_hash,
    }


def _tell(prepared: Prepared, terminal: Terminal) -> None:
    words, report = terminal.words, prepared.report
    size = {side: words.size(n_bytes) for side, n_bytes in report.n_bytes.items()}
    n_documents = f"{sum(report.n_documents.values()):,}"
    total = words.size(sum(report.n_bytes.values()))
    terminal.say(words("prepare.text", documents=n_documents, size=total, copies=f"{report.n_near_copies:,}", **size))
    per_token = report.n_bytes["train"] / max(1, report.n_tokens["train"])
    terminal.say(words("prepare.tokens", vocabulary=f"{prepared.tokenizer.vocab_size:,}", per_token=f"{per_token:.2f}"))
    if report.n_skipped:
        terminal.warn(words("prepare.skipped", n=report.n_skipped, first=f"{report.skipped[0][0]}: {words.told(report.skipped[0][1])}"))
