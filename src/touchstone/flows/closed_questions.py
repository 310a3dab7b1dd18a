"""Rows of closed questions: a prompt, the answers that may be given, and the right one; one set of answers for all rows.

    {"prompt": "Review: a fine film\\nThis review is", "answers": [" positive", " negative"], "answer": " positive"}

Answers are what the model would write after the prompt, the space before them included. A calibration of answers holds for one set of them
in one order, so another set, or another order, is an error with its line.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from touchstone.config import closest
from touchstone.errors import DataError, printable
from touchstone.text.read import ReadReport, list_files
from touchstone.text.rows import is_text, read_jsonl
from touchstone.text.stream import Notes

__all__ = ["QUESTION_SUFFIXES", "ClosedQuestion", "read_questions"]

QUESTION_SUFFIXES = (".jsonl", ".ndjson")

_FIELDS = ("prompt", "answers", "answer")
_EXAMPLE = '{"prompt": "Is ice cold? Answer:", "answers": [" yes", " no"], "answer": " yes"}'


@dataclass(frozen=True, slots=True)
class ClosedQuestion:
    """One row; right: the number of the right answer. place: `file:line`."""

    prompt: str
    answers: tuple[str, ...]
    right: int
    place: str


def read_questions(paths: Sequence[Path | str], report: ReadReport | None = None) -> list[ClosedQuestion]:
    """The questions of all files, folders included, in order.

    Raises DataError with file and line for a row that is no closed question or has other answers than the first, and where there is none.
    """
    report = report if report is not None else ReadReport()
    found: list[ClosedQuestion] = []
    for path in list_files(paths, report, QUESTION_SUFFIXES):
        for row in read_jsonl(path, Notes()):
            question = _question(row.fields, f"{path}:{row.line}")
            if found and question.answers != found[0].answers:
                first = found[0]
                raise DataError(
                    f"{question.place}: `answers` are {_told(question.answers)} and those of {first.place} are {_told(first.answers)}; a"
                    " calibration is for one set of answers in one order: calibrate each set under a --task of its own."
                )
            found.append(question)
    if not found:
        named = ", ".join(map(str, paths))
        raise DataError(f"{named}: no rows of questions were found; give .jsonl files with rows such as {_EXAMPLE}.")
    return found


def _question(fields: Mapping[str, Any], place: str) -> ClosedQuestion:
    missing = [name for name in _FIELDS if name not in fields]
    if missing:
        near = closest(missing[0], [name for name in fields if name not in _FIELDS], n=1)
        hint = f"; is it `{near[0]}`?" if near else "."
        raise DataError(f"{place}: no field `{missing[0]}`{hint} A row is such as {_EXAMPLE}.")
    prompt, answers, answer = (fields[name] for name in _FIELDS)
    for text in (prompt, *(answers if isinstance(answers, list) else ())):
        if isinstance(text, str) and not is_text(text):
            raise DataError(f"{place}: {printable(text, 80)} holds half of a surrogate pair, which is no character.")
    if not isinstance(prompt, str) or not prompt.strip():
        raise DataError(f"{place}: `prompt` must be a text that is not empty, not {prompt!r}.")
    if not isinstance(answers, list) or len(answers) < 2 or not all(isinstance(each, str) and each for each in answers):
        raise DataError(f'{place}: `answers` must be a list of two texts or more, such as [" yes", " no"], not {answers!r}.')
    twice = next((each for number, each in enumerate(answers) if each in answers[:number]), None)
    if twice is not None:
        raise DataError(f"{place}: `answers` holds `{twice}` twice; each may be there once.")
    if not isinstance(answer, str) or answer not in answers:
        near = closest(answer, answers, n=1) if isinstance(answer, str) else []
        hint = f"did you mean `{near[0]}`?" if near else f"they are {_told(answers)}."
        raise DataError(f"{place}: `answer` is {answer!r}, which is none of the `answers`; {hint}")
    return ClosedQuestion(prompt, tuple(answers), answers.index(answer), place)


def _told(answers: Sequence[str]) -> str:
    return ", ".join(f"`{answer}`" for answer in answers[:10]) + (", …" if len(answers) > 10 else "")
