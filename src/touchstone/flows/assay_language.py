"""The part of an assay on predicting text: bits per byte by domain beside compressors, and whether next-token probabilities are true."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from touchstone.calibrate.fit import Temperature
from touchstone.evaluate.language import LanguageScore, encode_documents, fit_temperature, score_language
from touchstone.flows.assay_material import Domain
from touchstone.flows.assay_parts import Subject
from touchstone.flows.assay_trust import calibration_data
from touchstone.flows.calibrating import is_first_half
from touchstone.flows.comparison import Comparison, interval_dict
from touchstone.flows.measured_text import Compressed, units_of
from touchstone.infer import LanguageModel
from touchstone.models.net import LanguageNet
from touchstone.models.ngram import NgramModel
from touchstone.text.document import Document

__all__ = ["Language"]


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
        texts = replace(encode_documents(model.tokenizer, documents), sources=tuple(units_of(documents)[0]))
        score = score_language(model.net, texts, temperatures=asked)
        compressed = Compressed.of(documents, _training_text(subject))
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


def _fitted_temperature(model: LanguageModel, documents: Sequence[Document]) -> Temperature | None:
    """Of the next token, from the first half of the documents; None where there are no halves, or nothing to be fitted."""
    first = [document for document in documents if is_first_half(document.text)]
    if not isinstance(model.net, LanguageNet) or not 0 < len(first) < len(documents):
        return None
    assert model.tokenizer is not None
    return fit_temperature(model.net, encode_documents(model.tokenizer, first))


def _domain(domain: Domain, place: slice, score: LanguageScore, compressed: Compressed) -> dict[str, Any]:
    units, kind = units_of(domain.documents)
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


def _next_token(score: LanguageScore, documents: Sequence[Document], temperature: Temperature | None) -> dict[str, Any]:
    lengths = [len(nats) for nats in score.token_nats]
    first = np.repeat(np.array([is_first_half(document.text) for document in documents]), lengths)
    units = np.repeat(np.unique(units_of(documents)[0], return_inverse=True)[1], lengths)
    before = score.confidences[1.0]
    after = None if temperature is None else score.confidences[temperature.temperature].confidence
    found = calibration_data(before.confidence, after, before.correct, first, units)
    return {"temperature": None if temperature is None else temperature.temperature, **found}
