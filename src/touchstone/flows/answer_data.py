"""Rows with answers made ready to learn from, with what was found told: read as the objective needs them, divided, a vocabulary learned."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from touchstone.errors import ConfigError, DataError
from touchstone.files import cache_folder
from touchstone.report.terminal import Terminal
from touchstone.text.conll import CONLL_SUFFIXES, TaggedWords, read_conll
from touchstone.text.labelled import ROW_SUFFIXES, LabelledText, TextPair, are_parallel, read_labelled, read_pairs
from touchstone.text.prepare_answers import AnswerSides, divide, learned_tokenizer
from touchstone.text.read import ReadReport, list_files
from touchstone.text.squad import Question, read_squad
from touchstone.text.tagged_rows import joined_words
from touchstone.text.tokenizer import Tokenizer
from touchstone.train.objective_config import ClassifyConfig, Seq2SeqConfig, SpanConfig, TagConfig
from touchstone.train.run_config import RunConfig

__all__ = ["AnswerData", "answer_data", "data_files", "needs_answers", "texts_of"]

_STAGES = ("reading", "dividing", "learning the vocabulary")


@dataclass(frozen=True)
class AnswerData:
    """Rows by side, and the vocabulary of the training side."""

    sides: AnswerSides[Any]
    tokenizer: Tokenizer


def needs_answers(config: RunConfig) -> bool:
    """Whether a run learns from rows with answers; others learn from plain text."""
    return isinstance(config.objective, ClassifyConfig | TagConfig | SpanConfig | Seq2SeqConfig)


def answer_data(config: RunConfig, terminal: Terminal) -> AnswerData:
    """The rows of a configuration.

    Raises ConfigError where it names a corpus of text, DataError with file and line on rows that cannot be learned from.
    """
    words = terminal.words
    if not config.data.sources:
        raise ConfigError(f"`{config.name}` learns from rows with answers, and `{config.data.corpus}` has none: name files with --data.")
    report = ReadReport()
    with terminal.progress(words("lesson.preparing"), len(_STAGES)) as advance:
        rows, valid, test = (
            _read(config, sources, report) if sources else []
            for sources in (config.data.sources, config.data.valid_sources, config.data.test_sources)
        )
        advance(1)
        sides = divide(rows, _text_of, config.data, report, valid=valid, test=test)
        _check_choice(sides.train)
        advance(1)
        texts = [text for row in sides.train for text in texts_of(row)]
        tokenizer = learned_tokenizer(list(dict.fromkeys(texts)), config.tokenizer, cache_folder())
        advance(1)
    n = {side: f"{size:,}" for side, size in sides.sizes.items()}
    terminal.say(words("lesson.rows", n=f"{len(rows) + len(valid) + len(test):,}", copies=f"{sides.n_near_copies:,}", **n))
    if sides.n_left_out:
        terminal.warn(words("lesson.left_out", n=f"{sides.n_left_out:,}"))
    for what, times in report.n_rows.items():
        terminal.warn(words("lesson.noted", n=f"{times:,}", what=what))
    return AnswerData(sides, tokenizer)


def data_files(config: RunConfig, report: ReadReport | None = None) -> list[Path]:
    """The files that a run reads; none for a named corpus. report: gets what is not read, with the reason."""
    found: list[Path] = []
    for sources in (config.data.sources, config.data.valid_sources, config.data.test_sources):
        if isinstance(config.objective, Seq2SeqConfig) and are_parallel(sources):
            found += map(Path, sources)
        elif sources:
            found += list_files(sources, report or ReadReport(), _suffixes(config))
    return found


def _suffixes(config: RunConfig) -> Sequence[str] | None:
    kinds: dict[str, Sequence[str]] = {"classify": ROW_SUFFIXES, "seq2seq": ROW_SUFFIXES, "tag": CONLL_SUFFIXES, "span": (".json",)}
    return kinds.get(config.objective.kind)


def _read(config: RunConfig, sources: Sequence[str], report: ReadReport) -> Sequence[Any]:
    asked = config.objective
    if isinstance(asked, ClassifyConfig):
        fields = {"text_field": config.data.text_field, "label_field": asked.label_field, "second_field": asked.second_field}
        return read_labelled(sources, columns=asked.columns, report=report, **fields)  # type: ignore[arg-type]
    if isinstance(asked, TagConfig):
        return read_conll(sources, scheme=asked.scheme, report=report)
    if isinstance(asked, SpanConfig):
        return read_squad(sources, report=report)
    assert isinstance(asked, Seq2SeqConfig)
    return read_pairs(sources, source_field=asked.source_field, target_field=asked.target_field, columns=asked.columns, report=report)


def _check_choice(rows: Sequence[Any]) -> None:
    """DataError where all answers to learn from are one and the same: a model of them would always be right and know nothing."""
    answers = {answer for row in rows for answer in _ANSWERS.get(type(row), lambda row: ())(row)}
    if len(answers) == 1:
        raise DataError(
            f"{rows[0].place}: here and in all rows to learn from the answer is `{answers.pop()}`, so there is nothing to tell apart; give"
            " rows with other answers too."
        )


def _text_of(row: Any) -> str:
    """What must not stand on two sides: the text, the context of a question, the source of a pair."""
    return _KEYS[type(row)](row)


def texts_of(row: Any) -> Iterable[str]:
    """The texts of a row, which the vocabulary is learned from."""
    if isinstance(row, LabelledText):
        return [row.text] if row.second is None else [row.text, row.second]
    if isinstance(row, TaggedWords):
        return [joined_words(row.words)[0]]
    return [row.context, row.question] if isinstance(row, Question) else [row.source, row.target]


_KEYS: dict[type, Callable[[Any], str]] = {
    LabelledText: lambda row: row.text if row.second is None else f"{row.text}\n{row.second}",
    TaggedWords: lambda row: " ".join(row.words),
    Question: lambda row: str(row.context),
    TextPair: lambda row: str(row.source),
}

_ANSWERS: dict[type, Callable[[Any], Sequence[str]]] = {LabelledText: lambda row: (row.label,), TaggedWords: lambda row: row.tags}
"""Names that a row is answered with, of the kinds that have names."""
