"""How sure a model is of a whole generated answer: likelihoods, entropies, agreement of samples - and its length, which they must beat.

Longer answers are less likely, and often wrong more often, so a score that only counts tokens can look like knowledge of itself:
`compare_scores` always measures the answer's length beside the others. What is sampled or grouped is done elsewhere; here are only the
numbers. Logs in nats. A likelihood, a share and `p_true` are high where the model is sure; an entropy is low there.
N answers of T tokens at most, S samples a question. `counts` is True where a token belongs to its answer; padding is False.
Sources: Malinin & Gales 2021 (predictive entropy, length normalisation); Wang et al. 2023 (self-consistency); Kuhn, Gal & Farquhar 2023
and Farquhar et al. 2024 (semantic entropy, over likelihoods and over counts); Kadavath et al. 2022 (P(True)); DeLong, DeLong &
Clarke-Pearson 1988 and Obuchowski 1997 (paired AUROCs, by cluster).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Integer, Num

from touchstone.calibrate.arrays import Correct, array_of, checked_scores, numbers, sigmoid
from touchstone.calibrate.measure import DEFAULT_RESAMPLING, Measurement, Resampling, aurc, auroc, bootstrap_units, prr
from touchstone.errors import ConfigError, DataError
from touchstone.stats import Interval

__all__ = [
    "LENGTH",
    "ScoreComparison",
    "ScoreRow",
    "compare_scores",
    "discrete_semantic_entropy",
    "length_normalised",
    "mean_token_entropy",
    "p_true",
    "predictive_entropy",
    "self_consistency",
    "semantic_entropy",
    "sequence_logprob",
]

LENGTH = "answer length"
"""The baseline's name in a comparison: the shorter the answer, the surer."""

TokenValues = Float[np.ndarray, "N T"]
Counts = Bool[np.ndarray, "N T"]
Clusters = Integer[np.ndarray, "N S"]  # which samples of a question say the same: equal numbers, any numbers
PerAnswer = Float64[np.ndarray, " N"]


def sequence_logprob(token_logprobs: TokenValues, counts: Counts) -> PerAnswer:
    """log P of each answer: the sum over its tokens, 0 for an empty one."""
    values, held = _tokens(token_logprobs, counts, "token_logprobs", most=1e-6, need_one=False)
    return np.asarray(np.where(held, values, 0.0).sum(axis=1))


def length_normalised(token_logprobs: TokenValues, counts: Counts) -> PerAnswer:
    """Mean log P of an answer's tokens; its exponential is the geometric mean of their probabilities."""
    values, held = _tokens(token_logprobs, counts, "token_logprobs", most=1e-6)
    return np.asarray(np.where(held, values, 0.0).sum(axis=1) / held.sum(axis=1))


def mean_token_entropy(token_entropies: TokenValues, counts: Counts) -> PerAnswer:
    """Mean over an answer's tokens of the entropy of the distribution that each was drawn from."""
    values, held = _tokens(token_entropies, counts, "token_entropies", least=-1e-6)
    return np.asarray(np.where(held, values, 0.0).sum(axis=1) / held.sum(axis=1))


def predictive_entropy(sample_logprobs: Float[np.ndarray, "N S"]) -> PerAnswer:
    """Monte-Carlo entropy of the answer: the mean of -log P over samples drawn from the model at temperature 1.

    sample_logprobs: of whole samples; length-normalised ones give the length-normalised entropy.
    """
    return np.asarray(-_samples(sample_logprobs).mean(axis=1))


def self_consistency(clusters: Clusters, answer: Integer[np.ndarray, " N"] | None = None) -> PerAnswer:
    """Share of the samples that give the same answer.

    clusters: of the samples' normalised answers. answer: the cluster of the answer that is scored; None = the samples' commonest.
    """
    ids = _ids(clusters)
    if answer is None:
        return np.asarray(_shares(ids).max(axis=1))
    asked = array_of(answer, "`answer`")
    if asked.shape != (len(ids),) or asked.dtype.kind not in "iu":
        raise DataError(f"`answer` must be the cluster of each of {len(ids)} answers, not {asked.dtype} of shape {asked.shape}.")
    return np.asarray((ids == asked[:, None]).mean(axis=1))


def discrete_semantic_entropy(clusters: Clusters) -> PerAnswer:
    """Entropy of the shares of the meanings among the samples: 0 if all mean the same, log S if none do."""
    return _entropy(_shares(_ids(clusters)))


def semantic_entropy(sample_logprobs: Float[np.ndarray, "N S"], clusters: Clusters) -> PerAnswer:
    """Entropy of the meanings, each as probable as its samples together (Rao-Blackwellised: likelihoods in the place of counts)."""
    logprobs, ids = _samples(sample_logprobs), _ids(clusters)
    if logprobs.shape != ids.shape:
        raise DataError(f"Each sample needs a log P and a cluster; shapes are {logprobs.shape} and {ids.shape}.")
    weights = np.exp(logprobs - logprobs.max(axis=1, keepdims=True))
    return _entropy(_shares(ids, weights / weights.sum(axis=1, keepdims=True)))


def p_true(true_logprob: Float[np.ndarray, " N"], false_logprob: Float[np.ndarray, " N"]) -> PerAnswer:
    """P("True") against P("False") as the next token, after the question, the answer and "is it true?"."""
    true, false = numbers(true_logprob, "`true_logprob`"), numbers(false_logprob, "`false_logprob`")
    if true.ndim != 1 or not true.size or true.shape != false.shape or not (np.isfinite(true) & np.isfinite(false)).all():
        raise DataError(
            f"`true_logprob` and `false_logprob` must be finite, one each an answer, not rows of shapes {true.shape} and {false.shape}."
        )
    return sigmoid(true - false)


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """How well one score tells right answers from wrong ones. gain: its AUROC minus that of the length; None for the length itself."""

    name: str
    auroc: Measurement
    aurc: Measurement
    prr: Measurement
    gain: Interval | None


@dataclass(frozen=True, slots=True)
class ScoreComparison:
    """Scores of the same answers, the baseline first, the others in the order given."""

    rows: tuple[ScoreRow, ...]
    n: int
    accuracy: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a report or a card."""
        return asdict(self)


def compare_scores(
    scores: Mapping[str, Float[np.ndarray, " N"]],
    correct: Correct,
    lengths: Num[np.ndarray, " N"],
    *,
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> ScoreComparison:
    """AUROC, AURC and PRR of each score and of the answer's length, with intervals; only the order of a score counts.

    scores: the higher, the surer: give an entropy as its negative. lengths: tokens of each answer.
    Raises DataError if all answers are right or all wrong.
    """
    if not isinstance(scores, Mapping):
        raise ConfigError(f"`scores` must be a mapping of names to scores, not a {type(scores).__name__}.")
    if LENGTH in scores:
        raise ConfigError(f"`{LENGTH}` is the baseline's own name; give the lengths as `lengths`.")
    n_tokens, _ = checked_scores(lengths, correct, what="`lengths`")
    named = {LENGTH: -n_tokens, **scores}
    checked = {name: checked_scores(score, correct, what=f"`scores`, {name}:") for name, score in named.items()}
    right = checked[LENGTH][1]
    ranks = {name: _ranks(score) for name, (score, _) in checked.items()}
    units = bootstrap_units(len(right), resampling)
    rows = tuple(
        ScoreRow(
            name,
            auroc(rank, right, resampling=resampling),
            aurc(rank, right, resampling=resampling),
            prr(rank, right, resampling=resampling),
            None if name == LENGTH else _auroc_gain(rank, ranks[LENGTH], right == 1, units, resampling.level),
        )
        for name, rank in ranks.items()
    )
    return ScoreComparison(rows, len(right), float(right.mean()))


def _auroc_gain(score: np.ndarray, baseline: np.ndarray, right: np.ndarray, units: np.ndarray, level: float) -> Interval:
    """Difference of two AUROCs on the same answers, by DeLong's placements summed over units."""
    (a, parts_a), (b, parts_b) = (_placements(each, right) for each in (score, baseline))
    sums = np.bincount(units, parts_a - parts_b)
    n = len(sums)
    if n < 2:
        return Interval(a - b, np.nan, np.nan, level, n, "one unit")
    half = NormalDist().inv_cdf((1 + level) / 2) * float(np.sqrt(n / (n - 1) * (sums**2).sum()))
    return Interval(a - b, max(-1.0, a - b - half), min(1.0, a - b + half), level, n, "DeLong, paired")


def _placements(score: np.ndarray, right: np.ndarray) -> tuple[float, np.ndarray]:
    """AUROC, and what each answer adds to its error: the sum of their squares is DeLong's variance."""
    good, bad = np.sort(score[right]), np.sort(score[~right])
    below = (np.searchsorted(bad, score, "left") + np.searchsorted(bad, score, "right")) / (2 * len(bad))
    above = 1 - (np.searchsorted(good, score, "left") + np.searchsorted(good, score, "right")) / (2 * len(good))
    value = float(below[right].mean())
    return value, np.where(right, (below - value) / len(good), (above - value) / len(bad))


def _ranks(score: np.ndarray) -> np.ndarray:
    """The score's order as numbers in 0 to 1, ties kept."""
    levels, place = np.unique(score, return_inverse=True)
    return np.asarray((place + 1) / len(levels))


def _tokens(
    values: np.ndarray, counts: np.ndarray, name: str, *, least: float = -np.inf, most: float = np.inf, need_one: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    found, held = numbers(values, f"`{name}`"), array_of(counts, "`counts`")
    if found.ndim != 2 or found.size == 0 or held.shape != found.shape or held.dtype != np.bool_:
        raise DataError(
            f"Tokens need a value (`{name}`) and True or False (`counts`) each, (N, T), not {found.shape} and {held.shape} ({held.dtype})."
        )
    inside = found[held]
    if not np.isfinite(inside).all() or (inside < least).any() or (inside > most).any():
        raise DataError(f"`{name}`: each token that counts needs a finite value{' of at most 0' if most < 1 else ' of 0 or more'}.")
    if need_one and not held.any(axis=1).all():
        raise DataError(f"Answer {int(np.argmin(held.any(axis=1)))} has no token that counts: a mean over none is no number.")
    return found, held


def _samples(logprobs: np.ndarray) -> np.ndarray:
    found = numbers(logprobs, "Samples' log P (`sample_logprobs`)")
    if found.ndim != 2 or found.size == 0 or not np.isfinite(found).all() or (found > 1e-6).any():
        raise DataError(f"Samples need a finite log P of at most 0 each in `sample_logprobs`, (N, S); got shape {found.shape}.")
    return found


def _ids(clusters: np.ndarray) -> np.ndarray:
    ids = array_of(clusters, "Clusters")
    if ids.ndim != 2 or ids.size == 0 or ids.dtype.kind not in "iu":
        raise DataError(f"Clusters must be whole numbers, one a sample, (N, S), not {ids.dtype} of shape {ids.shape}.")
    return ids


def _shares(ids: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """(N, S) the weight of each cluster, in the order of their numbers; 0 where there are fewer clusters than samples."""
    n, n_samples = ids.shape
    each = np.full(ids.shape, 1 / n_samples) if weights is None else weights
    order = np.argsort(ids, axis=1, kind="stable")
    sorted_ids = np.take_along_axis(ids, order, axis=1)
    starts = np.concatenate([np.ones((n, 1), dtype=bool), sorted_ids[:, 1:] != sorted_ids[:, :-1]], axis=1)
    group = np.cumsum(starts, axis=1) - 1 + np.arange(n)[:, None] * n_samples
    return np.bincount(group.ravel(), np.take_along_axis(each, order, axis=1).ravel(), n * n_samples).reshape(n, n_samples)


def _entropy(shares: np.ndarray) -> PerAnswer:
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    return np.asarray(np.maximum(0.0, -(shares * logs).sum(axis=1)))
