"""Which calibration to use, decided by measuring every candidate on rows it was not fitted to.

With labels: cross-validation, and of all candidates within one standard error of the best the least flexible one, so that a small set
does not pick by luck. The standard error is that of the paired difference from the best.

Without labels nothing that can be measured tells whether a calibration helps: the same scores go with labels for which it is right and
with labels for which it is wrong. Criteria in use, such as the mutual information of questions and answers, reward even use of all
answers, and so take for granted what was to be found out: that the classes are even. Zhao et al. 2021 report contextual calibration
taking one task from 60 to 82 % and another from 45 to 18 %. So scores then stay as they are - unless the caller knows the true shares of
the classes. No answers whose shares differ from those by a total variation of d can be right more often than 1 - d; a candidate is taken
if it raises that bound beyond doubt. The bound can rule candidates out, and proves none right.
Sources: Breiman et al. 1984 (one standard error); Garg et al. 2022 (no estimate of accuracy without assumptions); Sorensen et al. 2022 and
Yang et al. 2024 (mutual information to select prompts).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from jaxtyping import Float, Float64, Integer

from touchstone.calibrate.arrays import (
    Confidence,
    Correct,
    bounded,
    check_count,
    checked_labels,
    checked_logits,
    checked_scores,
    log_softmax,
    numbers,
)
from touchstone.calibrate.fit import MAX_CLASSES, Calibration, HistogramBinning, Isotonic, Platt, Temperature, VectorScaling
from touchstone.calibrate.prior import Batch, Contextual, Pmi
from touchstone.config import unknown_name
from touchstone.errors import ConfigError, DataError
from touchstone.stats import Interval, bootstrap_mean, bootstrap_statistic, paired_difference

__all__ = ["CalibrationChoice", "Candidate", "choose_calibration", "choose_confidence", "choose_without_labels"]

Criterion = Literal["nll", "accuracy", "brier"]
Reason = Literal[
    "best", "simplest within one standard error", "cannot be told without labels", "no measurable gain", "nearest to the shares"
]

WITHOUT_LABELS = ("none", "contextual", "pmi", "batch")
SCORE_CANDIDATES = ("none", "temperature", "contextual", "pmi", "batch", "batch with labels", "vector")
CONFIDENCE_CANDIDATES = ("none", "platt", "histogram", "isotonic")
"""All from the least flexible on."""

Fitted = Calibration | Contextual | Batch | Pmi
_Fit = Callable[[np.ndarray], Fitted | None]  # of the rows with these numbers
P = TypeVar("P", Contextual, Pmi)


@dataclass(frozen=True, slots=True)
class Candidate:
    """What one candidate came to, on rows it was not fitted to.

    measured: by name; `nll` in nats, `accuracy` and `brier` (top label) with labels, `most right` (the bound on accuracy) without.
    n_changed: rows whose likeliest answer is another than without it. against: how much worse by the criterion than the best candidate,
    paired; without labels, how much the bound gains on "none". None where there is nothing to compare.
    """

    name: str
    measured: Mapping[str, Interval]
    n_changed: int
    against: Interval | None


@dataclass(frozen=True, slots=True)
class CalibrationChoice:
    """The choice, fitted on all rows, with everything a report needs to say why.

    calibration: None for the choice "none". criterion: None where nothing could be measured. left_out: candidates that could not be tried,
    each with what they lack.
    """

    choice: str
    calibration: Fitted | None
    criterion: Criterion | Literal["most right"] | None
    reason: Reason
    table: tuple[Candidate, ...]
    left_out: Mapping[str, str]
    n: int
    n_folds: int | None
    seed: int

    def apply(self, scores: Float[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
        """The scores as the chosen calibration makes them; as they are for "none"."""
        return numbers(scores, "Scores") if self.calibration is None else self.calibration.apply(scores)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a report."""
        plain = {name: getattr(self, name) for name in ("choice", "criterion", "reason", "n", "n_folds", "seed")}
        fitted = None if self.calibration is None else self.calibration.to_dict()
        return {**plain, "calibration": fitted, "table": [asdict(row) for row in self.table], "left_out": dict(self.left_out)}


def choose_calibration(
    scores: Float[np.ndarray, "N K"],
    labels: Integer[np.ndarray, " N"],
    *,
    content_free: Float[np.ndarray, "M K"] | None = None,
    domain: Float[np.ndarray, " K"] | None = None,
    candidates: Sequence[str] | None = None,
    criterion: Literal["nll", "accuracy"] = "nll",
    n_folds: int = 5,
    seed: int = 0,
) -> CalibrationChoice:
    """Choose for scores of K answers: logits, or log-probabilities of closed answers.

    content_free, domain: what `Contextual` and `Pmi` are fitted on. candidates: None = all of SCORE_CANDIDATES that can be tried.
    criterion: what decides; both are measured. Accuracy is blind to a temperature, and for those who need the answer alone.
    """
    z = checked_logits(scores, what="Scores")
    classes = checked_labels(labels, *z.shape)
    if not np.isfinite(z[np.arange(len(z)), classes]).all():
        raise DataError("A label's score is -inf: an answer that cannot be given is no label.")
    lacking = _lacking(z, content_free, domain)
    names = _names(candidates, SCORE_CANDIDATES, lacking)
    if criterion not in ("nll", "accuracy"):
        raise ConfigError(f"`criterion` must be `nll` or `accuracy`, not `{criterion}`.")
    fits = _score_fits(z, classes, content_free, domain)
    folds = _folds(classes, n_folds, seed)
    held_out = {name: log_softmax(_held_out(z, fits[name], folds)) for name in names}
    rows = np.arange(len(z))
    losses = {
        "nll": {name: -logprobs[rows, classes] for name, logprobs in held_out.items()},
        "accuracy": {name: (logprobs.argmax(axis=1) != classes).astype(np.float64) for name, logprobs in held_out.items()},
    }
    winner, reason, best = _least_flexible(names, losses[criterion])
    plain = z.argmax(axis=1)
    table = tuple(
        Candidate(
            name,
            {"nll": _mean(losses["nll"][name], np.inf, seed), "accuracy": _mean(1 - losses["accuracy"][name], 1.0, seed)},
            int((held_out[name].argmax(axis=1) != plain).sum()),
            None if name == best else paired_difference(losses[criterion][name], losses[criterion][best], seed=seed),
        )
        for name in names
    )
    left_out = {} if candidates is not None else lacking
    return CalibrationChoice(winner, fits[winner](rows), criterion, reason, table, left_out, len(z), n_folds, seed)


def choose_confidence(
    confidence: Confidence, correct: Correct, *, candidates: Sequence[str] | None = None, n_folds: int = 5, seed: int = 0
) -> CalibrationChoice:
    """Choose for one confidence an answer, by the Brier score: histogram and isotonic may say 0 or 1, where an NLL is infinite.

    candidates: None = all of CONFIDENCE_CANDIDATES.
    """
    sure, right = checked_scores(confidence, correct, low=0, high=1, what="`confidence`")
    names = _names(candidates, CONFIDENCE_CANDIDATES, {})
    fits: dict[str, _Fit] = {
        "none": lambda rows: None,
        "platt": lambda rows: Platt.fit(sure[rows], right[rows]),
        "histogram": lambda rows: HistogramBinning.fit(sure[rows], right[rows]),
        "isotonic": lambda rows: Isotonic.fit(sure[rows], right[rows]),
    }
    folds = _folds(right.astype(np.int64), n_folds, seed)
    losses = {name: (_held_out(sure, fits[name], folds) - right) ** 2 for name in names}
    winner, reason, best = _least_flexible(names, losses)
    table = tuple(
        Candidate(
            name,
            {"brier": _mean(losses[name], 1.0, seed)},
            0,
            None if name == best else paired_difference(losses[name], losses[best], seed=seed),
        )
        for name in names
    )
    return CalibrationChoice(winner, fits[winner](np.arange(len(sure))), "brier", reason, table, {}, len(sure), n_folds, seed)


def choose_without_labels(
    scores: Float[np.ndarray, "N K"],
    *,
    content_free: Float[np.ndarray, "M K"] | None = None,
    domain: Float[np.ndarray, " K"] | None = None,
    class_shares: Float[np.ndarray, " K"] | None = None,
    seed: int = 0,
) -> CalibrationChoice:
    """Choose among none, contextual, PMI and batch with no label at hand.

    class_shares: the true share of each class where these rows come from, if it is known; without it the choice is "none", and the table
    only shows how many answers hang on it. Rows are taken as a sample: shares of answers carry their error.
    """
    check_count("seed", seed, 0)
    z = checked_logits(scores, what="Scores")
    lacking = {name: lack for name, lack in _lacking(z, content_free, domain).items() if name in WITHOUT_LABELS}
    names = [name for name in WITHOUT_LABELS if name not in lacking]
    fits = _score_fits(z, None, content_free, domain)
    rows = np.arange(len(z))
    fitted = {name: fits[name](rows) for name in names}
    answers = {name: _applied(fitted[name], z).argmax(axis=1) for name in names}
    if class_shares is None:
        table = tuple(Candidate(name, {}, int((answers[name] != answers["none"]).sum()), None) for name in names)
        return CalibrationChoice("none", None, None, "cannot be told without labels", table, lacking, len(z), None, seed)
    shares = _shares(class_shares, z.shape[1])

    def most_right(given: np.ndarray) -> float:
        return 1 - float(np.abs(np.bincount(given, minlength=len(shares)) / len(given) - shares).sum()) / 2

    bounds = {name: bootstrap_statistic(most_right, answers[name], seed=seed) for name in names}
    gains = {
        name: bootstrap_statistic(lambda a, b: most_right(a) - most_right(b), answers[name], answers["none"], seed=seed)
        for name in names
        if name != "none"
    }
    sure = [name for name, gain in gains.items() if gain.low > 0]
    winner = max(sure, key=lambda name: bounds[name].value, default="none")
    table = tuple(
        Candidate(name, {"most right": bounds[name]}, int((answers[name] != answers["none"]).sum()), gains.get(name)) for name in names
    )
    reason: Reason = "nearest to the shares" if sure else "no measurable gain"
    return CalibrationChoice(winner, fitted[winner], "most right", reason, table, lacking, len(z), None, seed)


def _lacking(z: np.ndarray, content_free: np.ndarray | None, domain: np.ndarray | None) -> dict[str, str]:
    """What the candidates that cannot be tried lack."""
    lacking = {}
    if content_free is None:
        lacking["contextual"] = "`content_free`"
    if domain is None:
        lacking["pmi"] = "`domain`"
    if not np.isfinite(z).all():
        lacking["vector"] = "scores that are all finite"
    elif z.shape[1] > MAX_CLASSES:
        lacking["vector"] = f"at most {MAX_CLASSES} classes"
    return lacking


def _names(candidates: Sequence[str] | None, known: Sequence[str], lacking: Mapping[str, str]) -> list[str]:
    """The candidates to try, the least flexible first; "none" is always among them."""
    if candidates is None:
        return [name for name in known if name not in lacking]
    for name in candidates:
        if name not in known:
            raise unknown_name("calibration candidate", name, known)
        if name in lacking:
            raise ConfigError(f"The candidate `{name}` needs {lacking[name]}.")
    return [name for name in known if name in candidates or name == "none"]


def _score_fits(z: np.ndarray, classes: np.ndarray | None, content_free: np.ndarray | None, domain: np.ndarray | None) -> dict[str, _Fit]:
    fits: dict[str, _Fit] = {"none": lambda rows: None, "batch": lambda rows: Batch.fit(z[rows])}
    if classes is not None:
        fits["temperature"] = lambda rows: Temperature.fit(z[rows], classes[rows])
        fits["batch with labels"] = lambda rows: Batch.fit_labelled(z[rows], classes[rows])
        fits["vector"] = lambda rows: VectorScaling.fit(z[rows], classes[rows])
    if content_free is not None:
        contextual = _of_all_answers("content_free", Contextual.fit(content_free), z)
        fits["contextual"] = lambda rows: contextual
    if domain is not None:
        pmi = _of_all_answers("domain", Pmi.fit(domain), z)
        fits["pmi"] = lambda rows: pmi
    return fits


def _of_all_answers(name: str, prior: P, z: np.ndarray) -> P:
    if len(prior.log_prior) != z.shape[1]:
        raise DataError(f"`{name}` must be of the {z.shape[1]} answers that the scores are of, not of {len(prior.log_prior)}.")
    return prior


def _folds(groups: np.ndarray, n_folds: int, seed: int) -> np.ndarray:
    """The fold of each row: every group spread evenly over the folds, at random."""
    check_count("seed", seed, 0)
    check_count("n_folds", n_folds, 2)
    if n_folds > len(groups):
        raise ConfigError(f"`n_folds` ({n_folds}) must be at least 2 and at most the number of rows ({len(groups)}).")
    order = np.random.default_rng(seed).permutation(len(groups))
    order = order[np.argsort(groups[order], kind="stable")]
    fold = np.empty(len(groups), dtype=np.int64)
    fold[order] = np.arange(len(groups)) % n_folds
    return fold


def _held_out(scores: np.ndarray, fit: _Fit, folds: np.ndarray) -> np.ndarray:
    """Every row's scores by the calibration that was fitted on the other folds."""
    result = np.empty(scores.shape)
    for fold in range(int(folds.max()) + 1):
        result[folds == fold] = _applied(fit(np.flatnonzero(folds != fold)), scores[folds == fold])
    return result


def _applied(fitted: Fitted | None, scores: np.ndarray) -> np.ndarray:
    return scores if fitted is None else fitted.apply(scores)


def _least_flexible(names: Sequence[str], losses: Mapping[str, np.ndarray]) -> tuple[str, Reason, str]:
    """The choice, its reason, and the candidate of least loss; of equals the least flexible one."""
    best = min(names, key=lambda name: float(losses[name].mean()))
    for name in names:
        excess = losses[name] - losses[best]
        if name == best or excess.mean() <= excess.std(ddof=1) / np.sqrt(len(excess)):
            return name, "best" if name == best else "simplest within one standard error", best
    raise AssertionError("the best is among the names")


def _mean(values: np.ndarray, most: float, seed: int) -> Interval:
    """Of values that lie in 0 to most."""
    return bounded(bootstrap_mean(values, seed=seed), 0.0, most)


def _shares(class_shares: np.ndarray, n_classes: int) -> np.ndarray:
    shares = numbers(class_shares, "`class_shares`")
    if shares.shape != (n_classes,) or not (shares >= 0).all() or abs(shares.sum() - 1) > 1e-6:
        raise DataError(f"`class_shares` must be {n_classes} numbers of 0 or more that sum to 1, not {class_shares}.")
    return shares
