"""Scores of single examples by hand and by what they are made of."""

import gzip
import json
import math
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchstone.errors import DataError, Unsupported
from touchstone.evaluate import scorers
from touchstone.evaluate.code import CodeProblem
from touchstone.evaluate.overlap import bleu, bleu_of, chrf, chrf_of
from touchstone.evaluate.sandbox import Verdict
from touchstone.evaluate.scorers import AnswerLikelihoods, AnswerSet

QUESTION = AnswerSet(("no", "certainly", "是"), right=1)
LIKELIHOODS = AnswerLikelihoods(
    logprobs=(-2.0, -6.0, -3.5), n_tokens=(1, 3, 1), domain=(-1.0, -8.0, -3.0), content_free=((-0.5, -7.0, -2.0), (-0.7, -9.0, -1.5))
)
ROWS = st.lists(st.floats(-30, 0), min_size=3, max_size=3).map(tuple)


def test_each_way_of_choosing_corrects_for_another_thing():
    """By bytes: -1, -0.667, -1.167. By tokens: -2, -2, -3.5, the first of equals. PMI: -1, 2, -0.5."""
    assert scorers.chosen(QUESTION, LIKELIHOODS) == {"raw": 0, "per_byte": 1, "per_token": 0, "pmi": 1, "calibrated": 1}
    scores = scorers.choice(QUESTION, LIKELIHOODS)
    assert scores["accuracy"] == scores["accuracy_per_token"] == 0
    assert scores["accuracy_per_byte"] == scores["accuracy_pmi"] == scores["accuracy_calibrated"] == 1
    assert scores["probability"] == pytest.approx(math.exp(-6) / (math.exp(-2) + math.exp(-6) + math.exp(-3.5)))


def test_ways_that_were_not_measured_are_left_out():
    found = scorers.choice(QUESTION, AnswerLikelihoods((-1.0, -2.0, -3.0), (1, 1, 1)))
    assert set(found) == {"accuracy", "accuracy_per_byte", "accuracy_per_token", "probability"}


@given(row=ROWS, shift=ROWS)
def test_pmi_is_blind_to_what_the_domain_already_says(row, shift):
    """METHODS 15: multiplying P(answer | anything) by a factor of the answer alone changes no choice, but for ties of rounding."""
    plain = np.array(row) - np.array(shift)
    runner_up, best = np.sort(plain)[-2:]
    moved = AnswerLikelihoods(tuple(a - 1 for a in row), (1, 1, 1), domain=tuple(s - 1 for s in shift))
    if best - runner_up > 1e-9:
        assert scorers.chosen(QUESTION, moved)["pmi"] == int(plain.argmax())


@given(row=ROWS, prior=ROWS)
def test_calibration_by_one_prompt_is_division_by_its_probabilities(row, prior):
    """Zhao et al. 2021: q proportional to p / p_cf, both normalised over the answers."""
    p, p_cf = (np.exp(x) / np.exp(x).sum() for x in (np.array(row), np.array(prior)))
    q = p / p_cf
    runner_up, best = np.sort(q)[-2:]
    found = scorers.chosen(QUESTION, AnswerLikelihoods(row, (1, 1, 1), content_free=(prior,)))["calibrated"]
    if best > runner_up * (1 + 1e-9):
        assert found == int(q.argmax())


def test_an_impossible_answer_is_never_chosen():
    row = (-math.inf, -50.0, -60.0)
    output = AnswerLikelihoods(row, (1, 1, 1), domain=(-math.inf, -1.0, -2.0), content_free=((-math.inf, -1.0, -2.0),))
    assert set(scorers.chosen(QUESTION, output).values()) <= {1, 2}


@pytest.mark.parametrize(
    "output",
    [
        AnswerLikelihoods((-1.0, -2.0), (1, 1, 1)),
        AnswerLikelihoods((-1.0, math.nan, -2.0), (1, 1, 1)),
        AnswerLikelihoods((-1.0, 0.5, -2.0), (1, 1, 1)),
        AnswerLikelihoods((-math.inf,) * 3, (1, 1, 1)),
        AnswerLikelihoods((-1.0, -2.0, -3.0), (1, 0, 1)),
        AnswerLikelihoods((-1.0, -2.0, -3.0), (1, 1, 1), domain=(-1.0,)),
    ],
)
def test_likelihoods_that_cannot_be_are_refused(output):
    with pytest.raises(DataError):
        scorers.choice(QUESTION, output)


def test_questions_that_are_not_closed_are_refused():
    for answers, right in [(("a",), 0), (("a", "b"), 2), (("a", ""), 0), (("a", "b"), -1)]:
        with pytest.raises(DataError):
            AnswerSet(answers, right)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Natalia sold 48/2 = <<48/2=24>>24 clips.\n#### 72", "72"),
        ("#### 1,234", "1234"),
        ("so she pays $1,234,567.50 in all.", "1234567.50"),
        ("The answer is 18.", "18"),
        ("#### -5\nThat took 3 steps", "-5"),
        ("it fell by −3.5 degrees", "-3.5"),
        ("10-3", "3"),
        ("10 - 3 = 7 eggs", "7"),
        ("x=(2)-1", "1"),
        ("GPT-4", "4"),
        ("一共有１２个", "12"),
        ("numbers 12,34", "34"),
        ("about .5", "0.5"),
        ("+7", "7"),
        ("#### none\nonly 9", "9"),
        ("50%", "50"),
        ("no number", None),
        ("", None),
    ],
)
def test_the_final_number_of_a_text(text, expected):
    assert scorers.last_number(text) == (None if expected is None else Decimal(expected))


def test_numbers_are_compared_by_value():
    assert scorers.number("work\n#### 1,000", "That makes 1000.00") == {"accuracy": 1.0, "n_read": 1.0}
    assert scorers.number("7", "I do not know") == {"accuracy": 0.0, "n_read": 0.0}
    with pytest.raises(DataError, match="no number"):
        scorers.number("none", "7")


def test_every_solution_of_gsm8k_has_the_number_behind_its_mark(test_data):
    with gzip.open(test_data / "benchmarks/gsm8k/train.jsonl.gz", "rt", encoding="utf-8") as file:
        answers = [json.loads(line)["answer"] for line in file]
    expected = [Decimal(answer.rpartition("####")[2].strip().replace(",", "")) for answer in answers]
    assert [scorers.last_number(answer) for answer in answers] == expected
    assert len(answers) == 7473


def test_texts_are_scored_by_the_figures_of_their_modules():
    assert scorers.text_answer(["Denver Broncos"], "the broncos") == {"exact_match": 0.0, "f1": pytest.approx(2 / 3)}
    assert scorers.text_answer([], "") == {"exact_match": 1.0, "f1": 1.0}
    assert scorers.chinese_answer(["北京"], "北京。") == {"exact_match": 1.0, "f1": 1.0}
    assert scorers.overlap(["a b c"], "a b d") == {"rouge_1": pytest.approx(2 / 3), "rouge_2": 0.5, "rouge_l": pytest.approx(2 / 3)}
    assert scorers.label("x", "x") == {"accuracy": 1.0}
    assert scorers.label("x", None) == {"accuracy": 0.0}


def test_tags_and_spans_are_counted():
    found = scorers.tags(["B-X", "I-X", "O"], ["B-X", "O", "O"])
    assert found == {"n_right": 0.0, "n_found": 1.0, "n_there": 1.0, "n_right_tags": 2.0, "n_tags": 3.0}
    assert scorers.tags(["NN", "VB"], ["NN", "NN"], scheme="plain") == {"n_right_tags": 1.0, "n_tags": 2.0}
    assert scorers.spans({(0, 2, "X"), (3, 4, "Y")}, [(0, 2, "X"), (0, 2, "X")]) == {"n_right": 1.0, "n_found": 1.0, "n_there": 2.0}
    with pytest.raises(DataError):
        scorers.tags(["O"], [])


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_counts_of_translations_make_the_figure_of_the_corpus(language):
    texts, references = ["我爱北京天安门", "今天天气很好 ok"], [["我很爱北京天安门", "我爱天安门"], ["今天的天气非常好 ok"]]
    rows = [scorers.translation(r, t, language=language) for r, t in zip(references, texts, strict=True)]
    for name, of, expected in [
        ("bleu_", lambda counts: bleu_of(counts, language=language), bleu(texts, references, language=language)),
        ("chrf_", chrf_of, chrf(texts, references)),
    ]:
        found = of([[value for key, value in row.items() if key.startswith(name)] for row in rows])
        assert found == expected


def test_code_passes_by_its_tests_and_a_sandbox_that_fails_says_so(monkeypatch):
    problem = CodeProblem("double", "def double(x):\n", "assert double(4) == 8\n")
    assert scorers.code_tests(problem, "    return x + x") == {"passed": 1.0, "timed_out": 0.0}
    assert scorers.code_tests(problem, "    return 9")["passed"] == 0.0
    monkeypatch.setattr(scorers, "run_tests", lambda *_: Verdict("error", "no processes", "", frozenset()))
    with pytest.raises(Unsupported, match="no processes"):
        scorers.code_tests(problem, "")
