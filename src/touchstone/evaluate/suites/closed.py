"""Closed questions: a prompt, the answers that may be given, one right; chosen by likelihood, or by a classification head.

The prompt, a space and the answer, as lm-evaluation-harness writes them; before them, with `shots`, examples of the training split with
their right answers, parted by empty lines. The shots are drawn once, by a hash of their names and the seed, and are the same for every
question, so they are read once; the figure depends on the draw, and another seed shows how much.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from touchstone.errors import ConfigError, DataError
from touchstone.evaluate.ask import ChoiceRequest, ClassifyRequest, Request
from touchstone.evaluate.baselines import commonest_of
from touchstone.evaluate.figures import Metric
from touchstone.evaluate.scorers import AnswerLikelihoods, choice
from touchstone.evaluate.scorers import AnswerSet as ClosedQuestion
from touchstone.evaluate.suites.tables import Row, Unusable
from touchstone.evaluate.task import BadRow, Baseline, EvalExample, EvalTask, Scores
from touchstone.files import sha256_bytes

__all__ = ["By", "Shots", "choice_task", "closed", "label_task", "labelled"]

By = Literal["answers", "head"]
"""How a label is found: by the likelihoods of the labels' words, or by a classification head."""


@dataclass(frozen=True)
class Shots:
    """Examples with answers before a question. n: how many. train: the stream that they are drawn from; None where n is 0."""

    n: int = 0
    seed: int = 0
    train: Iterable[EvalExample | BadRow] | None = None

    def __post_init__(self) -> None:
        if self.n < 0 or (self.n and self.train is None):
            raise ConfigError(f"`shots` ({self.n}) must be 0 or more, and needs the training split they are drawn from (`train`).")

    def prefix(self, rendered: Callable[[EvalExample], str]) -> str:
        """The shots as text, each followed by an empty line."""
        return "".join(f"{rendered(example)}\n\n" for example in self.drawn())

    def drawn(self) -> list[EvalExample]:
        """The examples whose names hash first; DataError if there are too few."""
        if self.n == 0:
            return []
        usable = [row for row in self.train or () if isinstance(row, EvalExample)]
        if len(usable) < self.n:
            raise DataError(f"{self.n} shots are asked for, and the training split has {len(usable)} examples.")
        return sorted(usable, key=lambda example: sha256_bytes(f"{self.seed} {example.id}".encode()))[: self.n]

    @property
    def settings(self) -> dict[str, Any]:
        """What of them a figure depends on."""
        return {"shots": self.n, **({"seed": self.seed} if self.n else {})}


def closed(row: Row, context: str, answers: Sequence[str], right: int, *, source: str | None = None, domain: str = "") -> EvalExample:
    """An example of a closed question. domain: the words before an answer that alone say nothing of the question, such as "Answer:".

    Raises Unusable for answers that are empty or there twice.
    """
    if len(set(answers)) < len(answers):
        twice = next(answer for answer in answers if list(answers).count(answer) > 1)
        raise Unusable("repeated answer", f"`{twice[:60]}` is there twice")
    if not all(answer.strip() for answer in answers):
        raise Unusable("empty text", "an answer is empty")
    fields = {"context": context, "answers": list(answers), "right": right, "domain": domain}
    return EvalExample(row.name, source or row.name, fields, row.where)


def choice_task(
    name: str,
    description: str,
    examples: Iterable[EvalExample | BadRow],
    *,
    language: str = "en",
    template: str,
    source: str,
    has_domain: bool = True,
    shots: Shots = Shots(),
    data: Sequence[Path] = (),
) -> EvalTask:
    """A multiple-choice task over examples that `closed` makes.

    Metrics: accuracy by likelihood (lm-evaluation-harness's `acc`), by likelihood a byte (its `acc_norm` divides by characters), by
    likelihood above that behind the domain's words (PMI, where `has_domain`), and the mean probability of the right answer. Baselines:
    `random`, which is what guessing scores on average, and `longest`, the answer of most bytes.
    """
    prefix = functools.cache(lambda: shots.prefix(_with_answer))

    def requests(example: EvalExample) -> list[Request]:
        answers = tuple(f" {answer}" for answer in example.fields["answers"])
        asked: list[Request] = [ChoiceRequest(prefix() + example.fields["context"], answers)]
        return [*asked, ChoiceRequest(example.fields["domain"], answers)] if has_domain else asked

    def score(example: EvalExample, outputs: Sequence[Any]) -> Scores:
        domain = outputs[1].logprobs if has_domain else None
        return choice(_question(example), AnswerLikelihoods(outputs[0].logprobs, outputs[0].n_tokens, domain))

    picks = ("accuracy", "accuracy_per_byte", *(("accuracy_pmi",) if has_domain else ()))
    names = (*picks, "probability")
    return EvalTask(
        name=name,
        description=description,
        language=language,
        examples=examples,
        requests=requests,
        score=score,
        metrics=tuple(Metric(name=metric, kind="share" if metric in picks else "mean", columns=(metric,)) for metric in names),
        baselines=(
            Baseline("random", lambda example: dict.fromkeys(names, 1 / len(example.fields["answers"]))),
            Baseline("longest", lambda example: dict.fromkeys(picks, _is_longest(example)), metrics=picks),
        ),
        template=template,
        source=source,
        settings=shots.settings,
        data=tuple(data),
    )


def labelled(
    row: Row, label: str, context: str, *, text: str, second: str | None = None, source: str | None = None, **more: Any
) -> EvalExample:
    """An example of a text, or a pair, with a label. context: the prompt; text, second: what a head reads."""
    fields = {"context": context, "label": label, "text": text, "second": second, **more}
    return EvalExample(row.name, source or row.name, fields, row.where)


def label_task(
    name: str,
    description: str,
    examples: Iterable[EvalExample | BadRow],
    words: Mapping[str, str],
    *,
    language: str = "en",
    template: str,
    source: str,
    by: By = "answers",
    metrics: Sequence[str] = ("accuracy", "macro_f1"),
    shots: Shots = Shots(),
    train: Iterable[EvalExample | BadRow] | None = None,
    outside: str | None = None,
    data: Sequence[Path] = (),
) -> EvalTask:
    """Texts with labels, over examples that `labelled` makes.

    words: the word that is answered for each label, behind a space but in Chinese. by: the likeliest word, or a head whose labels are
        labels or words of these.
    train: where the commonest label is counted; None = in the examples themselves, which flatters that baseline.
    outside: the label of what belongs to none; accuracy within and recall of the outside are then figures too (Larson et al. 2019).
    """
    labels = list(words)
    numbers = {key: float(n) for n, label in enumerate(labels) for key in (label, words[label])}
    gap = "" if language == "zh" else " "
    prefix = functools.cache(lambda: shots.prefix(lambda example: f"{example.fields['context']}{gap}{words[example.fields['label']]}"))
    counted = train if train is not None else examples
    majority = functools.cache(lambda: commonest_of([row.fields["label"] for row in counted if isinstance(row, EvalExample)]))

    def scores_of(example: EvalExample, predicted: float, right: float | None = None) -> dict[str, float]:
        expected = float(labels.index(example.fields["label"]))
        found = float(predicted == expected) if right is None else right
        is_outside = float(example.fields["label"] == outside)
        return {
            "accuracy": found,
            "predicted": predicted,
            "expected": expected,
            "right_within": found * (1 - is_outside),
            "n_within": 1 - is_outside,
            "right_outside": found * is_outside,
            "n_outside": is_outside,
        }

    def requests(example: EvalExample) -> list[Request]:
        if by == "head":
            return [ClassifyRequest(example.fields["text"], example.fields["second"])]
        return [ChoiceRequest(prefix() + example.fields["context"], tuple(f"{gap}{words[label]}" for label in labels))]

    def score(example: EvalExample, outputs: Sequence[Any]) -> Scores:
        if by == "answers":
            return scores_of(example, float(outputs[0].best))
        if outputs[0].label not in numbers:
            raise ConfigError(
                f"The model's label `{outputs[0].label}` is none of `{name}`: {', '.join(labels)}; it was made for other labels."
            )
        return scores_of(example, numbers[outputs[0].label])

    chosen = tuple(_label_metric(metric) for metric in (*metrics, *(("accuracy_within", "recall_outside") if outside else ())))
    of_means = tuple(metric.name for metric in chosen if metric.kind in ("share", "ratio"))
    return EvalTask(
        name=name,
        description=description,
        language=language,
        examples=examples,
        requests=requests,
        score=score,
        metrics=chosen,
        baselines=(
            Baseline("majority", lambda example: scores_of(example, float(labels.index(majority())))),
            Baseline("random", lambda example: scores_of(example, 0.0, right=1 / len(labels)), metrics=of_means),
        ),
        template=template,
        source=source,
        settings={**shots.settings, "by": by, "words": dict(words)},
        data=tuple(data),
    )


_LABEL_METRICS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "accuracy": ("share", ("accuracy",)),
    "macro_f1": ("macro_f1", ("predicted", "expected")),
    "matthews": ("matthews", ("predicted", "expected")),
    "accuracy_within": ("ratio", ("right_within", "n_within")),
    "recall_outside": ("ratio", ("right_outside", "n_outside")),
}


def _label_metric(name: str) -> Metric:
    kind, columns = _LABEL_METRICS[name]
    return Metric(name=name, kind=kind, columns=columns)


def _question(example: EvalExample) -> ClosedQuestion:
    return ClosedQuestion(tuple(example.fields["answers"]), example.fields["right"])


def _with_answer(example: EvalExample) -> str:
    return f"{example.fields['context']} {example.fields['answers'][example.fields['right']]}"


def _is_longest(example: EvalExample) -> float:
    sizes = [len(answer.encode()) for answer in example.fields["answers"]]
    return float(sizes.index(max(sizes)) == example.fields["right"])
