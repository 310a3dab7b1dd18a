"""Labels with their probabilities: of whole texts (`classify`) and of the words in them (`tag`).

A word is a run of letters and digits, one character of a script written without spaces, or one other sign; its label is that of its first
token, as models are trained. Words of one entity are put together by the scheme that the labels are written in (BIO, BIOES, plain).
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from touchstone.infer.reading import Row, read_answers, reading_length
from touchstone.infer.request import Confidence
from touchstone.models.heads import ClassifyHead
from touchstone.models.net import LanguageNet
from touchstone.text.conll import scheme_of, spans_of, to_bio
from touchstone.text.token_kinds import is_unspaced
from touchstone.text.tokenizer import Encoded, Tokenizer

__all__ = ["Classification", "Entity", "TaggedWord", "Tagging", "Text", "classify_rows", "encode_text", "tag_texts"]

Text = str | tuple[str, str]
"""A text, or a pair such as premise and hypothesis."""


@dataclass(frozen=True, slots=True)
class Classification:
    """The likeliest label of a text, and the probability of each.

    probabilities: in the order of the model's labels; they add up to 1 unless the labels do not exclude each other.
    labels: all that apply (probability above one half) where they do not exclude each other, else the likeliest alone.
    value: the number of a regression, which has no labels; None otherwise, and where it has several, which `logits` holds.
    logits: the raw scores.
    n_cut: tokens of the text that were left out.
    """

    label: str | None
    labels: tuple[str, ...]
    probabilities: dict[str, float]
    logits: tuple[float, ...]
    value: float | None = None
    n_cut: int = 0
    confidence: Confidence | None = None
    confidence_reason: str | None = None


@dataclass(frozen=True, slots=True)
class TaggedWord:
    """A word, its characters in the text, its likeliest label and the probability of that."""

    text: str
    start: int
    end: int
    label: str
    probability: float


@dataclass(frozen=True, slots=True)
class Entity:
    """Words that belong together; probability: the lowest of its words'."""

    text: str
    start: int
    end: int
    label: str
    probability: float


@dataclass(frozen=True, slots=True)
class Tagging:
    """The words of a text with their labels, and the entities that they make."""

    words: tuple[TaggedWord, ...]
    entities: tuple[Entity, ...]


def encode_text(tokenizer: Tokenizer, text: Text, max_length: int | None) -> Encoded:
    """A text or pair with what its tokenizer puts around it, cut to max_length."""
    first, second = (text, None) if isinstance(text, str) else text
    return tokenizer.encode_special(first, second, max_length=max_length)


def classify_rows(net: LanguageNet, rows: Sequence[Row], labels: Sequence[str], n_cut: Sequence[int]) -> list[Classification]:
    """One answer a row."""
    head = net.spec.head
    assert isinstance(head, ClassifyHead)
    return [
        _classification(logits.double().cpu(), labels, head.problem, cut)
        for logits, cut in zip(read_answers(net, rows), n_cut, strict=True)
    ]


def _classification(logits: Float[Tensor, " L"], labels: Sequence[str], problem: str, n_cut: int) -> Classification:
    scores = tuple(logits.tolist())
    if problem == "regression":
        return Classification(None, (), {}, scores, value=scores[0] if len(scores) == 1 else None, n_cut=n_cut)
    many = problem == "multi-label"
    probabilities = dict(zip(labels, (logits.sigmoid() if many else logits.softmax(-1)).tolist(), strict=True))
    best = max(probabilities, key=lambda label: probabilities[label])
    chosen = tuple(label for label, p in probabilities.items() if p > 0.5) if many else (best,)
    return Classification(best, chosen, probabilities, scores, n_cut=n_cut)


def tag_texts(net: LanguageNet, tokenizer: Tokenizer, texts: Sequence[str], labels: Sequence[str], stride: int) -> list[Tagging]:
    """Every word of every text; a text longer than the model reads is read in windows, and a word is judged where it has most around it.

    stride: tokens that two windows have in common.
    """
    windows = [_windows(tokenizer, text, reading_length(net), stride) for text in texts]
    flat = [window for parts in windows for window in parts]
    scores = iter(read_answers(net, [Row.of(window, net) for window in flat]))
    scheme = scheme_of([list(labels)])
    return [_tagging(text, [(part, next(scores)) for part in parts], labels, scheme) for text, parts in zip(texts, windows, strict=True)]


def _windows(tokenizer: Tokenizer, text: str, longest: int | None, stride: int) -> list[Encoded]:
    whole = tokenizer.encode_special(text)
    if longest is None or len(whole.token_ids) <= longest:
        return [whole]
    return tokenizer.encode_windows(text, max_length=longest, stride=min(stride, longest // 2))


def _tagging(text: str, parts: Sequence[tuple[Encoded, Tensor]], labels: Sequence[str], scheme: str) -> Tagging:
    best: dict[int, tuple[int, Tensor]] = {}  # where a token begins -> tokens on its nearer side, its scores
    for part, scores in parts:
        for start, (around, row) in _firsts(text, part, scores).items():
            if start not in best or around > best[start][0]:
                best[start] = around, row
    words = []
    for start, end in _words(text):
        first = next((place for place in range(start, end) if place in best), None)
        if first is None:
            continue  # white space, or what the tokenizer has no token for
        probabilities = best[first][1].softmax(-1)
        label = int(probabilities.argmax())
        words.append(TaggedWord(text[start:end], start, end, labels[label], float(probabilities[label])))
    return Tagging(tuple(words), tuple(_entities(text, words, scheme)))


def _firsts(text: str, part: Encoded, scores: Tensor) -> dict[int, tuple[int, Tensor]]:
    """For each character that a token begins with, white space left out: how many tokens stand on its nearer side, and its scores."""
    found: dict[int, tuple[int, Tensor]] = {}
    for place, (side, (start, end)) in enumerate(zip(part.sides, part.offsets, strict=True)):
        while start < end and text[start].isspace():
            start += 1
        if side is not None and start < end:
            found.setdefault(start, (min(place, len(part.sides) - 1 - place), scores[place]))
    return found


def _entities(text: str, words: Sequence[TaggedWord], scheme: str) -> list[Entity]:
    tags = [word.label for word in words]
    if scheme == "plain":
        spans = {(n, n + 1, tag) for n, tag in enumerate(tags) if tag != "O"}
    else:
        spans = spans_of(to_bio(tags, scheme)[0])  # type: ignore[arg-type]
    found = []
    for first, behind, label in sorted(spans):
        members = words[first:behind]
        start, end = members[0].start, members[-1].end
        found.append(Entity(text[start:end], start, end, label, min(word.probability for word in members)))
    return found


def _words(text: str) -> list[tuple[int, int]]:
    """The words of a text as (start, end) characters."""
    words: list[tuple[int, int]] = []
    for place, char in enumerate(text):
        if char.isspace():
            continue
        goes_on = words and words[-1][1] == place and _joins(text[place - 1]) and _joins(char)
        if goes_on:
            words[-1] = (words[-1][0], place + 1)
        else:
            words.append((place, place + 1))
    return words


def _joins(char: str) -> bool:
    return (char.isalnum() or unicodedata.category(char)[0] == "M") and not is_unspaced(char)
