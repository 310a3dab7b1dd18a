"""Figures of rankings, one a query: reciprocal rank, nDCG and recall at k. Their means over queries are `stats.bootstrap_mean`.

A ranking is the names of what was found, best first, each once. Sources: Voorhees 1999, TREC-8 question answering (reciprocal rank: 1
over the rank of the first relevant one); Järvelin & Kekäläinen 2002 (DCG), in the form of trec_eval and scikit-learn: the sum over
ranks r of gain / log2(r + 1), over the same sum for the best order. Burges et al. 2005 put 2^gain - 1 for the gain: give those gains.
"""

import math
from collections.abc import Collection, Hashable, Mapping, Sequence

from touchstone.errors import ConfigError, DataError

__all__ = ["ndcg", "recall_at", "reciprocal_rank"]


def reciprocal_rank(ranked: Sequence[Hashable], relevant: Collection[Hashable], k: int | None = None) -> float:
    """1 over the rank of the first relevant one among the first k (None: all), 0 where there is none."""
    _check(ranked, relevant, k)
    wanted = set(relevant)
    return next((1 / rank for rank, name in enumerate(ranked[:k], 1) if name in wanted), 0.0)


def recall_at(ranked: Sequence[Hashable], relevant: Collection[Hashable], k: int) -> float:
    """The share of the relevant ones that stand among the first k."""
    _check(ranked, relevant, k)
    wanted = set(relevant)
    return len(wanted.intersection(ranked[:k])) / len(wanted)


def ndcg(ranked: Sequence[Hashable], gains: Mapping[Hashable, float], k: int | None = None) -> float:
    """The discounted gain of the first k (None: all) over that of the best ranking; what has no gain has 0.

    Raises DataError if no gain is above 0, or one is below: the best ranking would have nothing to gain.
    """
    _check(ranked, gains, k)
    if min(gains.values()) < 0 or max(gains.values()) <= 0:
        raise DataError(f"Gains must be at least 0 and one above it; these go from {min(gains.values()):g} to {max(gains.values()):g}.")
    best = sorted(gains.values(), reverse=True)
    return _dcg([gains.get(name, 0.0) for name in ranked[:k]]) / _dcg(best[:k])


def _dcg(gains: Sequence[float]) -> float:
    return math.fsum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1))


def _check(ranked: Sequence[Hashable], relevant: Collection[Hashable], k: int | None) -> None:
    if not relevant:
        raise DataError("a query without anything relevant has no figure; leave it out and say how many were.")
    if len(set(ranked)) != len(ranked):
        twice = next(name for name in ranked if list(ranked).count(name) > 1)
        raise DataError(f"a ranking names each thing once; {twice!r} is there twice.")
    if k is not None and k < 1:
        raise ConfigError(f"`k` must be at least 1, not {k}.")
