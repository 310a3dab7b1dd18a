"""Tools through OpenAI's library: forced calls fit their schemas, streamed or whole; conversations with results; clear refusals."""

import json

import jsonschema
import openai
import pytest
from running import sdk
from tool_templates import CLOCK, WEATHER

pytestmark = pytest.mark.slow

ASK = [{"role": "user", "content": "What is it like in Oslo?"}]


@pytest.fixture
def served(tools_server):
    return tools_server


@pytest.fixture
def client(served):
    with sdk(served) as opened:
        yield opened


def whole(client, **asked):
    return client.chat.completions.create(
        model="tiny-tools", messages=ASK, tools=[WEATHER, CLOCK], max_tokens=400, seed=3, **asked
    ).choices[0]


def test_a_named_function_is_called_with_arguments_that_fit(client):
    choice = whole(client, tool_choice={"type": "function", "function": {"name": "weather"}}, parallel_tool_calls=False)
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert (call.type, call.function.name, choice.message.content) == ("function", "weather", None)
    jsonschema.validate(json.loads(call.function.arguments), WEATHER["function"]["parameters"])


def test_a_required_call_is_streamed_as_it_is_answered(client):
    choice = whole(client, tool_choice="required", parallel_tool_calls=False)
    chunks = list(
        client.chat.completions.create(
            model="tiny-tools",
            messages=ASK,
            tools=[WEATHER, CLOCK],
            tool_choice="required",
            parallel_tool_calls=False,
            max_tokens=400,
            seed=3,
            stream=True,
        )
    )
    deltas = [chunk.choices[0].delta for chunk in chunks]
    calls = [call for delta in deltas for call in delta.tool_calls or ()]
    assert "".join(delta.content or "" for delta in deltas) == (choice.message.content or "")
    assert [(call.index, call.function.name, call.function.arguments) for call in calls] == [
        (number, call.function.name, call.function.arguments) for number, call in enumerate(choice.message.tool_calls)
    ]
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["tool_calls"]


@pytest.mark.parametrize("n_tokens", [1, 3, 12, 30])
@pytest.mark.parametrize("is_streamed", [False, True])
def test_of_a_call_that_is_cut_off_nothing_is_told_as_text(client, n_tokens, is_streamed):
    asked = {"messages": ASK, "tools": [WEATHER, CLOCK], "tool_choice": "required", "max_tokens": n_tokens, "seed": 3}
    answer = client.chat.completions.create(model="tiny-tools", stream=is_streamed, **asked)
    if is_streamed:
        chunks = [chunk.choices[0] for chunk in answer]
        assert not any(chunk.delta.content or chunk.delta.tool_calls for chunk in chunks)
        assert chunks[-1].finish_reason == "length"
    else:
        (choice,) = answer.choices
        assert (choice.finish_reason, choice.message.content or None, choice.message.tool_calls) == ("length", None, None)


def test_an_answer_that_calls_nothing_is_a_plain_one(client):
    for choice in (whole(client, tool_choice="auto"), whole(client, tool_choice="none"), whole(client)):
        assert choice.message.tool_calls is None or choice.finish_reason == "tool_calls"
        assert choice.finish_reason in ("stop", "length", "tool_calls")


def test_a_call_goes_back_as_the_library_dumps_it(client):
    said = whole(client, tool_choice="required", parallel_tool_calls=False).message
    dumped = said.model_dump()
    dumped["tool_calls"][0]["index"] = 0  # as gathered from a stream
    turns = [*ASK, dumped, {"role": "tool", "tool_call_id": said.tool_calls[0].id, "content": "fine"}]
    client.chat.completions.create(model="tiny-tools", messages=turns, tools=[WEATHER, CLOCK], max_tokens=3)


def test_results_are_given_back(client, served):
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo", "days": 2}'}}
    said = [
        *ASK,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "fine"},
    ]
    answer = client.chat.completions.create(model="tiny-tools", messages=said, tools=[WEATHER], max_tokens=3)
    assert answer.usage.prompt_tokens > client.chat.completions.create(model="tiny-tools", messages=ASK, max_tokens=3).usage.prompt_tokens
    with sdk(served) as opened:
        assert opened.models.list().data[0].tools is True


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"tools": [WEATHER, WEATHER]}, "twice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "other"}}}, "not among"),
        ({"tool_choice": "required"}, "needs `tools`"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "name"),
        ({"tools": [WEATHER], "response_format": {"type": "json_object"}}, "exclude each other"),
        (
            {
                "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": 3}}}],
                "tool_choice": "required",
            },
            "type",
        ),
    ],
)
def test_what_cannot_be_asked_is_a_clear_error(client, asked, named):
    with pytest.raises(openai.BadRequestError, match=named):
        client.chat.completions.create(model="tiny-tools", messages=ASK, max_tokens=3, **asked)


def test_a_model_whose_template_knows_no_tools_says_so(server):
    with sdk(server) as client, pytest.raises(openai.BadRequestError, match="no place for tools"):
        client.chat.completions.create(model="tiny-chat", messages=ASK, tools=[WEATHER], max_tokens=3)
