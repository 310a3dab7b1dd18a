"""lm-evaluation-harness on our engine: its tasks run offline, and its own class for Hugging Face models gives the same figures.

The model is stories260K, saved by us in Hugging Face's layout; the tasks are the harness's, over files of the test data.
"""

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest

from touchstone.evaluate.run import run_task
from touchstone.evaluate.suites import suite_task
from touchstone.evaluate.suites.choosing import _without_brackets
from touchstone.evaluate.suites.prediction import _written
from touchstone.evaluate.task import EvalExample

pytestmark = pytest.mark.conformance

N = 40


@pytest.fixture(scope="module")
def ours(harness: Any, folder: Path) -> Any:
    from touchstone.evaluate.harness import TouchstoneLM

    return TouchstoneLM(folder, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def theirs(harness: Any, folder: Path) -> Any:
    """Its own class, scoring as until 0.4.9: without the `<s>` that the tokenizer puts before a text. Later versions put it there."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=4, add_bos_token=False)


@pytest.fixture(scope="module")
def their_writer(harness: Any, folder: Path) -> Any:
    """Its own class as it is: a prompt has the tokenizer's `<s>` before it, as in our engine."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=4)


def instances(kind: str, arguments: list[tuple[Any, ...]]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(request_type=kind, doc={}, arguments=given, idx=n) for n, given in enumerate(arguments)]


def stories(test_data: Path, n: int) -> list[str]:
    rows = (row for row in suite_task("tinystories", test_data).examples if isinstance(row, EvalExample))
    return [next(rows).fields["text"] for _ in range(n)]


def test_likelihoods_are_those_of_its_own_class(ours: Any, theirs: Any, test_data: Path) -> None:
    pairs = [(text[:place], text[place : place + 40]) for text in stories(test_data, 12) for place in (0, 30, 61)]
    pairs += [("Once upon a time ", "there was"), ("", " Lily"), (("Tom ran. " * 300), "He fell.")]
    found = ours.loglikelihood(instances("loglikelihood", pairs))
    expected = theirs.loglikelihood(instances("loglikelihood", pairs), disable_tqdm=True)
    for (a, a_greedy), (b, b_greedy) in zip(found, expected, strict=True):
        assert a == pytest.approx(b, abs=2e-3)
        assert a_greedy == b_greedy


def test_whole_texts_cost_what_they_cost_there(ours: Any, theirs: Any, test_data: Path) -> None:
    texts = [(text,) for text in stories(test_data, 8)] + [("\n".join(stories(test_data, 10)),)]
    found = ours.loglikelihood_rolling(instances("loglikelihood_rolling", texts))
    expected = theirs.loglikelihood_rolling(instances("loglikelihood_rolling", texts), disable_tqdm=True)
    for a, b in zip(found, expected, strict=True):
        assert a == pytest.approx(b if isinstance(b, float) else b[0], rel=1e-5)


def test_what_is_written_is_what_its_own_class_writes(ours: Any, their_writer: Any, test_data: Path) -> None:
    settings = {"until": ["."], "max_gen_toks": 24, "do_sample": False}
    prompts = [(text[:50], settings) for text in stories(test_data, 8)]
    found = ours.generate_until(instances("generate_until", prompts))
    expected = their_writer.generate_until(instances("generate_until", prompts), disable_tqdm=True)
    assert [text.strip() for text in found] == [text.strip() for text in expected]


def test_a_task_has_the_figures_of_our_own_suite(harness: Any, ours: Any, test_data: Path, tmp_path: Path, choice_task: Any) -> None:
    from lm_eval.tasks import TaskManager

    with gzip.open(test_data / "benchmarks" / "piqa.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    rows = [row for row in rows if all(choice.isascii() for choice in row["choices"])][:N]  # `acc_norm` divides by characters
    path = tmp_path / "piqa.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "piqa_here.yaml").write_text(choice_task("piqa_here", path))
    found = harness.simple_evaluate(
        ours, tasks=["piqa_here"], num_fewshot=0, task_manager=TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False)
    )["results"]["piqa_here"]
    result = run_task(ours.touchstone, suite_task("piqa", path), policy="cut")
    assert result.n_examples == len(rows)
    for name, theirs_name in (("accuracy", "acc"), ("accuracy_per_byte", "acc_norm")):
        assert result.figure(name).value == pytest.approx(found[f"{theirs_name},none"], abs=1e-9)
        assert result.figure(name).standard_error == pytest.approx(found[f"{theirs_name}_stderr,none"], abs=1e-9)


def test_texts_are_put_into_the_form_the_harness_gives_them(harness: Any, test_data: Path) -> None:
    from lm_eval.tasks.wikitext.preprocess_wikitext import wikitext_detokenizer

    articles = [row.fields["text"] for row in suite_task("wikitext-2", test_data).examples if isinstance(row, EvalExample)]
    assert len(articles) == 60
    assert [_written(text) for text in articles] == [wikitext_detokenizer({"page": text}) for text in articles]


def test_scenes_are_put_into_the_form_the_harness_gives_them(harness: Any, test_data: Path) -> None:
    from lm_eval.tasks.hellaswag.utils import preprocess

    with gzip.open(test_data / "benchmarks" / "hellaswag.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    texts = [f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}" for row in rows]
    texts += [ending for row in rows for ending in row["endings"]]
    assert [_without_brackets(text) for text in texts] == [preprocess(text) for text in texts]


def test_it_is_known_there_by_its_name(harness: Any, ours: Any, folder: Path) -> None:
    from lm_eval.api.registry import get_model

    made = get_model("touchstone").create_from_arg_string(f"pretrained={folder},dtype=float32", {"device": "cpu", "batch_size": 3})
    assert made.batch_size == 3
    assert made.max_length == ours.max_length == 512
    assert made.tok_decode(made.tok_encode("Tom ran.")) == "Tom ran."
    assert math.isclose(
        made.loglikelihood(instances("loglikelihood", [("Tom", " ran")]))[0][0],
        ours.touchstone.loglikelihood([("Tom", " ran")])[0].logprob,
        abs_tol=1e-4,
    )
