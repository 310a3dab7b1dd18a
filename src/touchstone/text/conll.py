"""Words with tags, one a line under each other, sentences parted by blank lines: the column files of the CoNLL shared tasks.

The first column is the word and the last its tag, whatever stands between. Tags of spans come in several schemes (BIO, IOB1, BMES,
BIOES) and are read as BIO, which says where a span begins and no more; tags that are no spans, such as parts of speech, stay as they are.
Sources: Tjong Kim Sang & Veenstra 1999 (IOB1, IOB2); Ratinov & Roth 2009 (BILOU, which is BIOES).
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from touchstone.errors import DataError
from touchstone.text.read import ReadReport, list_files
from touchstone.text.stream import Notes, lines

__all__ = ["CONLL_SUFFIXES", "Scheme", "TaggedWords", "read_conll", "scheme_of", "spans_of", "tag_names", "to_bio"]

Scheme = Literal["bio", "iob1", "bioes", "plain"]

CONLL_SUFFIXES = (".conll", ".conllu", ".bio", ".iob", ".iob2", ".bmes", ".bioes", ".tsv", ".txt")
"""Suffixes of files that are read as columns."""

_SPAN_TAG = re.compile(r"([BIESMLU])-(.+)")
_BIOES = {"S": "B", "U": "B", "M": "I", "E": "I", "L": "I"}  # what each place in a span is in BIO
_DOCUMENT = "-DOCSTART-"


@dataclass(frozen=True, slots=True)
class TaggedWords:
    """A sentence: its words, a tag for each, and `file:line` of the first."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    place: str


def read_conll(paths: Sequence[Path | str], *, scheme: Scheme | None = None, report: ReadReport | None = None) -> list[TaggedWords]:
    """The sentences of all files, folders included, with their tags in BIO.

    scheme: how the files write spans; None finds out file by file. A span that a tag goes on with and none began is begun there, as the
    shared tasks' own scorer reads it, and counted. Lines of `-DOCSTART-` and, before any column, of `#` comments are passed over.
    Raises DataError with file and line on lines with other columns than the file's first, and on tags of spans among others.
    """
    report = report if report is not None else ReadReport()
    found: list[TaggedWords] = []
    for path in list_files(paths, report, CONLL_SUFFIXES):
        notes = Notes()
        sentences = list(_sentences(path, notes, report))
        used = scheme or _scheme_of_file(sentences)
        for sentence in sentences:
            tags, n_begun = to_bio(sentence.tags, used)
            report.note("tags that go on with a span that none began, read as its beginning", n_begun)
            found.append(TaggedWords(sentence.words, tags, sentence.place))
        report.n_files += bool(sentences)
        report.n_bom += notes.has_bom
        report.n_crlf += notes.has_crlf
        if not sentences:
            report.skipped.append((str(path), "empty"))
    if not found:
        raise DataError(f"{', '.join(map(str, paths[:3]))}: no sentence to learn from; a line holds a word, white space and its tag.")
    report.n_documents += len(found)
    return found


def scheme_of(sentences: Sequence[Sequence[str]]) -> Scheme:
    """The scheme that a file's tags are written in.

    IOB1 begins a span with `B-` only right behind another of its kind, so a file is IOB1 if every `B-` stands so and some span begins
    with `I-`.
    """
    places = {match[1] if (match := _SPAN_TAG.fullmatch(tag)) else tag for tags in sentences for tag in tags}
    if not places <= {"O", "B", "I", "E", "S", "M", "L", "U"} or places <= {"O"}:
        return "plain"
    if places & set(_BIOES):
        return "bioes"
    begins_plainly = begins_inside = False
    for tags in sentences:
        for before, tag in zip(["O", *tags], tags, strict=False):
            is_behind_kin = before[2:] == tag[2:] and before != "O"
            begins_plainly |= tag.startswith("B-") and not is_behind_kin
            begins_inside |= tag.startswith("I-") and not is_behind_kin
    return "iob1" if begins_inside and not begins_plainly else "bio"


def to_bio(tags: Sequence[str], scheme: Scheme) -> tuple[tuple[str, ...], int]:
    """The tags in BIO, and how many had to begin a span that they only went on with."""
    if scheme == "plain":
        return tuple(tags), 0
    result: list[str] = []
    n_begun = 0
    is_open = False  # in BIOES a span that was closed is not gone on with
    for tag in tags:
        match = _SPAN_TAG.fullmatch(tag)
        if match is None:
            result.append(tag)
            is_open = False
            continue
        place, kind = _BIOES.get(match[1], match[1]), match[2]
        goes_on = place == "I" and is_open and result[-1][2:] == kind
        n_begun += place == "I" and not goes_on and scheme != "iob1"
        result.append(f"{'I' if goes_on else 'B'}-{kind}")
        is_open = match[1] not in ("E", "L", "S", "U")
    return tuple(result), n_begun


def spans_of(tags: Sequence[str]) -> set[tuple[int, int, str]]:
    """(first word, word behind the last, kind) of each span of tags in BIO; one that none began begins where it goes on."""
    spans: set[tuple[int, int, str]] = set()
    start, kind = 0, ""
    for place, tag in enumerate([*tags, "O"]):
        mark, _, name = tag.partition("-")
        if kind and (mark != "I" or name != kind):
            spans.add((start, place, kind))
            kind = ""
        if mark in ("B", "I") and name and not kind:
            start, kind = place, name
    return spans


def tag_names(sentences: Sequence[TaggedWords]) -> tuple[str, ...]:
    """The different tags: `O` first, then by kind, beginnings before what goes on with them."""
    names = {tag for sentence in sentences for tag in sentence.tags}
    return tuple(sorted(names, key=lambda tag: (tag != "O", tag[2:] if _SPAN_TAG.fullmatch(tag) else tag, tag)))


def _scheme_of_file(sentences: Sequence[TaggedWords]) -> Scheme:
    """The scheme found out; DataError where some tags are of spans and others are not, which would make all of them plain in silence."""
    used = scheme_of([sentence.tags for sentence in sentences])
    tags = [(tag, sentence) for sentence in sentences for tag in sentence.tags if tag != "O"]
    of_spans = [tag for tag, _ in tags if _SPAN_TAG.fullmatch(tag)]
    other = next(((tag, sentence) for tag, sentence in tags if not _SPAN_TAG.fullmatch(tag)), None)
    if used == "plain" and of_spans and other is not None:
        tag, sentence = other
        raise DataError(
            f"{sentence.place}: `{tag}` in this sentence is no tag of a span, and `{of_spans[0]}` in the same file is one; correct it, or"
            " set `scheme` to plain if no tag stands for a span."
        )
    return used


def _sentences(path: Path, notes: Notes, report: ReadReport) -> Iterator[TaggedWords]:
    """The sentences of one file, with the tags as they are written."""
    words: list[str] = []
    tags: list[str] = []
    n_columns = start = 0
    separator: str | None = None
    for number, line in lines(path, notes):
        if line.strip() and not n_columns:
            separator = "\t" if "\t" in line else None
        fields = line.rstrip("\t ").split(separator)
        is_comment = line.startswith("#") and not words and len(fields) != max(n_columns, 2)
        if line.strip() and not is_comment and fields[0] != _DOCUMENT:
            n_columns = n_columns or len(fields)
            _check_columns(path, number, line, fields, n_columns)
            if not fields[0].strip():
                report.note("words that are white space")
                continue
            start = start if words else number
            words.append(fields[0].strip())
            tags.append(fields[-1].strip())
        elif words and not is_comment:
            yield TaggedWords(tuple(words), tuple(tags), f"{path}:{start}")
            words, tags = [], []
    if words:
        yield TaggedWords(tuple(words), tuple(tags), f"{path}:{start}")


def _check_columns(path: Path, number: int, line: str, fields: list[str], n_columns: int) -> None:
    if len(fields) < 2:
        raise DataError(f"{path}:{number}: `{line.strip()[:40]}` has no tag; a line holds a word, white space and its tag.")
    if len(fields) != n_columns:
        raise DataError(f"{path}:{number}: {len(fields)} columns, the lines before have {n_columns}; correct this line.")
