"""Programs judged by their tests: pass@k, and the problems of HumanEval and MBPP as programs with tests.

pass@k is the chance that at least one of k samples passes, estimated from n >= k samples of which c pass as 1 - C(n-c, k) / C(n, k):
without bias, where 1 - (1 - c/n)^k has one. The unit of the interval is the problem.
Sources: Chen et al. 2021 (pass@k, HumanEval); Austin et al. 2021 (MBPP).
"""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from touchstone.errors import ConfigError, DataError
from touchstone.evaluate.sandbox import Limits, Verdict, run_tests
from touchstone.stats import Interval, bootstrap_mean

__all__ = ["HUMANEVAL_STOPS", "CodeProblem", "humaneval_problem", "mbpp_problem", "mean_pass_at_k", "pass_at_k", "run_samples"]

HUMANEVAL_STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
"""Where a completion of a function ends (Chen et al. 2021, §2.1); to generate with."""


@dataclass(frozen=True, slots=True)
class CodeProblem:
    """prompt: what the program begins with, as the model is given it. question: the task in words where the prompt has none."""

    name: str
    prompt: str
    tests: str
    question: str = ""


def pass_at_k(n_samples: int, n_passed: int, k: int) -> float:
    """The chance that one of k samples of a problem passes, from n_samples of which n_passed do."""
    if not 0 <= n_passed <= n_samples or not 1 <= k <= n_samples:
        raise ConfigError(f"pass@k needs 0 <= n_passed <= n_samples and 1 <= k <= n_samples, not {n_passed}, {n_samples} and k={k}.")
    return 1 - math.comb(n_samples - n_passed, k) / math.comb(n_samples, k)


def mean_pass_at_k(
    passed: Sequence[Sequence[bool]],
    k: int,
    clusters: Sequence[Any] | None = None,
    *,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """pass@k over problems; passed: for each problem whether each of its samples passed, k of them or more."""
    values = [pass_at_k(len(samples), sum(map(bool, samples)), k) for samples in passed]
    return bootstrap_mean(values, level=level, n_resamples=n_resamples, seed=seed, clusters=clusters)


def humaneval_problem(row: Mapping[str, Any]) -> CodeProblem:
    """A row of HumanEval: the prompt is the head of a function, a sample its body."""
    name, prompt, test, entry = (_text(row, field, "HumanEval") for field in ("task_id", "prompt", "test", "entry_point"))
    if not entry.isidentifier():
        raise DataError(f"{name}: `entry_point` must be the name of a function, not {entry!r}.")
    return CodeProblem(name, prompt, f"{test}\n\ncheck({entry})\n")


def mbpp_problem(row: Mapping[str, Any]) -> CodeProblem:
    """A row of MBPP: a task in words, a sample the whole program, and the asserts it must hold."""
    tests = row.get("test_list")
    if not isinstance(tests, Sequence) or isinstance(tests, str) or not tests or not all(isinstance(test, str) for test in tests):
        raise DataError("a row of MBPP needs `test_list`, a list of one assert or more as text.")
    name = f"MBPP/{row.get('task_id')}"
    return CodeProblem(name, "", "\n".join([_text(row, "test_setup_code", "MBPP"), *tests, ""]), _text(row, "text", "MBPP"))


def run_samples(problem: CodeProblem, samples: Sequence[str], limits: Limits | None = None, *, n_at_once: int = 1) -> tuple[Verdict, ...]:
    """The verdict on each sample, in order. n_at_once: processes side by side; more than cores make slow ones run out of time."""
    with ThreadPoolExecutor(max_workers=n_at_once) as pool:
        return tuple(pool.map(lambda sample: run_tests(problem.prompt + sample, problem.tests, limits), samples))


def _text(row: Mapping[str, Any], field: str, benchmark: str) -> str:
    value = row.get(field)
    if not isinstance(value, str):
        raise DataError(f"a row of {benchmark} needs `{field}` as text; this one has {', '.join(map(str, row)) or 'nothing'}.")
    return value
