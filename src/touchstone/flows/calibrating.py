"""The verb `calibrate`: fit what makes a model's confidence true, measure it on answers that the fit has not seen, keep it in the card.

A classifier is calibrated by labelled rows; a language model by text, for its next token, or, under the name of a task, by closed
questions, for `LanguageModel.choose(…, task=NAME)`. The rows are divided by a hash of their text, so that a text that comes twice is on one
side. What is fitted on one half is measured on the other, and those very parameters are stored: the figures in the card are theirs, and
the confidences beside them, which live ones are held against (`infer.watch`; not those of the next token).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from touchstone.calibrate.arrays import softmax
from touchstone.calibrate.choose import CalibrationChoice, choose_calibration, choose_confidence
from touchstone.calibrate.drift import confidence_counts
from touchstone.calibrate.fit import Calibration as Fitted
from touchstone.calibrate.fit import Temperature, VectorScaling
from touchstone.calibrate.measure import Measurement, Resampling, ece_equal_width, reliability_table
from touchstone.calibrate.prior import Batch, Contextual, Pmi
from touchstone.config import closest
from touchstone.errors import ConfigError, DataError, NoTokenizer, Unsupported
from touchstone.evaluate.language import encode_documents, fit_temperature, sample_documents, score_language
from touchstone.files import sha256_bytes
from touchstone.flows.closed_questions import ClosedQuestion, read_questions
from touchstone.flows.comparison import interval_dict, measurement_dict
from touchstone.flows.measuring import ECE_BINS, not_read, said_of
from touchstone.flows.net_training import today
from touchstone.flows.opening import Opening
from touchstone.infer import LanguageModel
from touchstone.infer.calibration import labels_hash
from touchstone.infer.locate import locate_model
from touchstone.models.card import Calibration
from touchstone.models.card_file import store_calibration
from touchstone.models.net import LanguageNet
from touchstone.report.plot import Reliability
from touchstone.report.terminal import Terminal
from touchstone.stats import Interval, bootstrap_mean, paired_difference
from touchstone.text.labelled import LabelledText, read_labelled
from touchstone.text.read import ReadReport, read_documents

__all__ = [
    "LEAST_ROWS",
    "Calibrated",
    "CalibrationRequest",
    "calibrate_model",
    "class_confidence",
    "fit_answers",
    "fit_classes",
    "fit_next_token",
    "is_first_half",
    "reliability_curve",
]

Target = Literal["answer-set", "class", "next-token"]
MethodName = Literal["temperature", "vector", "platt", "histogram", "isotonic"]

LEAST_ROWS = 40  # different texts on either side: below, an interval says nothing
MAX_BYTES = 1_000_000  # of text for a temperature of the next token
_LEAST_GAIN = 1e-4  # of the calibration error, whose figures have four digits


@dataclass(frozen=True)
class CalibrationRequest:
    """What to calibrate, and by what. task: a name to find the record by; with it, a language model's data are closed questions.

    Fields are those of `text.labelled.read_labelled`.
    """

    folder: Path
    data: tuple[Path, ...]
    task: str | None = None
    method: MethodName | None = None
    text_field: str = "text"
    label_field: str = "label"
    second_field: str | None = None
    columns: tuple[str, ...] | None = None
    opening: Opening = field(default_factory=Opening)


@dataclass(frozen=True)
class Calibrated:
    """What was fitted, None where nothing is better than the model's own word, and the error before and after on the half kept out.

    gain: how much the Brier score of an answer fell, the same answers before and after; texts are resampled, not rows of one text.
    labels: what a class or an answer is called, in the order fitted for. confidences: of the calibrated answers of that half, counted.
    accuracy: before and after, where a calibration can change which answer is given. n_cut: texts of which the model read a part.
    """

    target: Target
    fitted: Fitted | Batch | None
    before: Measurement
    after: Measurement
    reliability_before: Reliability
    reliability_after: Reliability
    reason: str
    n_fitted: int
    gain: Interval
    labels: tuple[str, ...] | None = None
    confidences: tuple[int, ...] | None = None
    accuracy: tuple[Interval, Interval] | None = None
    n_cut: int = 0

    @property
    def helps(self) -> bool:
        """Whether there is something to keep, the error is smaller with it by what can be seen, and that is more than a tie."""
        return self.fitted is not None and self.before.value - self.after.value >= _LEAST_GAIN and self.gain.low > 0


def calibrate_model(asked: CalibrationRequest, terminal: Terminal) -> dict[str, Any]:
    """Fit, measure, store and show. Raises DataError for rows that cannot be used, Unsupported for a model without probabilities to fit.

    A calibration that does not help is not stored.
    """
    words = terminal.words
    model = asked.opening.load(asked.folder)
    if not asked.data:
        raise ConfigError("`calibrate` needs answers that the model has not learned from; give them with `--data PATH`.")
    with terminal.progress(words("calibrate.reading")):
        found = _fit(model, asked, report := ReadReport())
    for sentence in said_of(left_out := not_read(report), words):
        terminal.warn(sentence)
    _show(found, terminal)
    if found.helps:
        store_calibration(locate_model(asked.folder), _record(found, model, asked.task))
    outcome = "stored" if found.helps else "not_stored"
    terminal.say(words(f"calibrate.{outcome}", folder=asked.folder), style="good" if found.helps else "dim")
    return {
        "status": "ok",
        "model": str(asked.folder),
        "target": found.target,
        "task": asked.task,
        "stored": found.helps,
        "fitted": None if found.fitted is None else found.fitted.to_dict(),
        "reason": found.reason,
        "ece_before": measurement_dict(found.before),
        "ece_after": measurement_dict(found.after),
        "brier_gain": interval_dict(found.gain),
        "accuracy": None if found.accuracy is None else dict(zip(("before", "after"), map(interval_dict, found.accuracy), strict=True)),
        "n_fitted": found.n_fitted,
        "n_cut": found.n_cut,
        "not_read": left_out,
    }


def _fit(model: LanguageModel, asked: CalibrationRequest, report: ReadReport) -> Calibrated:
    if "classify" in model.can:
        rows = read_labelled(
            asked.data,
            text_field=asked.text_field,
            label_field=asked.label_field,
            second_field=asked.second_field,
            columns=asked.columns,
            report=report,
        )
        return fit_classes(model, rows, method=asked.method)
    if asked.task is not None and "loglikelihood" in model.can:
        return fit_answers(model, read_questions(asked.data, report), method=asked.method)
    if "rolling" in model.can:
        if asked.method not in (None, "temperature"):
            raise Unsupported(f"The next token of a vocabulary is calibrated by `temperature` only, not by `{asked.method}`.")
        return fit_next_token(model, asked.data, report, text_field=asked.text_field)
    raise Unsupported("This model gives neither classes nor next tokens, so there is no probability to calibrate.")


def fit_classes(model: LanguageModel, rows: Sequence[LabelledText], *, method: MethodName | None = None, seed: int = 0) -> Calibrated:
    """A calibration of a classifier's labels from labelled rows; method: None = the one that measures best."""
    labels = model.labels
    numbers = {label: number for number, label in enumerate(labels)}
    wrong = next((row for row in rows if row.label not in numbers), None)
    if wrong is not None:
        near = closest(wrong.label, labels, n=1)
        hint = f"; did you mean `{near[0]}`?" if near else f"; the model's labels are {', '.join(labels[:10])}"
        raise DataError(f"{wrong.place}: the model has no label `{wrong.label}`{hint}")
    truth = np.array([numbers[row.label] for row in rows])
    first, numbered = _sides([row.whole for row in rows], truth, "rows", labels)
    said = model.classify([row.parts for row in rows], truncate=True)
    logits = np.array([found.logits for found in said])
    if logits.ndim != 2 or logits.shape[1] != len(labels):
        raise Unsupported("This model's labels do not exclude each other; one confidence of an answer is not defined for them.")
    choice = _choice(logits[first], truth[first], method, seed)
    fitted = choice.calibration
    assert not isinstance(fitted, Contextual | Batch | Pmi), "not among the candidates"
    kept_out = logits[~first]
    answers = kept_out.argmax(axis=1)
    correct = answers == truth[~first]
    sure = [(class_confidence(form, kept_out, answers), correct) for form in (None, fitted)]
    return _calibrated(
        "class",
        fitted,
        sure,
        numbered[~first],
        reason=choice.reason,
        n_fitted=int(first.sum()),
        labels=labels,
        confidences=confidence_counts(sure[1][0]),
        n_cut=sum(found.n_cut > 0 for found in said),
    )


def fit_answers(
    model: LanguageModel, questions: Sequence[ClosedQuestion], *, method: MethodName | None = None, seed: int = 0
) -> Calibrated:
    """A calibration of closed answers; method: None = the one that measures best, batch calibration among them.

    Confidence is that in the answer given, which a calibration of all answers can change: so accuracy is measured before and after too.
    """
    if method not in (None, "temperature", "vector"):
        raise Unsupported(f"`{method}` corrects one number an answer; closed answers are calibrated by `temperature` or `vector`.")
    answers = questions[0].answers
    right = np.array([question.right for question in questions])
    first, numbered = _sides([question.prompt for question in questions], right, "questions", answers)
    found = model.choose([(question.prompt, answers) for question in questions])
    for question, each in zip(questions, found, strict=True):
        if each.n_truncated:
            raise DataError(f"{question.place}: the prompt is {each.n_truncated} tokens longer than the model reads; shorten it.")
    shares = np.array([each.shares for each in found])
    choice = choose_calibration(shares[first], right[first], candidates=None if method is None else (method,), seed=seed)
    sides = [softmax(scores) for scores in (shares[~first], choice.apply(shares[~first]))]
    sure = [(rows.max(axis=1), rows.argmax(axis=1) == right[~first]) for rows in sides]
    truth = np.eye(len(answers))[right[~first]]
    fitted = choice.calibration
    assert fitted is None or isinstance(fitted, Temperature | VectorScaling | Batch), "the candidates"
    accuracy = [bootstrap_mean(correct, seed=seed, clusters=numbered[~first].tolist()) for _, correct in sure]
    return _calibrated(
        "answer-set",
        fitted,
        sure,
        numbered[~first],
        losses=[((rows - truth) ** 2).sum(axis=1) for rows in sides],
        reason=choice.reason,
        n_fitted=int(first.sum()),
        labels=answers,
        confidences=confidence_counts(sure[1][0]),
        accuracy=(accuracy[0], accuracy[1]),
    )


def _choice(logits: NDArray[np.float64], truth: NDArray[np.int64], method: MethodName | None, seed: int) -> CalibrationChoice:
    """By cross-validation of what changes all scores; the others, which know one number an answer, only where they are asked for."""
    if method in (None, "temperature", "vector"):
        candidates = ("none", "temperature", "vector") if method is None else (method,)
        return choose_calibration(logits, truth, candidates=candidates, seed=seed)
    answers = logits.argmax(axis=1)
    return choose_confidence(softmax(logits)[np.arange(len(answers)), answers], answers == truth, candidates=(method,), seed=seed)


def fit_next_token(model: LanguageModel, paths: Sequence[Path], report: ReadReport, *, text_field: str = "text") -> Calibrated:
    """A temperature for the next token from documents. report: filled while they are read."""
    if model.tokenizer is None:
        raise NoTokenizer("This model has no tokenizer, so it cannot read the text to calibrate by.")
    if not isinstance(model.net, LanguageNet):
        raise Unsupported("An n-gram model counts; its probabilities are smoothed, and no temperature is fitted to them.")
    documents = sample_documents(list(read_documents(list(paths), text_field=text_field, report=report)), MAX_BYTES)
    first = np.array([is_first_half(document.text) for document in documents])
    if not 0 < first.sum() < len(documents):  # a few long documents: the halves of each
        raise DataError(f"{len(documents)} documents are too few to fit on some and measure on others; give more files or rows.")
    sides = [[document for document, mine in zip(documents, first, strict=True) if mine == side] for side in (True, False)]
    temperature = fit_temperature(model.net, encode_documents(model.tokenizer, sides[0]))
    score = score_language(model.net, encode_documents(model.tokenizer, sides[1]), temperatures=(1.0, temperature.temperature))
    lengths = [len(nats) for nats in score.token_nats]
    sure = [(score.confidences[t].confidence, score.confidences[t].correct) for t in (1.0, temperature.temperature)]
    clusters = np.repeat(np.arange(len(lengths)), lengths)
    return _calibrated("next-token", temperature, sure, clusters, reason="temperature", n_fitted=temperature.n)


def _calibrated(
    target: Target,
    fitted: Fitted | Batch | None,
    sure: Sequence[tuple[NDArray[np.float64], NDArray[np.bool_]]],
    clusters: NDArray[np.int64],
    *,
    losses: Sequence[NDArray[np.float64]] | None = None,
    **more: Any,
) -> Calibrated:
    """Measured by confidences and whether they were right, before and after; losses: the Brier scores, None = of those confidences."""
    resampling = Resampling(clusters=clusters)
    before, after = (ece_equal_width(*each, ECE_BINS, resampling=resampling) for each in sure)
    curves = [reliability_curve(*each) for each in sure]
    first, second = losses if losses is not None else [(confidence - correct) ** 2 for confidence, correct in sure]
    gain = paired_difference(first, second, clusters=clusters.tolist())
    return Calibrated(target, fitted, before, after, curves[0], curves[1], gain=gain, **more)


def class_confidence(fitted: Fitted | None, logits: NDArray[np.float64], answers: NDArray[np.int64]) -> NDArray[np.float64]:
    """The calibrated confidence in the answer given to each row."""
    rows = np.arange(len(logits))
    if fitted is None or isinstance(fitted, Temperature | VectorScaling):
        return softmax(logits if fitted is None else fitted.apply(logits))[rows, answers]
    return fitted.apply(softmax(logits)[rows, answers])


def is_first_half(text: str) -> bool:
    """On which side a text is: fitted on, or measured on."""
    return int(sha256_bytes(text.encode())[:8], 16) % 2 == 0


def _sides(
    texts: Sequence[str], right: NDArray[np.int64], what: str, answers: Sequence[str]
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Which rows are fitted on, and the number of each row's text: the same texts have the same.

    DataError where a half has too few different texts, or where all rows have one right answer.
    """
    known: dict[str, int] = {}
    numbered = np.array([known.setdefault(text, len(known)) for text in texts])
    first = np.array([is_first_half(text) for text in texts])
    least = min(len(np.unique(numbered[first])), len(np.unique(numbered[~first])))
    if least < LEAST_ROWS:
        raise DataError(
            f"{len(first)} {what} are too few: each half needs {LEAST_ROWS} different ones, and the smaller one has {least}; give more."
        )
    if len(set(right.tolist())) == 1:
        raise DataError(
            f"all {len(first)} {what} have the right answer `{answers[right[0]]}`: a calibration would learn no more than to give it; "
            "add some with other answers, as often as they come in use."
        )
    return first, numbered


def reliability_curve(confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> Reliability:
    """The reliability diagram of some answers; bins that hold none are left out."""
    rows = [row for row in reliability_table(confidence, correct, ECE_BINS) if row.n]
    return Reliability([row.confidence or 0.0 for row in rows], [row.accuracy or 0.0 for row in rows], [row.n for row in rows])


def _record(found: Calibrated, model: LanguageModel, task: str | None) -> Calibration:
    assert found.fitted is not None
    interval, fitted = found.after.interval, found.fitted.to_dict()
    statistic = {"ece_before": found.before.value, "ece_after": found.after.value}
    if found.after.noise_floor is not None:
        statistic["noise_floor"] = found.after.noise_floor.value
    return Calibration(
        target=found.target,
        task=task,
        labels_hash=None if found.labels is None else labels_hash(found.labels),
        method=fitted["method"],
        params={name: value for name, value in fitted.items() if name != "method"},
        statistic=statistic,
        weights_hash=model.weights_hash,
        numeric_scheme=model.numeric_scheme,
        n=found.n_fitted,
        interval=(interval.low, interval.high) if interval is not None else None,
        confidences=found.confidences,
        date=today(),
    )


def _show(found: Calibrated, terminal: Terminal) -> None:
    words = terminal.words
    method = "none" if found.fitted is None else found.fitted.method
    terminal.say(words("calibrate.fitted", method=words(f"calibrate.{method}"), n=f"{found.n_fitted:,}"))
    rows = []
    for name, measured in (("before", found.before), ("after", found.after)):
        floor = "-" if measured.noise_floor is None else f"{measured.noise_floor.value:.4f}"
        rows.append((words(f"calibrate.{name}"), f"{measured.value:.4f}", str(measured.interval or "-"), floor, f"{measured.n:,}"))
    terminal.table([words(f"calibrate.{header}") for header in ("when", "ece", "interval", "floor", "n")], rows)
    if found.n_cut:
        terminal.say(words("calibrate.cut", n=f"{found.n_cut:,}"), style="dim")
