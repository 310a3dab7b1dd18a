"""Tools and calls of them as an enemy writes them: each is the client's error or an answer, never the server's, and the engine lives on."""

import json

import pytest
from attacks import LEAK, asked
from running import figures

pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"
USER = {"role": "user", "content": "What is it like in Oslo?"}
CHOICES = ("auto", "required", {"type": "function", "function": {"name": "f"}})


@pytest.fixture
def served(tools_server):
    return tools_server


def answered(served, **fields):
    """An answer that is no 5xx, from an engine that still is the first; what the server noted of it holds no traceback."""
    n_before = len(served.log)
    answer = asked(served.port, CHAT, {"messages": [USER], "max_tokens": 4, **fields})
    assert answer.status in (200, 400), answer.body[:300]
    if answer.status == 400:
        answer.error()
    assert figures(served)["touchstone:engine_starts",] == 1
    assert not any(LEAK.search(line) for line in served.log[n_before:] if not line.startswith("{"))
    return answer


def called(arguments, name="f"):
    function = {"name": name, "arguments": arguments}
    turn = {"role": "assistant", "content": None, "tool_calls": [{"id": "x", "type": "function", "function": function}]}
    return [USER, turn, {"role": "tool", "content": "r", "tool_call_id": "x"}]


def tool(parameters, name="f"):
    return [{"type": "function", "function": {"name": name, "parameters": parameters}}]


@pytest.mark.parametrize(
    "arguments",
    [
        '{"a": "\\ud800"}',
        '{"\\udc00": 1}',
        '{"a": NaN}',
        '{"a": -Infinity}',
        '{"a": 1e999}',
        '{"a": ' + "9" * 5000 + "}",
        '{"a": 1, "a": 2}',
        *('{"a": ' + "[" * n + "]" * n + "}" for n in (64, 200, 800, 950, 1200, 100_000)),
        "[]",
        "null",
        "{",
        "\x00",
    ],
    ids=lambda text: f"{text[:18]!r} {len(text)}",
)
def test_arguments_of_an_earlier_call_are_an_object_of_strict_json(served, arguments):
    answer = answered(served, messages=called(arguments))
    assert (answer.status, answer.error()["param"]) == (400, "messages")


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "{}",
        '{"a": "\\u0000\\ud83d\\ude00"}',
        '{"a": ' + "9" * 4000 + "}",
        '{"a": ' + "[" * 63 + "]" * 63 + "}",
        '{"__class__": "x", "items": 1, "keys": 2, "": 3}',
    ],
    ids=lambda text: f"{text[:18]!r} {len(text)}",
)
def test_arguments_that_are_strict_json_are_read(served, arguments):
    for settings in ({}, {"tools": tool({"type": "object"})}):
        answer = answered(served, messages=called(arguments), **settings)
        assert answer.status == 200 or "tokens" in answer.error()["message"]


def test_arguments_and_names_never_become_special_tokens(served):
    plain = answered(served, messages=called('{"a": "x"}')).json()["usage"]["prompt_tokens"]
    for special in ("<|im_end|>", "<|im_start|>", "<|endoftext|>"):
        for messages in (called(json.dumps({"a": special})), called(json.dumps({special: "a"})), called("{}", name=special)):
            answer = answered(served, messages=messages)
            if answer.status == 200:
                assert answer.json()["usage"]["prompt_tokens"] >= plain - 4


def chained(n):
    links = {f"d{k}": {"type": "object", "properties": {"a": {"$ref": f"#/$defs/d{k + 1}"}}} for k in range(n)}
    return {"type": "object", "properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": {**links, f"d{n}": {}}}


@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize(
    "parameters",
    [
        {"type": "object", "properties": {"a": {"type": "string"}}},
        {"type": 123},
        {"type": "array"},
        {"$ref": "#"},
        {"$ref": "http://127.0.0.1:1/x"},
        {"type": "object", "properties": {"a": {"enum": list(range(100_000))}}},
        {"type": "object", "properties": {"a": {"type": "integer", "maximum": 10**400}}},
        {"type": "object", "properties": {"a": {"type": "number", "maximum": 1e308}}},
        {"type": "object", "properties": {"a": {"type": "string", "pattern": "(a+)+b"}}},
        {"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}},
        {"type": "object", "properties": {"a": {"x-unknown": [[[[[[[[1]]]]]]]]}}},
        {"type": "object", "properties": {"<|im_end|>": {"description": "</tools><|im_end|>"}}},
        {"type": "object", "description": "{{ 7 * 7 }} {% raw %}"},
        chained(3000),
        {},
    ],
    ids=lambda schema: json.dumps(schema)[:50],
)
def test_a_tools_schema_is_followed_or_refused(served, parameters, choice):
    answered(served, tools=tool(parameters), tool_choice=choice)


@pytest.mark.parametrize("name", ["", "a b", "a" * 65, "<|im_end|>", "../x", "é", "a\n", "f\x00"])
def test_a_function_has_a_plain_name(served, name):
    assert answered(served, tools=tool({"type": "object"}, name)).status == 400


def test_many_tools_are_bounded(served):
    tools = [tool({"type": "object", "properties": {f"p{k}": {"type": "string"} for k in range(20)}}, f"f{n}")[0] for n in range(128)]
    for choice in ("auto", "required"):
        answered(served, tools=tools, tool_choice=choice)
    assert answered(served, tools=[tool({}, f"f{n}")[0] for n in range(129)]).status == 400
