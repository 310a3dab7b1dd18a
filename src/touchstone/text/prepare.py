"""From files to token shards: read, group near-copies, split, learn a vocabulary, encode; done once for the same input.

The result is a folder in the cache named by a hash of everything it depends on: the bytes of the sources, the settings, and the
versions of what reads and encodes them. It is published complete or not at all, so work that was cut short is never used. Memory
is bounded: documents stream through files, and only fingerprints and the held-out documents are held.
"""

import hashlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from touchstone.config import Config, parse
from touchstone.errors import DataError, RunFolderError
from touchstone.files import check_writable, hash_of, is_complete, publish_folder, read_json, sha256_file, write_json
from touchstone.text.corpora import corpus
from touchstone.text.document import Document
from touchstone.text.near_copies import NEAR_COPY_SHARE, Fingerprints
from touchstone.text.read import ReadReport, list_files, read_documents
from touchstone.text.shards import TokenShards, open_shards, write_shards
from touchstone.text.split import SIDES, assign_sides, block_chars, content_key, cut_long
from touchstone.text.spool import DocumentWriter, read_spool
from touchstone.text.tokenizer import Tokenizer
from touchstone.text.vocabulary import DEFAULT_MAX_BYTES, DEFAULT_SPECIALS, Kind, Progress

__all__ = ["DataConfig", "Prepared", "PreparedReport", "TokenizerConfig", "prepare"]

_VERSION = 2  # raised whenever the same sources and settings would give another result
_MAX_SKIPPED = 1000  # reasons kept in the report; the number of all of them is kept too


class DataConfig(Config):
    """Which text, and how it is divided."""

    sources: tuple[str, ...] = Field((), description="Files and folders of text; or none, and `corpus`.")
    corpus: str | None = Field(None, description="A named corpus, such as `python`; or none, and `sources`.")
    text_field: str = Field("text", description="The field of a row (jsonl, csv, tsv, parquet) that holds the text.")
    valid_sources: tuple[str, ...] = Field((), description="Files of rows to choose by, in place of a share of `sources`.")
    test_sources: tuple[str, ...] = Field((), description="Files of rows to judge by, in place of a share of `sources`.")
    valid_fraction: float = Field(0.05, ge=0, lt=1, description="Share of the bytes to choose by; a twentieth judges well enough.")
    test_fraction: float = Field(0.05, ge=0, lt=1, description="Share of the bytes to judge by; looked at once.")
    seed: int = Field(0, ge=0, description="Another seed holds other documents out.")
    near_copy_share: float = Field(NEAR_COPY_SHARE, gt=0, le=1, description="Documents sharing this much of the shorter one stay together.")

    @model_validator(mode="after")
    def _one_origin(self) -> "DataConfig":
        if bool(self.sources) == (self.corpus is not None):
            raise ValueError("give either `sources` (paths) or `corpus` (a name), one of them.")
        if self.valid_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"`valid_fraction` ({self.valid_fraction}) and `test_fraction` ({self.test_fraction}) together must be below 1."
            )
        return self


class TokenizerConfig(Config):
    """The vocabulary to learn from the training text."""

    kind: Kind = Field("bpe", description="bpe, wordpiece, unigram or bytes; byte-level BPE spells every text and is learned fast.")
    vocab_size: int | None = Field(None, gt=0, description="Tokens, specials included; None is 4096, or all there are for `bytes`.")
    pattern: str | None = Field(None, description="gpt2 (also None) or code: what no token may reach over.")
    specials: tuple[str, ...] = Field(DEFAULT_SPECIALS, description="Special tokens; those of usual names take their roles.")
    max_bytes: int = Field(DEFAULT_MAX_BYTES, gt=0, description="Bytes of text to learn from; more is sampled, to bound memory.")


class PreparedReport(Config):
    """What was read and made; the dictionaries are by side: train, valid, test."""

    n_documents: dict[str, int]
    n_bytes: dict[str, int]
    n_tokens: dict[str, int]
    n_groups: int
    n_near_copies: int
    n_cut: int = Field(description="Documents that were cut into blocks because they were too long for a held-out side.")
    n_files: int
    n_bom: int
    n_crlf: int
    n_empty: int
    n_skipped: int
    skipped: tuple[tuple[str, str], ...]
    tokenizer_bytes_seen: int | None = Field(description="None where the tokenizer was given.")
    tokenizer_bytes_used: int | None
    tokenizer_fingerprint: str
    documents_hash: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """A corpus that is ready to train on and to be judged by."""

    folder: Path
    tokenizer: Tokenizer
    train: TokenShards
    valid: TokenShards
    test: TokenShards
    valid_documents: list[Document]
    test_documents: list[Document]
    report: PreparedReport

    @property
    def fingerprint(self) -> str:
        """The content hash that names the folder: of the sources, the settings and the versions."""
        return self.folder.name

    def train_documents(self) -> Iterator[Document]:
        """The training text, one document at a time."""
        return read_spool(self.folder / "train.documents")


def prepare(data: DataConfig, tokenizer: TokenizerConfig | Tokenizer, cache: Path | str, progress: Progress | None = None) -> Prepared:
    """Read, split and encode a corpus, or open the result of having done so with the same bytes and settings.

    tokenizer: what to learn from the training side, or one that is ready.
    cache: the cache folder (`files.cache_folder()`).
    Raises DataError on text that cannot be read or split, TokenizerError on a vocabulary that the text does not support.
    """
    source_hash = _source_hash(data)
    folder = Path(cache) / "prepared" / _key(data, tokenizer, source_hash)
    if not is_complete(folder):
        check_writable(folder.parent)

        def fill(place: Path) -> None:
            _fill(place, data, tokenizer, progress or (lambda *_: None))
            if _source_hash(data) != source_hash:
                raise DataError("the text changed while it was read; wait until it is written, then run this again.")

        try:
            publish_folder(folder, fill)
        except OSError as error:
            raise RunFolderError(
                f"{folder.parent}: cannot be written: {error.strerror or error}; make room or set TOUCHSTONE_CACHE."
            ) from None
    return _open(folder)


def _source_hash(data: DataConfig) -> str:
    """A hash of what is read: the files' names and bytes, or the documents of a named corpus."""
    digest = hashlib.sha256()
    if data.corpus is not None:
        for document in corpus(data.corpus):
            _update(digest, document)
    else:
        for path in list_files(data.sources, ReadReport()):
            digest.update(repr((str(path), sha256_file(path))).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _key(data: DataConfig, tokenizer: TokenizerConfig | Tokenizer, source_hash: str) -> str:
    settings = tokenizer.fingerprint if isinstance(tokenizer, Tokenizer) else [tokenizer.model_dump(mode="json"), version("tokenizers")]
    return hash_of([_VERSION, source_hash, data.model_dump(mode="json", exclude={"sources"}), settings])[:40]


def _fill(place: Path, data: DataConfig, tokenizer: TokenizerConfig | Tokenizer, progress: Progress) -> None:
    """Write the whole prepared corpus into an empty folder."""
    read = ReadReport()
    raw = place / "raw.documents"
    n_chars, documents_hash = _spool(raw, data, read, progress)
    longest, target = block_chars(n_chars, data.valid_fraction, data.test_fraction)
    sides, groups = _split(cut_long(read_spool(raw), longest, target), data, progress)
    n_cut = _deal(place, raw, longest, target, sides)
    raw.unlink()
    sample = None
    if isinstance(tokenizer, TokenizerConfig):
        texts = (document.text for document in read_spool(place / "train.documents"))
        tokenizer = Tokenizer.train(texts, **tokenizer.model_dump(), progress=progress)
        sample = tokenizer.sample
    (place / "tokenizer").mkdir()
    tokenizer.save(place / "tokenizer")
    shards = {side: _encode(place, side, tokenizer, progress) for side in SIDES}
    n_groups = len(np.unique(groups))
    report = PreparedReport(
        n_documents={side: part.n_documents for side, part in shards.items()},
        n_bytes={side: part.n_bytes for side, part in shards.items()},
        n_tokens={side: part.n_tokens for side, part in shards.items()},
        n_groups=n_groups,
        n_near_copies=len(groups) - n_groups,
        n_cut=n_cut,
        n_files=read.n_files if data.sources else len(sides),
        n_bom=read.n_bom,
        n_crlf=read.n_crlf,
        n_empty=read.n_empty,
        n_skipped=len(read.skipped),
        skipped=tuple(read.skipped[:_MAX_SKIPPED]),
        tokenizer_bytes_seen=sample.n_bytes_seen if sample else None,
        tokenizer_bytes_used=sample.n_bytes_used if sample else None,
        tokenizer_fingerprint=tokenizer.fingerprint,
        documents_hash=documents_hash,
    )
    write_json(place / "report.json", report.model_dump(mode="json"))


def _spool(raw: Path, data: DataConfig, read: ReadReport, progress: Progress) -> tuple[int, str]:
    """Read all documents into one file; their characters in all, and a hash of them."""
    documents = corpus(data.corpus) if data.corpus is not None else read_documents(data.sources, text_field=data.text_field, report=read)
    digest, n_chars, n_bytes = hashlib.sha256(), 0, 0
    with DocumentWriter(raw) as writer:
        for document in documents:
            writer.write(document)
            _update(digest, document)
            n_chars += len(document.text)
            n_bytes += document.n_bytes
            progress("reading", n_bytes, None)
    return n_chars, digest.hexdigest()


def _split(documents: Iterator[Document], data: DataConfig, progress: Progress) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
    """The side and the group of each document, in one pass that keeps fingerprints only."""
    fingerprints, n_bytes, keys = Fingerprints(), array("q"), []
    for document in documents:
        fingerprints.add(document.text)
        n_bytes.append(document.n_bytes)
        keys.append(content_key(document.text))
        progress("comparing documents", len(keys), None)
    groups = fingerprints.groups(data.near_copy_share)
    sides = assign_sides(
        groups,
        np.array(n_bytes, dtype=np.int64),
        keys,
        valid_fraction=data.valid_fraction,
        test_fraction=data.test_fraction,
        seed=data.seed,
    )
    return sides, groups


def _deal(place: Path, raw: Path, longest: int, target: int, sides: NDArray[np.int8]) -> int:
    """Write each document to the file of its side; returns how many documents were cut into blocks."""
    n_cut = sum(len(document.text) > longest for document in read_spool(raw))
    with (
        DocumentWriter(place / "train.documents") as train,
        DocumentWriter(place / "valid.documents") as valid,
        DocumentWriter(place / "test.documents") as test,
    ):
        for document, side in zip(cut_long(read_spool(raw), longest, target), sides.tolist(), strict=True):
            (train, valid, test)[side].write(document)
    return n_cut


def _encode(place: Path, side: str, tokenizer: Tokenizer, progress: Progress) -> TokenShards:
    total = (place / f"{side}.documents").stat().st_size

    def told() -> Iterator[Document]:
        done = 0
        for document in read_spool(place / f"{side}.documents"):
            yield document
            done += document.n_bytes
            progress(f"encoding {side}", done, total)

    (place / side).mkdir()
    return write_shards(place / side, told(), tokenizer)


def _open(folder: Path) -> Prepared:
    tokenizer = Tokenizer.load(folder / "tokenizer")
    train, valid, test = (open_shards(folder / side) for side in SIDES)
    report = parse(PreparedReport, read_json(folder / "report.json", error=DataError), source=str(folder / "report.json"))
    valid_documents, test_documents = (list(read_spool(folder / f"{side}.documents")) for side in SIDES[1:])
    return Prepared(folder, tokenizer, train, valid, test, valid_documents, test_documents, report)


def _update(digest: Any, document: Document) -> None:
    head = repr((document.source, document.line, document.n_bytes)).encode("utf-8", "backslashreplace")
    digest.update(head + b"\n")
    digest.update(document.text.encode("utf-8"))
