"""Read text from files and folders as a stream of documents, in bounded memory, with every fault named by file and line.

The format follows the suffix; .gz, .bz2 and .zst of any text format are looked through. Folders are walked in sorted order. What
is not read is listed with its reason, never dropped silently. A long text comes as several documents, cut at blank lines.
"""

import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from touchstone.errors import DataError
from touchstone.text.cuts import cut_stream
from touchstone.text.document import Document
from touchstone.text.markup import clean_html, clean_markdown
from touchstone.text.rows import Row, read_csv, read_jsonl, read_parquet, text_of
from touchstone.text.stream import COMPRESSIONS, Notes, lines, text_chunks
from touchstone.text.wiki import LeftOut, read_pages

__all__ = ["SUFFIXES", "ReadReport", "format_of", "list_files", "read_documents"]


@dataclass
class ReadReport:
    """What was read, what was normalised and what was left out."""

    n_files: int = 0
    n_documents: int = 0
    n_bytes: int = 0  # of document text, in UTF-8
    n_bom: int = 0  # files that began with a byte order mark
    n_crlf: int = 0  # files with CRLF line ends
    n_empty: int = 0  # rows or pages without any text
    skipped: list[tuple[str, str]] = field(default_factory=list)  # (path, reason)
    n_rows: dict[str, int] = field(default_factory=dict)  # labelled rows that were left out, or read otherwise than written, by what

    def note(self, what: str, n: int = 1) -> None:
        """Count rows that were left out or read otherwise."""
        if n:
            self.n_rows[what] = self.n_rows.get(what, 0) + n


def read_documents(paths: Sequence[Path | str], *, text_field: str = "text", report: ReadReport | None = None) -> Iterator[Document]:
    """Documents of all files, folders included, in order.

    text_field: the field of a row (jsonl, csv, tsv, parquet) that holds the text; the others become `Document.fields`.
    report: filled while the documents are read.
    Raises DataError on a missing path at once, and while reading on what is not text; the message says where and what to do.
    """
    report = report if report is not None else ReadReport()
    return _documents(list_files(paths, report), text_field, report)


def list_files(paths: Sequence[Path | str], report: ReadReport, suffixes: Collection[str] | None = None) -> list[Path]:
    """The files that would be read, each once; the others go to `report.skipped`.

    suffixes: the formats that are read, their compressions besides; None = those of text.
    A file that is named itself must be readable; in a folder, files of other kinds are skipped.
    """
    wanted = SUFFIXES if suffixes is None else tuple(suffixes)
    if not paths:
        raise DataError("no path given; name a file or folder of text.")
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise DataError(f"{path}: no such file or folder; check the name.")
        if not path.is_dir():
            reason = _why_not(path, wanted)
            if reason:
                raise DataError(f"{path}: {reason}; text is read from {_all_suffixes(wanted)}.")
        for file in _walk(path, report, wanted) if path.is_dir() else [path]:
            real = file.resolve()
            if real in found:
                report.skipped.append((str(file), f"the same file as {found[real]}"))
            else:
                found[real] = file
    if not found:
        raise _nothing_readable(paths, report, wanted)
    return list(found.values())


Reader = Callable[[Path, str, Notes, ReadReport], Iterator[Document]]


def _documents(files: list[Path], text_field: str, report: ReadReport) -> Iterator[Document]:
    for path in files:
        n_before, notes = report.n_documents, Notes()
        for document in _READERS[format_of(path)](path, text_field, notes, report):
            if document.text.strip():
                report.n_documents += 1
                report.n_bytes += document.n_bytes
                yield document
            else:
                report.n_empty += 1
        report.n_bom += notes.has_bom
        report.n_crlf += notes.has_crlf
        if report.n_documents > n_before:
            report.n_files += 1
        else:
            report.skipped.append((str(path), "empty"))
    if not report.n_documents:
        raise _nothing_readable(files, report, SUFFIXES)


def _read_text(path: Path, text_field: str, notes: Notes, report: ReadReport) -> Iterator[Document]:
    for line, text in cut_stream(text_chunks(path, notes)):
        yield Document(text, str(path), line)


def _read_markdown(path: Path, text_field: str, notes: Notes, report: ReadReport) -> Iterator[Document]:
    for _, text in cut_stream(clean_markdown(line for _, line in lines(path, notes))):
        yield Document(text, str(path))


def _read_html(path: Path, text_field: str, notes: Notes, report: ReadReport) -> Iterator[Document]:
    for _, text in cut_stream(clean_html(text_chunks(path, notes))):
        yield Document(text, str(path))


def _read_xml(path: Path, text_field: str, notes: Notes, report: ReadReport) -> Iterator[Document]:
    left_out = LeftOut()
    for page in read_pages(path, left_out):
        yield Document(page.text, str(path), page.line, None if page.title is None else {"title": page.title})
    if left_out.n_redirects:
        report.skipped.append((str(path), f"{left_out.n_redirects} redirects"))
    if left_out.n_other_namespaces:
        report.skipped.append((str(path), f"{left_out.n_other_namespaces} pages outside the article namespace"))


def _read_jsonl(path: Path, text_field: str, notes: Notes, report: ReadReport) -> Iterator[Document]:
    return _of_rows(read_jsonl(path, notes), path, text_field, notes)


def _read_csv(path: Path, text_field: str, notes: Notes, report: ReadReport) -> Iterator[Document]:
    return _of_rows(read_csv(path, notes, "\t" if format_of(path) == ".tsv" else ","), path, text_field, notes)


def _read_parquet(path: Path, text_field: str, notes: Notes, report: ReadReport) -> Iterator[Document]:
    return _of_rows(read_parquet(path), path, text_field, notes)


def _of_rows(rows: Iterator[Row], path: Path, text_field: str, notes: Notes) -> Iterator[Document]:
    for row in rows:
        text = text_of(row, text_field, path)
        if "\r\n" in text:
            notes.has_crlf = True
            text = text.replace("\r\n", "\n")
        rest = {name: value for name, value in row.fields.items() if name != text_field}
        yield Document(text, str(path), row.line, rest or None)


_READERS: dict[str, Reader] = {
    **dict.fromkeys((".txt", ".text", ".py", ".pyi", ".rst"), _read_text),
    **dict.fromkeys((".md", ".markdown"), _read_markdown),
    **dict.fromkeys((".html", ".htm", ".xhtml"), _read_html),
    ".xml": _read_xml,
    **dict.fromkeys((".jsonl", ".ndjson"), _read_jsonl),
    **dict.fromkeys((".csv", ".tsv"), _read_csv),
    ".parquet": _read_parquet,
}

SUFFIXES = tuple(_READERS)
"""Suffixes of files that are read as text."""


def format_of(path: Path) -> str:
    """The suffix that says how to read a file, without that of its compression."""
    name = path.name.lower()
    for compression in COMPRESSIONS:
        name = name.removesuffix(compression)
    return Path(name).suffix


def _walk(folder: Path, report: ReadReport, suffixes: Collection[str]) -> Iterator[Path]:
    """Readable files below a folder, sorted; hidden ones, links to folders and other kinds are listed as skipped."""
    try:
        inside = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed: {error.strerror}; check its permissions.") from None
    for path in inside:
        if path.name.startswith("."):
            report.skipped.append((str(path), "hidden"))
        elif path.is_dir() and path.is_symlink():
            report.skipped.append((str(path), "a link to a folder"))
        elif path.is_dir():
            yield from _walk(path, report, suffixes)
        elif reason := _why_not(path, suffixes):
            report.skipped.append((str(path), reason))
        else:
            yield path


def _why_not(path: Path, suffixes: Collection[str]) -> str | None:
    """Why a file is not read; None if it is."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return "a link to nothing"
    if not stat.S_ISREG(mode):
        return "not a regular file"
    suffix = format_of(path)
    if suffix == ".parquet" and path.suffix.lower() != ".parquet":
        return "compressed parquet, which packs itself: decompress it first"
    if suffix == ".json" and ".json" not in suffixes:
        return "a .json file is not text: write one object a line and name it .jsonl"
    if suffix not in suffixes:
        return f"suffix `{suffix}` is not known" if suffix else "it has no suffix"
    return None


def _all_suffixes(suffixes: Collection[str]) -> str:
    return f"{', '.join(suffixes)}, also packed as {', '.join(COMPRESSIONS)}"


def _nothing_readable(paths: Sequence[Path | str], report: ReadReport, suffixes: Collection[str]) -> DataError:
    places = ", ".join(map(str, paths[:3])) + (", …" if len(paths) > 3 else "")
    seen = "; ".join(f"{path} ({reason})" for path, reason in report.skipped[:5])
    more = f"; and {len(report.skipped) - 5} more" if len(report.skipped) > 5 else ""
    return DataError(f"{places}: no text to read; seen: {seen or 'no files'}{more}. Text is read from {_all_suffixes(suffixes)}.")
