"""The bytes of a file, decompressed and decoded, in bounded memory; every fault named by file and line.

Text is strict UTF-8. A byte order mark is stripped and CRLF becomes LF, because both are normal and neither is content; what was
done is noted. A zero byte means that the file is no text.
"""

import bz2
import codecs
import gzip
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from touchstone.errors import DataError, MissingPackage

__all__ = ["COMPRESSIONS", "MAX_LINE_CHARS", "Notes", "byte_chunks", "lines", "text_chunks"]

COMPRESSIONS = (".gz", ".bz2", ".zst")
"""Suffixes that are opened and looked through, on any format."""

MAX_LINE_CHARS = 64 << 20
"""Longest row of a line format; beyond it the file is more likely not what its suffix says than a real row."""

_CHUNK_BYTES = 1 << 20
_ZST_INPUT_BYTES = 4 << 10  # a hostile frame expands this to 128 MB at most (blocks of 4 bytes that stand for 128 KiB)


@dataclass
class Notes:
    """What was normalised in one file."""

    has_bom: bool = False
    has_crlf: bool = False


def byte_chunks(path: Path) -> Iterator[bytes]:
    """The file's content, decompressed by its suffix, about a megabyte at a time; damage and refusals become DataError."""
    kind = path.suffix.lower()
    opener: Any = {".gz": gzip.open, ".bz2": bz2.open}.get(kind, open)
    try:
        with opener(path, "rb") as file:
            chunks = iter(lambda: file.read(_CHUNK_BYTES), b"")
            yield from _unpack_zst(path, chunks) if kind == ".zst" else chunks
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the name.") from None
    except (EOFError, OSError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        if kind in COMPRESSIONS:
            raise DataError(f"{path}: broken {kind} file: {reason}; copy or download it again, or leave it out.") from None
        raise DataError(f"{path}: cannot be read: {reason}; check the file and its permissions.") from None


def text_chunks(path: Path, notes: Notes) -> Iterator[str]:
    """The file's text in pieces: no byte order mark, LF line ends, nothing but valid UTF-8 without zero bytes."""
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    n_lines, is_start, held = 0, True, ""
    for chunk in byte_chunks(path):
        if is_start:
            chunk, is_start = _strip_mark(path, chunk, notes), False
        _refuse_zero(path, chunk, n_lines)
        text = held + _decode(path, decoder, chunk, n_lines)
        n_lines += chunk.count(b"\n")
        held = "\r" if text.endswith("\r") else ""  # its LF may open the next chunk
        yield _to_lf(text.removesuffix("\r"), notes)
    yield held + _decode(path, decoder, b"", n_lines, final=True)


def lines(path: Path, notes: Notes) -> Iterator[tuple[int, str]]:
    """Lines without their ends, numbered from 1; only LF and CRLF end a line, so a text may hold other separators."""
    number, waiting = 1, ""
    for text in text_chunks(path, notes):
        *whole, waiting = (waiting + text).split("\n")
        for line in whole:
            yield number, line
            number += 1
        if len(waiting) > MAX_LINE_CHARS:
            raise DataError(f"{path}:{number}: a row of more than {MAX_LINE_CHARS} characters; is this a file of one row a line?")
    if waiting:
        yield number, waiting


def _unpack_zst(path: Path, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """All frames of a .zst file; unlike the library's reader, a file that ends inside a frame is an error."""
    try:
        import zstandard
    except ImportError:
        raise MissingPackage(f'{path}: reading .zst needs one more package: pip install "touchstone-lm[data]".') from None
    frame, is_inside = zstandard.ZstdDecompressor().decompressobj(), False
    try:
        for chunk in chunks:
            for place in range(0, len(chunk), _ZST_INPUT_BYTES):
                data = chunk[place : place + _ZST_INPUT_BYTES]
                while data:
                    yield frame.decompress(data)
                    data, is_inside = (frame.unused_data, False) if frame.eof else (b"", True)
                    if frame.eof:
                        frame = zstandard.ZstdDecompressor().decompressobj()
    except zstandard.ZstdError as error:
        raise OSError(str(error)) from None
    if is_inside:
        raise EOFError("it ends in the middle of its data")


def _strip_mark(path: Path, chunk: bytes, notes: Notes) -> bytes:
    if chunk.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{path}: UTF-16 text; text is read as UTF-8: convert it with `iconv -f UTF-16 -t UTF-8`.")
    notes.has_bom = chunk.startswith(codecs.BOM_UTF8)
    return chunk.removeprefix(codecs.BOM_UTF8)


def _refuse_zero(path: Path, chunk: bytes, n_lines: int) -> None:
    place = chunk.find(b"\0")
    if place >= 0:
        line = n_lines + chunk.count(b"\n", 0, place) + 1
        raise DataError(f"{path}:{line}: a zero byte: this is a binary file, not text; leave it out, or convert it to UTF-8 text.")


def _decode(path: Path, decoder: codecs.IncrementalDecoder, chunk: bytes, n_lines: int, *, final: bool = False) -> str:
    try:
        return decoder.decode(chunk, final)
    except UnicodeDecodeError as error:
        data: bytes = error.object
        line = n_lines + data.count(b"\n", 0, error.start) + 1
        shown = " ".join(f"{byte:02x}" for byte in data[error.start : error.start + 4])
        raise DataError(
            f"{path}:{line}: not valid UTF-8 (bytes {shown}: {error.reason}); convert it, for example with"
            " `iconv -f WINDOWS-1252 -t UTF-8` or `iconv -f GB18030 -t UTF-8`, or leave it out."
        ) from None


def _to_lf(text: str, notes: Notes) -> str:
    if "\r\n" not in text:
        return text
    notes.has_crlf = True
    return text.replace("\r\n", "\n")
