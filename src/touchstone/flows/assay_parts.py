"""Parts of an assay: what a model is, its closed answers, its labels, and what it saw in training.

Each part says whether model and material allow it, how much it would read, and measures plain data. One that is left out has a reason, a
key of the phrases `assay.why_…`. No figure stands without its error bar and a baseline.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from touchstone.calibrate.arrays import softmax
from touchstone.calibrate.choose import choose_calibration
from touchstone.calibrate.fit import Temperature, VectorScaling
from touchstone.config import closest
from touchstone.errors import ConfigError, DataError
from touchstone.evaluate.contamination import ExampleOverlap, training_overlap
from touchstone.evaluate.probes import Probe, load_probes
from touchstone.files import read_json, sha256_bytes
from touchstone.flows.assay_material import Bounds, Material
from touchstone.flows.assay_trust import confidence_data, is_enough, trust_data
from touchstone.flows.calibrating import class_confidence, is_first_half
from touchstone.flows.comparison import interval_dict
from touchstone.infer import LanguageModel
from touchstone.infer.answer_set import AnswerSet
from touchstone.infer.locate import locate_model
from touchstone.models.families import families, find_family
from touchstone.models.heads import ClassifyHead
from touchstone.models.ngram import NgramModel
from touchstone.models.spec import ModelSpec
from touchstone.stats import clopper_pearson

__all__ = [
    "Answers",
    "Classes",
    "Contamination",
    "Identity",
    "Part",
    "Subject",
    "ask",
    "chosen_probes",
]

_BATCH = 64  # questions asked together
_OVERLAP_WORDS = 13  # as GPT-3 counts (Brown et al. 2020, appendix C)

Clock = Callable[[], float]


@dataclass(frozen=True)
class Subject:
    """What is measured, on what, and how much of it. clock: seconds; what is timed is timed by it."""

    folder: Path
    model: LanguageModel
    material: Material
    bounds: Bounds
    clock: Clock = time.perf_counter


class Part(Protocol):
    """One part of an assay."""

    @property
    def name(self) -> str:
        """The key of the part in the document."""
        ...

    def lacks(self, subject: Subject) -> str | None:
        """Why it cannot be measured; None if it can."""
        ...

    def amount(self, subject: Subject) -> dict[str, int]:
        """How much would be measured: counts by a key of the phrases `assay.n_…`."""
        ...

    def measure(self, subject: Subject) -> dict[str, Any]:
        """The figures, as plain data."""
        ...


class Identity:
    """What the model is."""

    name = "identity"

    def lacks(self, subject: Subject) -> str | None:
        return None

    def amount(self, subject: Subject) -> dict[str, int]:
        return {}

    def measure(self, subject: Subject) -> dict[str, Any]:
        model, spec = subject.model, subject.model.spec
        config = read_json(locate_model(subject.folder) / "config.json")
        return {
            "family": _family(config),
            "model_type": str(config["model_type"]),
            "can": sorted(model.can),
            "parameters": spec.n_parameters() if isinstance(spec, ModelSpec) else None,
            "n_grams": sum(model.net.n_ngrams) if isinstance(model.net, NgramModel) else None,
            "context": spec.max_seq_len if isinstance(spec, ModelSpec) else None,
            "vocabulary": spec.vocab_size,
            "labels": list(model.labels) or None,
            "tokenizer": None if model.tokenizer is None else model.tokenizer.vocab_size,
            "bytes_per_token": _bytes_per_token(subject),
            "lineage": model.card.lineage.model_dump(mode="json"),
            "numeric_scheme": model.numeric_scheme,
            "weights_hash": model.weights_hash,
            "n_threads": torch.get_num_threads(),
            "device": "cpu" if model.runtime is None else str(model.runtime.device),
        }


class Answers:
    """Closed answers to our own probes: how often they are right, and whether the model knows when."""

    name = "answers"

    def lacks(self, subject: Subject) -> str | None:
        if "loglikelihood" not in subject.model.can:
            return "no_loglikelihood"
        return "no_tokenizer" if subject.model.tokenizer is None else None

    def amount(self, subject: Subject) -> dict[str, int]:
        return {"questions": len(chosen_probes(subject.bounds.n_probes))}

    def measure(self, subject: Subject) -> dict[str, Any]:
        probes = chosen_probes(subject.bounds.n_probes)
        found = ask(subject.model, [(probe.context, probe.answers) for probe in probes])
        asked = [(probe, answers) for probe, answers in zip(probes, found, strict=True) if answers is not None]
        if not asked:
            raise DataError("The model can tell the answers of no probe apart: its tokenizer spells them alike.")
        correct = np.array([answers.best == probe.right for probe, answers in asked])
        sure = np.array([float(answers.probabilities.max()) for _, answers in asked])
        first = np.array([is_first_half(probe.id) for probe, _ in asked])
        kinds = sorted({(probe.kind, probe.language) for probe, _ in asked})
        return {
            "n": len(asked),
            "n_refused": len(probes) - len(asked),
            "n_cut": sum(answers.n_truncated > 0 for _, answers in asked),
            "kinds": [_kind(kind, language, [probe for probe, _ in asked], correct) for kind, language in kinds],
            "confidence": confidence_data(np.minimum(sure, 1.0), correct, first),
        }


class Classes:
    """A classifier's labels on labelled rows, beside the answer that is always the commonest label."""

    name = "classes"

    def lacks(self, subject: Subject) -> str | None:
        model = subject.model
        if "classify" not in model.can:
            return "no_classify"
        head = model.spec.head if isinstance(model.spec, ModelSpec) else None
        if isinstance(head, ClassifyHead) and head.problem in ("regression", "multi-label"):
            return "labels_together"
        if model.tokenizer is None:
            return "no_tokenizer"
        return None if subject.material.labelled else "no_rows"

    def amount(self, subject: Subject) -> dict[str, int]:
        return {"rows": len(subject.material.labelled)}

    def measure(self, subject: Subject) -> dict[str, Any]:
        model, rows = subject.model, subject.material.labelled
        numbers = {label: number for number, label in enumerate(model.labels)}
        _check_labels(subject)
        texts = [row.parts for row in rows]
        found = model.classify(texts, truncate=True)
        logits = np.array([each.logits for each in found])
        truth = np.array([numbers[row.label] for row in rows])
        answers = logits.argmax(axis=1)
        correct = answers == truth
        first = np.array([is_first_half(row.whole) for row in rows])
        label, n_commonest = Counter(row.label for row in rows).most_common(1)[0]
        return {
            "n": len(rows),
            "n_copies": subject.material.n_copies,
            "n_left_out": subject.material.n_rows_left_out,
            "n_cut": sum(each.n_cut > 0 for each in found),
            "accuracy": interval_dict(clopper_pearson(int(correct.sum()), len(rows))),
            "majority": {"label": label, "share": n_commonest / len(rows)},
            "classes": [_class_row(name, number, truth, answers) for name, number in numbers.items()],
            "confidence": _class_confidence(logits, truth, answers, first),
        }


class Contamination:
    """How many of the texts that it was measured on share a run of 13 words with what it learned from, or, short ones, are the same."""

    name = "contamination"

    def lacks(self, subject: Subject) -> str | None:
        material = subject.material
        if material.training is None:
            return f"training_{material.why_no_training}"
        return None if _measured_texts(subject) else "no_texts"

    def amount(self, subject: Subject) -> dict[str, int]:
        return {"documents": sum(len(texts) for texts in _measured_texts(subject).values())}

    def measure(self, subject: Subject) -> dict[str, Any]:
        groups = _measured_texts(subject)
        assert subject.material.training is not None
        flat = [text for texts in groups.values() for text in texts]
        overlaps = iter(training_overlap(flat, subject.material.training(), n=_OVERLAP_WORDS))
        return {
            "n_words": _OVERLAP_WORDS,
            "groups": [_overlap(name, [next(overlaps) for _ in texts]) for name, texts in groups.items()],
        }


def chosen_probes(n: int) -> list[Probe]:
    """At most n probes, evenly of every kind and language, those whose names hash first."""
    everything = load_probes()
    kinds = sorted({(probe.kind, probe.language) for probe in everything})
    each = -(-n // len(kinds))
    chosen: list[Probe] = []
    for kind, language in kinds:
        mine = [probe for probe in everything if (probe.kind, probe.language) == (kind, language)]
        chosen += sorted(mine, key=lambda probe: sha256_bytes(probe.id.encode()))[:each]
    return chosen[:n]


def ask(model: LanguageModel, questions: Sequence[tuple[str, Sequence[str]]]) -> list[AnswerSet | None]:
    """The answers to closed questions; None for a question that this model refuses, such as one whose answers are the same tokens."""
    found: list[AnswerSet | None] = []
    for start in range(0, len(questions), _BATCH):
        found += _asked(model, questions[start : start + _BATCH])
    return found


def _asked(model: LanguageModel, questions: Sequence[tuple[str, Sequence[str]]]) -> list[AnswerSet | None]:
    try:
        return list(model.choose(questions))
    except ConfigError:
        if len(questions) == 1:
            return [None]
    middle = len(questions) // 2
    return [*_asked(model, questions[:middle]), *_asked(model, questions[middle:])]


def _family(config: Mapping[str, Any]) -> str:
    """The family that reads a config.json; of what no family reads (n-grams, int8), our own name of it."""
    known = {name for family in families() for name in family.architectures}
    model_type = str(config["model_type"])
    return find_family(config).name if model_type in known else model_type.removeprefix("touchstone-")


def _bytes_per_token(subject: Subject) -> list[dict[str, Any]]:
    """By domain; without any text, of our own probes by language."""
    tokenizer = subject.model.tokenizer
    if tokenizer is None:
        return []
    groups = {domain.name: [document.text for document in domain.documents] for domain in subject.material.domains}
    if not groups:
        groups = {f"probes-{language}": [probe.context for probe in load_probes(language=language)] for language in ("en", "zh")}
    rows = []
    for name, texts in groups.items():
        n_bytes, n_tokens = sum(len(text.encode()) for text in texts), sum(map(len, tokenizer.encode_batch(texts)))
        rows.append({"on": name, "n_bytes": n_bytes, "n_tokens": n_tokens, "value": n_bytes / n_tokens if n_tokens else None})
    return rows


def _kind(kind: str, language: str, probes: Sequence[Probe], correct: NDArray[np.bool_]) -> dict[str, Any]:
    mine = np.array([(probe.kind, probe.language) == (kind, language) for probe in probes])
    chance = float(np.mean([1 / len(probe.answers) for probe, is_mine in zip(probes, mine, strict=True) if is_mine]))
    n, n_right = int(mine.sum()), int(correct[mine].sum())
    accuracy = interval_dict(clopper_pearson(n_right, n))
    return {"kind": kind, "language": language, "n": n, "n_right": n_right, "accuracy": accuracy, "chance": chance}


def _check_labels(subject: Subject) -> None:
    labels = subject.model.labels
    wrong = next((row for row in subject.material.labelled if row.label not in labels), None)
    if wrong is not None:
        near = closest(wrong.label, labels, n=1)
        hint = f"; did you mean `{near[0]}`?" if near else f"; the model's labels are {', '.join(labels[:10])}"
        raise DataError(f"{wrong.place}: the model has no label `{wrong.label}`{hint}")


def _class_row(name: str, number: int, truth: NDArray[np.int64], answers: NDArray[np.int64]) -> dict[str, Any]:
    """Of one label: rows that have it, and the shares found of those and right of those given it."""
    hits = int(((truth == number) & (answers == number)).sum())
    n, n_given = int((truth == number).sum()), int((answers == number).sum())
    return {
        "label": name,
        "n": n,
        "n_given": n_given,
        "recall": interval_dict(clopper_pearson(hits, n)) if n else None,
        "precision": interval_dict(clopper_pearson(hits, n_given)) if n_given else None,
    }


def _class_confidence(
    logits: NDArray[np.float64], truth: NDArray[np.int64], answers: NDArray[np.int64], first: NDArray[np.bool_]
) -> dict[str, Any]:
    """As `calibrate` does it: the calibration that measures best on one half, measured on the other."""
    correct = answers == truth
    sure = softmax(logits)[np.arange(len(answers)), answers]
    if not is_enough(first):
        return trust_data(sure, None, correct, first)
    choice = choose_calibration(logits[first], truth[first], candidates=("none", "temperature", "vector"))
    fitted = choice.calibration
    assert fitted is None or isinstance(fitted, Temperature | VectorScaling), "not among the candidates"
    return {**trust_data(sure, class_confidence(fitted, logits, answers), correct, first), "method": choice.choice}


def _measured_texts(subject: Subject) -> dict[str, list[str]]:
    """The texts of each domain, and, as `classes`, those of the labelled rows: what figures rest on."""
    model, material = subject.model, subject.material
    groups = {}
    if "rolling" in model.can:
        groups = {domain.name: [document.text for document in domain.documents] for domain in material.domains}
    if Classes().lacks(subject) is None:
        groups["classes"] = [row.whole for row in material.labelled]
    return groups


def _overlap(name: str, overlaps: Sequence[ExampleOverlap]) -> dict[str, Any]:
    """share: of all texts that were seen. n_judged: those long enough to tell, and those that stand in the training text whole."""
    n_seen = sum(overlap.is_seen for overlap in overlaps)
    n_judged = sum(overlap.is_seen or overlap.share_of_ngrams is not None for overlap in overlaps)
    share = interval_dict(clopper_pearson(n_seen, len(overlaps)))
    return {"name": name, "n": len(overlaps), "n_judged": n_judged, "n_seen": n_seen, "share": share}
