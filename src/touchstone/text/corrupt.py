"""Text with parts hidden for a model to restore: tokens under a mask (BERT) and spans under sentinels (T5).

Pure functions of token ids and a generator that comes from a key, so a text has the same noise in whatever batch it stands, and new noise
for every new key. The noises of BART are in denoise.py.
Sources: Devlin et al. 2019 §3.1 and Appendix A.1, whole words as in BERT's later models (create_pretraining_data.py); Raffel et al.
2020 §3.1.4, `random_spans_noise_mask` and `random_spans_helper` of t5/data/preprocessors.py.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from touchstone.errors import ConfigError
from touchstone.text.token_kinds import TokenKinds

__all__ = [
    "HiddenSpans",
    "MaskedTokens",
    "SpanLengths",
    "corrupt_spans",
    "generator_of",
    "mask_tokens",
    "noise_mask",
    "span_lengths",
]

Ids = NDArray[np.int64]
Flags = NDArray[np.bool_]

MASKED_SHARE, RANDOM_SHARE = 0.8, 0.1
"""Of the chosen tokens: hidden behind the mask, and replaced by a random token; the rest stay as they are."""


@dataclass(frozen=True, slots=True, eq=False)
class MaskedTokens:
    """token_ids (T,): the text with tokens hidden; is_chosen (T,): which ones are to be restored."""

    token_ids: Ids
    is_chosen: Flags


@dataclass(frozen=True, slots=True, eq=False)
class HiddenSpans:
    """source: the text with a sentinel in the place of each span; target: the sentinels, each with its span behind it."""

    source: Ids
    target: Ids


@dataclass(frozen=True, slots=True)
class SpanLengths:
    """Tokens of text that make a source of a wanted length, and the lengths that come out; the end marks are counted."""

    n_tokens: int
    n_source: int
    n_target: int


def generator_of(key: int) -> np.random.Generator:
    """The random numbers of one key (64 bits, of either sign)."""
    return np.random.Generator(np.random.Philox(key=key % (1 << 64)))


def mask_tokens(
    token_ids: Ids, rng: np.random.Generator, *, mask_id: int, kinds: TokenKinds, share: float = 0.15, whole_words: bool = False
) -> MaskedTokens:
    """Choose a share of the ordinary tokens, at least one, and hide them: four in five by the mask, one in ten by another token.

    whole_words: all tokens of a word are chosen or none; words are drawn while they fit the share, and one at least.
    Special tokens are neither chosen nor put in; a text of special tokens alone comes back as it was.
    """
    chosen = np.zeros(len(token_ids), dtype=bool)
    candidates = np.flatnonzero(~kinds.is_special[token_ids])
    hidden = token_ids.copy()
    if not candidates.size:
        return MaskedTokens(hidden, chosen)
    n_wanted = max(1, round(candidates.size * share))
    picks = _whole_words(token_ids, candidates, n_wanted, rng, kinds) if whole_words else rng.permutation(candidates)[:n_wanted]
    chosen[picks] = True
    places = np.flatnonzero(chosen)
    fate, ordinary = rng.random(places.size), kinds.ordinary
    others = ordinary[rng.integers(ordinary.size, size=places.size)]
    hidden[places] = np.where(fate < MASKED_SHARE, mask_id, np.where(fate < MASKED_SHARE + RANDOM_SHARE, others, token_ids[places]))
    return MaskedTokens(hidden, chosen)


def corrupt_spans(token_ids: Ids, is_noise: Flags, sentinel_ids: Ids) -> HiddenSpans:
    """Put a sentinel for each run of noise, and in the target one for each run of the others: together they hold the text once.

    sentinel_ids: in the order of use, T5's `<extra_id_0>` first. Neither side ends in an end mark yet.
    Raises ConfigError when there are more runs than sentinels.
    """
    return HiddenSpans(_with_sentinels(token_ids, is_noise, sentinel_ids), _with_sentinels(token_ids, ~is_noise, sentinel_ids))


def noise_mask(length: int, rng: np.random.Generator, *, density: float = 0.15, mean_span: float = 3.0) -> Flags:
    """Which of `length` tokens are noise: round(length * density) of them in spans of `mean_span` on average; the first never is one.

    Noise and rest are cut into as many runs each, at places drawn evenly, and take turns. A text of one token has no noise.
    """
    padded = max(length, 2)
    n_noise, n_spans = _noise(padded, density, mean_span)
    runs = np.stack([_cut_evenly(padded - n_noise, n_spans, rng), _cut_evenly(n_noise, n_spans, rng)], axis=1).ravel()
    return np.repeat(np.arange(runs.size) % 2 == 1, runs)[:length]


def span_lengths(longest: int, *, density: float = 0.15, mean_span: float = 3.0) -> SpanLengths:
    """The longest text whose source and whose target, with their sentinels and an end mark, have at most `longest` tokens.

    T5's 512 comes from 568 tokens of text and gives targets of 114. T5 holds the target to the length at a density of 0.5 alone.
    """
    n_tokens = longest
    while _lengths(n_tokens + 1, density, mean_span).n_source <= longest:
        n_tokens += 1
    while n_tokens > 1 and max(_lengths(n_tokens, density, mean_span).n_source, _lengths(n_tokens, density, mean_span).n_target) > longest:
        n_tokens -= 1
    if n_tokens < 2:
        raise ConfigError(f"sources and targets of {longest} tokens hold no text with a hidden span; raise `context`.")
    return _lengths(n_tokens, density, mean_span)


def _lengths(n_tokens: int, density: float, mean_span: float) -> SpanLengths:
    n_noise, n_spans = _noise(n_tokens, density, mean_span)
    return SpanLengths(n_tokens, n_tokens - n_noise + n_spans + 1, n_noise + n_spans + 1)


def _noise(length: int, density: float, mean_span: float) -> tuple[int, int]:
    """Tokens of noise and spans they lie in, for a text of two tokens or more; one at least of both."""
    n_noise = min(max(round(length * density), 1), length - 1)
    return n_noise, min(max(round(n_noise / mean_span), 1), n_noise, length - n_noise)


def _cut_evenly(n_items: int, n_parts: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Sizes, 1 or more each, of n_items cut into n_parts; every way to cut is as likely."""
    cuts = np.sort(rng.permutation(n_items - 1)[: n_parts - 1]) + 1
    return np.diff(np.concatenate([[0], cuts, [n_items]]))


def _with_sentinels(token_ids: Ids, is_hidden: Flags, sentinel_ids: Ids) -> Ids:
    """The text with each run of hidden tokens as one sentinel."""
    begins = is_hidden & ~np.concatenate([[False], is_hidden[:-1]])
    n_runs = int(begins.sum())
    if n_runs > len(sentinel_ids):
        raise ConfigError(f"{n_runs} spans need as many sentinels, the vocabulary has {len(sentinel_ids)}; give it more, or hide less.")
    shown = token_ids.copy()
    shown[begins] = sentinel_ids[:n_runs]
    return shown[begins | ~is_hidden]


def _whole_words(token_ids: Ids, candidates: Ids, n_wanted: int, rng: np.random.Generator, kinds: TokenKinds) -> Ids:
    """Places of words in random order, those passed over that would go beyond n_wanted; the first where none fits."""
    is_special = kinds.is_special[token_ids]
    behind_special = np.concatenate([[True], is_special[:-1]])
    word_of = np.cumsum(kinds.starts_word[token_ids] | behind_special)[candidates]
    words = np.split(candidates, np.flatnonzero(np.diff(word_of)) + 1)
    order = rng.permutation(len(words))
    taken: list[Ids] = []
    n_left = n_wanted
    for word in (words[place] for place in order):
        if len(word) <= n_left:
            taken.append(word)
            n_left -= len(word)
        if not n_left:
            break
    return np.concatenate(taken or [words[order[0]]])
