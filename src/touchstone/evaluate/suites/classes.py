"""Texts with a class: SST-2, TREC, AG News, Banking77, CLINC150 with what is out of scope, ChnSentiCorp.

As closed answers, so that any language model can be asked, or by a classification head. Prompts: SST-2's is lm-evaluation-harness
0.4.9's; the others have none there and use the same form.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from touchstone.errors import DataError
from touchstone.evaluate.suites.closed import By, Shots, label_task, labelled
from touchstone.evaluate.suites.tables import Row, examples_of, json_of, rows_of
from touchstone.evaluate.task import BadRow, EvalExample, EvalTask

__all__ = ["ag_news", "banking77", "chnsenticorp", "clinc150", "sst2", "trec"]

Reader = Callable[[Path], Iterable[Row | BadRow]]


def sst2(path: Path, *, train: Path | None = None, shots: int = 0, seed: int = 0, by: By = "answers") -> EvalTask:
    """Whether a sentence on a film is positive; tsv without a header: sentence, 0 or 1 (Socher 2013)."""
    return _task(
        "sst-2",
        "Whether a sentence on a film is positive.",
        path,
        lambda place: rows_of(place, ("text", "label")),
        {"0": "negative", "1": "positive"},
        template="{text}\nQuestion: Is this sentence positive or negative?\nAnswer:",
        source="lm-evaluation-harness 0.4.9 sst2; Socher et al. 2013",
        train=train,
        shots=shots,
        seed=seed,
        by=by,
    )


def trec(path: Path, *, train: Path | None = None, shots: int = 0, seed: int = 0, by: By = "answers") -> EvalTask:
    """What kind of thing a question asks for, six kinds; lines of `KIND:fine question` (Li & Roth 2002)."""
    words = {"ABBR": "abbreviation", "DESC": "description", "ENTY": "entity", "HUM": "person", "LOC": "location", "NUM": "number"}
    return _task(
        "trec",
        "What kind of thing a question asks for.",
        path,
        _trec_rows,
        words,
        template="Question: {text}\nKind of answer (abbreviation, description, entity, person, location or number):",
        source="Li & Roth 2002",
        train=train,
        shots=shots,
        seed=seed,
        by=by,
    )


def ag_news(path: Path, *, train: Path | None = None, shots: int = 0, seed: int = 0, by: By = "answers") -> EvalTask:
    """The section of a news item, four of them; csv without a header: 1 to 4, title, text (Zhang 2015)."""
    return _task(
        "ag-news",
        "The section of a news item.",
        path,
        lambda place: map(_with_title, rows_of(place, ("label", "title", "body"))),
        {"1": "World", "2": "Sports", "3": "Business", "4": "Technology"},
        template="{text}\nQuestion: Is this news about World, Sports, Business or Technology?\nAnswer:",
        source="Zhang et al. 2015",
        train=train,
        shots=shots,
        seed=seed,
        by=by,
    )


def banking77(path: Path, *, train: Path | None = None, shots: int = 0, seed: int = 0, by: By = "answers") -> EvalTask:
    """What a bank's customer wants, 77 intents; csv with text and category; `categories.json` beside it names them (Casanueva 2020)."""
    names = json_of(path.parent / "categories.json")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path.parent / 'categories.json'}: must be a list of names.")
    return _task(
        "banking77",
        "What a bank's customer wants, of 77 intents.",
        path,
        lambda place: map(_renamed, rows_of(place)),
        {name: name.replace("_", " ") for name in names},
        template="{text}\nQuestion: What does the customer ask about?\nAnswer:",
        source="Casanueva et al. 2020",
        train=train,
        shots=shots,
        seed=seed,
        by=by,
    )


def clinc150(path: Path, *, split: str = "val", shots: int = 0, seed: int = 0, by: By = "answers") -> EvalTask:
    """What a user wants, 150 intents, or none of them: one json file with the lists `train`, `val`, `oos_train`, `oos_val` (Larson 2019).

    split: the lists that are asked about, such as `val` or `test`, with what is out of scope of the same name.
    """

    def read(of: str) -> Reader:
        return lambda place: _clinc_rows(place, (of, f"oos_{of}"))

    names = sorted({row.fields["label"] for row in read("train")(path) if isinstance(row, Row) and isinstance(row.fields["label"], str)})
    return _task(
        "clinc150",
        "What a user wants, of 150 intents, or something out of scope.",
        path,
        read(split),
        {name: "out of scope" if name == _OUTSIDE else name.replace("_", " ") for name in names},
        template="{text}\nQuestion: What does the user want?\nAnswer:",
        source="Larson et al. 2019",
        train=path,
        read_train=read("train"),
        shots=shots,
        seed=seed,
        by=by,
        outside=_OUTSIDE,
    )


def chnsenticorp(path: Path, *, train: Path | None = None, shots: int = 0, seed: int = 0, by: By = "answers") -> EvalTask:
    """Whether a review of a hotel, book or laptop is positive; tsv with a header: label, text_a (Tan & Zhang 2008)."""
    return _task(
        "chnsenticorp",
        "Whether a review of a hotel, book or laptop is positive.",
        path,
        lambda place: map(_renamed, rows_of(place)),
        {"0": "负面", "1": "正面"},
        template="评论：{text}\n问题：这条评论是正面的还是负面的？\n回答：",
        source="Tan & Zhang 2008",
        language="zh",
        train=train,
        shots=shots,
        seed=seed,
        by=by,
    )


_OUTSIDE = "oos"


def _task(
    name: str,
    description: str,
    path: Path,
    read: Reader,
    words: Mapping[str, str],
    *,
    template: str,
    source: str,
    train: Path | None,
    shots: int,
    seed: int,
    by: By,
    language: str = "en",
    read_train: Reader | None = None,
    outside: str | None = None,
) -> EvalTask:
    def make(row: Row) -> EvalExample:
        text = row.text("text")
        return labelled(row, row.label("label", tuple(words)), template.replace("{text}", text), text=text)

    learned = None if train is None else examples_of(train, read_train or read, make)
    return label_task(
        name,
        description,
        examples_of(path, read, make),
        words,
        language=language,
        template=f"{template} {{label's word}}",
        source=source,
        by=by,
        shots=Shots(shots, seed, learned),
        train=learned,
        outside=outside,
        data=(path,),
    )


def _trec_rows(path: Path) -> Iterator[Row | BadRow]:
    for row in rows_of(path, ("line",)):
        if isinstance(row, BadRow):
            yield row
            continue
        label, _, text = row.fields["line"].partition(" ")
        yield Row({"label": label.partition(":")[0], "text": text}, row.name, row.where)


def _clinc_rows(path: Path, lists: Iterable[str]) -> Iterator[Row | BadRow]:
    data = json_of(path)
    for name in lists:
        if not isinstance(data, dict) or not isinstance(data.get(name), list):
            there = ", ".join(data) if isinstance(data, dict) else "no mapping"
            raise DataError(f"{path}: no list `{name}`; there are: {there}.")
        for number, pair in enumerate(data[name]):
            where = f"{path}:{name}[{number}]"
            if isinstance(pair, list) and len(pair) == 2:
                yield Row({"text": pair[0], "label": pair[1]}, f"{name}[{number}]", where)
            else:
                yield BadRow(where, "not readable", "not a pair of text and intent")


def _with_title(row: Row | BadRow) -> Row | BadRow:
    if isinstance(row, BadRow):
        return row
    return Row({"label": row.fields["label"], "text": f"{row.fields['title']}. {row.fields['body']}".strip()}, row.name, row.where)


def _renamed(row: Row | BadRow) -> Row | BadRow:
    """Files call the same fields by other names."""
    if isinstance(row, BadRow):
        return row
    names = {"category": "label", "text_a": "text"}
    return Row({names.get(name, name): value for name, value in row.fields.items()}, row.name, row.where)
