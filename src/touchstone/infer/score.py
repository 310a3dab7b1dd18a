"""How likely a model finds given text: continuations of contexts, and whole texts of any length.

A text is cut into spans, each a run of input tokens of which the last few predict a scored token; a model without a bound on its
length (recurrent, n-gram) takes a whole text as one span and carries its state through. An encoder-decoder reads the context as its
source and scores the continuation as its target, from the start token on. Spans are batched by padded tokens. Only the hidden states
of scored tokens meet the head, a bounded number of rows at a time, so no (N, T, V) tensor is ever made.
Windows and pair encoding are those of lm-evaluation-harness 0.4.9 (`get_rolling_token_windows`, `make_disjoint_window`,
`TemplateLM._encode_pair`), so figures can be compared.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from touchstone.errors import ConfigError, DataError, Unsupported
from touchstone.infer.calibration import Calibrated
from touchstone.infer.request import Confidence
from touchstone.infer.runner import LanguageCore, at_least_fp32, bound_of, checked_start, evaluating, padded_sources, reads_source
from touchstone.models.net import LanguageNet
from touchstone.models.ngram import NgramModel
from touchstone.nn.cache import DecodingState
from touchstone.text.batch import group_by_token_budget
from touchstone.text.tokenizer import Tokenizer

__all__ = [
    "LogLikelihood",
    "LogitsChunk",
    "Rolling",
    "encode_pair",
    "encode_source_pair",
    "loglikelihood",
    "rolling_logits",
    "rolling_token_logprobs",
    "rolling_windows",
    "token_logprobs",
]

MAX_TOKENS = 4096  # padded tokens of one forward pass
MAX_LOGITS = 2**22  # logits made at once: 16 MB in fp32, small enough to stay near the core
_CARRY_WIDTH = 256  # tokens a row of one forward pass while a state is carried


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


@dataclass(frozen=True)
class LogitsChunk:
    """Next-token logits of some scored tokens, with what came next, which text it is of and its place there."""

    logits: Float[Tensor, "N V"]
    targets: Int[Tensor, " N"]
    rows: NDArray[np.int64]
    places: NDArray[np.int64]


def encode_pair(tokenizer: Tokenizer, context: str, continuation: str, prefix_id: int | None) -> tuple[list[int], list[int]]:
    """Token ids of context and continuation, split as lm-evaluation-harness does.

    Trailing white space of the context moves to the continuation; the continuation's tokens are those of the joined text after as many
    as the context has alone (where the joined text has no more, the harness fails; here the two are encoded apart). An empty context
    becomes prefix_id.
    Raises ConfigError for an empty continuation, or an empty context without prefix_id.
    """
    kept = context.rstrip()
    continuation = context[len(kept) :] + continuation
    if not continuation:
        raise ConfigError("`continuation` is empty; there is nothing to score.")
    if not kept:
        if prefix_id is None:
            raise ConfigError("An empty `context` needs a beginning- or end-of-text token, and this tokenizer has neither; give a context.")
        return [prefix_id], list(tokenizer.encode(continuation))
    alone, joined = list(tokenizer.encode(kept)), list(tokenizer.encode(kept + continuation))
    rest = joined[len(alone) :]
    return alone, rest or list(tokenizer.encode(continuation))


def encode_source_pair(tokenizer: Tokenizer, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Token ids of a source, with what the tokenizer puts around it, and of a target, with nothing added, each encoded alone.

    Raises ConfigError where either has no token.
    """
    source, target = list(tokenizer.encode_special(context).token_ids), list((tokenizer.target or tokenizer).encode(continuation))
    if not source or not target:
        empty = " and ".join(f"`{name}`" for name, ids in (("context", source), ("continuation", target)) if not ids)
        raise ConfigError(f"{empty} has no token; an encoder-decoder scores one text after reading another, so give both.")
    return source, target


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
    for chunk in _chunks(core, spans, max_tokens):
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
    return _chunks(core, spans, max_tokens)


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


@dataclass(frozen=True, slots=True)
class _Span:
    """Input tokens of one row; the last n_scored of them predict `targets`, which stand at `first` and after in the text.

    source: what the encoder of an encoder-decoder reads.
    """

    row: int
    first: int
    inputs: NDArray[np.int64]
    targets: NDArray[np.int64]
    source: NDArray[np.int64] | None = None

    @property
    def n_scored(self) -> int:
        return len(self.targets)

    @property
    def n_context(self) -> int:
        """Tokens read that are not scored themselves; of an encoder-decoder, the source's."""
        return len(self.inputs) + 1 - self.n_scored if self.source is None else len(self.source)

    @property
    def n_tokens(self) -> int:
        """What a batch is measured by."""
        return len(self.inputs) + (0 if self.source is None else len(self.source))


def _pair_span(row: int, context: Sequence[int], continuation: Sequence[int], bound: int | None) -> _Span:
    _check_pair(row, context, continuation)
    if bound is not None and len(continuation) > bound:
        raise ConfigError(f"Pair {row}: the continuation has {len(continuation)} tokens and the context holds {bound}; use `rolling`.")
    whole = np.asarray([*context, *continuation], dtype=np.int64)
    inputs = whole[:-1] if bound is None else whole[-(bound + 1) : -1]
    return _Span(row, 0, inputs, whole[len(context) :])


def _source_span(
    row: int, source: Sequence[int], target: Sequence[int], start_id: int, bound: int | None, source_bound: int | None
) -> _Span:
    _check_pair(row, source, target)
    if bound is not None and len(target) > bound:
        raise ConfigError(f"Pair {row}: the continuation has {len(target)} tokens and the decoder holds {bound}; shorten it.")
    targets, kept = np.asarray(target, dtype=np.int64), source if source_bound is None else source[-source_bound:]
    return _Span(row, 0, np.concatenate([[start_id], targets[:-1]]), targets, np.asarray(kept, dtype=np.int64))


def _check_pair(row: int, context: Sequence[int], continuation: Sequence[int]) -> None:
    if not len(context) or not len(continuation):
        raise ConfigError(
            f"Pair {row}: `context` and `continuation` need at least one token each, not {len(context)} and {len(continuation)}."
        )


def _text_spans(
    row: int, text: Sequence[int] | NDArray[np.integer], prefix_id: int, bound: int | None, stride: int | None
) -> Iterator[_Span]:
    tokens = np.asarray(text, dtype=np.int64)
    inputs = np.concatenate([[prefix_id], tokens[:-1]])
    if bound is None:
        bound = max(1, len(tokens))
    for begin, end, first in rolling_windows(len(tokens), bound, stride if stride is not None else bound):
        yield _Span(row, first, inputs[begin:end], tokens[first:end])


def _chunks(core: LanguageCore, spans: Sequence[_Span], max_tokens: int) -> Iterator[LogitsChunk]:
    if isinstance(core, NgramModel):
        return _ngram_chunks(core, spans)
    if core.spec.max_seq_len is None and not reads_source(core):
        return _carried_chunks(core, spans, max_tokens)
    return _padded_chunks(core, spans, max_tokens)


def _padded_chunks(net: LanguageNet, spans: Sequence[_Span], max_tokens: int) -> Iterator[LogitsChunk]:
    """Right-padded batches. No mask: padding comes after every token that is scored, where a causal model does not look."""
    lengths = np.array([span.n_tokens for span in spans], dtype=np.int64)
    together = group_by_token_budget(lengths, max(max_tokens, lengths.max(initial=0))) if max_tokens else [[n] for n in range(len(spans))]
    for group in together:
        batch = [spans[index] for index in group]
        hidden = _read(net, [span.inputs for span in batch], None, [span.source for span in batch if span.source is not None])
        yield from _head_chunks(net, hidden, batch, 0)


def _carried_chunks(net: LanguageNet, spans: Sequence[_Span], max_tokens: int) -> Iterator[LogitsChunk]:
    """Whole spans side by side, longest first, a few columns at a time; the state moves on and finished rows leave."""
    longest_first = sorted(spans, key=lambda span: -len(span.inputs))
    n_rows = max(1, max_tokens // _CARRY_WIDTH)
    for place in range(0, len(longest_first), n_rows):
        batch = longest_first[place : place + n_rows]
        cache = net.new_cache(len(batch))
        for start in range(0, len(batch[0].inputs), _CARRY_WIDTH):
            n_left = sum(len(span.inputs) > start for span in batch)
            if n_left < len(batch):
                batch = batch[:n_left]
                cache.keep(torch.arange(n_left, device=cache.lengths.device))
            hidden = _read(net, [span.inputs[start : start + _CARRY_WIDTH] for span in batch], cache)
            yield from _head_chunks(net, hidden, batch, start)


def _ngram_chunks(model: NgramModel, spans: Sequence[_Span]) -> Iterator[LogitsChunk]:
    n_rows = max(1, MAX_LOGITS // model.spec.vocab_size)
    for span in spans:
        for low in range(0, span.n_scored, n_rows):
            places = np.arange(low, min(low + n_rows, span.n_scored))
            ends = places + len(span.inputs) - span.n_scored + 1
            contexts = [span.inputs[max(0, end - max(1, model.context_length)) : end] for end in ends]
            logits = torch.from_numpy(model.next_log_probs_batch(contexts))
            yield LogitsChunk(logits, torch.from_numpy(span.targets[places]), np.full(len(places), span.row), span.first + places)


@torch.no_grad()
def _read(
    net: LanguageNet, rows: Sequence[NDArray[np.int64]], cache: DecodingState | None, sources: Sequence[NDArray[np.int64]] = ()
) -> Float[Tensor, "B T D"]:
    token_ids = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
    for place, row in enumerate(rows):
        token_ids[place, : len(row)] = row
    device = net.embed.weight.device
    source_ids, source_mask = padded_sources(sources, device) if sources else (None, None)
    with evaluating(net):
        return net.body(torch.from_numpy(token_ids).to(device), source_ids=source_ids, source_mask=source_mask, cache=cache).hidden


def _head_chunks(net: LanguageNet, hidden: Float[Tensor, "B T D"], batch: Sequence[_Span], start: int) -> Iterator[LogitsChunk]:
    """Logits of the scored tokens among the columns `start` and on, a bounded number at a time."""
    parts = []
    for place, span in enumerate(batch):
        n_before = len(span.inputs) - span.n_scored  # inputs that predict nothing scored
        column = np.arange(max(n_before, start), min(len(span.inputs), start + hidden.shape[1]))
        scored = column - n_before
        parts.append(
            (np.full(len(column), place), column - start, span.targets[scored], np.full(len(column), span.row), span.first + scored)
        )
    places, columns, targets, rows, places_in_text = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    n_rows = max(1, MAX_LOGITS // net.spec.vocab_size)
    for low in range(0, len(places), n_rows):
        part = slice(low, low + n_rows)
        with torch.no_grad(), evaluating(net):
            logits = at_least_fp32(net.head(hidden[torch.from_numpy(places[part]), torch.from_numpy(columns[part])]))  # (N, V)
        yield LogitsChunk(logits, torch.from_numpy(targets[part]).to(logits.device), rows[part], places_in_text[part])


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
