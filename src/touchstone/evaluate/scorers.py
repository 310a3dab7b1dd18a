"""One example scored: what a model put out against what was expected, as named numbers that the figures are made of.

Each scorer is a pure function `score(example, output)`. A number is a figure of the example itself (its mean over examples is the
figure of the data: `stats.bootstrap_mean`) or a count whose sums are (`n_…`; `entities.f1_of`, `overlap.bleu_of`, `overlap.chrf_of`).
Sources: Brown et al. 2020 §2.4 (length-normalised answers); Holtzman et al. 2021 (PMI); Zhao et al. 2021 (contextual calibration);
Cobbe et al. 2021 (numbers).
"""

import re
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
from jaxtyping import Float64

from touchstone.errors import DataError, Unsupported
from touchstone.evaluate.cmrc import cmrc_exact_match, cmrc_f1
from touchstone.evaluate.code import CodeProblem
from touchstone.evaluate.entities import Entity, entity_counts
from touchstone.evaluate.labels import answer_f1, exact_match
from touchstone.evaluate.overlap import BLEU_COUNTS, CHRF_COUNTS, bleu_counts, chrf_counts, rouge_l, rouge_n
from touchstone.evaluate.sandbox import Limits, run_tests
from touchstone.text.conll import Scheme

__all__ = [
    "AnswerLikelihoods",
    "AnswerSet",
    "chinese_answer",
    "choice",
    "chosen",
    "code_tests",
    "label",
    "last_number",
    "number",
    "overlap",
    "spans",
    "tags",
    "text_answer",
    "translation",
]

Scores = dict[str, float]


@dataclass(frozen=True, slots=True)
class AnswerSet:
    """A closed question. right: the place of the right answer, from 0."""

    answers: tuple[str, ...]
    right: int

    def __post_init__(self) -> None:
        if len(self.answers) < 2 or not all(self.answers) or not 0 <= self.right < len(self.answers):
            raise DataError(f"A closed question has two answers or more, none empty, one of them right, not {self.answers}, {self.right}.")


@dataclass(frozen=True, slots=True)
class AnswerLikelihoods:
    """log P of each answer in nats, in the order of the question's answers.

    n_tokens: of each answer. domain: log P of each after the domain's own words alone, such as "Answer:"; None where not measured.
    content_free: the same after each of some prompts without content, such as one that asks "N/A".
    """

    logprobs: tuple[float, ...]
    n_tokens: tuple[int, ...]
    domain: tuple[float, ...] | None = None
    content_free: tuple[tuple[float, ...], ...] = ()


def choice(example: AnswerSet, output: AnswerLikelihoods) -> Scores:
    """Whether each way of choosing picks the right answer, and P(right) among the answers (`probability`, with no correction)."""
    scores = {
        f"accuracy_{way}" if way != "raw" else "accuracy": float(pick == example.right) for way, pick in chosen(example, output).items()
    }
    return {**scores, "probability": float(_softmax(_row(output.logprobs, example))[example.right])}


def chosen(example: AnswerSet, output: AnswerLikelihoods) -> dict[str, int]:
    """The answer picked, the first of equals, by each way that its measurements allow.

    raw: the likeliest. per_byte, per_token: the likeliest on average over its UTF-8 bytes or tokens. pmi: the one that the question
    makes likelier than the domain does. calibrated: the likeliest after division by its mean probability in prompts without content.
    """
    raw = _row(output.logprobs, example)
    n_bytes = np.array([len(answer.encode()) for answer in example.answers])
    if len(output.n_tokens) != len(raw) or min(output.n_tokens) < 1:
        raise DataError(f"`n_tokens` must be 1 or more for each of the {len(raw)} answers, not {output.n_tokens}.")
    ways = {"raw": raw, "per_byte": raw / n_bytes, "per_token": raw / np.array(output.n_tokens)}
    if output.domain is not None:
        ways["pmi"] = _above(raw, _row(output.domain, example))
    if output.content_free:
        prior = np.mean([_softmax(_row(row, example)) for row in output.content_free], axis=0)
        with np.errstate(divide="ignore"):
            ways["calibrated"] = _above(raw, np.log(prior))
    return {way: int(values.argmax()) for way, values in ways.items()}


def text_answer(example: Sequence[str], output: str) -> Scores:
    """Exact match and F1 of words by SQuAD's rules; no right answer (an empty example) means that none may be given."""
    return {"exact_match": exact_match(output, example), "f1": answer_f1(output, example)}


def chinese_answer(example: Sequence[str], output: str) -> Scores:
    """Exact match and F1 by the rules of CMRC 2018."""
    return {"exact_match": cmrc_exact_match(output, example), "f1": cmrc_f1(output, example)}


def overlap(example: Sequence[str], output: str) -> Scores:
    """ROUGE-1, ROUGE-2 and ROUGE-L of a text with its references."""
    return {"rouge_1": rouge_n(output, example, 1), "rouge_2": rouge_n(output, example, 2), "rouge_l": rouge_l(output, example)}


def translation(example: Sequence[str], output: str, *, language: str = "en") -> Scores:
    """What the text adds to BLEU (`bleu_…`, in the order of BLEU_COUNTS) and to chrF (`chrf_…`, of CHRF_COUNTS)."""
    bleu = bleu_counts([output], [example], language=language)[0].tolist()
    chrf = chrf_counts([output], [example])[0].tolist()
    return {
        **{f"bleu_{name}": count for name, count in zip(BLEU_COUNTS, bleu, strict=True)},
        **{f"chrf_{name}": count for name, count in zip(CHRF_COUNTS, chrf, strict=True)},
    }


def label(example: Hashable, output: Hashable) -> Scores:
    """Whether the class is right."""
    return {"accuracy": float(example == output)}


def tags(example: Sequence[str], output: Sequence[str], *, scheme: Scheme = "bio") -> Scores:
    """Entities right, found and there, and tags right of all; in the scheme `plain`, such as parts of speech, the tags alone."""
    if len(example) != len(output):
        raise DataError(f"a sentence of {len(example)} words was given {len(output)} tags.")
    scores = {"n_right_tags": float(sum(a == b for a, b in zip(example, output, strict=True))), "n_tags": float(len(example))}
    if scheme == "plain":
        return scores
    counts = entity_counts(output, example, scheme)
    return {"n_right": float(counts.n_right), "n_found": float(counts.n_found), "n_there": float(counts.n_there), **scores}


def spans(example: Collection[Entity], output: Collection[Entity]) -> Scores:
    """Spans right, found and there, as sets: (start, end, kind)."""
    ours, there = set(output), set(example)
    return {"n_right": float(len(ours & there)), "n_found": float(len(ours)), "n_there": float(len(there))}


def number(example: str, output: str) -> Scores:
    """Whether the final numbers are equal; `n_read` says whether the output had one. The example is a number or a worked solution."""
    wanted, found = last_number(example), last_number(output)
    if wanted is None:
        raise DataError(f"the expected answer has no number: {example[:80]!r}.")
    return {"accuracy": float(found == wanted), "n_read": float(found is not None)}


def last_number(text: str) -> Decimal | None:
    """The number behind the last `####`, or else the last number of the text; None where there is none.

    Thousands may be parted by commas; a sign counts where no letter, digit or bracket stands before it ("10-3" ends in 3).
    """
    behind = _NUMBER.search(text.rpartition("####")[2]) if "####" in text else None
    found = behind[0] if behind else next(iter(_NUMBER.findall(text)[::-1]), None)
    return Decimal(found.replace(",", "").replace("−", "-").replace("+", "")) if found else None


def code_tests(example: CodeProblem, output: str, *, limits: Limits | None = None) -> Scores:
    """Whether the program passes its tests. Raises Unsupported if it could not be run, which says nothing of the program."""
    verdict = run_tests(example.prompt + output, example.tests, limits)
    if verdict.status == "error":
        raise Unsupported(f"{example.name}: the sandbox could not run the program: {verdict.reason}")
    return {"passed": float(verdict.status == "passed"), "timed_out": float(verdict.status == "timeout")}


_NUMBER = re.compile(r"(?:(?<![\w)\]])[-−+])?(?:(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d])|\d+)(?:\.\d+)?|(?<![\d])\.\d+")


def _row(logprobs: Sequence[float], example: AnswerSet) -> Float64[np.ndarray, " A"]:
    row = np.array(logprobs, dtype=np.float64)
    if row.shape != (len(example.answers),) or np.isnan(row).any() or (row > 1e-6).any() or not np.isfinite(row).any():
        raise DataError(f"Each of the {len(example.answers)} answers has a log P of at most 0, one of them above -inf, not {logprobs}.")
    return row


def _above(row: Float64[np.ndarray, " A"], prior: Float64[np.ndarray, " A"]) -> Float64[np.ndarray, " A"]:
    """How much likelier than before; an impossible answer is never chosen."""
    return np.subtract(row, prior, out=np.full_like(row, -np.inf), where=np.isfinite(row))


def _softmax(row: Float64[np.ndarray, " A"]) -> Float64[np.ndarray, " A"]:
    weights = np.exp(row - row.max())
    return weights / weights.sum()
