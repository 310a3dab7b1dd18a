"""The noises of BART: spans under one mask each, tokens left out, sentences in another order, the text begun elsewhere.

Each is a pure function of token ids and a generator, and has its own share; together they stand in `add_noise`, in the order of
fairseq's DenoisingDataset, with the left-out tokens before the masks, so that no mask is left out.
Source: Lewis et al. 2020 §2.2 and §5.1 (a share of 0.3 in Poisson(3) spans, all sentences in a new order).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Noises", "add_noise", "drop_tokens", "infill", "rotate", "shuffle_sentences"]

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Noises:
    """How much of each noise; the defaults are those of the paper's large model.

    mask_share: of the tokens, hidden in spans of Poisson(mean_span) tokens, one mask a span. shuffle_share: of the texts whose sentences
    are put in another order. drop_share: of the tokens, left out. rotate_share: of the texts, begun at a random token.
    """

    mask_share: float = 0.3
    mean_span: float = 3.0
    shuffle_share: float = 1.0
    drop_share: float = 0.0
    rotate_share: float = 0.0


def add_noise(token_ids: Ids, rng: np.random.Generator, noises: Noises, *, mask_id: int, ends_sentence: NDArray[np.bool_]) -> Ids:
    """The text under all noises; ends_sentence (V,): whether a token ends a sentence."""
    shuffles, rotates = rng.random(2) < (noises.shuffle_share, noises.rotate_share)
    noised = shuffle_sentences(token_ids, rng, ends_sentence) if shuffles else token_ids
    noised = drop_tokens(noised, rng, noises.drop_share)
    noised = infill(noised, rng, mask_id=mask_id, share=noises.mask_share, mean_span=noises.mean_span)
    return rotate(noised, rng) if rotates else noised


def infill(token_ids: Ids, rng: np.random.Generator, *, mask_id: int, share: float = 0.3, mean_span: float = 3.0) -> Ids:
    """Hide ceil(n * share) tokens in spans of Poisson(mean_span) tokens, each span behind one mask.

    A span of no tokens puts a mask between two, so a model learns that a mask may stand for nothing. Spans do not touch, unless there are
    more of them than places between the other tokens.
    """
    n_hidden = int(np.ceil(len(token_ids) * share))
    if not n_hidden:
        return token_ids
    lengths = _poisson_lengths(n_hidden, mean_span, rng)
    n_places = len(token_ids) - n_hidden + 1  # before each token that stays, and behind the last
    is_roomy = lengths.size <= n_places
    before = np.sort(rng.permutation(n_places)[: lengths.size] if is_roomy else rng.integers(n_places, size=lengths.size))
    is_hidden = np.zeros(len(token_ids), dtype=bool)
    for start, length in zip((before + np.cumsum(lengths) - lengths).tolist(), lengths.tolist(), strict=True):
        is_hidden[start : start + length] = True
    return np.insert(token_ids[~is_hidden], before, mask_id)


def shuffle_sentences(token_ids: Ids, rng: np.random.Generator, ends_sentence: NDArray[np.bool_]) -> Ids:
    """The sentences in a random order; what is behind the last end counts as one."""
    sentences = np.split(token_ids, np.flatnonzero(ends_sentence[token_ids]) + 1)
    return np.concatenate([sentences[place] for place in rng.permutation(len(sentences))])


def drop_tokens(token_ids: Ids, rng: np.random.Generator, share: float) -> Ids:
    """Leave out round(n * share) tokens without a trace."""
    n_dropped = round(len(token_ids) * share)
    return np.delete(token_ids, rng.permutation(len(token_ids))[:n_dropped]) if n_dropped else token_ids


def rotate(token_ids: Ids, rng: np.random.Generator) -> Ids:
    """Begin at a random token and put what was before it behind the end."""
    return np.roll(token_ids, -int(rng.integers(max(1, len(token_ids)))))


def _poisson_lengths(total: int, mean: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draws until their sum reaches the total; the last one is cut to meet it.

    No more draws than the total: where there are, spans of nothing are left out, so a text never grows longer than it was.
    """
    lengths = rng.poisson(mean, total)
    while lengths.sum() < total:
        lengths = np.concatenate([lengths, rng.poisson(mean, total)])
    sums = np.cumsum(lengths)
    n_spans = int(np.searchsorted(sums, total)) + 1
    lengths = lengths[:n_spans]
    lengths[-1] -= sums[n_spans - 1] - total
    return np.delete(lengths, np.flatnonzero(lengths == 0)[: max(0, n_spans - total)])
