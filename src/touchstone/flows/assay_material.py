"""What an assay has to measure on: text by domain, labelled rows, and the text that the model learned from, where they are known.

A path that holds rows with the field of the label gives labelled rows; its text is a domain like any other. Without any path the test text
of the model's own run is the domain. What is not at hand has a reason, a key of the phrases `assay.why_…`.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from touchstone.errors import TouchstoneError
from touchstone.evaluate.compressors import MAX_TRAINING_BYTES
from touchstone.evaluate.language import hash_order, sample_documents
from touchstone.flows.answer_data import answer_data, needs_answers, texts_of
from touchstone.flows.measured_text import blocks_of
from touchstone.flows.measuring import run_behind, text_of_run
from touchstone.infer import LanguageModel
from touchstone.infer.locate import locate_model
from touchstone.report.terminal import Terminal
from touchstone.text.document import Document
from touchstone.text.labelled import ROW_SUFFIXES, LabelledText, read_labelled
from touchstone.text.read import ReadReport, format_of, list_files, read_documents
from touchstone.text.rows import read_csv, read_jsonl, read_parquet
from touchstone.text.stream import Notes

__all__ = ["OWN", "SUITES", "Bounds", "Domain", "Fields", "Material", "find_material", "short_names"]

OWN = "own"
"""The name of the domain that is the model's own held-out text."""


@dataclass(frozen=True)
class Bounds:
    """How much is measured at most."""

    text_bytes: int
    training_bytes: int  # that compressors are given
    n_probes: int
    n_prompted: int
    n_rows: int


SUITES: dict[str, Bounds] = {
    "quick": Bounds(text_bytes=200_000, training_bytes=4 << 20, n_probes=400, n_prompted=60, n_rows=1000),
    "full": Bounds(sys.maxsize, MAX_TRAINING_BYTES, sys.maxsize, sys.maxsize, sys.maxsize),
}
"""quick: about a minute for ten million parameters on two cores."""


@dataclass(frozen=True)
class Fields:
    """The names of the fields of rows; columns: of csv and tsv files without a header."""

    text: str = "text"
    label: str = "label"
    second: str | None = None
    columns: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Domain:
    """Text of one kind. name: what it is called, for each another. n_left_out: documents beyond what is measured, and empty ones."""

    name: str
    documents: tuple[Document, ...]
    n_left_out: int = 0
    path: str | None = None

    @property
    def n_bytes(self) -> int:
        return sum(document.n_bytes for document in self.documents)


@dataclass(frozen=True)
class Material:
    """What an assay measures on.

    labelled: each different text once. n_copies: further rows with one of these. n_rows_left_out: beyond what is measured, and empty ones.
    training: reads what the model learned from, once a call; None where that is not known, and `why_no_training` says why.
    report: what of the files was left out.
    """

    domains: tuple[Domain, ...] = ()
    why_no_text: str = ""
    labelled: tuple[LabelledText, ...] = ()
    n_rows_left_out: int = 0
    n_copies: int = 0
    training: Callable[[], Iterator[Document]] | None = None
    why_no_training: str = "no_run"
    report: ReadReport = field(default_factory=ReadReport)


@dataclass(frozen=True)
class _Known:
    """What a run tells: the text it learned from, and what it held out; else why not."""

    training: Callable[[], Iterator[Document]] | None = None
    held_out: Sequence[Document] = ()
    why: str = ""


def find_material(folder: Path, model: LanguageModel, paths: Sequence[Path], fields: Fields, bounds: Bounds) -> Material:
    """Read what the paths hold, and what the run behind the model tells. Raises DataError for a path that cannot be read."""
    known = _of_run(folder, model)
    report = ReadReport()
    with_labels = [path for path in paths if _is_labelled(path, fields)]
    rows = _rows(with_labels, fields, counts := ReadReport())
    different = list({row.whole: row for row in reversed(rows)}.values())[::-1]  # the first of each text
    chosen = _first_by_hash(different, bounds.n_rows)
    domains, why = _domains(paths, fields, bounds, report), ""
    if not paths:
        domains = (_bounded(OWN, known.held_out, 0, bounds.text_bytes),) if known.held_out else ()
        why = "" if domains else known.why or "no_held_out"
    n_left_out, n_copies = len(different) - len(chosen) + sum(counts.n_rows.values()), len(rows) - len(different)
    return Material(domains, why, tuple(chosen), n_left_out, n_copies, known.training, known.why, report)


def short_names(paths: Sequence[Path]) -> list[str]:
    """The end of each path that no other ends with: mostly the name of the file."""
    ends = [path.resolve().parts for path in paths]
    for n in range(1, max(map(len, ends), default=0) + 1):
        if len({parts[-n:] for parts in ends}) == len(set(ends)):
            return ["/".join(parts[-n:]) for parts in ends]
    return [str(path) for path in paths]


def _rows(paths: Sequence[Path], fields: Fields, report: ReadReport | None = None) -> list[LabelledText]:
    if not paths:
        return []
    return read_labelled(
        paths,
        text_field=fields.text,
        label_field=fields.label,
        second_field=fields.second,
        columns=fields.columns,
        report=report,
    )


def _domains(paths: Sequence[Path], fields: Fields, bounds: Bounds, report: ReadReport) -> tuple[Domain, ...]:
    """A domain a path; the bound is shared evenly."""
    share = bounds.text_bytes // max(1, len(paths))
    domains = []
    for name, path in zip(short_names(paths), paths, strict=True):
        n_before = report.n_empty
        blocks = blocks_of(_texts(path, fields, report), share)
        domains.append(_bounded(name, blocks, report.n_empty - n_before, share, str(path)))
    return tuple(domains)


def _texts(path: Path, fields: Fields, report: ReadReport) -> list[Document]:
    if fields.columns is None or not _is_labelled(path, fields):
        return list(read_documents([path], text_field=fields.text, report=report))
    rows = _rows([path], fields, counts := ReadReport())  # files without a header
    report.n_empty += sum(counts.n_rows.values())
    return [Document(row.text, *_place(row.place)) for row in rows]


def _place(place: str) -> tuple[str, int]:
    source, _, line = place.rpartition(":")
    return source, int(line)


def _bounded(name: str, documents: Sequence[Document], n_empty: int, max_bytes: int, path: str | None = None) -> Domain:
    filled = [document for document in documents if document.text.strip()]
    chosen = sample_documents(filled, max_bytes)
    return Domain(name, tuple(chosen), len(documents) - len(chosen) + n_empty, path)


def _first_by_hash(rows: Sequence[LabelledText], n: int) -> list[LabelledText]:
    """At most n rows, those whose places hash first, in their own order: never the first of a file that may be sorted."""
    return [rows[place] for place in sorted(hash_order([row.place for row in rows])[:n])]


def _is_labelled(path: Path, fields: Fields) -> bool:
    """Whether every file at a path is one of rows, and any row has a label: one that has none is then an error, as everywhere.

    Names of columns are given for rows with labels: a file that they are for has some, or they are wrong.
    """
    files = list_files([path], ReadReport())
    if not all(format_of(file) in ROW_SUFFIXES for file in files):
        return False
    if fields.columns is not None and any(format_of(file) in (".csv", ".tsv") for file in files):
        return True
    return any(fields.label in row for file in files for row in _fields_of(file, fields))


def _fields_of(path: Path, fields: Fields) -> Iterator[dict[str, Any]]:
    kind, notes = format_of(path), Notes()
    if kind == ".parquet":
        rows = read_parquet(path)
    elif kind in (".csv", ".tsv"):
        is_tsv = kind == ".tsv"
        rows = read_csv(path, notes, "\t" if is_tsv else ",", columns=fields.columns, quoted=not is_tsv)
    else:
        rows = read_jsonl(path, notes)
    return (row.fields for row in rows)


def _of_run(folder: Path, model: LanguageModel) -> _Known:
    """A run whose settings cannot be read, or whose text is gone or changed, tells nothing: a reason, not an error."""
    try:
        behind = run_behind(locate_model(folder))
    except TouchstoneError:
        return _Known(why="run_unreadable")
    if behind is None:
        return _Known(why="no_run")
    record, config = behind
    try:
        if needs_answers(config):
            rows = answer_data(config, _Mute(quiet=True)).sides.train
            return _Known(lambda: (Document(text, row.place) for row in rows for text in _as_read(texts_of(row))))
        if model.tokenizer is None:
            return _Known(why="no_tokenizer")
        prepared = text_of_run(record, config, model.tokenizer)
    except TouchstoneError:
        return _Known(why="text_changed")
    return _Known(prepared.train_documents, prepared.test_documents)


def _as_read(texts: Iterable[str]) -> list[str]:
    """The texts of a row, and, of several, all together."""
    several = list(texts)
    return several if len(several) == 1 else [*several, "\n".join(several)]


class _Mute(Terminal):
    """What a run's rows are like was told when it was trained."""

    def warn(self, text: str) -> None:
        """Nothing."""
