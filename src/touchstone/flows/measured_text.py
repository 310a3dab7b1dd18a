"""Text that figures are measured on: long texts in blocks, what is resampled, and what compressors need for it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from touchstone.evaluate.compressors import CompressorScore, score_compressors
from touchstone.files import sha256_bytes
from touchstone.text.document import Document
from touchstone.text.labelled import ROW_SUFFIXES
from touchstone.text.read import format_of
from touchstone.text.split import cut_long

__all__ = ["Compressed", "blocks_of", "is_one_text", "units_of"]

N_BLOCKS = 24
"""Blocks that a single text is cut into at least: an interval by block then covers the truth about as often as it says (stats.py)."""

LEAST_BLOCK = 1000
"""Characters of the shortest block that is made: every block begins without what stood before it."""

MAX_JOINED = 2_000_000
"""Bytes of a text whose parts are compressed one after the other: the time grows with its square, and what it gains shrinks."""


def is_one_text(documents: Sequence[Document]) -> bool:
    """Whether all are parts of a single text."""
    return len({document.source for document in documents}) == 1 and not _is_of_rows(documents[0])


def blocks_of(documents: Sequence[Document], max_bytes: int) -> list[Document]:
    """Long texts in blocks, so that there are enough to resample, to halve, and to choose from."""
    n_chars = sum(len(document.text) for document in documents)
    longest = max(LEAST_BLOCK, min(n_chars, max_bytes) // N_BLOCKS)
    return list(cut_long(documents, longest, longest))


def units_of(documents: Sequence[Document]) -> tuple[list[str], str]:
    """What is resampled: rows of files of rows and pages of a dump are on their own, blocks of one text stand together.

    Rows of one and the same text are one unit. Where all is one text there are only its blocks: "block" says that neighbours may be alike.
    """
    if is_one_text(documents):
        return [document.place for document in documents], "block"
    of_rows = [_is_of_rows(document) for document in documents]
    names = [document.place if is_row else document.source for document, is_row in zip(documents, of_rows, strict=True)]
    parts: dict[str, list[str]] = {}
    for name, document in zip(names, documents, strict=True):
        parts.setdefault(name, []).append(document.text)
    first: dict[str, str] = {}
    same = {name: first.setdefault(sha256_bytes("".join(texts).encode()), name) for name, texts in parts.items()}
    return [same[name] for name in names], "row" if all(of_rows) else "file"


@dataclass(frozen=True)
class Compressed:
    """Bits of each document by compressor, `NAME_given` where it had read training text; missing: those not installed, with the remedy.

    Parts of one text are compressed one after the other, each counted as what it adds to those before it: a compressor that began anew
    at every part would learn nothing of the text, and be no match for any model. Of a text beyond `MAX_JOINED` each part is on its own.
    """

    bits: dict[str, NDArray[np.float64]]
    settings: dict[str, str]
    missing: dict[str, str]

    @classmethod
    def of(cls, documents: Sequence[Document], training: Sequence[str]) -> "Compressed":
        joined, before = _joined(documents)
        report = score_compressors(joined, training)
        bits = {}
        for score in report.scores:
            sizes = np.array(score.compressed_bytes, dtype=np.float64)
            bits[_key(score)] = 8 * np.array(
                [size - (sizes[place] if place is not None else 0) for size, place in zip(sizes, before, strict=True)]
            )
        return cls(bits, {_key(score): score.setting for score in report.scores}, dict(report.missing))


def _is_of_rows(document: Document) -> bool:
    """Whether it is one of many of its file, each a text on its own."""
    return format_of(Path(document.source)) in (*ROW_SUFFIXES, ".xml")


def _key(score: CompressorScore) -> str:
    return f"{score.name}_given" if score.given_bytes else score.name


def _joined(documents: Sequence[Document]) -> tuple[list[str], list[int | None]]:
    """Each document behind the parts of its text before it, and the place of those alone; None where nothing is before it."""
    sizes = Counter[str]()
    for document in documents:
        sizes[document.source] += document.n_bytes
    last: dict[str, int] = {}
    joined: list[str] = []
    before: list[int | None] = []
    for place, document in enumerate(documents):
        stands_alone = _is_of_rows(document) or sizes[document.source] > MAX_JOINED
        earlier = None if stands_alone else last.get(document.source)
        joined.append(document.text if earlier is None else joined[earlier] + document.text)
        before.append(earlier)
        last[document.source] = place
    return joined, before
