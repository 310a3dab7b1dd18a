"""Questions on a text whose answers are spans of it: SQuAD's json format, versions 1.1 and 2.0, also of CMRC 2018 and DRCD.

Answers are checked against the text: one that does not stand at its place is left out and counted, and a question that had only such
answers with it.
Sources: Rajpurkar et al. 2016, 2018.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from touchstone.errors import DataError
from touchstone.text.read import ReadReport, list_files
from touchstone.text.stream import Notes, text_chunks

__all__ = ["Answer", "Question", "read_squad"]


@dataclass(frozen=True, slots=True)
class Answer:
    """A span of the context: its text and the character it begins at."""

    text: str
    start: int

    @property
    def end(self) -> int:
        """The character behind it."""
        return self.start + len(self.text)


@dataclass(frozen=True, slots=True)
class Question:
    """A question, the text it is about, and its right answers; none where the text has no answer."""

    question: str
    context: str
    answers: tuple[Answer, ...]
    name: str  # its `id`
    place: str  # file and place in it, as messages name it


def read_squad(paths: Sequence[Path | str], *, report: ReadReport | None = None) -> list[Question]:
    """The questions of all files, folders included, in order.

    Raises DataError, with the place in the json, on what is missing or of another type.
    """
    report = report if report is not None else ReadReport()
    found: list[Question] = []
    for path in list_files(paths, report, (".json",)):
        notes = Notes()
        text = "".join(text_chunks(path, notes))
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: not JSON ({error}); questions are read from SQuAD's json format.") from None
        found += _questions(path, data, report)
        report.n_files += 1
        report.n_bom += notes.has_bom
    if not found:
        raise DataError(f"{', '.join(map(str, paths[:3]))}: no question with an answer that stands in its text.")
    report.n_documents += len(found)
    return found


def _questions(path: Path, data: Any, report: ReadReport) -> Iterator[Question]:
    for a, article in enumerate(_field(data, "data", list, str(path))):
        for p, paragraph in enumerate(_field(article, "paragraphs", list, f"{path}: data[{a}]")):
            place = f"{path}: data[{a}].paragraphs[{p}]"
            context = _field(paragraph, "context", str, place)
            for q, asked in enumerate(_field(paragraph, "qas", list, place)):
                question = _question(asked, context, f"{place}.qas[{q}]", report)
                if question is not None:
                    yield question


def _question(asked: Any, context: str, place: str, report: ReadReport) -> Question | None:
    text, name = _field(asked, "question", str, place), str(_field(asked, "id", (str, int), place))
    is_impossible = asked.get("is_impossible", False) is True
    answers: list[Answer] = []
    given = [] if is_impossible else _field(asked, "answers", list, place)
    for n, entry in enumerate(given):
        where = f"{place}.answers[{n}]"
        answer = Answer(_field(entry, "text", str, where), _field(entry, "answer_start", int, where))
        if answer.start >= 0 and answer.text and context[answer.start : answer.end] == answer.text:
            answers.append(answer)
        else:
            report.note("answers that do not stand at their place in the text")
    if given and not answers:
        report.note("questions without an answer at its place")
        return None
    if not text.strip():
        report.note("questions without text")
        return None
    return Question(text, context, tuple(dict.fromkeys(answers)), name, place)


def _field(data: Any, name: str, kind: Any, place: str) -> Any:
    if not isinstance(data, dict) or name not in data:
        raise DataError(f"{place}: no `{name}`; questions are read from SQuAD's json format, data → paragraphs → qas → answers.")
    value = data[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        wanted = {list: "a list", str: "text", int: "a whole number"}.get(kind, "text or a whole number")
        raise DataError(f"{place}: `{name}` must be {wanted}, this is {type(value).__name__}.")
    return value
