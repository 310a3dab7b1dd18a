"""What is at a path: a model with its parts, sizes and records; a run and how far it came; or text and what was found in it."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

from touchstone.errors import DataError
from touchstone.flows.run_record import RunRecord
from touchstone.infer.locate import locate_model
from touchstone.models import ModelSpec, describe
from touchstone.models.card import Card
from touchstone.models.checkpoint import LoadedModel, load_model
from touchstone.models.ngram import NgramModel
from touchstone.report.log import read_log
from touchstone.report.terminal import Terminal
from touchstone.text.document import Document
from touchstone.text.read import ReadReport, read_documents

__all__ = ["inspect_path"]

_SHOWN_CHARS = 200  # of a document's text
_SHOWN_LABELS = 20


def inspect_path(path: Path, terminal: Terminal, *, n_rows: int = 3, text_field: str = "text") -> dict[str, Any]:
    """Show what is at `path` and return the same as plain data; ModelFolderError or DataError where it is nothing known."""
    if _is_unfinished_run(path):
        return _run(RunRecord(path), terminal)
    if path.is_dir() and not any((path / name).is_file() for name in ("config.json", "model/config.json")):
        return _data(path, terminal, n_rows, text_field)
    if path.is_file() and path.name not in ("config.json", "model.safetensors"):
        return _data(path, terminal, n_rows, text_field)
    folder = path.parent if path.is_file() else path
    if not folder.exists() and (path.suffix or len(path.parts) > 2):
        raise DataError(f"{path}: no such file or folder.")
    return _model(locate_model(folder), terminal)


def _model(folder: Path, terminal: Terminal) -> dict[str, Any]:
    words = terminal.words
    model = load_model(folder)
    terminal.say(words("inspect.model", folder=folder, kind=model.model_type), style="title")
    facts = _ngram_facts(model.net) if isinstance(model.net, NgramModel) else _net_facts(model.spec, terminal)
    facts |= _answer_facts(model) | _tokenizer_facts(model)
    _tell_facts(facts, terminal)
    _tell_card(model.card, terminal)
    for warning in model.extra.warnings:
        terminal.warn(warning)
    ignored = {**model.extra.ignored_keys, **model.extra.ignored_tensors, **model.extra.ignored_files}
    if ignored:
        terminal.table([words("inspect.ignored"), words("inspect.reason")], list(ignored.items()))
    return {
        "status": "ok",
        "what": "model",
        "folder": str(folder),
        "family": model.family,
        "model_type": model.model_type,
        **facts,
        "spec": model.spec.model_dump(mode="json"),
        "calibration": [record.model_dump(mode="json") for record in model.card.calibration],
        "scores": [score.model_dump(mode="json") for score in model.card.scores],
        "lineage": model.card.lineage.model_dump(mode="json"),
        "ignored": ignored,
        "warnings": list(model.extra.warnings),
    }


def _net_facts(spec: Any, terminal: Terminal) -> dict[str, Any]:
    assert isinstance(spec, ModelSpec)
    terminal.say(describe(spec))
    terminal.say()
    context = spec.max_seq_len or 0
    return {
        "parameters": spec.n_parameters(),
        "context": spec.max_seq_len,
        "flops_per_token": spec.flops_per_token(context),
        "vocabulary": spec.vocab_size,
    }


def _answer_facts(model: LoadedModel) -> dict[str, Any]:
    """The names of a head's labels, and how texts become vectors, of models that have these."""
    card = model.card
    facts: dict[str, Any] = {} if card.labels is None else {"labels": list(card.labels)}
    return facts if card.pooling is None else facts | {"pooling": card.pooling.model_dump(mode="json")}


def _ngram_facts(model: NgramModel) -> dict[str, Any]:
    return {
        "order": model.spec.order,
        "vocabulary": model.spec.vocab_size,
        "ngrams": sum(model.n_ngrams),
        "bytes_in_memory": model.nbytes,
    }


def _tokenizer_facts(model: LoadedModel) -> dict[str, Any]:
    if model.tokenizer is None:
        return {"tokenizer": None}
    return {
        "tokenizer": model.tokenizer.vocab_size,
        "spare_rows": model.extra.n_spare_rows,
        "tokenizer_hash": model.tokenizer.fingerprint,
    }


def _tell_card(card: Card, terminal: Terminal) -> None:
    words = terminal.words
    if card.scores:
        rows = [
            (s.name, f"{s.value:.4g}" + (f" [{s.interval[0]:.4g}, {s.interval[1]:.4g}]" if s.interval else ""), s.on, s.n)
            for s in card.scores
        ]
        terminal.table([words("inspect.score"), words("inspect.value"), words("inspect.measured_on"), "n"], rows)
    for record in card.calibration:
        settings = ", ".join(f"{name} {value}" for name, value in record.params.items())
        terminal.say(
            words("inspect.calibration", target=record.target, method=record.method, settings=settings, n=record.n, date=record.date)
        )
    if card.lineage.data_hash:
        terminal.say(words("inspect.lineage", data=card.lineage.data_hash, tokenizer=card.lineage.tokenizer_hash or "-"), style="dim")


def _is_unfinished_run(path: Path) -> bool:
    return (path / "config.yaml").is_file() and not (path / "model" / "config.json").is_file()


def _run(record: RunRecord, terminal: Terminal) -> dict[str, Any]:
    """A training that has no model yet."""
    words = terminal.words
    steps = [line for line in (read_log(record.metrics) if record.metrics.exists() else []) if "step" in line]
    step = steps[-1]["step"] if steps else 0
    loss = steps[-1].get("loss") if steps else None
    terminal.say(words("inspect.run", folder=record.folder, step=step), style="title")
    terminal.say(record.config.read_text(encoding="utf-8").rstrip())
    terminal.say(words("inspect.resume"))
    if record.command.exists():
        terminal.say("  " + record.command.read_text(encoding="utf-8").strip(), style="command")
    known = loss if isinstance(loss, (int, float)) and math.isfinite(loss) else None
    return {"status": "ok", "what": "run", "folder": str(record.folder), "step": step, "loss": known}


def _data(path: Path, terminal: Terminal, n_rows: int, text_field: str) -> dict[str, Any]:
    words, report = terminal.words, ReadReport()
    first: list[Document] = []
    suffixes: Counter[str] = Counter()
    n_chars = 0
    with terminal.progress(words("inspect.reading")) as advance:
        documents = read_documents([path], text_field=text_field, report=report)
        for document in documents:
            if len(first) < n_rows:
                first.append(document)
            suffixes["".join(Path(document.source).suffixes[-2:]) or "-"] += 1
            n_chars += len(document.text)
            advance(document.n_bytes)
    facts = {
        "files": report.n_files,
        "documents": report.n_documents,
        "bytes": report.n_bytes,
        "characters": n_chars,
        "formats": ", ".join(f"{suffix} ({n})" for suffix, n in suffixes.most_common()),
        "bom": report.n_bom,
        "crlf": report.n_crlf,
        "empty": report.n_empty,
        "skipped": len(report.skipped),
    }
    words = terminal.words
    terminal.say(words("inspect.data", path=path), style="title")
    _tell_facts(facts, terminal)
    if report.skipped:
        terminal.table(
            [words("inspect.skipped"), words("inspect.reason")], [(path, words.told(reason)) for path, reason in report.skipped[:10]]
        )
    for document in first:
        terminal.say(f"{document.place} · {document.n_bytes:,} B", style="dim")
        terminal.say(document.text[:_SHOWN_CHARS].rstrip() + (" …" if len(document.text) > _SHOWN_CHARS else ""))
    rows = [{"source": d.source, "line": d.line, "n_bytes": d.n_bytes, "text": d.text[:_SHOWN_CHARS]} for d in first]
    return {"status": "ok", "what": "data", "path": str(path), **facts, "skipped_files": report.skipped[:1000], "first": rows}


def _tell_facts(facts: dict[str, Any], terminal: Terminal) -> None:
    words = terminal.words
    shown = [(words(f"inspect.{name}"), _shown(value)) for name, value in facts.items()]
    terminal.table([words("inspect.fact"), words("inspect.value")], shown)


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}"
    if isinstance(value, list):
        return ", ".join(value[:_SHOWN_LABELS]) + (", …" if len(value) > _SHOWN_LABELS else "")
    if isinstance(value, dict):
        return ", ".join(f"{name} {setting}" for name, setting in value.items() if setting not in (None, {}))
    return f"{value:,}" if isinstance(value, int) else str(value)
