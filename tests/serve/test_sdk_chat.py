"""OpenAI's own client asks /v1/chat/completions for everything that it can, tools aside."""

import asyncio
import json
import re
from typing import Literal

import jsonschema
import openai
import pytest
from pydantic import BaseModel, ConfigDict
from running import events_of, joined, sdk

from touchstone.infer import Request
from touchstone.text.conversation import ChatFormat
from touchstone.text.document import Message

pytestmark = pytest.mark.slow

NAME = "tiny-chat"
HELLO = [{"role": "system", "content": "The dog is a system."}, {"role": "user", "content": "hello, 天 气"}]
SEEDED = {"seed": 7, "temperature": 1.3, "max_completion_tokens": 20}
SCHEMA = {
    "type": "object",
    "properties": {"good": {"type": "boolean"}, "word": {"enum": ["sea", "天"]}, "n": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["good", "word", "n"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def client(server):
    with sdk(server) as client:
        yield client


@pytest.fixture(scope="module")
def prompt_of(chat_model):
    """A conversation as the model's template writes it, to be answered up to the end of the turn."""
    with_template = ChatFormat.of(chat_model.card.chat_template, chat_model.tokenizer)
    yield lambda turns: Request(with_template.prompt([Message(**turn) for turn in turns]), end_ids=with_template.end_ids)
    with_template.close()


def ask(client, messages=HELLO, **settings):
    return client.chat.completions.create(model=NAME, messages=messages, **settings)


def test_an_answer_goes_back_as_the_library_dumps_it(client):
    said = ask(client, **SEEDED).choices[0].message
    turns = [*HELLO, {**said.model_dump(), "audio": None, "annotations": []}, {"role": "user", "content": "and then?"}]
    assert ask(client, turns, **SEEDED).usage.prompt_tokens > ask(client, **SEEDED).usage.prompt_tokens


def test_an_answer_is_what_the_engine_writes_after_the_rendered_conversation(client, chat_model, prompt_of):
    prompt = prompt_of(HELLO)
    found = ask(client, n=2, **SEEDED)
    expected = chat_model.generate(prompt, n=2, seed=7, temperature=1.3, max_new_tokens=20)
    assert [choice.message.content for choice in found.choices] == [done.text for done in expected]
    assert [choice.index for choice in found.choices] == [0, 1]
    assert {choice.message.role for choice in found.choices} == {"assistant"}
    assert [choice.finish_reason for choice in found.choices] == [done.finish_reason for done in expected]
    assert found.usage.prompt_tokens == len(prompt.prompt)
    assert found.usage.completion_tokens == sum(len(done.token_ids) for done in expected)
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens
    assert [choice.confidence["value"] for choice in found.choices] == [pytest.approx(done.confidence.value, abs=1e-5) for done in expected]


def test_content_in_parts_and_a_developers_turn_are_the_same_conversation(client):
    parts = [{"type": "text", "text": "hello, "}, {"type": "text", "text": "天 气"}]
    other = [{"role": "developer", "content": HELLO[0]["content"]}, {"role": "user", "content": parts}]
    assert ask(client, other, **SEEDED).choices[0].message == ask(client, **SEEDED).choices[0].message


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"top_p": 0.4}, {"top_p": 0.4}),
        ({"stop": ["a", "d"]}, {"stop": ("a", "d")}),
        ({"presence_penalty": 2, "frequency_penalty": 1}, {"presence_penalty": 2.0, "frequency_penalty": 1.0}),
        ({"logit_bias": {"300": 4}}, {"logit_bias": {300: 4.0}}),
        ({"extra_body": {"top_k": 3, "min_p": 0.01, "repetition_penalty": 1.2}}, {"top_k": 3, "min_p": 0.01, "repetition_penalty": 1.2}),
    ],
    ids=lambda settings: "-".join(settings),
)
def test_a_setting_does_what_the_engines_does(client, chat_model, prompt_of, theirs, ours):
    plain = {"seed": 7, "temperature": 1.3, "max_new_tokens": 20}
    expected, without = (chat_model.generate(prompt_of(HELLO), **plain, **more)[0].text for more in (ours, {}))
    assert ask(client, **SEEDED, **theirs).choices[0].message.content == expected != without


def test_fields_that_can_change_nothing_here_are_taken(client):
    more = {
        "user": "u",
        "metadata": {"a": "b"},
        "service_tier": "auto",
        "store": False,
        "parallel_tool_calls": True,
        "modalities": ["text"],
    }
    more |= {"prompt_cache_key": "k", "safety_identifier": "s", "extra_body": {"tool_choice": None, "response_format": {"type": "text"}}}
    assert ask(client, **SEEDED, **more).choices[0].message == ask(client, **SEEDED).choices[0].message


def test_an_answer_without_a_limit_ends_where_the_context_ends(client, prompt_of):
    found = ask(client, seed=3, extra_body={"ignore_eos": True})
    assert found.choices[0].finish_reason == "length"
    assert found.usage.total_tokens == 256
    for name in ("max_tokens", "max_completion_tokens"):
        assert ask(client, seed=3, **{name: 2}).usage.completion_tokens == 2


@pytest.mark.parametrize("n_top", [None, 0, 3, 20])
def test_each_token_is_told_with_as_many_likely_ones_as_were_asked_for(client, chat_model, prompt_of, n_top):
    told = ask(client, logprobs=True, **SEEDED, **({} if n_top is None else {"top_logprobs": n_top})).choices[0]
    done = chat_model.generate(prompt_of(HELLO), seed=7, temperature=1.3, max_new_tokens=20, top_logprobs=n_top or 0)[0]
    assert [each.logprob for each in told.logprobs.content] == pytest.approx(done.logprobs, abs=1e-5)
    assert [bytes(each.bytes) for each in told.logprobs.content] == [chat_model.tokenizer.token_bytes(id) for id in done.token_ids]
    for each, tops in zip(told.logprobs.content, done.top_logprobs, strict=True):
        assert [top.logprob for top in each.top_logprobs] == pytest.approx([top.logprob for top in tops[: n_top or 0]], abs=1e-5)
        assert (
            each.token == bytes(each.bytes).decode()
            if not each.token.startswith("bytes:")
            else not each.token.isascii() or "\\x" in each.token
        )


@pytest.mark.parametrize("settings", [{}, {"n": 3, "logprobs": True, "top_logprobs": 2}, {"stop": ["e"], "logprobs": True}], ids=str)
def test_a_stream_adds_up_to_the_whole_answer(exact, settings):
    asked = {"messages": HELLO, **SEEDED, **settings}
    whole = exact.post("/v1/chat/completions", asked)[1]
    data = exact.ask("POST", "/v1/chat/completions", {**asked, "stream": True, "stream_options": {"include_usage": True}})[2]
    *chunks, last = events_of(data)
    assert (last["choices"], last["usage"]) == ([], whole["usage"])
    found = joined([*chunks, last])
    assert len(found) == len(whole["choices"])
    for one, choice in zip(found, whole["choices"], strict=True):
        assert one["roles"] == ["assistant", *[None] * (len(one["roles"]) - 1)]
        assert one["text"] == choice["message"]["content"]
        assert [one.get(name) for name in ("logprobs", "finish_reason", "confidence")] == [
            choice.get(name) for name in ("logprobs", "finish_reason", "confidence")
        ], "to the last digit"


def test_the_clients_stream_passes_its_strict_types_and_adds_up(client):
    whole = ask(client, **SEEDED)
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}, **SEEDED))
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    ended = ask(client, stop="e", **SEEDED).choices[0]
    with client.chat.completions.stream(model=NAME, messages=HELLO, stop="e", **SEEDED) as stream:
        kinds = [event.type for event in stream]
        assert stream.get_final_completion().choices[0].message.content == ended.message.content
    assert {"chunk", "content.delta", "content.done"} <= set(kinds)


def test_an_object_is_an_object_and_one_with_a_schema_fits_it(client, chat_model):
    for seed in range(3):
        form = {"type": "json_schema", "json_schema": {"name": "weather", "schema": SCHEMA, "strict": True}}
        found = ask(client, response_format=form, seed=seed, max_tokens=150).choices[0]
        assert found.finish_reason == "stop"
        jsonschema.validate(json.loads(found.message.content), SCHEMA)
    close = {str(chat_model.tokenizer.encode(bracket)[0]): 100 for bracket in "{}"}  # else random weights write one without end
    found = ask(client, response_format={"type": "json_object"}, seed=1, logit_bias=close, max_tokens=150).choices[0]
    assert isinstance(json.loads(found.message.content), dict)


class Weather(BaseModel):
    model_config = ConfigDict(extra="forbid")

    good: bool
    word: Literal["sea", "天"]


def test_the_clients_own_parsing_into_a_class_works(client):
    found = client.chat.completions.parse(model=NAME, messages=HELLO, response_format=Weather, seed=5, max_tokens=150)
    assert isinstance(found.choices[0].message.parsed, Weather)


@pytest.mark.parametrize(
    ("form", "fits"),
    [
        ({"regex": r"(hello|sea){2} [0-9]"}, r"(hello|sea){2} [0-9]"),
        ({"choice": ["the dog", "the sea"]}, "the dog|the sea"),
        ({"grammar": 'start: "a" "b"~2'}, "abb"),
    ],
    ids=["regex", "choice", "grammar"],
)
def test_an_answer_fits_the_form_that_was_asked_for(client, form, fits):
    found = ask(client, extra_body=form, seed=2).choices[0]
    assert re.fullmatch(fits, found.message.content)
    assert found.finish_reason == "stop"


def test_asynchronous_clients_at_once_get_what_they_get_alone(server, client):
    turns = [[{"role": "user", "content": text}] for text in ("hello", "One day", "天 气", "the sea", "a dog met a girl")]
    alone = [ask(client, each, **{**SEEDED, "seed": n}).choices[0].message.content for n, each in enumerate(turns)]

    async def streamed(many, each, n):
        stream = await ask(many, each, stream=True, **{**SEEDED, "seed": n})
        return "".join([choice.delta.content or "" async for chunk in stream for choice in chunk.choices])

    async def all_of_them():
        async with sdk(server, kind=openai.AsyncOpenAI) as many:
            return await asyncio.gather(*(streamed(many, each, n) for n, each in enumerate(turns)))

    assert asyncio.run(all_of_them()) == alone
