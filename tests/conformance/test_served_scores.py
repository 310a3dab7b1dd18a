"""lm-evaluation-harness asks our server by its own client for OpenAI's API: in the invariant mode it finds the scores of the engine.

The model is stories260K, saved by us in Hugging Face's layout; requests go as token ids, which the harness makes by the folder's tokenizer.
"""

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "serve"))

pytestmark = pytest.mark.conformance

N = 40


@pytest.fixture(scope="module")
def ours(harness: Any, folder: Path) -> Any:
    from touchstone.evaluate.harness import TouchstoneLM

    return TouchstoneLM(folder, device="cpu", dtype="float32", invariant=True)


@pytest.fixture(scope="module")
def client_of(harness: Any, folder: Path) -> Any:
    """Makes the harness's client of a server in the invariant mode; 4 requests of 3 prompts at once, so that they share steps."""
    pytest.importorskip("tenacity", reason="needs the API client of lm-evaluation-harness: `make conformance`")
    from lm_eval.models.openai_completions import LocalCompletionsAPI
    from running import Server

    server = Server(folder, "--invariant").wait()

    def make(**settings: Any) -> Any:
        return LocalCompletionsAPI(
            base_url=f"{server.address}/v1/completions",
            pretrained="stories",
            tokenizer=str(folder),
            tokenizer_backend="huggingface",
            num_concurrent=4,
            batch_size=3,
            max_retries=1,
            max_length=512,
            **settings,
        )

    yield make
    server.close()


@pytest.fixture(scope="module")
def served(client_of: Any) -> Any:
    return client_of()


def instances(kind: str, arguments: list[tuple[Any, ...]]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(request_type=kind, doc={}, arguments=given, idx=n) for n, given in enumerate(arguments)]


def stories(test_data: Path, n: int) -> list[str]:
    with gzip.open(test_data / "benchmarks" / "piqa.jsonl.gz", "rt", encoding="utf-8") as file:
        return [" ".join([row["query"], *row["choices"]]) for row in map(json.loads, file) if row["query"].isascii()][:n]


def test_each_likelihood_is_the_engines_to_the_last_digit(ours: Any, served: Any, test_data: Path) -> None:
    pairs = [(text[:place], text[place : place + 40]) for text in stories(test_data, 12) for place in (10, 30, 61)]
    pairs += [("Once upon a time", " there was"), ("Once upon a time", ", there was a little girl named Lily")]
    found = served.loglikelihood(instances("loglikelihood", pairs))
    assert found == ours.loglikelihood(instances("loglikelihood", pairs))
    assert len({is_greedy for _, is_greedy in found}) == 2, "some continuations are the likeliest ones and some are not"


def test_a_task_has_the_in_process_figures_to_the_last_digit(
    harness: Any, ours: Any, served: Any, test_data: Path, tmp_path: Path, choice_task: Any
) -> None:
    from lm_eval.tasks import TaskManager

    with gzip.open(test_data / "benchmarks" / "piqa.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file][:N]
    path = tmp_path / "piqa.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "piqa_served.yaml").write_text(choice_task("piqa_served", path))

    def evaluated(model: Any) -> Any:
        manager = TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False)
        return harness.simple_evaluate(model, tasks=["piqa_served"], num_fewshot=0, task_manager=manager)

    over_http, in_process = evaluated(served), evaluated(ours)
    figures = {name: value for name, value in in_process["results"]["piqa_served"].items() if "," in name}
    assert {name: over_http["results"]["piqa_served"][name] for name in figures} == figures
    for one, other in zip(over_http["samples"]["piqa_served"], in_process["samples"]["piqa_served"], strict=True):
        assert [tuple(answer) for answer in one["filtered_resps"]] == [tuple(answer) for answer in other["filtered_resps"]]


def test_what_is_written_is_what_the_engine_writes(ours: Any, client_of: Any, test_data: Path) -> None:
    served = client_of(tokenized_requests=False)  # ids go to the model as they are, and the harness leaves out the token before a text
    settings = {"until": ["."], "max_gen_toks": 24, "do_sample": False}
    prompts = [(text[:50], settings) for text in stories(test_data, 8)]
    assert served.generate_until(instances("generate_until", prompts)) == ours.generate_until(instances("generate_until", prompts))
