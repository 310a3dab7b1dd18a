"""F1 of entities, the figure of named-entity recognition: an entity counts when its kind and both ends are right.

Tags are read in the scheme they are written in, leniently as the shared tasks' own scorer does: a tag that goes on with an entity that
none began begins it. BMES and BILOU are BIOES under other letters.
Sources: Tjong Kim Sang & De Meulder 2003 (conlleval); the schemes are `text/conll.py`'s.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from touchstone.errors import ConfigError, DataError
from touchstone.evaluate.classification import ClassScore
from touchstone.evaluate.labels import SpanCounts
from touchstone.stats import Interval, bootstrap_sums
from touchstone.text.conll import Scheme, spans_of, to_bio

__all__ = ["Entity", "entities_of", "entity_counts", "entity_f1", "entity_scores", "f1_of"]

Entity = tuple[int, int, str]
"""First word, the word behind the last, kind."""

Tags = Sequence[Sequence[str]]


def entities_of(tags: Sequence[str], scheme: Scheme = "bio") -> set[Entity]:
    """The entities that a sentence's tags spell."""
    if scheme == "plain":
        raise ConfigError("Tags in the scheme `plain` spell no entities; their figure is accuracy.")
    return spans_of(to_bio(tags, scheme)[0])


def entity_counts(predicted: Sequence[str], expected: Sequence[str], scheme: Scheme = "bio") -> SpanCounts:
    """Entities right, found and there of one sentence, which both sides must have tags for all words of."""
    if len(predicted) != len(expected):
        raise DataError(f"a sentence of {len(expected)} words was given {len(predicted)} tags.")
    ours, there = entities_of(predicted, scheme), entities_of(expected, scheme)
    return SpanCounts(len(ours & there), len(ours), len(there))


def entity_f1(
    predicted: Tags,
    expected: Tags,
    clusters: Sequence[Any] | None = None,
    *,
    scheme: Scheme = "bio",
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """F1 of the entities of all sentences, resampling sentences or their clusters; 0 where none is right."""
    counts = [entity_counts(*pair, scheme) for pair in _pairs(predicted, expected)]
    return f1_of(counts, clusters, level=level, n_resamples=n_resamples, seed=seed)


def f1_of(
    counts: Sequence[SpanCounts],
    clusters: Sequence[Any] | None = None,
    *,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """F1 from the counts of each sentence, or of each text whose spans were found in another way."""
    rows = [(one.n_right, one.n_found, one.n_there) for one in counts]
    return bootstrap_sums(_f1, rows, level=level, n_resamples=n_resamples, seed=seed, clusters=clusters)


def entity_scores(predicted: Tags, expected: Tags, *, scheme: Scheme = "bio") -> tuple[ClassScore, ...]:
    """Precision, recall and F1 of each kind that occurs in either."""
    right, found, there = Counter[str](), Counter[str](), Counter[str]()
    for ours, wanted in _pairs(predicted, expected):
        a, b = entities_of(ours, scheme), entities_of(wanted, scheme)
        right.update(kind for *_, kind in a & b)
        found.update(kind for *_, kind in a)
        there.update(kind for *_, kind in b)
    return tuple(ClassScore(kind, right[kind], found[kind], there[kind]) for kind in sorted({*found, *there}))


def _pairs(predicted: Tags, expected: Tags) -> list[tuple[Sequence[str], Sequence[str]]]:
    if len(predicted) != len(expected) or not len(predicted):
        raise DataError(f"`predicted` ({len(predicted)}) and `expected` ({len(expected)}) must be tags of the same sentences, one or more.")
    return list(zip(predicted, expected, strict=True))


def _f1(sums: Float64[np.ndarray, "*B 3"]) -> Float64[np.ndarray, "*B"]:
    right, both = sums[..., 0], sums[..., 1] + sums[..., 2]
    return np.divide(2 * right, both, out=np.zeros_like(both), where=both > 0)
