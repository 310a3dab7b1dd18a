"""pass@k against the paper's own formula, and the benchmarks' rows with their own solutions."""

import gzip
import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchstone.errors import ConfigError, DataError
from touchstone.evaluate.code import CodeProblem, humaneval_problem, mbpp_problem, mean_pass_at_k, pass_at_k, run_samples
from touchstone.evaluate.sandbox import Limits


def rows(path):
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.mark.slow
@given(n=st.integers(1, 60), data=st.data())
def test_pass_at_k_is_the_papers_product(n, data):
    """Chen et al. 2021, figure 3: 1 - prod over i from n-c+1 to n of (1 - k/i), and 1 where n - c < k."""
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    expected = 1.0 if n - c < k else 1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1))
    assert pass_at_k(n, c, k) == pytest.approx(expected, abs=1e-12)
    assert pass_at_k(n, c, 1) == pytest.approx(c / n)


def test_pass_at_k_is_the_share_of_draws_with_one_that_passes():
    passed = [True, False, False, True, False, False, False]
    draws = list(itertools.combinations(passed, 3))
    assert pass_at_k(7, 2, 3) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_the_mean_is_over_problems():
    found = mean_pass_at_k([[True, False], [False, False], [True, True, True, True]], 1)
    assert found.value == pytest.approx((0.5 + 0 + 1) / 3)
    assert found.n == 3
    assert mean_pass_at_k([[True, False], [False, False]], 2, clusters=["a", "a"]).n == 1


def test_what_has_no_estimate_is_refused():
    for arguments in [(3, 4, 1), (3, -1, 1), (3, 1, 4), (3, 1, 0)]:
        with pytest.raises(ConfigError, match="pass@k"):
            pass_at_k(*arguments)
    with pytest.raises(DataError):
        mean_pass_at_k([], 1)


def test_rows_of_other_kinds_are_refused():
    with pytest.raises(DataError, match="`test`"):
        humaneval_problem({"task_id": "HumanEval/1", "prompt": "def f():\n"})
    with pytest.raises(DataError, match="entry_point"):
        humaneval_problem({"task_id": "x", "prompt": "", "test": "", "entry_point": "f(); import os"})
    for row in ({"text": "x"}, {"test_list": []}, {"test_list": "assert x"}, {"test_list": ["assert x"], "text": "x"}):
        with pytest.raises(DataError, match="MBPP"):
            mbpp_problem(row)


@pytest.mark.slow
def test_samples_are_judged_in_order():
    problem = CodeProblem("double", "def double(x):\n", "assert double(4) == 8\n")
    verdicts = run_samples(problem, ["    return 2 * x", "    return x", "    return x +"], n_at_once=2)
    assert [verdict.status for verdict in verdicts] == ["passed", "failed", "failed"]
    assert mean_pass_at_k([[verdict.status == "passed" for verdict in verdicts]], 1).value == pytest.approx(1 / 3)


@pytest.mark.slow
def test_a_few_of_the_benchmarks_own_solutions_pass_and_others_fail(test_data):
    row = rows(test_data / "benchmarks/humaneval.jsonl.gz")[0]
    verdicts = run_samples(humaneval_problem(row), [row["canonical_solution"], "    return False\n", ""])
    assert [verdict.status for verdict in verdicts] == ["passed", "failed", "failed"]
    row = rows(test_data / "benchmarks/mbpp/train_val_prompt.jsonl.gz")[0]
    problem = mbpp_problem(row)
    assert problem.question == row["text"]
    assert [verdict.status for verdict in run_samples(problem, [row["code"], "def min_cost(*_): return 8"])] == ["passed", "failed"]


@pytest.mark.slow
def test_every_solution_of_humaneval_passes_its_tests(test_data):
    found = rows(test_data / "benchmarks/humaneval.jsonl.gz")
    limits = Limits(wall_s=60, cpu_s=30)
    wrong = {
        row["task_id"]: v for row in found if (v := run_samples(humaneval_problem(row), [row["canonical_solution"]], limits)[0]).reason
    }
    assert len(found) == 82
    assert wrong == {}


@pytest.mark.prove
def test_every_solution_of_mbpp_passes_its_tests(test_data):
    found = rows(test_data / "benchmarks/mbpp/train_val_prompt.jsonl.gz")
    limits = Limits(wall_s=60, cpu_s=30)
    wrong = {row["task_id"]: v for row in found if (v := run_samples(mbpp_problem(row), [row["code"]], limits)[0]).reason}
    assert len(found) == 474
    assert wrong == {}
