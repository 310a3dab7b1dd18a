"""Small probe sets in English and Chinese, written for this project: what a young model can learn before any benchmark moves.

Each probe is a context and answers that may continue it, one of them right: choose by log-likelihood, chance is one in `len(answers)`.
- agreement: number, reflexives and demonstratives in English; measure words, conjunctions and particles in Chinese. Minimal pairs.
- copying: a list that begins anew; what comes next stands in the context.
- brackets: which bracket closes what is open.
- arithmetic: sums, differences and products below 100, in words in Chinese.
- label: a short text and its label, as a prompt for classification asks for it.
Answers follow the context as they stand, with the space before an English word. No answer is the beginning of another of its probe.
The sets are made by `scripts/make_probes.py` and are in the public domain: CC0.txt.
"""

import json
from dataclasses import dataclass
from importlib import resources
from typing import Any

from touchstone.config import unknown_name

__all__ = ["PROBE_KINDS", "PROBE_LANGUAGES", "Probe", "load_probes"]

PROBE_KINDS = ("agreement", "arithmetic", "brackets", "copying", "label")
PROBE_LANGUAGES = ("en", "zh")


@dataclass(frozen=True, slots=True)
class Probe:
    """right: the place of the right answer among `answers`, from 0."""

    id: str
    kind: str
    language: str
    context: str
    answers: tuple[str, ...]
    right: int


def load_probes(kind: str | None = None, language: str | None = None) -> tuple[Probe, ...]:
    """The probes of a kind and a language, None for all, in the order of their ids."""
    for value, name, known in ((kind, "kind of probe", PROBE_KINDS), (language, "language of probes", PROBE_LANGUAGES)):
        if value is not None and value not in known:
            raise unknown_name(name, value, known)
    kinds, languages = [kind] if kind else PROBE_KINDS, [language] if language else PROBE_LANGUAGES
    return tuple(probe for one in kinds for other in languages for probe in _read(f"{one}.{other}.jsonl"))


def _read(name: str) -> list[Probe]:
    text = resources.files(__name__).joinpath(name).read_text(encoding="utf-8")
    return [_probe(json.loads(line)) for line in text.splitlines()]


def _probe(row: dict[str, Any]) -> Probe:
    return Probe(**{**row, "answers": tuple(row["answers"])})
