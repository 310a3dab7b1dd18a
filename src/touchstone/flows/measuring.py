"""The verb `evaluate`: how well a model predicts text, with error bars and with compressors beside it, and how far its confidence holds."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from touchstone import config as settings
from touchstone.calibrate.measure import Measurement, Resampling, ece_equal_width
from touchstone.errors import ConfigError, NoTokenizer, Unsupported
from touchstone.evaluate.language import LanguageScore, encode_documents, sample_documents, score_language
from touchstone.files import cache_folder
from touchstone.flows.comparison import Comparison, interval_dict, measurement_dict, method_text
from touchstone.flows.measured_text import Compressed, blocks_of, is_one_text, units_of
from touchstone.infer import load
from touchstone.models.ngram import NgramModel
from touchstone.report.terminal import Terminal
from touchstone.report.words import Words
from touchstone.text.document import Document
from touchstone.text.prepare import Prepared, prepare
from touchstone.text.read import ReadReport, read_documents
from touchstone.text.tokenizer import Tokenizer
from touchstone.train.run_config import RunConfig

__all__ = ["ECE_BINS", "OWN_TEXT", "measure_model", "next_token_ece", "not_read", "run_behind", "said_of", "text_of_run"]

OWN_TEXT = "held-out test text of its own run"
"""In the document, where no data was given."""

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
    try:
        model.check_can("rolling")
    except Unsupported as reason:
        raise Unsupported(
            f"{reason} `touchstone assay {folder} --data PATH` measures what it can do, and `--suite NAME` a benchmark."
        ) from None
    if model.tokenizer is None:
        raise NoTokenizer(f"{folder}: has no tokenizer, so it cannot be scored on text.")
    report = ReadReport()
    documents, of = _documents(folder, data, text_field, model.tokenizer, report)
    if is_one_text(documents):
        documents = blocks_of(documents, max_bytes)
    chosen = sample_documents(documents, max_bytes)
    units, kind = units_of(chosen)
    with terminal.progress(words("evaluate.scoring")):
        temperatures = () if isinstance(model.net, NgramModel) else (1.0,)
        texts = replace(encode_documents(model.tokenizer, chosen), sources=tuple(units))
        score = score_language(model.net, texts, stride=stride, temperatures=temperatures)
        compressed = Compressed.of(chosen, ())
    comparison = Comparison(score.sources, score.n_bytes)
    comparison.add("model", score.nats / np.log(2))
    for name, bits in compressed.bits.items():
        comparison.add(name, bits, setting=compressed.settings[name])
    ece = next_token_ece(score) if temperatures else None
    left_out = {"n_documents_left_out": len(documents) - len(chosen), "unit": kind, "not_read": not_read(report)}
    _show(comparison, score, ece, of or words("evaluate.own_text"), terminal)
    _tell_left_out(left_out, max_bytes, terminal)
    return {
        "status": "ok",
        "model": os.fspath(folder),
        "data": of or OWN_TEXT,
        **left_out,
        "n_tokens": score.n_tokens,
        "method": score.method,
        "perplexity": interval_dict(score.perplexity()),
        "calibration": None if ece is None else measurement_dict(ece),
        **comparison.to_dict([("model", entry.key) for entry in comparison.entries[1:]]),
    }


def not_read(report: ReadReport) -> dict[str, Any]:
    """Plain data of what was left out in reading: rows without text, and files by the reason."""
    reasons = ("the same file as another" if reason.startswith("the same file") else reason for _, reason in report.skipped)
    return {"n_empty": report.n_empty, "files": dict(Counter(reasons))}


def next_token_ece(score: LanguageScore, temperature: float = 1.0) -> Measurement:
    """Expected calibration error of the likeliest next token, with an interval by source."""
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


def _documents(
    folder: Path, data: Sequence[Path], text_field: str, tokenizer: Tokenizer, report: ReadReport
) -> tuple[list[Document], str | None]:
    """What to score, and the paths it is from; None = the model's own test text."""
    if data:
        return list(read_documents(list(data), text_field=text_field, report=report)), ", ".join(map(str, data))
    behind = run_behind(folder)
    if behind is None:
        raise ConfigError(f"{folder}: no run stands behind this model, so it has no test text of its own; give some with `--data PATH`.")
    record, config = behind
    prepared = text_of_run(record, config, tokenizer)
    if not prepared.test_documents:
        raise ConfigError(f"{record}: the run held no test text out; give some with `--data PATH`.")
    return prepared.test_documents, None


def _tell_left_out(left_out: Mapping[str, Any], max_bytes: int, terminal: Terminal) -> None:
    words = terminal.words
    if n := left_out["n_documents_left_out"]:
        terminal.warn(words("evaluate.beyond", n=f"{n:,}", bytes=f"{max_bytes:,}"))
    for sentence in said_of(left_out["not_read"], words):
        terminal.warn(sentence)


def said_of(not_read: Mapping[str, Any], words: Words) -> list[str]:
    """A sentence on rows without text, and one for each reason that files were not read."""
    said = [words("evaluate.empty", n=f"{not_read['n_empty']:,}")] if not_read["n_empty"] else []
    return said + [words("evaluate.skipped", n=f"{n:,}", reason=words.told(reason)) for reason, n in not_read["files"].items()]


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
