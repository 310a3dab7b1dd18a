"""How far confidences can be believed: calibration errors, proper scores and rankings, each with its error bar. Pure float64 arrays.

Definitions differ between tools, so ours are spelled out, and every result names its own:
- Equal-width bins are (lo, hi], the first one closed, so that 1.0 lies in the last (Guo et al. 2017); [lo, hi) can move ECE by ten
  points on small data. Equal-mass bins are `array_split` of the sorted confidences, except that tied ones are never torn apart.
- A binned error is above 0 even for a perfect model. The noise floor is what an exactly calibrated model with the same confidences
  would show at this n, simulated with independent answers. Only what stands clearly above it is miscalibration.
- Resampling adds its own noise to a binned error, so its bootstrap interval is reflected around the value (and kept to hold it).
- Ties in confidence count as every order of them equally likely, so no result depends on the order of the rows.

Memory is a few arrays of n; the bootstrap works on at most 500 units: pairs, the caller's clusters, or random blocks of either.
Sources: Naeini et al. 2015 (ECE); Blasiok & Nakkiran 2023 (smooth ECE); Geifman et al. 2018 (AURC); Malinin & Gales 2020 (PRR).
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Integer

from touchstone.calibrate.arrays import (
    Confidence,
    Correct,
    array_of,
    bounded,
    check_count,
    check_share,
    checked_distributions,
    checked_labels,
    is_number,
    numbers,
)
from touchstone.errors import ConfigError, DataError
from touchstone.stats import Interval, bootstrap_mean, bootstrap_ratio, bootstrap_statistic, clopper_pearson

__all__ = [
    "Binning",
    "Measurement",
    "ReliabilityRow",
    "Resampling",
    "aurc",
    "auroc",
    "bin_tops",
    "bootstrap_units",
    "brier_multiclass",
    "brier_top_label",
    "classwise_ece",
    "e_aurc",
    "ece_equal_mass",
    "ece_equal_width",
    "mce",
    "nll",
    "noise_floor",
    "prr",
    "reliability_table",
    "smece",
]

Binning = Literal["equal width", "equal mass"]

_UNITS = 500  # bootstrap units: their random error in an interval's width is 1/sqrt(2 * 500), about 3 %
_GROUPS = 512  # confidences this near each other are simulated as one
_GRID, _COARSE_GRID = 8192, 512  # places of the smooth ECE on [0, 1]: for its value, and for its spread and floor
_Statistic = Callable[[np.ndarray, np.ndarray], float]  # of the sums and the counts at each place


@dataclass(frozen=True, slots=True)
class Resampling:
    """How error bars are made. clusters names the unit (document, user) of each row where rows of one unit are not independent."""

    clusters: Sequence[Any] | np.ndarray | None = None
    level: float = 0.95
    n_resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        check_share("level", self.level)
        check_count("n_resamples", self.n_resamples)
        check_count("seed", self.seed, 0)


DEFAULT_RESAMPLING = Resampling()


@dataclass(frozen=True, slots=True)
class Measurement:
    """A figure with all that is needed to believe or repeat it; interval and floor are None where they were not asked for."""

    name: str
    value: float
    estimator: str
    bins: int | None
    n: int
    interval: Interval | None
    noise_floor: Interval | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a report or a card."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ReliabilityRow:
    """One bin (low, high] of a reliability diagram; an empty bin has no confidence, accuracy or interval."""

    low: float
    high: float
    n: int
    confidence: float | None
    accuracy: float | None
    interval: Interval | None  # of the accuracy, Clopper-Pearson: as if the answers were independent


def ece_equal_width(
    confidence: Confidence, correct: Correct, bins: int = 15, *, resampling: Resampling | None = DEFAULT_RESAMPLING
) -> Measurement:
    """Expected calibration error: sum over bins of (n_b / N) |accuracy_b - mean confidence_b|."""
    return _binned("ECE", _ece, confidence, correct, bins, "equal width", resampling)


def ece_equal_mass(
    confidence: Confidence, correct: Correct, bins: int = 15, *, resampling: Resampling | None = DEFAULT_RESAMPLING
) -> Measurement:
    """Expected calibration error over bins that hold equally many answers."""
    return _binned("ECE", _ece, confidence, correct, bins, "equal mass", resampling)


def mce(
    confidence: Confidence,
    correct: Correct,
    bins: int = 15,
    *,
    binning: Binning = "equal width",
    resampling: Resampling | None = DEFAULT_RESAMPLING,
) -> Measurement:
    """Maximum calibration error: the largest gap of any bin, however few answers it holds."""
    return _binned("MCE", _mce, confidence, correct, bins, binning, resampling)


def classwise_ece(
    probabilities: Float[np.ndarray, "N V"],
    labels: Integer[np.ndarray, " N"],
    bins: int = 15,
    *,
    resampling: Resampling | None = DEFAULT_RESAMPLING,
) -> Measurement:
    """Mean over classes of the equal-width ECE of "is it this class?"; the noise floor draws the classes independently."""
    check_count("bins", bins)
    rows, labels = _distributions(probabilities, labels)
    n, n_classes = rows.shape
    is_class = labels[:, None] == np.arange(n_classes)
    place = np.searchsorted(np.arange(1, bins + 1) / bins, rows) + np.arange(n_classes) * bins
    n_places, flat = n_classes * bins, rows.ravel()
    value = _ece(*_placed(place.ravel(), is_class.ravel() - flat, n_places))
    interval = floor = None
    if resampling is not None:
        unit = np.repeat(bootstrap_units(n, resampling), n_classes)
        interval = _reflected(_interval(_ece, value, place.ravel(), is_class.ravel() - flat, n_places, unit, resampling))
        floor = _floor(_ece, place.ravel(), flat, n_places, resampling)
    return Measurement(
        "class-wise ECE", value, f"{bins} equal-width bins (lo, hi] for each of {n_classes} classes", bins, n, interval, floor
    )


def smece(confidence: Confidence, correct: Correct, *, resampling: Resampling | None = DEFAULT_RESAMPLING) -> Measurement:
    """Smooth calibration error: the integral of |residual smoothed by a reflected Gaussian| whose width equals that integral.

    Continuous in the confidences and free of bins. Residuals are placed on a grid of 8192; the width is found by bisection from 0.001.
    """
    sure, right = _pairs(confidence, correct)
    fine, coarse = (np.minimum((sure * grid).astype(np.int64), grid - 1) for grid in (_GRID, _COARSE_GRID))
    value = _smece(*_placed(fine, right - sure, _GRID))
    estimator = "reflected Gaussian kernel of self-consistent width"
    return _error("smooth ECE", _smece, value, sure, right, coarse, _COARSE_GRID, None, estimator, resampling)


def noise_floor(
    confidence: Confidence, bins: int = 15, *, binning: Binning = "equal width", resampling: Resampling = DEFAULT_RESAMPLING
) -> Interval:
    """The ECE that an exactly calibrated model with these confidences shows at this n: mean and range over simulations."""
    sure, _ = _pairs(confidence, np.zeros(array_of(confidence, "Confidences").shape))
    place = np.searchsorted(bin_tops(sure, bins, binning), sure)
    return _floor(_ece, place, sure, bins, resampling)


def reliability_table(
    confidence: Confidence, correct: Correct, bins: int = 15, *, binning: Binning = "equal width", level: float = 0.95
) -> list[ReliabilityRow]:
    """The bins of a reliability diagram, lowest confidence first, empty ones included."""
    check_share("level", level)
    sure, right = _pairs(confidence, correct)
    tops = bin_tops(sure, bins, binning)
    place = np.searchsorted(tops, sure)
    n_right, counts = _placed(place, right, bins)
    total, _ = _placed(place, sure, bins)
    rows = []
    for low, high, n, hits, sum_ in zip([0.0, *tops[:-1]], tops, counts.astype(int).tolist(), n_right, total, strict=True):
        interval = clopper_pearson(int(hits), n, level) if n else None
        mean, accuracy = (sum_ / n, hits / n) if n else (None, None)
        rows.append(ReliabilityRow(float(low), float(high), n, mean, accuracy, interval))
    return rows


def brier_multiclass(
    probabilities: Float[np.ndarray, "N V"], labels: Integer[np.ndarray, " N"], *, resampling: Resampling | None = DEFAULT_RESAMPLING
) -> Measurement:
    """Brier score in its sum form, between 0 and 2: mean of sum_k (p_k - 1[y = k])^2."""
    rows, labels = _distributions(probabilities, labels)
    chosen = rows[np.arange(len(rows)), labels]
    return _mean("Brier score", "sum over classes", (rows**2).sum(axis=1) - 2 * chosen + 1, 2.0, resampling)


def brier_top_label(confidence: Confidence, correct: Correct, *, resampling: Resampling | None = DEFAULT_RESAMPLING) -> Measurement:
    """Brier score of the answer given, between 0 and 1: mean of (confidence - correct)^2."""
    sure, right = _pairs(confidence, correct)
    return _mean("Brier score", "top label", (sure - right) ** 2, 1.0, resampling)


def nll(
    probabilities: Float[np.ndarray, "N V"], labels: Integer[np.ndarray, " N"], *, resampling: Resampling | None = DEFAULT_RESAMPLING
) -> Measurement:
    """Mean negative log-likelihood of the labels, in nats; a label with probability 0 is an error, its loss being infinite."""
    rows, labels = _distributions(probabilities, labels)
    chosen = rows[np.arange(len(rows)), labels]
    if not (chosen > 0).all():
        raise DataError(
            f"The NLL is infinite: the label of row {int(np.argmin(chosen))} has probability 0; smooth the probabilities first."
        )
    return _mean("NLL", "nats, mean over rows", -np.log(chosen), np.inf, resampling)


def aurc(confidence: Confidence, correct: Correct, *, resampling: Resampling | None = DEFAULT_RESAMPLING) -> Measurement:
    """Area under the risk-coverage curve: mean over i of the error rate among the i most confident answers."""
    return _ranked("AURC", _aurc, "mean over all coverages", confidence, correct, (0.0, 1.0), resampling)


def e_aurc(confidence: Confidence, correct: Correct, *, resampling: Resampling | None = DEFAULT_RESAMPLING) -> Measurement:
    """AURC beyond that of an oracle with the same error rate, which puts every wrong answer last; 0 is a perfect ranking."""
    return _ranked("E-AURC", _e_aurc, "AURC minus the oracle's", confidence, correct, (0.0, 1.0), resampling)


def prr(
    confidence: Confidence, correct: Correct, *, max_rejection: float = 1.0, resampling: Resampling | None = DEFAULT_RESAMPLING
) -> Measurement:
    """Prediction-rejection ratio: the share of the oracle's gain over random rejection; 1 is the oracle, 0 is chance.

    max_rejection: the largest share of answers ever rejected. Raises DataError if the answers are all right or all wrong.
    """
    if not is_number(max_rejection) or not 0 < max_rejection <= 1:
        raise ConfigError(f"`max_rejection` must be above 0 and at most 1, not {max_rejection!r}.")
    name = f"mean accuracy kept over rejections up to {max_rejection:g}"
    return _ranked("PRR", partial(_prr, max_rejection=max_rejection), name, confidence, correct, (-np.inf, 1.0), resampling, both=True)


def auroc(confidence: Confidence, correct: Correct, *, resampling: Resampling | None = DEFAULT_RESAMPLING) -> Measurement:
    """P(a right answer is more confident than a wrong one), ties half; DataError if the answers are all right or all wrong."""
    return _ranked("AUROC", _auroc, "right against wrong, ties half", confidence, correct, (0.0, 1.0), resampling, both=True)


def bin_tops(confidence: Confidence, bins: int, binning: Binning) -> np.ndarray:
    """Upper edge of each bin, ascending: `searchsorted(tops, confidence)` is the bin of each confidence."""
    check_count("bins", bins)
    if binning == "equal width":
        return np.arange(1, bins + 1) / bins
    if binning != "equal mass":
        raise ConfigError(f"`binning` must be `equal width` or `equal mass`, not `{binning}`.")
    n = len(confidence)
    ends = np.cumsum([n // bins + (b < n % bins) for b in range(bins)])  # as numpy.array_split cuts
    return np.sort(confidence)[np.maximum(ends, 1) - 1]


def bootstrap_units(n: int, resampling: Resampling) -> np.ndarray:
    """The bootstrap unit of each row: itself or its cluster, gathered at random into blocks of equally many where there are too many."""
    unit = np.arange(n) if resampling.clusters is None else _clusters(n, resampling.clusters)
    n_units = int(unit.max()) + 1
    if n_units <= _UNITS:
        return unit
    return (np.random.default_rng(resampling.seed).permutation(n_units) % _UNITS)[unit]


def _binned(
    name: str, statistic: _Statistic, confidence: Confidence, correct: Correct, bins: int, binning: Binning, resampling: Resampling | None
) -> Measurement:
    sure, right = _pairs(confidence, correct)
    place = np.searchsorted(bin_tops(sure, bins, binning), sure)
    value = statistic(*_placed(place, right - sure, bins))
    return _error(name, statistic, value, sure, right, place, bins, bins, f"{bins} {binning.replace(' ', '-')} bins (lo, hi]", resampling)


def _error(
    name: str,
    statistic: _Statistic,
    value: float,
    sure: np.ndarray,
    right: np.ndarray,
    place: np.ndarray,
    n_places: int,
    bins: int | None,
    estimator: str,
    resampling: Resampling | None,
) -> Measurement:
    """A calibration error of residuals gathered in places, with its reflected interval and noise floor."""
    if resampling is None:
        return Measurement(name, value, estimator, bins, len(sure), None)
    interval = _interval(statistic, value, place, right - sure, n_places, bootstrap_units(len(sure), resampling), resampling)
    floor = _floor(statistic, place, sure, n_places, resampling)
    return Measurement(name, value, estimator, bins, len(sure), _reflected(interval), floor)


def _ranked(
    name: str,
    statistic: _Statistic,
    estimator: str,
    confidence: Confidence,
    correct: Correct,
    limits: tuple[float, float],
    resampling: Resampling | None,
    *,
    both: bool = False,
) -> Measurement:
    """A statistic of the wrong answers and all answers at each level of confidence, most confident first."""
    sure, right = _pairs(confidence, correct)
    if both and right.min() == right.max():
        raise DataError(f"{name} compares right answers with wrong ones; all {len(right)} are {'right' if right.all() else 'wrong'}.")
    levels, place = np.unique(-sure, return_inverse=True)
    value = statistic(*_placed(place, 1 - right, levels.size))
    if resampling is None:
        return Measurement(name, value, estimator, None, len(sure), None)
    if levels.size > _GROUPS:  # the spread, not the value, is taken from coarser levels
        place = place * _GROUPS // levels.size
    interval = _interval(statistic, value, place, 1 - right, int(place.max()) + 1, bootstrap_units(len(sure), resampling), resampling)
    return Measurement(name, value, estimator, None, len(sure), bounded(interval, *limits))


def _mean(name: str, estimator: str, values: np.ndarray, most: float, resampling: Resampling | None) -> Measurement:
    """The mean of losses that lie in 0 to most."""
    interval = None
    if resampling is not None:
        how: Any = {"level": resampling.level, "n_resamples": resampling.n_resamples, "seed": resampling.seed}
        if resampling.clusters is None:
            interval = bootstrap_mean(values, **how)
        else:
            cluster = _clusters(len(values), resampling.clusters)
            interval = bootstrap_ratio(np.bincount(cluster, values), np.bincount(cluster), **how)
        interval = bounded(interval, 0.0, most)
    return Measurement(name, float(values.mean()), estimator, None, len(values), interval)


def _ece(residuals: np.ndarray, counts: np.ndarray) -> float:
    return float(np.abs(residuals).sum() / counts.sum())


def _mce(residuals: np.ndarray, counts: np.ndarray) -> float:
    held = counts > 0
    return float((np.abs(residuals[held]) / counts[held]).max())


def _smece(residuals: np.ndarray, counts: np.ndarray) -> float:
    size = len(residuals)
    mirrored = np.concatenate([residuals, residuals[::-1]]) / counts.sum()
    spectrum, tones = np.fft.rfft(mirrored), np.pi * np.arange(size + 1)

    def smoothed(sigma: float) -> float:
        """Mirrored, [0, 1] is a circle of length 2, on which a reflected Gaussian is a product of spectra."""
        return float(np.abs(np.fft.irfft(spectrum * np.exp(-((tones * sigma) ** 2) / 2), 2 * size)[:size]).sum())

    low, high = 0.001, 1.0  # the integral falls as the width grows: one crossing
    for _ in range(16):
        middle = (low + high) / 2
        low, high = (middle, high) if middle < smoothed(middle) else (low, middle)
    return smoothed(low)


def _area(wrong: np.ndarray, counts: np.ndarray, n_least: float = 0) -> float:
    """Mean of the error rate among the first i, for every i above n_least; answers of one level are in random order.

    Within a level that follows T answers with E errors, (E + (i - T) rate) / i sums to rate * length + (E - rate T)(H_end - H_begin).
    """
    after = np.cumsum(counts)
    before, errors = after - counts, np.cumsum(wrong) - wrong
    rate = np.divide(wrong, counts, out=np.zeros(len(counts)), where=counts > 0)
    begin = np.clip(n_least, before, after)
    sums = rate * (after - begin) + (errors - rate * before) * (_harmonic(after) - _harmonic(begin))
    return float(sums.sum() / (after[-1] - n_least))


def _oracle(wrong: np.ndarray, counts: np.ndarray, n_least: float = 0) -> float:
    n_wrong = wrong.sum()
    return _area(np.array([0, n_wrong]), np.array([counts.sum() - n_wrong, n_wrong]), n_least)


def _aurc(wrong: np.ndarray, counts: np.ndarray) -> float:
    return _area(wrong, counts)


def _e_aurc(wrong: np.ndarray, counts: np.ndarray) -> float:
    return max(0.0, _area(wrong, counts) - _oracle(wrong, counts))  # a perfect ranking may round to -1e-17


def _prr(wrong: np.ndarray, counts: np.ndarray, max_rejection: float) -> float:
    n = counts.sum()
    n_least = n - max(1, int(max_rejection * n))
    chance, best = wrong.sum() / n, _oracle(wrong, counts, n_least)
    return float((chance - _area(wrong, counts, n_least)) / (chance - best)) if chance > best else 0.0  # one-sided resamples tell nothing


def _auroc(wrong: np.ndarray, counts: np.ndarray) -> float:
    right = counts - wrong
    n_pairs = right.sum() * wrong.sum()
    return float(wrong @ (np.cumsum(right) - right / 2) / n_pairs) if n_pairs else 0.5  # one-sided resamples tell nothing


def _harmonic(n: np.ndarray) -> np.ndarray:
    """1 + 1/2 + … + 1/n: summed to 64, beyond by its asymptotic series, which is exact to 1e-13 there."""
    table = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, 65))])
    large = np.maximum(n, 64).astype(np.float64)
    series = np.log(large) + np.euler_gamma + 1 / (2 * large) - 1 / (12 * large**2) + 1 / (120 * large**4)
    return np.where(n <= 64, table[np.minimum(n, 64).astype(np.int64)], series)


def _placed(place: np.ndarray, amounts: np.ndarray, n_places: int) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the amounts and number of rows at each place."""
    return np.bincount(place, amounts, n_places), np.bincount(place, minlength=n_places).astype(np.float64)


def _interval(
    statistic: _Statistic, value: float, place: np.ndarray, amounts: np.ndarray, n_places: int, unit: np.ndarray, resampling: Resampling
) -> Interval:
    """Bootstrap of a statistic of placed sums, resampling units; shifted to the exact value where places are coarser than it."""
    n_units = int(unit.max()) + 1
    sums, counts = (table.reshape(n_units, n_places) for table in _placed(unit * n_places + place, amounts, n_units * n_places))
    spread = bootstrap_statistic(
        lambda s, c: statistic(s.sum(axis=0), c.sum(axis=0)),
        sums,
        counts,
        level=resampling.level,
        n_resamples=resampling.n_resamples,
        seed=resampling.seed,
    )
    shift = value - spread.value
    of = "" if resampling.clusters is None else ", by cluster"
    return Interval(value, spread.low + shift, spread.high + shift, spread.level, n_units, f"{spread.method}{of}")


def _reflected(interval: Interval) -> Interval:
    """Of an error in 0 to 1, turned round its value, which stays inside."""
    value = interval.value
    low, high = np.minimum(2 * value - interval.high, value), np.maximum(2 * value - interval.low, value)  # NaN stays NaN
    return bounded(replace(interval, low=float(low), high=float(high), method=f"reflected {interval.method}"), 0.0, 1.0)


def _clusters(n: int, clusters: Sequence[Any] | np.ndarray) -> np.ndarray:
    names = array_of(clusters, "`clusters`")
    if names.shape != (n,):
        raise DataError(f"`clusters` must name the cluster of each of the {n} rows; its shape is {names.shape}.")
    try:
        return np.unique(names, return_inverse=True)[1]
    except TypeError:
        raise DataError("`clusters` must be all names or all numbers, which can be told apart by their order.") from None


def _floor(statistic: _Statistic, place: np.ndarray, sure: np.ndarray, n_places: int, resampling: Resampling) -> Interval:
    """The statistic of answers drawn right with exactly the stated confidence, near confidences of one place drawn as one."""
    rng = np.random.default_rng(resampling.seed)
    cuts = np.sort(sure)[np.linspace(0, len(sure) - 1, _GROUPS + 1).astype(np.int64)[1:-1]]
    group = np.arange(len(sure)) if len(sure) <= _GROUPS else np.searchsorted(cuts, sure)
    cells, cell = np.unique(place * (int(group.max()) + 1) + group, return_inverse=True)
    n_in = np.bincount(cell)
    chance = np.clip(np.bincount(cell, sure) / n_in, 0, 1)
    place, counts = cells // (int(group.max()) + 1), np.bincount(place, minlength=n_places).astype(np.float64)
    draws = [
        statistic(np.bincount(place, rng.binomial(n_in, chance) - n_in * chance, n_places), counts) for _ in range(resampling.n_resamples)
    ]
    tail = (1 - resampling.level) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    method = f"{resampling.n_resamples} simulations of an exactly calibrated model"
    return Interval(float(np.mean(draws)), float(low), float(high), resampling.level, len(sure), method)


def _pairs(confidence: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 rows of one length, checked; rounding just above 1 is taken as 1."""
    sure, right = numbers(confidence, "Confidences"), numbers(correct, "`correct`")
    if sure.ndim != 1 or sure.shape != right.shape or sure.size == 0:
        raise DataError(
            f"Confidences and answers (`correct`) must be non-empty rows of one length, not of shapes {sure.shape} and {right.shape}."
        )
    if not ((sure >= 0) & (sure <= 1 + 1e-6)).all():
        raise DataError(f"Confidences must lie in 0 to 1; these span {sure.min():g} to {sure.max():g}.")
    if not ((right == 0) | (right == 1)).all():
        raise DataError("`correct`: each answer must be right (True, 1) or wrong (False, 0).")
    return np.minimum(sure, 1.0), right


def _distributions(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows = checked_distributions(probabilities)
    return rows, checked_labels(labels, *rows.shape)
