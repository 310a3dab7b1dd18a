"""Programs judged by their tests in the sandbox: HumanEval and MBPP, as pass@1, and pass@k where more samples are drawn.

Prompts and stops are those of lm-evaluation-harness 0.4.9 (`humaneval`, `mbpp`), MBPP without its three worked examples unless they are
given. The programs are run as `touchstone.evaluate.sandbox` says, with all that it does and does not hold.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from touchstone.errors import ConfigError, DataError
from touchstone.evaluate.ask import GenerateRequest, Request
from touchstone.evaluate.code import HUMANEVAL_STOPS, CodeProblem, humaneval_problem, mbpp_problem, pass_at_k
from touchstone.evaluate.figures import Metric
from touchstone.evaluate.sandbox import Limits
from touchstone.evaluate.scorers import code_tests
from touchstone.evaluate.suites.closed import Shots
from touchstone.evaluate.suites.tables import Row, Unusable, examples_of, rows_of
from touchstone.evaluate.task import Baseline, EvalExample, EvalTask, Scores
from touchstone.infer.request import Sampling

__all__ = ["humaneval", "mbpp"]


def humaneval(
    path: Path, *, n: int = 1, k: int = 1, temperature: float = 0.0, max_new_tokens: int = 512, seed: int = 0, limits: Limits | None = None
) -> EvalTask:
    """Bodies of functions from their heads, 164 problems; the jsonl of the benchmark (Chen 2021).

    n, k: pass@1 and pass@k from n samples a problem; more than one sample needs a temperature above 0.
    """

    def make(row: Row) -> EvalExample:
        return _example(row, _problem(humaneval_problem, row))

    return _task(
        "humaneval",
        "Bodies of Python functions from their heads.",
        path,
        make,
        lambda example: str(example.fields["prompt"]),
        HUMANEVAL_STOPS,
        "{prompt}",
        "lm-evaluation-harness 0.4.9 humaneval; Chen et al. 2021",
        (n, k, temperature, max_new_tokens, seed),
        limits,
        "    pass\n",
        {},
    )


def mbpp(
    path: Path,
    *,
    train: Path | None = None,
    shots: int = 0,
    n: int = 1,
    k: int = 1,
    temperature: float = 0.0,
    max_new_tokens: int = 512,
    seed: int = 0,
    limits: Limits | None = None,
) -> EvalTask:
    """Short programs from a sentence and three tests; the jsonl of the benchmark (Austin 2021). n, k: as for `humaneval`."""

    def make(row: Row) -> EvalExample:
        problem = _problem(mbpp_problem, row)
        return _example(row, problem, code=row.text("code"), tests=row.texts("test_list"))

    drawn = Shots(shots, seed, None if train is None else examples_of(train, rows_of, make))
    prefix = functools.cache(lambda: drawn.prefix(lambda example: f"{_asked(example)}{example.fields['code']}\n[DONE]"))
    return _task(
        "mbpp",
        "Short Python programs from a sentence and its tests.",
        path,
        make,
        lambda example: prefix() + _asked(example),
        ("[DONE]",),
        "You are an expert Python programmer, and here is your task: {text} Your code should pass these tests:\n\n{tests}\n[BEGIN]\n",
        "lm-evaluation-harness 0.4.9 mbpp; Austin et al. 2021",
        (n, k, temperature, max_new_tokens, seed),
        limits,
        "pass\n",
        drawn.settings,
    )


def _task(
    name: str,
    description: str,
    path: Path,
    make: Any,
    prompt: Any,
    stops: Sequence[str],
    template: str,
    source: str,
    drawing: tuple[int, int, float, int, int],
    limits: Limits | None,
    trivial: str,
    settings: Mapping[str, Any],
) -> EvalTask:
    n, k, temperature, max_new_tokens, seed = drawing
    if not 1 <= k <= n or (n > 1 and temperature == 0):
        raise ConfigError(f"`n` ({n}) samples must be `k` ({k}) or more, and more than one needs a `temperature` above 0 ({temperature}).")
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, n=n, seed=seed, stop=tuple(stops))
    names = ("pass@1", *((f"pass@{k}",) if k > 1 else ()))

    def passed(example: EvalExample, samples: Sequence[str]) -> Scores:
        problem = CodeProblem(**example.fields["problem"])
        n_passed = sum(int(code_tests(problem, sample, limits=limits)["passed"]) for sample in samples)
        return {of: pass_at_k(len(samples), n_passed, int(of.removeprefix("pass@"))) for of in names if int(of[5:]) <= len(samples)}

    def score(example: EvalExample, outputs: Sequence[Any]) -> Scores:
        return passed(example, [str(completion.text) for completion in outputs[0]])

    def without_thought(example: EvalExample) -> Scores:
        return dict.fromkeys(names, passed(example, [trivial])["pass@1"])

    def requests(example: EvalExample) -> list[Request]:
        return [GenerateRequest(prompt(example), sampling)]

    return EvalTask(
        name=name,
        description=description,
        language="en",
        examples=examples_of(path, rows_of, make),
        requests=requests,
        score=score,
        metrics=tuple(Metric(name=of, kind="share" if n == 1 else "mean", columns=(of,)) for of in names),
        baselines=(Baseline("empty program", without_thought),),
        template=template,
        source=source,
        settings={**settings, "sampling": sampling.given(), "limits": (limits or Limits()).model_dump(mode="json")},
        data=(path,),
    )


def _problem(make: Any, row: Row) -> CodeProblem:
    try:
        problem: CodeProblem = make(row.fields)
        return problem
    except DataError as error:
        raise Unusable("missing field", str(error)) from None


def _example(row: Row, problem: CodeProblem, **more: Any) -> EvalExample:
    told = {"name": problem.name, "prompt": problem.prompt, "tests": problem.tests, "question": problem.question}
    return EvalExample(problem.name, problem.name, {"prompt": problem.prompt, "problem": told, **more}, row.where)


def _asked(example: EvalExample) -> str:
    tests = "\n".join(example.fields["tests"][:3])
    question = example.fields["problem"]["question"]
    return (
        f"You are an expert Python programmer, and here is your task: {question} Your code should pass these tests:\n\n{tests}\n[BEGIN]\n"
    )
