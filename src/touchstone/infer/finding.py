"""Finding: where in a context a question is answered (`span`), and what stands behind a mask (`fill_mask`).

The probability of an answer is its share of exp(begin + end) over all spans of the context and "no answer", which the mark in front of
the text stands for. Source: Devlin et al. 2019 §4.2 and §4.3.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from touchstone.errors import ConfigError
from touchstone.infer.reading import Row, read_answers, reading_length
from touchstone.infer.request import Confidence
from touchstone.models.net import LanguageNet
from touchstone.text.tokenizer import Encoded, Tokenizer

__all__ = ["FilledMask", "FilledToken", "SpanAnswer", "answer_question", "fill_masks"]


@dataclass(frozen=True, slots=True)
class SpanAnswer:
    """A stretch of the context, as characters of it, and its probability; n_answer: that the context holds no answer at all."""

    text: str
    start: int
    end: int
    probability: float
    no_answer: float
    confidence: Confidence | None = None
    confidence_reason: str | None = None


@dataclass(frozen=True, slots=True)
class FilledToken:
    """A token for a mask: its text, and its probability among all tokens."""

    token_id: int
    text: str
    probability: float


@dataclass(frozen=True, slots=True)
class FilledMask:
    """The likeliest tokens for one mask of a text, best first; place: which of the text's tokens the mask is."""

    place: int
    tokens: tuple[FilledToken, ...]


def answer_question(
    net: LanguageNet, tokenizer: Tokenizer, question: str, context: str, *, n_best: int, max_tokens: int, stride: int
) -> list[SpanAnswer]:
    """The n_best answers, best first, without white space at their ends; spans that spell the same characters are one.

    max_tokens: the longest answer. stride: tokens that two windows of a long context have in common.
    """
    windows = _windows(tokenizer, question, context, reading_length(net), stride)
    scores = read_answers(net, [Row.of(window, net) for window in windows])
    found: dict[tuple[int, int], float] = {}
    nulls = []
    begins, ends = _visible(context)
    for window, row in zip(windows, scores, strict=True):
        nulls.append(float(row[0].sum()))
        for (first, last), score in _spans(window, row.double().cpu(), max_tokens).items():
            characters = begins[window.offsets[first][0]], ends[window.offsets[last][1]]
            if characters[0] < characters[1]:
                found[characters] = max(score, found.get(characters, score))
    return _ranked(context, found, min(nulls), n_best)


def _windows(tokenizer: Tokenizer, question: str, context: str, longest: int | None, stride: int) -> list[Encoded]:
    whole = tokenizer.encode_special(question, context)
    if longest is None or len(whole.token_ids) <= longest:
        return [whole]
    room = longest - (len(whole.token_ids) - sum(side == 1 for side in whole.sides))
    if room < 2:
        raise ConfigError(f"The question leaves {max(room, 0)} of {longest} tokens for its context; shorten it.")
    return tokenizer.encode_windows(question, context, max_length=longest, stride=min(stride, room // 2))


def _visible(text: str) -> tuple[list[int], list[int]]:
    """For each place between characters, the first one from it on with no white space behind, and the last up to it with none before."""
    begins, ends = list(range(len(text) + 1)), list(range(len(text) + 1))
    for place, char in enumerate(text):
        if char.isspace():
            ends[place + 1] = ends[place]
    for place in range(len(text) - 1, -1, -1):
        if text[place].isspace():
            begins[place] = begins[place + 1]
    return begins, ends


def _spans(window: Encoded, scores: Float[Tensor, "T 2"], max_tokens: int) -> dict[tuple[int, int], float]:
    """begin + end of every pair of context tokens that may be an answer."""
    places = [place for place, side in enumerate(window.sides) if side == 1]
    if not places:
        return {}
    first, behind = places[0], places[-1] + 1
    sums = scores[first:behind, None, 0] + scores[None, first:behind, 1]  # (C, C)
    allowed = torch.ones_like(sums, dtype=torch.bool).triu().tril(max_tokens - 1)
    pairs = allowed.nonzero().tolist()
    return {(first + a, first + b): value for (a, b), value in zip(pairs, sums[allowed].tolist(), strict=True)}


def _ranked(context: str, found: dict[tuple[int, int], float], null: float, n_best: int) -> list[SpanAnswer]:
    spans = sorted(found, key=lambda span: (-found[span], span))
    shares = torch.tensor([null, *(found[span] for span in spans)], dtype=torch.float64).softmax(0).tolist()
    return [
        SpanAnswer(context[start:end], start, end, share, shares[0])
        for (start, end), share in zip(spans[:n_best], shares[1:], strict=False)
    ]


def fill_masks(net: LanguageNet, tokenizer: Tokenizer, texts: Sequence[str], top_k: int, max_length: int | None) -> list[list[FilledMask]]:
    """For each text the masks in it, in order.

    Raises ConfigError for a text without the mask token, with another special token, or longer than max_length.
    """
    mask_id = tokenizer.mask_id
    if mask_id is None:
        raise ConfigError("This model's tokenizer has no mask token, so no text can hold one.")
    rows, places = [], []
    for number, text in enumerate(texts):
        encoded = tokenizer.encode_special(text, allow_special=True)
        places.append(_mask_places(tokenizer, encoded, mask_id, number))
        rows.append(Row.of(encoded, net))
    if max_length is not None and (long := [n for n, row in enumerate(rows) if len(row.token_ids) > max_length]):
        raise ConfigError(f"Text {long[0]} has {len(rows[long[0]].token_ids)} tokens, and the model reads {max_length}; shorten it.")
    answers = read_answers(net, rows)
    return [[_filled(tokenizer, place, scores[place], top_k) for place in masks] for masks, scores in zip(places, answers, strict=True)]


def _mask_places(tokenizer: Tokenizer, encoded: Encoded, mask_id: int, number: int) -> list[int]:
    shown = tokenizer.token_text(mask_id)
    inside = [(place, token) for place, (token, side) in enumerate(zip(encoded.token_ids, encoded.sides, strict=True)) if side is not None]
    masks = [place for place, token in inside if token == mask_id]
    if not masks:
        raise ConfigError(f"Text {number} has no `{shown}`, which marks the word to fill in.")
    if others := [token for _, token in inside if token != mask_id and token in tokenizer.special_ids and token != tokenizer.unk_id]:
        raise ConfigError(f"Text {number} spells the special token `{tokenizer.token_text(others[0])}`; only `{shown}` may stand in it.")
    return masks


def _filled(tokenizer: Tokenizer, place: int, logits: Float[Tensor, " V"], top_k: int) -> FilledMask:
    best = logits.double().softmax(-1).topk(min(top_k, len(logits)))
    tokens = [
        FilledToken(token, tokenizer.decode([token], skip_special=False).strip(), probability)
        for token, probability in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
    return FilledMask(place, tuple(tokens))
