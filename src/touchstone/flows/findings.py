"""The measuring stage of the quickstart: every model and baseline on the same held-out files, and the decoder's calibration."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from touchstone.calibrate.fit import Temperature
from touchstone.calibrate.measure import Measurement, reliability_table
from touchstone.evaluate.compressors import CompressorReport, score_compressors
from touchstone.evaluate.language import EncodedTexts, LanguageScore, encode_documents, fit_temperature, sample_documents, score_language
from touchstone.evaluate.mixture import ModelMixture
from touchstone.flows.comparison import Comparison, measurement_dict
from touchstone.flows.measuring import ECE_BINS, next_token_ece
from touchstone.models import LanguageNet
from touchstone.models.ngram import NgramModel, NgramSpec
from touchstone.report.plot import Reliability
from touchstone.report.terminal import Terminal
from touchstone.text.prepare import Prepared

__all__ = ["PAIRS", "Findings", "fit_ngram", "measure_findings"]

NGRAM_ORDER = 5
"""Where Kneser-Ney stops gaining on ten megabytes."""

PAIRS = (
    ("decoder", "ngram"),
    ("decoder", "lstm"),
    ("decoder", "xz_given"),
    ("mixture", "ngram"),
    ("mixture", "decoder"),
    ("mixture", "xz_given"),
)
"""The differences that are reported, the first against the second."""


@dataclass(frozen=True)
class Findings:
    """What was measured.

    score: of the decoder. Reliability curves and calibration errors are of its likeliest next token on the test files.
    held_out: the beginning of one of those files, each token with its probability. missing: compressors that this Python has not.
    """

    comparison: Comparison
    score: LanguageScore
    mixture: ModelMixture
    temperature: Temperature
    ece_before: Measurement
    ece_after: Measurement
    reliability_before: Reliability
    reliability_after: Reliability
    held_out: tuple[tuple[str, float], ...]
    n_test_files_left_out: int
    missing: dict[str, str]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Of PAIRS, those whose models were both measured."""
        keys = {entry.key for entry in self.comparison.entries}
        return [(a, b) for a, b in PAIRS if a in keys and b in keys]

    def to_dict(self) -> dict[str, Any]:
        return {
            **self.comparison.to_dict(self.pairs),
            "window": self.score.window,
            "stride": self.score.stride,
            "n_test_files_left_out": self.n_test_files_left_out,
            "mixture": self.mixture.model_dump(mode="json"),
            "temperature": self.temperature.to_dict(),
            "ece_before": measurement_dict(self.ece_before),
            "ece_after": measurement_dict(self.ece_after),
            "missing": self.missing,
        }


def fit_ngram(prepared: Prepared) -> tuple[NgramModel, float]:
    """The Kneser-Ney baseline of the training text, and the seconds it took."""
    start = time.perf_counter()
    shards = prepared.train
    spec = NgramSpec(vocab_size=prepared.tokenizer.vocab_size, order=NGRAM_ORDER)
    model = NgramModel.fit(spec, shards.read(0, shards.n_tokens), shards.document_starts[:-1])
    return model, time.perf_counter() - start


def measure_findings(
    decoder: LanguageNet,
    lstm: LanguageNet,
    ngram: NgramModel,
    prepared: Prepared,
    terminal: Terminal,
    *,
    test_bytes: int,
    valid_bytes: int,
    facts: dict[str, dict[str, Any]],
) -> Findings:
    """Score everything on the same test files; what is fitted (mixture weight, temperature) is fitted on validation files.

    facts: what else is known of each model, by key. Files beyond test_bytes are left out by a hash of their names.
    """
    words = terminal.words
    kept = sample_documents([document for document in prepared.test_documents if document.text], test_bytes)
    test = encode_documents(prepared.tokenizer, kept)
    valid = encode_documents(prepared.tokenizer, sample_documents([d for d in prepared.valid_documents if d.text], valid_bytes))
    with terminal.progress(words("quickstart.compressing")):
        compressed = score_compressors([document.text for document in kept], [document.text for document in prepared.train_documents()])
    with terminal.progress(words("quickstart.scoring"), 5) as advance:
        temperature = fit_temperature(decoder, valid)
        advance(1)
        decoder_valid, ngram_valid = score_language(decoder, valid), score_language(ngram, valid)
        mixture = ModelMixture.fit(_log_probs(decoder_valid), _log_probs(ngram_valid))
        advance(1)
        scored = score_language(decoder, test, temperatures=(1.0, temperature.temperature))
        advance(1)
        lstm_score = score_language(lstm, test)
        advance(1)
        ngram_score = score_language(ngram, test)
        advance(1)
    comparison = _compare(test, scored, lstm_score, ngram_score, mixture, compressed, facts)
    return Findings(
        comparison=comparison,
        score=scored,
        mixture=mixture,
        temperature=temperature,
        ece_before=next_token_ece(scored, 1.0),
        ece_after=next_token_ece(scored, temperature.temperature),
        reliability_before=_reliability(scored, 1.0),
        reliability_after=_reliability(scored, temperature.temperature),
        held_out=_coloured(prepared, test, scored),
        n_test_files_left_out=len({d.source for d in prepared.test_documents}) - len({d.source for d in kept}),
        missing=compressed.missing,
    )


def _compare(
    test: EncodedTexts,
    decoder: LanguageScore,
    lstm: LanguageScore,
    ngram: LanguageScore,
    mixture: ModelMixture,
    compressed: CompressorReport,
    facts: dict[str, dict[str, Any]],
) -> Comparison:
    comparison = Comparison(test.sources, test.n_bytes)
    mixed = [-mixture.log_probs(-a, -b).sum() for a, b in zip(decoder.token_nats, ngram.token_nats, strict=True)]
    nats = {"mixture": np.array(mixed), "decoder": decoder.nats, "ngram": ngram.nats, "lstm": lstm.nats}
    for key, values in nats.items():
        comparison.add(key, values / np.log(2), **facts.get(key, {}))
    for score in sorted(compressed.scores, key=lambda score: -score.given_bytes):  # those given the training text first
        key = f"{score.name}_given" if score.given_bytes else score.name
        comparison.add(key, 8.0 * np.array(score.compressed_bytes), setting=score.setting, given_bytes=score.given_bytes)
    return comparison


def _log_probs(score: LanguageScore) -> np.ndarray:
    return -np.concatenate(score.token_nats)


def _reliability(score: LanguageScore, temperature: float) -> Reliability:
    found = score.confidences[temperature]
    rows = [row for row in reliability_table(found.confidence, found.correct, ECE_BINS) if row.n]
    return Reliability([row.confidence or 0.0 for row in rows], [row.accuracy or 0.0 for row in rows], [row.n for row in rows])


def _coloured(prepared: Prepared, test: EncodedTexts, score: LanguageScore, n_tokens: int = 400) -> tuple[tuple[str, float], ...]:
    """The beginning of the held-out document of middling difficulty, each token with the probability the decoder gave it."""
    rates = score.nats / score.n_bytes
    place = int(np.argsort(rates)[len(rates) // 2])
    decoder, pieces, held = prepared.tokenizer.stream_decoder(), [], 1.0
    for token_id, nats in zip(test.token_ids[place][:n_tokens].tolist(), score.token_nats[place][:n_tokens].tolist(), strict=True):
        held = min(held, float(np.exp(-nats)))
        if text := decoder.push(token_id):
            pieces.append((text, held))
            held = 1.0
    return tuple(pieces)
