"""Documents as token ids on disk, opened as memory maps: a corpus of any size takes no memory and opens at once.

A folder holds the ids of all documents in a row, each followed by the end-of-text id, in files of bounded size; where each document
begins; how many bytes of text each was; and an index. Nothing here is atomic: the caller fills a folder and publishes it.
"""

import hashlib
import sys
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from touchstone.errors import ConfigError, DataError, TokenizerError
from touchstone.files import read_json, write_json
from touchstone.text.document import Document
from touchstone.text.tokenizer import Tokenizer

__all__ = ["TokenShards", "open_shards", "write_shards"]

_VERSION = 1
_SHARD_TOKENS = 1 << 27  # 256 MB of 16-bit ids
_BATCH_CHARS = 1 << 20  # text encoded in one call: enough for all threads, little enough to hold its tokens
_INDEX = "index.json"
_STARTS, _BYTES = "document_starts.bin", "document_bytes.bin"


class TokenShards:
    """The token ids of a corpus, in order.

    n_tokens counts the end-of-text ids; n_bytes is the UTF-8 length of the text.
    document_starts (n_documents + 1): the place of each document's first token, and the end; document_bytes (n_documents).
    fingerprint: a hash of all tokens and document borders.
    """

    def __init__(self, folder: Path, index: dict[str, object]) -> None:
        self.folder = folder
        self.n_tokens, self.n_bytes, self.n_documents = (int(str(index[key])) for key in ("n_tokens", "n_bytes", "n_documents"))
        self.vocab_size, self.eos_id = int(str(index["vocab_size"])), int(str(index["eos_id"]))
        self.fingerprint, self.tokenizer_fingerprint = str(index["fingerprint"]), str(index["tokenizer"])
        dtype = np.dtype(str(index["dtype"]))
        sizes = [int(size) for size in index["shards"]]  # type: ignore[attr-defined]
        self._ends = np.cumsum(sizes, dtype=np.int64)
        self._maps = [_map(folder / _shard_name(number), dtype, size) for number, size in enumerate(sizes)]
        self._dtype = dtype
        self.document_starts = _map(folder / _STARTS, np.dtype("<i8"), self.n_documents + 1)
        self.document_bytes = _map(folder / _BYTES, np.dtype("<i8"), self.n_documents)
        if sum(sizes) != self.n_tokens or int(self.document_starts[-1]) != self.n_tokens:
            raise DataError(f"{folder}: damaged: its index counts {self.n_tokens} tokens, its files {sum(sizes)}; prepare the data again.")

    def __len__(self) -> int:
        return self.n_tokens

    def read(self, start: int, stop: int) -> NDArray[np.integer]:
        """Token ids from `start` up to `stop`, in the type they are stored in; a view of the file within one shard, else a copy."""
        start, stop = max(0, start), min(stop, self.n_tokens)
        if stop <= start:
            return np.zeros(0, dtype=self._dtype)
        first = int(np.searchsorted(self._ends, start, side="right"))
        parts = []
        while start < stop:
            begin = int(self._ends[first]) - len(self._maps[first])
            parts.append(self._maps[first][start - begin : stop - begin])
            start, first = start + len(parts[-1]), first + 1
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def document(self, number: int) -> NDArray[np.integer]:
        """The tokens of one document, with the end-of-text id behind them."""
        return self.read(int(self.document_starts[number]), int(self.document_starts[number + 1]))

    def documents_at(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The number of the document that each token place belongs to."""
        return np.searchsorted(self.document_starts, places, side="right") - 1


def write_shards(
    folder: Path | str, documents: Iterable[Document], tokenizer: Tokenizer, *, shard_tokens: int = _SHARD_TOKENS
) -> TokenShards:
    """Encode documents into an existing folder, in bounded memory, and open the result; each is followed by the tokenizer's eos id.

    shard_tokens: tokens in one file. A document that spells a special token is encoded as ordinary text.
    """
    if shard_tokens < 1:
        raise ConfigError(f"`shard_tokens` ({shard_tokens}) must be at least 1.")
    if tokenizer.eos_id is None:
        raise TokenizerError("token shards need a token that ends a text; train the tokenizer with `<|endoftext|>` among its specials.")
    folder = Path(folder)
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
    starts, sizes, digest = array("q", [0]), array("q"), hashlib.sha256()
    with _Writer(folder, dtype, shard_tokens) as writer:
        for ids, n_bytes in _encoded(documents, tokenizer):
            tokens = np.array([*ids, tokenizer.eos_id], dtype=dtype)
            writer.write(tokens)
            digest.update(tokens.tobytes())
            starts.append(starts[-1] + len(tokens))
            sizes.append(n_bytes)
    for name, values in ((_STARTS, starts), (_BYTES, sizes)):
        data = np.array(values, dtype="<i8").tobytes()
        (folder / name).write_bytes(data)
        digest.update(data)
    write_json(
        folder / _INDEX,
        {
            "version": _VERSION,
            "dtype": dtype.str,
            "vocab_size": tokenizer.vocab_size,
            "eos_id": tokenizer.eos_id,
            "tokenizer": tokenizer.fingerprint,
            "n_tokens": starts[-1],
            "n_bytes": sum(sizes),
            "n_documents": len(sizes),
            "shards": writer.sizes,
            "fingerprint": digest.hexdigest(),
        },
    )
    return open_shards(folder)


def open_shards(folder: Path | str) -> TokenShards:
    """Open what `write_shards` wrote; DataError where it is incomplete or of another version."""
    folder = Path(folder)
    index = read_json(folder / _INDEX, error=DataError)
    if not isinstance(index, dict) or index.get("version") != _VERSION:
        raise DataError(f"{folder}: token shards of version {_VERSION} are read; prepare the data again.")
    if sys.byteorder != "little":
        raise DataError(f"{folder}: token shards are little-endian, this machine is not.")
    try:
        return TokenShards(folder, index)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{folder / _INDEX}: damaged ({error}); prepare the data again.") from None


def _encoded(documents: Iterable[Document], tokenizer: Tokenizer) -> Iterator[tuple[list[int], int]]:
    """Ids and bytes of each document, encoded many at a time."""
    texts: list[str] = []
    n_chars = 0
    for document in documents:
        texts.append(document.text)
        n_chars += len(document.text)
        if n_chars >= _BATCH_CHARS:
            yield from zip(tokenizer.encode_batch(texts), map(tokenizer.n_bytes, texts), strict=True)
            texts, n_chars = [], 0
    yield from zip(tokenizer.encode_batch(texts), map(tokenizer.n_bytes, texts), strict=True)


class _Writer:
    """Writes tokens into files of at most `shard_tokens`."""

    def __init__(self, folder: Path, dtype: np.dtype[np.unsignedinteger], shard_tokens: int) -> None:
        self.folder, self.dtype, self.shard_tokens = folder, dtype, shard_tokens
        self.sizes: list[int] = []

    def __enter__(self) -> "_Writer":
        self._next_file()
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, tokens: NDArray[np.integer]) -> None:
        while len(tokens):
            if self.sizes[-1] == self.shard_tokens:
                self._file.close()
                self._next_file()
            part, tokens = np.split(tokens, [self.shard_tokens - self.sizes[-1]])
            self._file.write(part.tobytes())
            self.sizes[-1] += len(part)

    def _next_file(self) -> None:
        self._file = (self.folder / _shard_name(len(self.sizes))).open("wb")
        self.sizes.append(0)


def _shard_name(number: int) -> str:
    return f"tokens-{number:05d}.bin"


def _map(path: Path, dtype: np.dtype, size: int) -> NDArray:
    """A read-only memory map of exactly `size` numbers."""
    try:
        found = path.stat().st_size
    except OSError:
        found = -1
    if found != size * dtype.itemsize:
        raise DataError(f"{path}: damaged: {found} bytes, {size * dtype.itemsize} expected; prepare the data again.")
    return np.memmap(path, dtype=dtype, mode="r") if size else np.zeros(0, dtype=dtype)
