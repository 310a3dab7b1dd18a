"""The verb `evaluate`: how well a model predicts text, with error bars and with compressors beside it, and how far its confidence holds."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from touchstone import config as settings
from touchstone.calibrate.measure import Measurement, Resampling, ece_equal_width
from touchstone.errors import ConfigError, NoTokenizer
from touchstone.evaluate.compressors import score_compressors
from touchstone.evaluate.language import LanguageScore, encode_documents, sample_documents, score_language
from touchstone.files import cache_folder
from touchstone.flows.comparison import Comparison, interval_dict, measurement_dict, method_text
from touchstone.infer import load
from touchstone.models.ngram import NgramModel
from touchstone.report.terminal import Terminal
from touchstone.text.document import Document
from touchstone.text.prepare import Prepared, prepare
from touchstone.text.read import ReadReport, read_documents
from touchstone.text.tokenizer import Tokenizer
from touchstone.train.run_config import RunConfig

__all__ = ["ECE_BINS", "measure_model", "next_token_ece", "run_behind", "text_of_run"]

ECE_BINS = 15
"""As Guo et al. 2017 and most papers since."""


def measure_model(
    folder: Path,
    data: Sequence[Path],
    terminal: Terminal,
    *,
    text_field: str = "text",
    stride: int | None = None,
    max_bytes: int = 2_000_000,
    device: str = "auto",
    dtype: str = "auto",
) -> dict[str, Any]:
    """Score a model on the documents of `data`, or on the test text of its own run; show a table and return plain data.

    Raises Unsupported for a model that is no language model.
    """
    words = terminal.words
    model = load(os.fspath(folder), device=device, dtype=dtype)
    model.check_can("rolling")
    if model.tokenizer is None:
        raise NoTokenizer(f"{folder}: has no tokenizer, so it cannot be scored on text.")
    documents, of = _documents(folder, data, text_field, model.tokenizer)
    chosen = sample_documents(documents, max_bytes)
    with terminal.progress(words("evaluate.scoring")):
        temperatures = () if isinstance(model.net, NgramModel) else (1.0,)
        score = score_language(model.net, encode_documents(model.tokenizer, chosen), stride=stride, temperatures=temperatures)
        compressed = score_compressors([document.text for document in chosen])
    comparison = Comparison(score.sources, score.n_bytes)
    comparison.add("model", score.nats / np.log(2))
    for compressor in compressed.scores:
        comparison.add(compressor.name, 8.0 * np.array(compressor.compressed_bytes), setting=compressor.setting)
    ece = next_token_ece(score) if temperatures else None
    _show(comparison, score, ece, of, terminal)
    return {
        "status": "ok",
        "model": os.fspath(folder),
        "data": of,
        "n_documents_left_out": len(documents) - len(chosen),
        "n_tokens": score.n_tokens,
        "method": score.method,
        "perplexity": interval_dict(score.perplexity()),
        "calibration": None if ece is None else measurement_dict(ece),
        **comparison.to_dict([("model", entry.key) for entry in comparison.entries[1:]]),
    }


def next_token_ece(score: LanguageScore, temperature: float = 1.0) -> Measurement:
    """Expected calibration error of the likeliest next token, with an interval by file."""
    found = score.confidences[temperature]
    files = {source: number for number, source in enumerate(dict.fromkeys(score.sources))}
    lengths = [len(array) for array in score.token_nats]
    clusters = np.repeat([files[source] for source in score.sources], lengths)
    return ece_equal_width(found.confidence, found.correct, ECE_BINS, resampling=Resampling(clusters=clusters))


def run_behind(folder: Path) -> tuple[Path, RunConfig] | None:
    """The record of the run that made a model, `config.yaml` in its folder or the one above; None where there is none."""
    record = next((place / "config.yaml" for place in (folder, folder.parent) if (place / "config.yaml").is_file()), None)
    return None if record is None else (record, settings.load(RunConfig, record))


def text_of_run(record: Path, config: RunConfig, tokenizer: Tokenizer) -> Prepared:
    """What a run of plain text learned from and held out; ConfigError where it is not the text that the model knows."""
    prepared = prepare(config.data, config.tokenizer, cache_folder())
    if prepared.tokenizer.fingerprint != tokenizer.fingerprint:
        raise ConfigError(f"{record}: its text is not what it was when the model was trained; give text to score with `--data PATH`.")
    return prepared


def _documents(folder: Path, data: Sequence[Path], text_field: str, tokenizer: Tokenizer) -> tuple[list[Document], str]:
    """What to score, and what to call it."""
    if data:
        return list(read_documents(list(data), text_field=text_field, report=ReadReport())), ", ".join(map(str, data))
    behind = run_behind(folder)
    if behind is None:
        raise ConfigError(f"{folder}: no run stands behind this model, so it has no test text of its own; give some with `--data PATH`.")
    record, config = behind
    prepared = text_of_run(record, config, tokenizer)
    if not prepared.test_documents:
        raise ConfigError(f"{record}: the run held no test text out; give some with `--data PATH`.")
    return prepared.test_documents, "held-out test text of its own run"


def _show(comparison: Comparison, score: LanguageScore, ece: Measurement | None, of: str, terminal: Terminal) -> None:
    words = terminal.words
    method = method_text(score.window, score.stride, words)
    terminal.say(words("evaluate.on", data=of, n=f"{len(score.sources):,}", bytes=f"{int(score.n_bytes.sum()):,}", method=method))
    rows = []
    for entry in comparison.entries:
        name = (
            words("evaluate.model")
            if entry.key == "model"
            else words("evaluate.compressor", name=entry.key, setting=entry.facts["setting"])
        )
        difference = "" if entry.key == "model" else str(comparison.difference("model", entry.key).interval)
        verdict = "" if entry.key == "model" else words(f"verdict.{comparison.difference('model', entry.key).verdict}")
        rows.append((name, comparison.interval(entry.key), difference, verdict))
    headers = ("who", "bits_per_byte", "difference", "verdict")
    terminal.table([words(f"evaluate.{header}") for header in headers], rows)
    terminal.say(words("evaluate.perplexity", value=score.perplexity()))
    if ece is not None:
        floor = f"{ece.noise_floor.high:.4f}" if ece.noise_floor else "-"
        terminal.say(words("evaluate.ece", value=f"{ece.value:.4f}", interval=ece.interval or "-", floor=floor, n=f"{ece.n:,}"))
