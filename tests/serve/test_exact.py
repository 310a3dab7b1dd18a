"""The invariant mode over HTTP: text, tokens and log-probabilities are, to the last digit, what the engine gives alone in this process."""

import json
import threading

import pytest
from running import events_of, joined

from touchstone.infer import Request, Sampling

pytestmark = pytest.mark.slow

WORDS = "One day a girl met a dog. The dog said hello, and they went to the sea. 天 气 很 好"
SHARED = WORDS * 2  # more than a block of the cache, so that some find it there
CASES = [
    {"prompt": WORDS[:9], "max_tokens": 30, "seed": 1, "logprobs": 3},
    {"prompt": SHARED, "max_tokens": 12, "temperature": 0, "logprobs": 0},
    {"prompt": SHARED + " dog", "max_tokens": 25, "seed": 2, "n": 3, "logprobs": 20, "top_p": 0.9},
    {"prompt": SHARED + " sea", "max_tokens": 40, "seed": 3, "logprobs": 1, "presence_penalty": 1.0, "stop": ["e", "hello"]},
    {"prompt": "hello", "max_tokens": 60, "seed": 4, "n": 2, "logprobs": 2, "regex": "(sea|dog|天){9}"},
    {"prompt": "hello", "max_tokens": 5, "seed": 5, "logprobs": 2, "logit_bias": {"300": 5}, "top_k": 40},
]


def in_process(model, case):
    names = {"max_tokens": "max_new_tokens", "logprobs": "top_logprobs"}
    settings = {names.get(name, name): value for name, value in case.items() if name not in ("prompt", "regex", "logit_bias")}
    settings |= {"stop": tuple(case["stop"])} if "stop" in case else {}
    settings |= {"logit_bias": {int(key): float(value) for key, value in case["logit_bias"].items()}} if "logit_bias" in case else {}
    if "regex" in case:
        from touchstone.prompt.constrain import Constrainer

        settings["constraint"] = Constrainer.of(model).regex(case["regex"])
    return model.generate([Request(case["prompt"], Sampling(**settings))])


def check(choices, expected, tokenizer):
    for choice, done in zip(choices, expected, strict=True):
        assert (choice["text"], choice["finish_reason"]) == (done.text, done.finish_reason)
        assert choice["logprobs"]["token_logprobs"] == list(done.logprobs)
        assert [sorted(tops.values()) for tops in choice["logprobs"]["top_logprobs"]] == [
            sorted({tokenizer.token_bytes(top.token_id): top.logprob for top in tops}.values()) for tops in done.top_logprobs
        ]
        assert choice["confidence"]["value"] == list(done.confidence.value)


def test_many_at_once_get_to_the_last_digit_what_each_gets_alone(exact, exact_model):
    """Half of them stream; what one computes is in the cache for others."""
    expected = [in_process(exact_model, case) for case in CASES]
    found = {}

    def ask(number, n_round):
        case, streams = CASES[number], (number + n_round) % 2 == 0
        status, _, data = exact.ask("POST", "/v1/completions", {**case, "stream": streams})
        assert status == 200
        found[number, n_round] = joined(events_of(data)) if streams else json.loads(data)["choices"]

    threads = [threading.Thread(target=ask, args=(number, n_round)) for n_round in range(3) for number in range(len(CASES))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == len(threads)
    for (number, _), choices in found.items():
        check(choices, expected[number], exact_model.tokenizer)


def test_an_echo_has_to_the_last_digit_the_likelihoods_of_the_engine(exact, exact_model):
    ids = exact_model.tokenizer.encode(SHARED)
    told = exact.post("/v1/completions", {"prompt": ids, "echo": True, "max_tokens": 0, "logprobs": 1})[1]["choices"][0]["logprobs"]
    done = exact_model.loglikelihood([(ids[:5], ids[5:])])[0]
    assert told["token_logprobs"][5:] == list(done.token_logprobs)
    steps = list(zip(told["token_logprobs"], told["top_logprobs"], strict=True))[5:]
    assert all(logprob == max(tops.values()) for logprob, tops in steps) == done.is_greedy
