"""GLUE's small tasks: CoLA, RTE and STS-B.

Prompts are those of lm-evaluation-harness 0.4.9; STS-B has none there: it is the cosine of two vectors, or the number of a regression head.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from touchstone.errors import ConfigError
from touchstone.evaluate.ask import ClassifyRequest, EncodeRequest, Request
from touchstone.evaluate.baselines import word_overlap
from touchstone.evaluate.figures import Metric
from touchstone.evaluate.suites.closed import By, Shots, label_task, labelled
from touchstone.evaluate.suites.tables import Row, examples_of, rows_of
from touchstone.evaluate.task import BadRow, Baseline, EvalExample, EvalTask, Scores
from touchstone.text.stream import Notes, lines

__all__ = ["cola", "rte", "stsb"]


def cola(path: Path, *, train: Path | None = None, shots: int = 0, seed: int = 0, by: By = "answers") -> EvalTask:
    """Whether a sentence is English; tsv without a header: source, label, mark, sentence (Warstadt 2019). Its figure is matthews."""
    words = {"0": "no", "1": "yes"}

    def make(row: Row) -> EvalExample:
        sentence = row.text("sentence")
        return labelled(
            row, row.label("label", ("0", "1")), f"{sentence}\nQuestion: Does this sentence make sense?\nAnswer:", text=sentence
        )

    def read(place: Path) -> Iterator[Row | BadRow]:
        return rows_of(place, ("source", "label", "mark", "sentence"))

    learned = None if train is None else examples_of(train, read, make)
    return label_task(
        "cola",
        "Whether a sentence is English.",
        examples_of(path, read, make),
        words,
        template="{sentence}\nQuestion: Does this sentence make sense?\nAnswer: {no | yes}",
        source="lm-evaluation-harness 0.4.9 cola; Warstadt et al. 2019",
        by=by,
        metrics=("matthews", "accuracy"),
        shots=Shots(shots, seed, learned),
        train=learned,
        data=(path,),
    )


def rte(path: Path, *, train: Path | None = None, shots: int = 0, seed: int = 0, by: By = "answers") -> EvalTask:
    """Whether a text entails a sentence; jsonl rows with premise, hypothesis, label (SuperGLUE). Sentences on one text are a cluster."""
    words = {"entailment": "True", "not_entailment": "False"}

    def make(row: Row) -> EvalExample:
        premise, hypothesis = row.text("premise"), row.text("hypothesis")
        context = f"{premise}\nQuestion: {hypothesis} True or False?\nAnswer:"
        return labelled(row, row.label("label", tuple(words)), context, text=premise, second=hypothesis, source=premise)

    learned = None if train is None else examples_of(train, rows_of, make)
    return label_task(
        "rte",
        "Whether a text entails a sentence.",
        examples_of(path, rows_of, make),
        words,
        template="{premise}\nQuestion: {hypothesis} True or False?\nAnswer: {True | False}",
        source="lm-evaluation-harness 0.4.9 sglue_rte; Wang et al. 2019",
        by=by,
        metrics=("accuracy",),
        shots=Shots(shots, seed, learned),
        train=learned,
        data=(path,),
    )


def stsb(path: Path, *, by: Literal["vectors", "head"] = "vectors") -> EvalTask:
    """How alike two sentences are; tab-separated without a header, score in column 5, sentences in 6 and 7 (Cer 2017).

    by: the cosine of their vectors, or a head with one number. Files end in licence columns in some rows, which are passed over.
    """
    if by not in ("vectors", "head"):
        raise ConfigError(f"`by` must be vectors or head, not {by!r}.")

    def make(row: Row) -> EvalExample:
        fields = {"first": row.text("first"), "second": row.text("second"), "score": row.number("score")}
        return EvalExample(row.name, row.name, fields, row.where)

    def requests(example: EvalExample) -> list[Request]:
        first, second = example.fields["first"], example.fields["second"]
        return [ClassifyRequest(first, second)] if by == "head" else [EncodeRequest(first), EncodeRequest(second)]

    def score(example: EvalExample, outputs: Sequence[Any]) -> Scores:
        if by == "head":
            if outputs[0].value is None:
                raise ConfigError("STS-B asks for one number, and this model's head gives labels; use `by` vectors, or another model.")
            return {"predicted": float(outputs[0].value), "expected": example.fields["score"]}
        a, b = (np.asarray(output, dtype=np.float64) for output in outputs)
        size = float(np.linalg.norm(a) * np.linalg.norm(b))
        return {"predicted": float(a @ b) / size if size else 0.0, "expected": example.fields["score"]}

    def overlap(example: EvalExample) -> Scores:
        return {"predicted": word_overlap(example.fields["first"], example.fields["second"]), "expected": example.fields["score"]}

    return EvalTask(
        name="sts-b",
        description="How alike two sentences are, from 0 to 5.",
        language="en",
        examples=examples_of(path, _sts_rows, make),
        requests=requests,
        score=score,
        metrics=tuple(Metric(name=name, kind=name, columns=("predicted", "expected")) for name in ("spearman", "pearson")),
        baselines=(Baseline("word overlap", overlap),),
        template="{first} | {second}",
        source="Cer et al. 2017",
        settings={"by": by},
        data=(path,),
    )


def _sts_rows(path: Path) -> Iterator[Row | BadRow]:
    """The first seven of the tab-separated columns, whatever the file's suffix."""
    for number, line in lines(path, Notes()):
        values = line.split("\t")
        if len(values) >= 7:
            yield Row(dict(zip(("score", "first", "second"), values[4:7], strict=True)), f"{path.name}:{number}", f"{path}:{number}")
        elif line.strip():
            yield BadRow(f"{path}:{number}", "not readable", f"{len(values)} columns where there are seven or more")
