"""What cannot be done comes to OpenAI's own client as the exception that it has for it, and says which field is wrong."""

import json
import re
import time

import openai
import pytest
from running import sdk

pytestmark = pytest.mark.slow

NAME = "tiny-chat"
USER = [{"role": "user", "content": "hello"}]
KEYS = ("key-of-the-first-client", "key-of-the-second-client")
CALL = {"id": "x", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "f"}}
LEAK = re.compile(r"0x[0-9a-f]{6,}|/home|/tmp|Traceback|\.py\b|NoneType|Input should|Value error|Extra inputs|\.\.")


@pytest.fixture(scope="module")
def client(server):
    with sdk(server) as client:
        yield client


def refused(error, status):
    """What the body of an error says of it: (param, code)."""
    assert error.status_code == status
    told = error.response.json()
    assert set(told) == {"error"}
    assert set(told["error"]) == {"message", "type", "param", "code"}
    assert not LEAK.search(json.dumps(told))
    return told["error"]["param"], told["error"]["code"]


@pytest.mark.parametrize(
    ("field", "settings"),
    [
        ("logprobs", {"logprobs": 21}),
        ("logprobs", {"logprobs": -1}),
        ("temperature", {"temperature": -0.1}),
        ("temperature", {"extra_body": {"temperature": "hot"}}),
        ("top_p", {"top_p": 0}),
        ("n", {"n": 0}),
        ("n", {"n": 10**9}),
        ("prompt", {"prompt": ["a"] * 100, "n": 100}),
        ("best_of", {"best_of": 3}),
        ("max_tokens", {"max_tokens": 10**12}),
        ("max_tokens", {"max_tokens": -1}),
        ("seed", {"seed": 2**200}),
        ("stop", {"stop": [""]}),
        ("stop", {"stop": ["x"] * 10_000}),
        ("suffix", {"suffix": "the end"}),
        ("presence_penalty", {"presence_penalty": 2.1}),
        ("frequency_penalty", {"frequency_penalty": -2.1}),
        ("logit_bias", {"logit_bias": {"dog": 1}}),
        ("logit_bias", {"logit_bias": {"1": 101}}),
        ("logit_bias", {"logit_bias": {"05": 1}}),
        ("logit_bias", {"logit_bias": {"5": 1, "05": 1}}),
        ("stream_options", {"stream_options": {"include_usage": True}}),
        ("temprature", {"extra_body": {"temprature": 1}}),
        ("response_format", {"extra_body": {"response_format": {"type": "json_schema"}}}),
        ("response_format", {"extra_body": {"response_format": {"type": 123}}}),
        ("prompt", {"prompt": ""}),
        ("prompt", {"prompt": []}),
        ("prompt", {"prompt": [999_999]}),
        ("prompt", {"prompt": [999_999], "echo": True, "max_tokens": 0}),
        ("prompt", {"prompt": [-1]}),
        ("prompt", {"extra_body": {"prompt": [[], [1]]}}),
        ("prompt", {"extra_body": {"prompt": None}}),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_bad_field_of_a_completion_is_named(client, field, settings):
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**{"model": NAME, "prompt": "One day", **settings})
    param, _ = refused(caught.value, 400)
    assert param == field
    assert f"`{field}" in caught.value.response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("field", "settings"),
    [
        ("messages", {"messages": []}),
        ("messages", {"messages": [{"role": "wizard", "content": "hello"}]}),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}]}]}),
        ("messages", {"messages": [{"role": "user", "content": None}]}),
        ("top_logprobs", {"logprobs": True, "top_logprobs": 21}),
        ("top_logprobs", {"top_logprobs": 2}),
        ("max_tokens", {"max_tokens": 3, "max_completion_tokens": 4}),
        ("response_format", {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}),
        ("response_format", {"response_format": {"type": "yaml"}}),
        ("response_format", {"response_format": {"type": "json_schema", "json_schema": {"name": "", "schema": {}}}}),
        ("response_format", {"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}}),
        ("response_format", {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}, "strict": "yes"}}}),
        ("messages", {"messages": [*USER, {"role": "tool", "content": "r"}]}),
        ("messages", {"messages": [*USER, {"role": "tool", "content": "r", "tool_call_id": "x"}]}),
        ("messages", {"messages": [*USER, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": "r"}]}),
        ("stop", {"tools": [TOOL], "tool_choice": "required", "stop": "x"}),
        ("min_tokens", {"extra_body": {"min_tokens": 5000}}),
        ("min_tokens", {"tools": [TOOL], "tool_choice": TOOL, "extra_body": {"min_tokens": 2}}),
        ("ignore_eos", {"tools": [TOOL], "tool_choice": TOOL, "extra_body": {"ignore_eos": True}}),
        ("chat_template", {"extra_body": {"chat_template": "{{ 1 }}"}}),
        ("tool_choice", {"tool_choice": "required"}),
        ("store", {"store": True}),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_bad_field_of_a_chat_is_named(client, field, settings):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**{"model": NAME, "messages": USER, **settings})
    assert refused(caught.value, 400)[0] == field


def test_a_prompt_beyond_the_context_is_told_both_numbers_before_anything_is_streamed(client, chat_model):
    ids = chat_model.tokenizer.encode("hello " * 90)
    assert len(ids) < 256 < len(ids * 3)
    for settings in ({}, {"stream": True}, {"echo": True, "stream": True}, {"echo": True, "max_tokens": 0}):
        with pytest.raises(openai.BadRequestError, match=f"{len(ids * 3)} tokens.*256"):
            client.completions.create(model=NAME, prompt=ids * 3, **settings)
    assert client.completions.create(model=NAME, prompt=(ids * 3)[:256], echo=True, max_tokens=0).usage.prompt_tokens == 256
    with pytest.raises(openai.BadRequestError, match=r"256 tokens.*256"):
        client.completions.create(model=NAME, prompt=(ids * 3)[:256], max_tokens=1)


def test_what_is_not_here_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(model="gpt-9", prompt="a")
    assert refused(caught.value, 404) == ("model", "model_not_found")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")
    with pytest.raises(openai.NotFoundError) as caught:
        client.post("/nothing", cast_to=object, body={})
    assert refused(caught.value, 404) == (None, "not_found")


def test_what_the_model_cannot_do_is_told_with_what_it_can(client):
    with pytest.raises(openai.BadRequestError, match=r"cannot `encode`.*generate") as caught:
        client.embeddings.create(model=NAME, input="hello")
    assert refused(caught.value, 400)[1] == "unsupported"


def test_a_body_that_is_too_large_is_refused(client):
    with pytest.raises(openai.APIStatusError) as caught:
        client.completions.create(model=NAME, prompt="a" * (1 << 20))
    assert refused(caught.value, 413) == (None, "body_too_large")


def test_a_grammar_that_cannot_be_is_the_clients_error_and_harms_nobody(client):
    for form in ({"regex": "(a"}, {"grammar": "start: undefined_rule"}, {"choice": []}):
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(model=NAME, prompt="One day", extra_body=form)
        refused(caught.value, 400)
    assert client.completions.create(model=NAME, prompt="One day", max_tokens=2).usage.completion_tokens == 2


def test_keys_are_asked_for_and_one_request_too_many_is_told_to_wait(id_folder, started):
    """The model is recurrent, has no tokenizer, and decodes in waves: all else holds as well."""
    server = started(id_folder, "--max-requests", "1", environment={"TOUCHSTONE_API_KEY": ",".join(KEYS)}).wait()
    for key in ("none", KEYS[0] + "x"):
        with sdk(server, key=key) as stranger, pytest.raises(openai.AuthenticationError) as caught:
            stranger.models.list()
        assert refused(caught.value, 401)[1] == "invalid_api_key"
    with sdk(server, key=KEYS[0], is_strict=False) as first, sdk(server, key=KEYS[1]) as second:
        served = first.models.list().data[0]
        assert (served.id, served.max_model_len, served.chat) == ("ids-only", None, False)
        _writes_ids(first)
        endless = first.completions.create(model="ids-only", prompt=[1, 2], max_tokens=1_000_000, logprobs=0, stream=True)
        next(endless)
        with pytest.raises(openai.RateLimitError) as caught:
            second.completions.create(model="ids-only", prompt=[1], max_tokens=1)
        assert refused(caught.value, 429)[1] == "too_many_requests"
        assert int(caught.value.response.headers["retry-after"]) > 0
        endless.close()
        assert (
            _once_there_is_room(lambda: second.completions.create(model="ids-only", prompt=[1], max_tokens=2)).usage.completion_tokens == 2
        )


def _writes_ids(client):
    """Without a tokenizer tokens are told by their ids, and what needs text is refused."""
    told = client.completions.create(model="ids-only", prompt=[1, 2, 3], max_tokens=5, temperature=0, logprobs=1).choices[0]
    assert told.text == ""
    assert all(re.fullmatch(r"token_id:\d+", token) for token in told.logprobs.tokens)
    stream = client.completions.create(model="ids-only", prompt=[1, 2, 3], max_tokens=5, temperature=0, logprobs=1, stream=True)
    chunks = list(stream)
    assert [token for chunk in chunks for token in chunk.choices[0].logprobs.tokens] == told.logprobs.tokens
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, None, None, "length"]
    two = client.completions.create(model="ids-only", prompt=[[1, 2, 3], [5]], n=2, max_tokens=5, temperature=0, logprobs=1).choices
    assert [choice.index for choice in two] == [0, 1, 2, 3]
    assert two[0].logprobs.tokens == two[1].logprobs.tokens == told.logprobs.tokens
    for prompt in ("text", ["text"]):
        with pytest.raises(openai.BadRequestError, match="no tokenizer"):
            client.completions.create(model="ids-only", prompt=prompt, max_tokens=1)
        with pytest.raises(openai.BadRequestError, match="no tokenizer"):
            client.completions.create(model="ids-only", prompt=prompt, max_tokens=0)
    with pytest.raises(openai.BadRequestError, match="no tokenizer"):
        client.chat.completions.create(model="ids-only", messages=USER)


def _once_there_is_room(ask):
    deadline = time.monotonic() + 20
    while True:
        try:
            return ask()
        except openai.RateLimitError:
            assert time.monotonic() < deadline, "what a client left is not worked on for long"
