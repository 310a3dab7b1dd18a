"""OpenAI's own client asks /v1/completions for everything that it can: what comes is what the engine gives in this process."""

import asyncio
import re

import openai
import pytest
from running import events_of, joined, sdk

from touchstone.infer import Request, Sampling

pytestmark = pytest.mark.slow

NAME = "tiny-chat"
SEEDED = {"seed": 11, "temperature": 1.3, "max_tokens": 24}


@pytest.fixture(scope="module")
def client(server):
    with sdk(server) as client:
        yield client


@pytest.fixture(scope="module")
def lenient(server):
    """For what OpenAI's server sends and its client's types do not have: null as the finish_reason of a chunk and as a first logprob."""
    with sdk(server, is_strict=False) as client:
        yield client


def ask(client, prompt="One day a girl", **settings):
    return client.completions.create(model=NAME, prompt=prompt, **settings)


def byte_ids(model, text):
    """Ids of the tokens that are one byte each and spell the text."""
    by_bytes = {model.tokenizer.token_bytes(token_id): token_id for token_id in reversed(range(model.tokenizer.vocab_size))}
    return [by_bytes[bytes([byte])] for byte in text.encode()]


def test_prompts_are_text_ids_or_lists_of_either(client, chat_model):
    texts = ["One day a girl", "hello"]
    ids = [chat_model.tokenizer.encode(text) for text in texts]
    expected = [done.text for done in chat_model.generate(texts, max_new_tokens=9, temperature=0)]
    settings = {"max_tokens": 9, "temperature": 0}
    for prompt, answers in (
        (texts[0], expected[:1]),
        (ids[0], expected[:1]),
        (texts, expected),
        (ids, expected),
        ([texts[0], ids[1]], expected),
    ):
        found = ask(client, prompt, **settings)
        assert [choice.text for choice in found.choices] == answers
        assert [choice.index for choice in found.choices] == list(range(len(answers)))
        assert found.usage.prompt_tokens == sum(len(each) for each in ids[: len(answers)])
        assert found.usage.completion_tokens == 9 * len(answers)
        assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"top_p": 0.4}, {"top_p": 0.4}),
        ({"n": 3}, {"n": 3}),
        ({"presence_penalty": 1.5}, {"presence_penalty": 1.5}),
        ({"frequency_penalty": -1.5}, {"frequency_penalty": -1.5}),
        ({"extra_body": {"top_k": 3}}, {"top_k": 3}),
        ({"extra_body": {"min_p": 0.3}}, {"min_p": 0.3}),
        ({"extra_body": {"repetition_penalty": 1.7}}, {"repetition_penalty": 1.7}),
        ({"extra_body": {"min_tokens": 20}, "stop": ["a", "e"]}, {"min_new_tokens": 20, "stop": ("a", "e")}),
        ({"logit_bias": {"0": 100}, "extra_body": {"ignore_eos": True}}, {"logit_bias": {0: 100.0}, "ignore_eos": True}),
        ({"stop": "e", "best_of": 1, "user": "somebody"}, {"stop": ("e",)}),
    ],
    ids=lambda settings: "-".join(settings),
)
def test_a_setting_does_what_the_engines_does(client, chat_model, theirs, ours):
    found = ask(client, "hello", **{**SEEDED, **theirs})
    expected = chat_model.generate("hello", max_new_tokens=24, temperature=1.3, seed=11, **ours)
    assert [choice.text for choice in found.choices] == [done.text for done in expected]
    assert [choice.finish_reason for choice in found.choices] == [done.finish_reason for done in expected]
    assert found.usage.completion_tokens == sum(len(done.token_ids) for done in expected)
    plain = chat_model.generate("hello", max_new_tokens=24, temperature=1.3, seed=11)[0]
    assert ours in ({"n": 3},) or found.choices[0].text != plain.text, "the setting changes this text, so it was not passed over"


def test_the_seed_decides_the_text(client):
    texts = [ask(client, **{**SEEDED, "seed": seed}).choices[0].text for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert len({ask(client, max_tokens=24).choices[0].text for _ in range(4)}) == 4, "without a seed one is drawn"


@pytest.mark.parametrize("n_top", [0, 1, 5, 20])
def test_as_many_likely_tokens_are_told_as_were_asked_for(client, chat_model, n_top):
    told = ask(client, logprobs=n_top, **SEEDED).choices[0]
    done = chat_model.generate("One day a girl", max_new_tokens=24, temperature=1.3, seed=11, top_logprobs=n_top)[0]
    assert told.logprobs.token_logprobs == pytest.approx(done.logprobs, abs=1e-5)
    for token, logprob, tops, expected in zip(
        told.logprobs.tokens, told.logprobs.token_logprobs, told.logprobs.top_logprobs, done.top_logprobs, strict=True
    ):
        assert tops[token] == logprob
        assert n_top <= len(tops) <= n_top + 1
        assert sorted(tops.values(), reverse=True) == pytest.approx([each.logprob for each in expected], abs=1e-5)


def test_no_likelihoods_are_told_where_none_were_asked_for(client):
    assert ask(client, max_tokens=3).choices[0].logprobs is None


def test_offsets_say_where_each_token_begins(client):
    told = ask(client, logprobs=0, max_tokens=60, temperature=2.0, seed=4).choices[0]
    offsets = told.logprobs.text_offset
    assert offsets[0] == 0
    assert any(token.startswith("bytes:") for token in told.logprobs.tokens), "characters in parts are among them"
    for token, start in zip(told.logprobs.tokens, offsets, strict=True):
        assert token.startswith(("bytes:", "<|")) or told.text[start : start + len(token)] == token


def test_a_special_token_amid_a_text_has_no_room_in_it(client, chat_model):
    dog = chat_model.tokenizer.encode("dog")[0]
    bias = {"0": 100, str(dog): 100}
    told = ask(client, logprobs=0, logit_bias=bias, max_tokens=20, temperature=1, seed=1, extra_body={"ignore_eos": True}).choices[0]
    piece = chat_model.tokenizer.token_bytes(dog).decode()
    assert set(told.logprobs.tokens) == {"<|endoftext|>", piece}
    assert told.text == piece * told.logprobs.tokens.count(piece)
    before = ["".join(told.logprobs.tokens[:place]).replace("<|endoftext|>", "") for place in range(20)]
    assert told.logprobs.text_offset == [len(text) for text in before]


def test_an_echo_gives_the_prompt_back_with_the_likelihood_of_each_token(lenient, chat_model):
    prompt = "One day a girl met a dog."
    ids = chat_model.tokenizer.encode(prompt)
    expected = chat_model.loglikelihood([(ids[:1], ids[1:])])[0].token_logprobs
    for asked in (prompt, ids):
        alone = ask(lenient, asked, echo=True, max_tokens=0, logprobs=3)
        told = alone.choices[0]
        assert told.text == prompt
        assert told.finish_reason == "length"
        assert told.logprobs.token_logprobs[0] is told.logprobs.top_logprobs[0] is None
        assert told.logprobs.token_logprobs[1:] == pytest.approx(expected, abs=1e-5)
        assert "".join(told.logprobs.tokens) == prompt
        assert told.logprobs.text_offset == [len("".join(told.logprobs.tokens[:place])) for place in range(len(ids))]
        assert (alone.usage.prompt_tokens, alone.usage.completion_tokens) == (len(ids), 0)
        further = ask(lenient, asked, echo=True, logprobs=3, n=2, **{**SEEDED, "max_tokens": 5}).choices
        plain = ask(lenient, asked, logprobs=3, n=2, **{**SEEDED, "max_tokens": 5}).choices
        for both, new in zip(further, plain, strict=True):
            assert both.text == prompt + new.text
            assert both.logprobs.tokens == told.logprobs.tokens + new.logprobs.tokens
            assert both.logprobs.text_offset[len(ids) :] == [len(prompt) + place for place in new.logprobs.text_offset]
    assert ask(lenient, prompt, echo=True, **SEEDED).choices[0].logprobs is None
    assert ask(lenient, prompt, max_tokens=0).choices[0].text == ""


def test_a_bias_forces_a_token_or_bans_it(client, chat_model):
    wanted = chat_model.tokenizer.encode("dog")[0]
    piece = chat_model.tokenizer.token_bytes(wanted).decode()
    assert ask(client, logit_bias={str(wanted): 100}, temperature=1, max_tokens=6).choices[0].text == piece * 6
    greedy = ask(client, temperature=0, max_tokens=8, logprobs=0).choices[0].logprobs.tokens
    likeliest = chat_model.generate("One day a girl", temperature=0, max_new_tokens=1)[0].token_ids[0]
    banned = ask(client, logit_bias={str(likeliest): -100}, temperature=0, max_tokens=8, logprobs=0).choices[0].logprobs.tokens
    assert greedy[0] not in banned


def test_a_stop_string_over_several_tokens_ends_the_text_before_it(client):
    whole = ask(client, logprobs=0, **SEEDED).choices[0]
    tokens, offsets = whole.logprobs.tokens, whole.logprobs.text_offset
    place = next(n for n in range(4, len(tokens) - 1) if len(tokens[n]) > 1 and len(tokens[n + 1]) > 1 and tokens[n + 1].isprintable())
    stop = whole.text[offsets[place] + 1 : offsets[place + 1] + 1]  # from within one token to within the next
    for stops in (stop, [stop], ["never to be seen", stop]):
        found = ask(client, stop=stops, **SEEDED)
        assert found.choices[0].text == whole.text[: whole.text.find(stop)]
        assert found.choices[0].finish_reason == "stop"
        assert found.usage.completion_tokens < SEEDED["max_tokens"]


def test_a_stop_character_that_comes_byte_by_byte_ends_the_text_and_half_of_it_is_never_sent(client, lenient, chat_model):
    bias = {str(token_id): 100 for token_id in byte_ids(chat_model, "天")}
    settings = {"logit_bias": bias, "temperature": 1, "seed": 3, "max_tokens": 200}
    whole = ask(client, **settings).choices[0].text
    before, found, _ = whole.partition("天")
    assert found, "the three bytes come in this order somewhere"
    assert ask(client, stop="天", **settings).choices[0].text == before
    pieces = [chunk.choices[0].text for chunk in ask(lenient, stop="天", stream=True, **settings)]
    assert "".join(pieces) == before
    pieces = [chunk.choices[0].text for chunk in ask(lenient, stream=True, **settings)]
    assert "".join(pieces) == whole
    assert any("天" in piece for piece in pieces)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0},
        {"n": 3, "logprobs": 2, "stop": ["a"]},
        {"prompt": ["One day", "hello 天", "sea"], "n": 2, "logprobs": 20},
        {"echo": True, "logprobs": 0},
        {"echo": True, "max_tokens": 0, "prompt": ["One", "two"]},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_a_stream_adds_up_to_the_whole_answer(exact, settings):
    asked = {"prompt": "One day a girl", **SEEDED, **settings}
    status, whole = exact.post("/v1/completions", asked)
    assert status == 200
    streamed, _, data = exact.ask("POST", "/v1/completions", {**asked, "stream": True, "stream_options": {"include_usage": True}})
    assert streamed == 200
    *chunks, last = events_of(data)
    assert last["choices"] == []
    assert last["usage"] == whole["usage"]
    assert not any("usage" in chunk for chunk in chunks)
    for one, choice in zip(joined([*chunks, last]), whole["choices"], strict=True):
        assert {name: one.get(name) for name in choice} == choice, "to the last digit"
    without = events_of(exact.ask("POST", "/v1/completions", {**asked, "stream": True})[2])
    assert joined(without) == joined(chunks)
    assert all(chunk["choices"] for chunk in without), "usage is told only to those who ask"


def test_the_clients_stream_is_the_whole_answer_too(client, lenient):
    whole = ask(client, **SEEDED)
    chunks = list(ask(lenient, stream=True, stream_options={"include_usage": True}, **SEEDED))
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == whole.choices[0].text
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason] == [
        whole.choices[0].finish_reason
    ]
    assert chunks[-1].usage == whole.usage


@pytest.mark.parametrize(
    ("form", "fits"),
    [
        ({"regex": r"[a-c]{3}-\d{2}"}, r"[a-c]{3}-\d{2}"),
        ({"grammar": 'start: "sea" | "dog " start'}, r"(dog )*sea"),
        ({"choice": ["yes", "no", "天气很好"]}, r"yes|no|天气很好"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "b", "schema": {"type": "boolean"}}}}, r"true|false"),
    ],
    ids=["regex", "grammar", "choice", "schema"],
)
def test_an_answer_fits_the_form_that_was_asked_for(client, form, fits):
    for seed in range(4):
        told = ask(client, extra_body=form, seed=seed, max_tokens=200).choices[0]
        assert told.finish_reason == "stop"
        assert re.fullmatch(fits, told.text)


def test_confidence_is_the_stored_calibrations_and_logprobs_stay_raw(client, chat_model):
    told = ask(client, logprobs=0, **SEEDED).choices[0]
    done = chat_model.generate("One day a girl", max_new_tokens=24, temperature=1.3, seed=11)[0]
    assert told.confidence["value"] == pytest.approx(done.confidence.value, abs=1e-5)
    assert (told.confidence["method"], told.confidence["target"]) == ("temperature", "next-token")
    assert told.logprobs.token_logprobs == pytest.approx(done.logprobs, abs=1e-5)


def test_asynchronous_clients_at_once_get_what_they_get_alone(server, chat_model):
    prompts = ["One day", "a girl met", "The dog said", "hello, and they", "went to the sea", "天 气 很"]

    async def all_of_them():
        async with sdk(server, kind=openai.AsyncOpenAI, is_strict=False) as client:
            asked = [ask(client, prompt, stream=n % 2 == 1, **{**SEEDED, "seed": n}) for n, prompt in enumerate(prompts)]
            return await asyncio.gather(*(text_of(one) for one in asked))

    async def text_of(asked):
        found = await asked
        if not isinstance(found, openai.AsyncStream):
            return found.choices[0].text
        return "".join([chunk.choices[0].text async for chunk in found])

    expected = [
        chat_model.generate([Request(prompt, Sampling(seed=n, temperature=1.3, max_new_tokens=24))])[0].text
        for n, prompt in enumerate(prompts)
    ]
    assert asyncio.run(all_of_them()) == expected
