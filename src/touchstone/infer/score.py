"""How likely a model finds given text: continuations of contexts, and whole texts of any length.

A text is cut into spans, each a run of input tokens of which the last few predict a scored token; a model without a bound on its
length (recurrent, n-gram) takes a whole text as one span and carries its state through. An encoder-decoder reads the context as its
source and scores the continuation as its target, from the start token on. `logits` reads the spans.
Windows are those of lm-evaluation-harness 0.4.9 (`get_rolling_token_windows`, `make_disjoint_window`), so figures can be compared.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from touchstone.errors import ConfigError, DataError, Unsupported
from touchstone.infer.calibration import Calibrated
from touchstone.infer.logits import MAX_TOKENS, LogitsChunk, TokenSpan, read_logits
from touchstone.infer.request import Confidence
from touchstone.infer.runner import LanguageCore, bound_of, checked_start, reads_source
from touchstone.models.ngram import NgramModel

__all__ = [
    "LogLikelihood",
    "Rolling",
    "loglikelihood",
    "rolling_logits",
    "rolling_token_logprobs",
    "rolling_windows",
    "token_logprobs",
]


@dataclass(frozen=True, slots=True)
class LogLikelihood:
    """How likely a continuation is. logprob and token_logprobs in nats.

    is_greedy: whether each token is the likeliest at its place.
    n_truncated: tokens of the context that did not fit and were left out, oldest first.
    confidence: None where the model has no calibration that holds for it; `confidence_reason` then says why.
    """

    logprob: float
    is_greedy: bool
    token_logprobs: tuple[float, ...]
    n_truncated: int
    confidence: Confidence | None = None
    confidence_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Rolling:
    """How likely a whole text is, every token counted once, in nats. n_bytes: of the text in UTF-8; None where only ids are known."""

    logprob: float
    token_logprobs: tuple[float, ...]
    n_bytes: int | None

    @property
    def bits_per_byte(self) -> float:
        """-log2 P(text) / bytes; raises DataError where the bytes are unknown or none."""
        if not self.n_bytes:
            raise DataError(f"Bits per byte need a text of known length above 0 bytes; this one has {self.n_bytes}.")
        return -self.logprob / (self.n_bytes * math.log(2))

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log-likelihood of a token; raises DataError for a text without tokens."""
        if not self.token_logprobs:
            raise DataError("Perplexity needs at least one token; this text has none.")
        return math.exp(-self.logprob / len(self.token_logprobs))


def loglikelihood(
    core: LanguageCore,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    max_seq_len: int | None = None,
    decoder_start_id: int | None = None,
    calibrated: Calibrated | None = None,
    max_tokens: int = MAX_TOKENS,
) -> list[LogLikelihood]:
    """Score token-id continuations after their contexts; a context that does not fit loses its oldest tokens.

    decoder_start_id: what the decoder of an encoder-decoder begins with; its contexts are sources.
    max_tokens: padded tokens of one forward pass; 0 = every pair alone.
    Raises ConfigError if a context or continuation is empty, or a continuation alone is longer than the model's context; Unsupported for
    a network that predicts no next token.
    """
    _check_predicts(core)
    bound = bound_of(core, max_seq_len)
    if reads_source(core):
        start_id = checked_start(core, decoder_start_id)
        spans = [_source_span(row, *pair, start_id, bound, core.spec.max_source_len) for row, pair in enumerate(pairs)]
    else:
        spans = [_pair_span(row, *pair, bound) for row, pair in enumerate(pairs)]
    lengths = [span.n_scored for span in spans]
    logprobs, confidences, greedy = _PerToken(lengths, np.float64), _PerToken(lengths, np.float64), _PerToken(lengths, np.bool_)
    for chunk in read_logits(core, spans, max_tokens):
        logprobs.store(chunk, token_logprobs(chunk.logits, chunk.targets))
        greedy.store(chunk, chunk.logits.argmax(dim=-1) == chunk.targets)
        if calibrated is not None:
            confidences.store(chunk, calibrated.probability(chunk.logits, chunk.targets))
    n_truncated = [len(context) - span.n_context for span, (context, _) in zip(spans, pairs, strict=True)]
    return [
        LogLikelihood(
            logprob=float(values.sum()),
            is_greedy=bool(likeliest.all()),
            token_logprobs=tuple(values.tolist()),
            n_truncated=n_left_out,
            confidence=Confidence(tuple(sure.tolist()), calibrated.method, calibrated.target) if calibrated else None,
        )
        for values, likeliest, sure, n_left_out in zip(logprobs.texts(), greedy.texts(), confidences.texts(), n_truncated, strict=True)
    ]


def rolling_token_logprobs(
    core: LanguageCore,
    texts: Sequence[Sequence[int] | NDArray[np.integer]],
    *,
    prefix_id: int,
    stride: int | None = None,
    max_seq_len: int | None = None,
    max_tokens: int = MAX_TOKENS,
) -> list[NDArray[np.float64]]:
    """log P of every token of every text, in nats; prefix_id stands before the first.

    stride: None scores disjoint windows (the last one reaches back to be full); a number scores so many new tokens a window, each
        with at least window - stride tokens before it. A model that carries its state sees the whole text either way.
    Raises Unsupported for an encoder-decoder, which reads no text without a source.
    """
    _check_stride(stride, bound_of(core, max_seq_len))
    if isinstance(core, NgramModel):
        return [core.token_log_probs(np.concatenate([[prefix_id], np.asarray(text, dtype=np.int64)]))[1:] for text in texts]
    logprobs = _PerToken([len(text) for text in texts], np.float64)
    for chunk in rolling_logits(core, texts, prefix_id=prefix_id, stride=stride, max_seq_len=max_seq_len, max_tokens=max_tokens):
        logprobs.store(chunk, token_logprobs(chunk.logits, chunk.targets))
    return logprobs.texts()


def rolling_logits(
    core: LanguageCore,
    texts: Sequence[Sequence[int] | NDArray[np.integer]],
    *,
    prefix_id: int,
    stride: int | None = None,
    max_seq_len: int | None = None,
    max_tokens: int = MAX_TOKENS,
) -> Iterator[LogitsChunk]:
    """The logits behind `rolling_token_logprobs`, in chunks of bounded size, every token once, in no particular order."""
    _check_predicts(core)
    if reads_source(core):
        raise Unsupported("An encoder-decoder scores one text after reading another; a text alone has no source. Score pairs.")
    bound = bound_of(core, max_seq_len)
    _check_stride(stride, bound)
    spans = [span for row, text in enumerate(texts) for span in _text_spans(row, text, prefix_id, bound, stride)]
    return read_logits(core, spans, max_tokens)


def rolling_windows(n_tokens: int, window: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """(begin, end, first) of each window over n_tokens inputs: inputs begin to end are read, and what follows first to end is scored.

    The first window scores all it holds; every later one `stride` new tokens, or fewer at the end, and is full.
    """
    scored = min(window, n_tokens)
    if scored:
        yield 0, scored, 0
    while scored < n_tokens:
        end = min(scored + stride, n_tokens)
        yield end - window, end, scored
        scored = end


def token_logprobs(logits: Float[Tensor, "N V"], targets: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
    """log softmax(logits) at the targets, in nats."""
    return logits.gather(1, targets[:, None]).squeeze(1) - logits.logsumexp(dim=-1)


def _pair_span(row: int, context: Sequence[int], continuation: Sequence[int], bound: int | None) -> TokenSpan:
    _check_pair(row, context, continuation)
    if bound is not None and len(continuation) > bound:
        raise ConfigError(f"Pair {row}: the continuation has {len(continuation)} tokens and the context holds {bound}; use `rolling`.")
    whole = np.asarray([*context, *continuation], dtype=np.int64)
    inputs = whole[:-1] if bound is None else whole[-(bound + 1) : -1]
    return TokenSpan(row, 0, inputs, whole[len(context) :])


def _source_span(
    row: int, source: Sequence[int], target: Sequence[int], start_id: int, bound: int | None, source_bound: int | None
) -> TokenSpan:
    _check_pair(row, source, target)
    if bound is not None and len(target) > bound:
        raise ConfigError(f"Pair {row}: the continuation has {len(target)} tokens and the decoder holds {bound}; shorten it.")
    targets, kept = np.asarray(target, dtype=np.int64), source if source_bound is None else source[-source_bound:]
    return TokenSpan(row, 0, np.concatenate([[start_id], targets[:-1]]), targets, np.asarray(kept, dtype=np.int64))


def _check_pair(row: int, context: Sequence[int], continuation: Sequence[int]) -> None:
    if not len(context) or not len(continuation):
        raise ConfigError(
            f"Pair {row}: `context` and `continuation` need at least one token each, not {len(context)} and {len(continuation)}."
        )


def _text_spans(
    row: int, text: Sequence[int] | NDArray[np.integer], prefix_id: int, bound: int | None, stride: int | None
) -> Iterator[TokenSpan]:
    tokens = np.asarray(text, dtype=np.int64)
    inputs = np.concatenate([[prefix_id], tokens[:-1]])
    if bound is None:
        bound = max(1, len(tokens))
    for begin, end, first in rolling_windows(len(tokens), bound, stride if stride is not None else bound):
        yield TokenSpan(row, first, inputs[begin:end], tokens[first:end])


class _PerToken:
    """One value for each scored token of each text, filled chunk by chunk."""

    def __init__(self, lengths: Sequence[int], dtype: type) -> None:
        self._starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        self._values = np.empty(self._starts[-1], dtype=dtype)

    def store(self, chunk: LogitsChunk, values: Float[Tensor, " N"] | Bool[Tensor, " N"]) -> None:
        self._values[self._starts[chunk.rows] + chunk.places] = values.cpu().numpy()

    def texts(self) -> list[NDArray[Any]]:
        return np.split(self._values, self._starts[1:-1]) if len(self._starts) > 1 else []


def _check_predicts(core: LanguageCore) -> None:
    """Logits of other heads are no next-token logits, and an encoder has seen what it would be asked for."""
    if not isinstance(core, NgramModel) and not core.spec.predicts_tokens:
        raise Unsupported("This model predicts no next token, so no text can be scored with it: that needs a decoder of a language model.")


def _check_stride(stride: int | None, bound: int | None) -> None:
    is_whole = isinstance(stride, int) and not isinstance(stride, bool)
    if stride is not None and (not is_whole or stride < 1 or (bound is not None and stride > bound)):
        raise ConfigError(
            f"`stride` ({stride}) must be a whole number from 1{f' to the context of {bound} tokens' if bound is not None else ''}."
        )
