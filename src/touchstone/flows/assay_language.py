"""The part of an assay on predicting text: bits per byte by domain beside compressors, and whether next-token probabilities are true."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from touchstone.calibrate.fit import Temperature
from touchstone.evaluate.compressors import CompressorScore, score_compressors
from touchstone.evaluate.language import LanguageScore, encode_documents, fit_temperature, score_language
from touchstone.flows.assay_material import Domain
from touchstone.flows.assay_parts import Subject
from touchstone.flows.assay_trust import calibration_data
from touchstone.flows.calibrating import is_first_half
from touchstone.flows.comparison import Comparison, interval_dict
from touchstone.infer import LanguageModel
from touchstone.models.net import LanguageNet
from touchstone.models.ngram import NgramModel
from touchstone.text.document import Document
from touchstone.text.labelled import ROW_SUFFIXES
from touchstone.text.read import format_of

__all__ = ["Language"]

MAX_JOINED = 2_000_000
"""Bytes of a text whose parts are compressed one after the other: the time grows with its square, and what it gains shrinks."""


class Language:
    """How well the model predicts text, by domain, with compressors beside it; and whether its next-token probabilities are true."""

    name = "language"

    def lacks(self, subject: Subject) -> str | None:
        model = subject.model
        if "rolling" not in model.can:
            return "no_rolling"
        if model.tokenizer is None:
            return "no_tokenizer"
        if model.tokenizer.bos_id is None and model.tokenizer.eos_id is None:
            return "no_prefix"
        return None if subject.material.domains else subject.material.why_no_text

    def amount(self, subject: Subject) -> dict[str, int]:
        domains = subject.material.domains
        return {"documents": sum(len(domain.documents) for domain in domains), "bytes": sum(domain.n_bytes for domain in domains)}

    def measure(self, subject: Subject) -> dict[str, Any]:
        model, domains = subject.model, subject.material.domains
        documents = [document for domain in domains for document in domain.documents]
        temperature = _fitted_temperature(model, documents)
        asked = () if isinstance(model.net, NgramModel) else (1.0, *((temperature.temperature,) if temperature else ()))
        assert model.tokenizer is not None
        score = score_language(model.net, encode_documents(model.tokenizer, documents), temperatures=asked)
        compressed = _Compressed.of(documents, _training_text(subject))
        starts = np.cumsum([0, *(len(domain.documents) for domain in domains)])
        places = [slice(*ends) for ends in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)]
        return {
            "domains": [_domain(domain, place, score, compressed) for domain, place in zip(domains, places, strict=True)],
            "window": score.window,
            "stride": score.stride,
            "n_tokens": score.n_tokens,
            "perplexity": interval_dict(score.perplexity()),
            "calibration": _next_token(score, documents, temperature) if asked else None,
            "missing_compressors": compressed.missing,
        }


@dataclass(frozen=True)
class _Compressed:
    """Bits of each document by compressor, `NAME_given` where it had read training text; missing: those not installed, with the remedy.

    Parts of one text are compressed one after the other, each counted as what it adds to those before it: a compressor that began anew
    at every part would learn nothing of the text, and be no match for any model. Of a text beyond `MAX_JOINED` each part is on its own.
    """

    bits: dict[str, NDArray[np.float64]]
    settings: dict[str, str]
    missing: dict[str, str]

    @classmethod
    def of(cls, documents: Sequence[Document], training: Sequence[str]) -> "_Compressed":
        joined, before = _joined(documents)
        report = score_compressors(joined, training)
        bits = {}
        for score in report.scores:
            sizes = np.array(score.compressed_bytes, dtype=np.float64)
            bits[_key(score)] = 8 * np.array(
                [size - (sizes[place] if place is not None else 0) for size, place in zip(sizes, before, strict=True)]
            )
        return cls(bits, {_key(score): score.setting for score in report.scores}, dict(report.missing))


def _key(score: CompressorScore) -> str:
    return f"{score.name}_given" if score.given_bytes else score.name


def _training_text(subject: Subject) -> list[str]:
    """As much of what the model learned from as compressors are given: then they know what it knows. Nothing where it is not known."""
    texts: list[str] = []
    left = subject.bounds.training_bytes
    for document in subject.material.training() if subject.material.training is not None else ():
        if document.n_bytes > left:
            break
        texts.append(document.text)
        left -= document.n_bytes
    return texts


def _joined(documents: Sequence[Document]) -> tuple[list[str], list[int | None]]:
    """Each document behind the parts of its text before it, and the place of those alone; None where nothing is before it."""
    sizes = Counter[str]()
    for document in documents:
        sizes[document.source] += document.n_bytes
    last: dict[str, int] = {}
    joined: list[str] = []
    before: list[int | None] = []
    for place, document in enumerate(documents):
        stands_alone = _is_of_rows(document) or sizes[document.source] > MAX_JOINED
        earlier = None if stands_alone else last.get(document.source)
        joined.append(document.text if earlier is None else joined[earlier] + document.text)
        before.append(earlier)
        last[document.source] = place
    return joined, before


def _is_of_rows(document: Document) -> bool:
    """Whether it is one of many of its file, each a text on its own."""
    return format_of(Path(document.source)) in (*ROW_SUFFIXES, ".xml")


def _fitted_temperature(model: LanguageModel, documents: Sequence[Document]) -> Temperature | None:
    """Of the next token, from the first half of the documents; None where there are no halves, or nothing to be fitted."""
    first = [document for document in documents if is_first_half(document.text)]
    if not isinstance(model.net, LanguageNet) or not 0 < len(first) < len(documents):
        return None
    assert model.tokenizer is not None
    return fit_temperature(model.net, encode_documents(model.tokenizer, first))


def _domain(domain: Domain, place: slice, score: LanguageScore, compressed: "_Compressed") -> dict[str, Any]:
    units, kind = _units(domain.documents)
    comparison = Comparison(units, score.n_bytes[place])
    comparison.add("model", score.nats[place] / np.log(2))
    for name, bits in compressed.bits.items():
        comparison.add(name, bits[place], setting=compressed.settings[name])
    others = [entry.key for entry in comparison.entries[1:]]
    best = min(others, key=lambda key: comparison.interval(key).value)
    data = comparison.to_dict([("model", key) for key in others])
    difference = next(each for each in data["differences"] if each["b"] == best)
    facts = {"name": domain.name, "path": domain.path, "n_left_out": domain.n_left_out, "unit": kind}
    return {**facts, "best": best, "difference": difference, **data}


def _units(documents: Sequence[Document]) -> tuple[list[str], str]:
    """What is resampled: rows of files of rows and pages of a dump are on their own, blocks of one text stand together.

    Where all is one text there are only its blocks: "block" says that neighbours may be alike.
    """
    units = [document.place if _is_of_rows(document) else document.source for document in documents]
    if len(set(units)) > 1:
        return units, "row" if all(unit == document.place for unit, document in zip(units, documents, strict=True)) else "file"
    return [document.place for document in documents], "block"


def _next_token(score: LanguageScore, documents: Sequence[Document], temperature: Temperature | None) -> dict[str, Any]:
    lengths = [len(nats) for nats in score.token_nats]
    first = np.repeat(np.array([is_first_half(document.text) for document in documents]), lengths)
    units = np.repeat(np.unique(_units(documents)[0], return_inverse=True)[1], lengths)
    before = score.confidences[1.0]
    after = None if temperature is None else score.confidences[temperature.temperature].confidence
    found = calibration_data(before.confidence, after, before.correct, first, units)
    return {"temperature": None if temperature is None else temperature.temperature, **found}
