"""How well a language model predicts held-out documents: bits per byte with an interval by document, perplexity, calibration.

Runs the scoring path of `infer.score`, so every family is measured as it is served. The logits of a token live only while its chunk does:
of each token its log-probability is kept and, on request, the confidence in the likeliest token and whether that token came.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from touchstone.calibrate.fit import Temperature, TemperatureLoss, temperature_loss
from touchstone.errors import ConfigError, DataError
from touchstone.evaluate.metrics import bits_per_byte, perplexity
from touchstone.files import hash_of, sha256_bytes
from touchstone.infer.logits import LogitsChunk
from touchstone.infer.runner import LanguageCore, bound_of
from touchstone.infer.score import rolling_logits, rolling_token_logprobs, token_logprobs
from touchstone.stats import Interval
from touchstone.text.document import Document
from touchstone.text.tokenizer import Tokenizer

__all__ = [
    "Confidences",
    "EncodedTexts",
    "LanguageScore",
    "collect_logits",
    "encode_documents",
    "fit_temperature",
    "hash_order",
    "sample_documents",
    "score_language",
]

_FIT_ROWS = 512  # of logits turned to float64 at a time


@dataclass(frozen=True)
class EncodedTexts:
    """Documents as token ids, with what is needed to score them: what is resampled, their UTF-8 bytes, the token before the first.

    sources: the file of each document, or what else stands together.
    """

    sources: tuple[str, ...]
    token_ids: tuple[NDArray[np.int64], ...]
    n_bytes: NDArray[np.int64]
    prefix_id: int

    @property
    def n_tokens(self) -> int:
        return sum(map(len, self.token_ids))

    @property
    def fingerprint(self) -> str:
        """Changes with any token of any document."""
        return hash_of([[source, ids.tolist()] for source, ids in zip(self.sources, self.token_ids, strict=True)])


@dataclass(frozen=True)
class Confidences:
    """Of every scored token: the probability of the likeliest token, and whether it was the one that came."""

    confidence: NDArray[np.float64]
    correct: NDArray[np.bool_]


@dataclass(frozen=True)
class LanguageScore:
    """How well one model predicts some documents.

    sources: of each document the file, or what else is resampled as one; several may be blocks of it.
    token_nats: -log P of each token, one array a document.
    window, stride: of the overlapping windows; None = the state was carried through each document.
    confidences: by temperature, over the tokens of all documents in order.
    """

    sources: tuple[str, ...]
    token_nats: tuple[NDArray[np.float64], ...]
    n_bytes: NDArray[np.int64]
    window: int | None = None
    stride: int | None = None
    confidences: dict[float, Confidences] = field(default_factory=dict)

    @property
    def method(self) -> str:
        """How the documents were read, in words for a card."""
        if self.window is None:
            return "state carried through each document"
        return f"overlapping windows, stride {self.stride} of context {self.window}"

    @property
    def nats(self) -> NDArray[np.float64]:
        """Of each document."""
        return np.array([array.sum() for array in self.token_nats])

    @property
    def n_tokens(self) -> int:
        return sum(map(len, self.token_nats))

    def bits_per_byte(self, *, level: float = 0.95, seed: int = 0) -> Interval:
        """Bits of all documents over their bytes; the interval resamples sources, as blocks of one file are not independent."""
        return bits_per_byte(self.nats, self.n_bytes, level=level, seed=seed, clusters=self.sources)

    def perplexity(self, *, level: float = 0.95, seed: int = 0) -> Interval:
        """exp of the mean nats of a token, with the same kind of interval; comparable only between models of one tokenizer."""
        lengths = np.array([len(array) for array in self.token_nats])
        return perplexity(self.nats, lengths, level=level, seed=seed, clusters=self.sources)


def encode_documents(tokenizer: Tokenizer, documents: Sequence[Document]) -> EncodedTexts:
    """Token ids and bytes of the documents; empty ones are left out, and nothing left raises DataError.

    Raises ConfigError if the tokenizer has neither a beginning- nor an end-of-text token to stand before the first.
    """
    prefix_id = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
    if prefix_id is None:
        raise ConfigError("Scoring needs a beginning- or end-of-text token before the first token, and this tokenizer has neither.")
    kept = [document for document in documents if document.text]
    if not kept:
        raise DataError(f"There is no text to score in {len(documents)} documents.")
    encoded = tokenizer.encode_batch([document.text for document in kept])
    return EncodedTexts(
        sources=tuple(document.source for document in kept),
        token_ids=tuple(np.asarray(ids, dtype=np.int64) for ids in encoded),
        n_bytes=np.array([document.n_bytes for document in kept], dtype=np.int64),
        prefix_id=prefix_id,
    )


def score_language(
    core: LanguageCore,
    texts: EncodedTexts,
    *,
    stride: int | None = None,
    max_seq_len: int | None = None,
    temperatures: Sequence[float] = (),
) -> LanguageScore:
    """Score every token of every document once.

    stride: overlapping windows of so many new tokens; None takes half the context, the figure reported everywhere. A recurrent or
        n-gram model carries its state through each document instead.
    temperatures: for each, collect the confidence in the likeliest token of softmax(logits / temperature).
    """
    bound = bound_of(core, max_seq_len)
    if bound is not None and stride is None:
        stride = max(1, bound // 2)
    stride = stride if bound is not None else None
    if not temperatures:
        logprobs = rolling_token_logprobs(core, texts.token_ids, prefix_id=texts.prefix_id, stride=stride, max_seq_len=max_seq_len)
        return LanguageScore(texts.sources, tuple(-array for array in logprobs), texts.n_bytes, bound, stride)
    nats = [np.empty(len(ids)) for ids in texts.token_ids]
    tops = {temperature: [np.empty(len(ids)) for ids in texts.token_ids] for temperature in temperatures}
    hits = [np.empty(len(ids), dtype=bool) for ids in texts.token_ids]
    for chunk in rolling_logits(core, texts.token_ids, prefix_id=texts.prefix_id, stride=stride, max_seq_len=max_seq_len):
        _store(nats, chunk, -token_logprobs(chunk.logits, chunk.targets))
        best, index = chunk.logits.max(dim=-1)
        _store(hits, chunk, index == chunk.targets)
        for temperature in temperatures:
            _store(tops[temperature], chunk, (best / temperature - (chunk.logits / temperature).logsumexp(dim=-1)).exp())
    correct = np.concatenate(hits)
    found = {temperature: Confidences(np.concatenate(arrays), correct) for temperature, arrays in tops.items()}
    return LanguageScore(texts.sources, tuple(nats), texts.n_bytes, bound, stride, found)


def collect_logits(
    core: LanguageCore, texts: EncodedTexts, n_tokens: int, *, stride: int | None = None, max_seq_len: int | None = None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Next-token logits (N, V) and targets (N,) of at most about n_tokens tokens, spread evenly over each document, in text order.

    For fitting a temperature; n_tokens x vocabulary x 4 bytes are held.
    """
    bound = bound_of(core, max_seq_len)
    stride = None if bound is None else stride or max(1, bound // 2)
    every = max(1, -(-texts.n_tokens // n_tokens))
    rows: list[tuple[int, int]] = []
    logits: list[NDArray[np.float32]] = []
    targets: list[int] = []
    for chunk in rolling_logits(core, texts.token_ids, prefix_id=texts.prefix_id, stride=stride, max_seq_len=max_seq_len):
        wanted = np.flatnonzero(chunk.places % every == 0)
        rows += [(int(chunk.rows[i]), int(chunk.places[i])) for i in wanted]
        logits.append(chunk.logits[torch.from_numpy(wanted)].float().cpu().numpy())
        targets += chunk.targets[torch.from_numpy(wanted)].tolist()
    order = sorted(range(len(rows)), key=rows.__getitem__)
    return np.concatenate(logits)[order], np.array(targets, dtype=np.int64)[order]


def fit_temperature(core: LanguageCore, texts: EncodedTexts, *, n_tokens: int = 8192, max_seq_len: int | None = None) -> Temperature:
    """The temperature that makes next-token probabilities fit held-out text best, from about n_tokens tokens spread over it."""
    logits, targets = collect_logits(core, texts, n_tokens, max_seq_len=max_seq_len)

    def loss_at(temperature: float) -> TemperatureLoss:
        parts = [
            temperature_loss(logits[i : i + _FIT_ROWS], targets[i : i + _FIT_ROWS], temperature) for i in range(0, len(logits), _FIT_ROWS)
        ]
        return reduce(add, parts)

    return Temperature.fit_streamed(loss_at, tolerance=1e-6)


def sample_documents(documents: Sequence[Document], max_bytes: int) -> list[Document]:
    """The same documents if they hold at most `max_bytes`, else as many as fit in the order of a hash of their places, at least one.

    The choice depends on nothing but the places within the data, so every model is scored on the same documents, however the path to them
    is spelled; they come back in their own order.
    """
    if sum(document.n_bytes for document in documents) <= max_bytes:
        return list(documents)
    kept: set[int] = set()
    total = 0
    for index in hash_order([document.place for document in documents]):
        total += documents[index].n_bytes
        if kept and total > max_bytes:
            break
        kept.add(index)
    return [documents[index] for index in sorted(kept)]


def hash_order(places: Sequence[str]) -> list[int]:
    """The numbers of places, `file` or `file:line`, in the order of a hash of each place below the folder that all are in."""
    absolute = [os.path.normpath(Path(place).absolute()) for place in places]
    n_shared = len(os.path.commonpath({place.rpartition(os.sep)[0] or os.sep for place in absolute})) if absolute else 0
    hashes = [sha256_bytes(os.fsencode(place[n_shared:].lstrip(os.sep))) for place in absolute]
    return sorted(range(len(places)), key=hashes.__getitem__)


def _store(results: list[NDArray[Any]], chunk: LogitsChunk, values: torch.Tensor) -> None:
    array = values.cpu().numpy()
    for row in np.unique(chunk.rows):
        mine = chunk.rows == row
        results[row][chunk.places[mine]] = array[mine]
