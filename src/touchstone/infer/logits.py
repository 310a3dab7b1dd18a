"""Next-token logits of scored tokens, a bounded number at a time, for any kind of model.

A `TokenSpan` is a run of input tokens of which the last few predict a scored token. A decoder on a CPU reads spans packed, what they
begin with in common once (`trie`); other networks read them padded, batched by tokens; a model without a bound on its length carries its
state through. Only the hidden states of scored tokens meet the head, so no (N, T, V) tensor is ever made.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from touchstone.infer.packed_body import PackedBody, can_pack
from touchstone.infer.packed_layer import Span, Step
from touchstone.infer.runner import LanguageCore, at_least_fp32, evaluating, padded_sources, reads_source
from touchstone.infer.trie import Trie, grow_tries
from touchstone.models.net import LanguageNet
from touchstone.models.ngram import NgramModel
from touchstone.models.transformer import Decoder
from touchstone.nn.cache import DecodingState
from touchstone.text.batch import group_by_token_budget

__all__ = ["MAX_TOKENS", "LogitsChunk", "TokenSpan", "read_logits"]

MAX_TOKENS = 4096  # tokens of one forward pass, padding included
MAX_LOGITS = 2**22  # logits made at once: 16 MB in fp32, small enough to stay near the core
_CARRY_WIDTH = 256  # tokens a row of one forward pass while a state is carried


@dataclass(frozen=True, slots=True)
class TokenSpan:
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


@dataclass(frozen=True)
class LogitsChunk:
    """Next-token logits of some scored tokens, with what came next, which text it is of and its place there."""

    logits: Float[Tensor, "N V"]
    targets: Int[Tensor, " N"]
    rows: NDArray[np.int64]
    places: NDArray[np.int64]


def read_logits(core: LanguageCore, spans: Sequence[TokenSpan], max_tokens: int) -> Iterator[LogitsChunk]:
    """The logits of every scored token of the spans, in no particular order. max_tokens: of one forward pass; 0 = every span alone."""
    if isinstance(core, NgramModel):
        return _ngram_chunks(core, spans)
    if core.spec.max_seq_len is None and not reads_source(core):
        return _carried_chunks(core, spans, max_tokens)
    if max_tokens and isinstance(core, Decoder) and can_pack(core) and core.embed.weight.device.type == "cpu":
        return _packed_chunks(core, spans, max_tokens)
    return _padded_chunks(core, spans, max_tokens)


def _packed_chunks(net: Decoder, spans: Sequence[TokenSpan], max_tokens: int) -> Iterator[LogitsChunk]:
    """Tries of spans side by side, without padding."""
    body = PackedBody(net, net.decoder)
    tries = grow_tries([span.inputs for span in spans], d_model=net.spec.d_model, most=max_tokens)
    for group in _together(tries, max_tokens):
        scored = [_at_nodes(trie, first, spans) for trie, first in zip(group, _starts(group), strict=True)]
        with torch.inference_mode(), evaluating(net):
            step = _packed_step(group, net.embed.weight.device)
            hidden = body.final_norm(body.hidden(step, body.passing_caches(len(step.token_ids))))
        yield from _head_chunks(net, hidden, _Scored.joined(scored))


def _together(tries: Iterable[Trie], most: int) -> Iterator[list[Trie]]:
    """Groups of tries of at most so many tokens; a larger one is alone."""
    group: list[Trie] = []
    for trie in tries:
        if group and sum(each.n_tokens for each in group) + trie.n_tokens > most:
            yield group
            group = []
        group.append(trie)
    if group:
        yield group


def _starts(group: Sequence[Trie]) -> list[int]:
    """Where the nodes of each trie begin among those of all."""
    return list(accumulate((trie.n_tokens for trie in group), initial=0))[:-1]


def _at_nodes(trie: Trie, first: int, spans: Sequence[TokenSpan]) -> "_Scored":
    rows = [spans[row] for row in trie.rows]
    at = [first + path[len(path) - span.n_scored :] for path, span in zip(trie.paths, rows, strict=True)]
    return _Scored.joined([_Scored.of(span, nodes, 0) for span, nodes in zip(rows, at, strict=True)])


def _packed_step(group: Sequence[Trie], device: torch.device) -> Step:
    spans = []
    for trie, low in zip(group, _starts(group), strict=True):
        high = low + trie.n_tokens
        distance = None if trie.is_text else torch.from_numpy(trie.distance()).to(device)
        spans.append(Span(low, high, 0, trie.n_tokens, [(low, high)], distance))
    token_ids = torch.tensor([token for trie in group for token in trie.token_ids], device=device)
    positions = torch.from_numpy(np.concatenate([trie.positions for trie in group])).to(device)
    return Step(token_ids, positions, None, spans)


def _padded_chunks(net: LanguageNet, spans: Sequence[TokenSpan], max_tokens: int) -> Iterator[LogitsChunk]:
    """Right-padded batches. No mask: padding comes after every token that is scored, where a causal model does not look."""
    lengths = np.array([span.n_tokens for span in spans], dtype=np.int64)
    together = group_by_token_budget(lengths, max(max_tokens, lengths.max(initial=0))) if max_tokens else [[n] for n in range(len(spans))]
    for group in together:
        batch = [spans[index] for index in group]
        hidden = _read(net, [span.inputs for span in batch], None, [span.source for span in batch if span.source is not None])
        yield from _head_chunks(net, hidden.flatten(0, 1), _at_columns(batch, 0, hidden.shape[1]))


def _carried_chunks(net: LanguageNet, spans: Sequence[TokenSpan], max_tokens: int) -> Iterator[LogitsChunk]:
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
            yield from _head_chunks(net, hidden.flatten(0, 1), _at_columns(batch, start, hidden.shape[1]))


def _ngram_chunks(model: NgramModel, spans: Sequence[TokenSpan]) -> Iterator[LogitsChunk]:
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


@dataclass(frozen=True)
class _Scored:
    """Scored tokens: where the hidden state lies that predicts each, the token, its text, and its place there."""

    at: NDArray[np.int64]
    targets: NDArray[np.int64]
    rows: NDArray[np.int64]
    places: NDArray[np.int64]

    @classmethod
    def of(cls, span: TokenSpan, at: NDArray[np.int64], first: int) -> "_Scored":
        """The scored tokens of a span from the first-th on; `at`: where their hidden states lie."""
        last = first + len(at)
        return cls(at, span.targets[first:last], np.full(len(at), span.row), span.first + np.arange(first, last))

    @classmethod
    def joined(cls, parts: Sequence["_Scored"]) -> "_Scored":
        return cls(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(cls)))

    def ordered(self) -> "_Scored":
        """By where they lie, so that tokens which one hidden state predicts are neighbours."""
        order = np.argsort(self.at, kind="stable")
        return _Scored(self.at[order], self.targets[order], self.rows[order], self.places[order])


def _at_columns(batch: Sequence[TokenSpan], start: int, width: int) -> _Scored:
    """The scored tokens of padded rows of which the columns from `start` on, so many, were read."""
    parts = []
    for place, span in enumerate(batch):
        n_before = len(span.inputs) - span.n_scored  # inputs that predict nothing scored
        columns = np.arange(max(n_before, start), min(len(span.inputs), start + width))
        parts.append(_Scored.of(span, place * width + columns - start, max(n_before, start) - n_before))
    return _Scored.joined(parts)


def _head_chunks(net: LanguageNet, hidden: Float[Tensor, "M D"], scored: _Scored) -> Iterator[LogitsChunk]:
    """Logits of the scored tokens, a bounded number at a time; those that one hidden state predicts are computed once."""
    scored = scored.ordered()
    n_rows = max(1, MAX_LOGITS // net.spec.vocab_size)
    for low in range(0, len(scored.at), n_rows):
        part = slice(low, low + n_rows)
        at, of = np.unique(scored.at[part], return_inverse=True)
        with torch.no_grad(), evaluating(net):
            logits = at_least_fp32(net.head(hidden[torch.from_numpy(at)]))  # (N, V)
        if len(at) < len(of):
            logits = logits[torch.from_numpy(of)]
        yield LogitsChunk(logits, torch.from_numpy(scored.targets[part]).to(logits.device), scored.rows[part], scored.places[part])
