"""What is refused is told in one plain sentence of ours that names the field; what is refused is what the API describes."""

import copy
import json
import re

import jsonschema
import pytest
from pydantic import ValidationError

from touchstone.serve.api_error import ApiError
from touchstone.serve.chat_request import ChatRequest
from touchstone.serve.protocol import (
    ClassifyRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    ScoreRequest,
    TokenizeRequest,
    read_request,
)
from touchstone.serve.refusals import SENTENCES

USER = {"role": "user", "content": "a"}
CALL = {"id": "x", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "r", "tool_call_id": "x"}
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {}, "strict": True}}
NAMED = {"type": "function", "function": {"name": "f"}}
FORM = {"type": "json_schema", "json_schema": {"name": "n", "description": "d", "schema": {}, "strict": True}}
SAMPLING = {"model": "m", "temperature": 1, "top_p": 1, "n": 1, "seed": 1, "presence_penalty": 1, "frequency_penalty": 1}
SAMPLING |= {"logit_bias": {"5": 1}, "stream": True, "stream_options": {"include_usage": True, "include_obfuscation": False}}
SAMPLING |= {"top_k": 1, "min_p": 0, "repetition_penalty": 1}
CHAT = {"messages": [USER], **SAMPLING, "max_tokens": 9, "max_completion_tokens": 9, "logprobs": True, "top_logprobs": 1, "store": False}
WHOLE = [
    (CompletionRequest, {"prompt": ["a", [1]], **SAMPLING, "response_format": FORM, "max_tokens": 9, "logprobs": 1, "echo": True}),
    (
        CompletionRequest,
        {"prompt": "a", "stop": ["x"], "min_tokens": 1, "max_tokens": 2, "ignore_eos": True, "best_of": 1, "return_token_ids": True},
    ),
    (CompletionRequest, {"prompt": "a", "regex": "a", "suffix": None}),
    (CompletionRequest, {"prompt": "a", "grammar": "start: /a/"}),
    (CompletionRequest, {"prompt": "a", "choice": ["a"]}),
    *((ChatRequest, {"messages": [USER], **form}) for form in ({"regex": "a"}, {"grammar": "start: /a/"}, {"choice": ["a"]})),
    (ChatRequest, {"messages": [USER], "stop": ["x"], "min_tokens": 1, "ignore_eos": True}),
    (ChatRequest, CHAT | {"response_format": {"type": "json_object"}, "modalities": ["text"]}),
    (ChatRequest, {"messages": [USER, CALLED, {**RESULT, "name": "f"}, USER], "tools": [TOOL], "tool_choice": NAMED}),
    (ChatRequest, {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}], "tools": [TOOL], "tool_choice": "auto"}),
    (ChatRequest, {"messages": [{**USER, "name": "n", "refusal": None}], "parallel_tool_calls": True}),
    (EmbeddingRequest, {"model": "m", "input": ["a", [1]], "encoding_format": "float", "dimensions": None}),
    (ClassifyRequest, {"model": "m", "input": "a"}),
    (ScoreRequest, {"model": "m", "context": "a", "continuations": ["a", "b"], "closed": True, "task": "t"}),
    (ScoreRequest, {"context": [1], "continuations": [[1], [2]]}),
    (TokenizeRequest, {"model": "m", "content": "a", "add_special": True, "with_pieces": True}),
    (TokenizeRequest, {"prompt": "a", "add_special_tokens": True}),
    (DetokenizeRequest, {"model": "m", "tokens": [1]}),
]
"""Requests that are right, and hold each field of each model once at least."""

VALUES = [
    None,
    True,
    False,
    0,
    1,
    -1,
    1.5,
    1e300,
    0.0005,
    10**400,
    "x",
    "",
    "a b",
    "x" * 2000,
    [],
    {},
    [None],
    [1],
    [-1],
    ["x"],
    [[]],
    [{}],
]
VALUES += [{"type": "x"}, {"type": 1}, {"x": 1}, {"05": 1}, {str(key): 0 for key in range(1025)}, ["x"] * 1100, [[1], "x", None]]

NOT_OURS = re.compile(
    r"pydantic|[Pp]ython|\b(NoneType|None|True|False|str|int|dict|bool|float|tuple)\b|\w\[|\b([Ii]nput|[Vv]alid|[Ee]xtra|[Ee]rror|dictionary"
    r"|boolean|string|integer|instance|permitted|literal|constrained|validation|union|tag|class)\b"
)


def refusal(kind, body):
    with pytest.raises(ApiError) as caught:
        read_request(kind, body)
    assert caught.value.status == 400
    return caught.value


def refused_chat(messages=(USER,), **fields):
    return refusal(ChatRequest, {"messages": list(messages), **fields})


def check_words(error):
    told = error.message
    assert "`" in told, told
    named = told.split("`")[1]
    assert named == error.param or named.startswith(f"{error.param}."), (error.param, told)
    plain = re.sub(r"`[^`]*`", "NAME", told)
    plain = re.sub(r"\d+(\.\d+)?(e[+-]\d+)?", "N", plain)
    assert re.fullmatch(r"[^.?!]+(\.|; did you mean NAME\?)", plain), told
    assert re.match(r"NAME|[A-Z]", plain), told
    assert not NOT_OURS.search(plain.replace("NAME", "")), told
    assert len(told) < 300


def places(value, path=()):
    """The paths of all that is in a value of JSON."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from places(inner, (*path, key))


def changed(body, path, change):
    """A copy in which `change` was called with the object or list that holds a place, and its key there."""
    body = copy.deepcopy(body)
    owner = body
    for key in path[:-1]:
        owner = owner[key]
    change(owner, path[-1])
    return body


def broken(body):
    """The body with a wrong value at each place, without each, and with a stranger beside each."""
    for path in places(body):
        for value in VALUES:
            yield changed(body, path, lambda owner, key, value=value: owner.__setitem__(key, value))
        yield changed(body, path, lambda owner, key: owner.__delitem__(key))
        yield changed(body, path, lambda owner, key: owner.__setitem__(f"{key}s", 1) if isinstance(owner, dict) else owner.append(None))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "body"), WHOLE, ids=lambda value: getattr(value, "__name__", ""))
def test_whatever_is_wrong_is_told_in_one_sentence_of_ours_that_names_the_field(kind, body):
    read_request(kind, body)
    n_refused = 0
    for each in broken(body):
        try:
            read_request(kind, each)
        except ApiError as error:
            n_refused += 1
            check_words(error)
    assert n_refused > 20


@pytest.mark.slow
def test_the_table_has_a_sentence_for_each_type_of_error_that_the_models_raise_and_no_other():
    raised = set()
    for kind, body in WHOLE:
        for each in broken(body):
            try:
                kind.model_validate(each)
            except ValidationError as error:
                raised |= {problem["type"] for problem in error.errors(include_url=False, include_input=False, include_context=False)}
    assert raised - {"extra_forbidden"} == set(SENTENCES)


def test_every_field_of_every_model_is_among_the_requests_of_this_file():
    for kind in {kind for kind, _ in WHOLE}:
        assert set(kind.model_fields) == {field for other, body in WHOLE if other is kind for field in body}, kind


@pytest.mark.parametrize(
    ("kind", "fields", "told"),
    [
        (CompletionRequest, {"temperature": "hot"}, "`temperature`: must be a number from 0 to 100, not text."),
        (CompletionRequest, {"temperature": 0.0005}, "`temperature`: must be 0 (greedy) or from 0.001 to 100, not 0.0005."),
        (CompletionRequest, {"top_p": 0}, "`top_p`: must be a number above 0 and at most 1, not 0."),
        (CompletionRequest, {"n": True}, "`n`: must be a whole number from 1 to 128, not true."),
        (CompletionRequest, {"n": 129}, "`n`: must be a whole number from 1 to 128, not 129."),
        (CompletionRequest, {"stream": None, "echo": "yes"}, "`echo`: must be true or false, not text."),
        (CompletionRequest, {"stop": 5}, "`stop`: must be text, or a list of at most 64 texts of 1 to 1000 characters, not 5."),
        (CompletionRequest, {"stop": ["a", ""]}, "`stop.1`: must be text of 1 to 1000 characters, not of 0."),
        (CompletionRequest, {"suffix": "a"}, "`suffix` is not supported; leave it out."),
        (CompletionRequest, {"logit_bias": {"5": []}}, "`logit_bias.5`: must be a number from -100 to 100, not a list."),
        (CompletionRequest, {"response_format": {}}, "`response_format.type` is missing."),
        (
            CompletionRequest,
            {"response_format": {"type": "yaml"}},
            "`response_format.type`: must be `text`, `json_object` or `json_schema`, not `yaml`.",
        ),
        (
            CompletionRequest,
            {"prompt": ["a", None]},
            "`prompt`: number 1 must be text or token ids, not null.",
        ),
        (ChatRequest, {"messages": []}, "`messages`: must be a list of 1 to 1024 items, not of 0."),
        (ChatRequest, {"messages": [{"content": "a"}]}, "`messages.0.role` is missing."),
        (
            ChatRequest,
            {"messages": [{"role": "wizard", "content": "a"}]},
            "`messages.0.role`: must be `system`, `developer`, `user`, `assistant` or `tool`, not `wizard`.",
        ),
        (ChatRequest, {"messages": [{"role": "user", "content": 5}]}, "`messages.0.content`: must be text or a list of parts, not 5."),
        (
            ChatRequest,
            {"messages": [{"role": "user", "content": [{"type": "text", "text": {}}]}]},
            "`messages.0.content.0.text`: must be text, not an object.",
        ),
        (ChatRequest, {"tools": [TOOL], "tool_choice": "x"}, "`tool_choice`: must be `none`, `auto`, `required` or an object, not `x`."),
        (ChatRequest, {"tools": [TOOL], "tool_choice": {"type": "function"}}, "`tool_choice.function` is missing."),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_a_field_may_be_stands_in_the_sentence(kind, fields, told):
    base = {"prompt": "a"} if kind is CompletionRequest else {"messages": [USER]}
    assert refusal(kind, base | fields).message == told


@pytest.mark.parametrize(
    ("kind", "typed", "meant"),
    [
        (CompletionRequest, "temprature", "temperature"),
        (CompletionRequest, "max_token", "max_tokens"),
        (CompletionRequest, "max_new_tokens", "max_tokens"),
        (CompletionRequest, "top_logprobs", "logprobs"),
        (CompletionRequest, "prompts", "prompt"),
        (ChatRequest, "massages", "messages"),
        (ChatRequest, "tool", "tools"),
        (ChatRequest, "user_name", None),
        (ChatRequest, "length_penalty", None),
        (ChatRequest, "functions", None),
        (ChatRequest, "audio", None),
        (ChatRequest, "prefix", None),
        (CompletionRequest, "prefix", None),
        (CompletionRequest, "text", None),
        (CompletionRequest, "input", None),
        (CompletionRequest, "system", None),
        (ChatRequest, "chat_template", None),
        (ChatRequest, "num_beams", None),
        (ChatRequest, "prediction", None),
        (ChatRequest, "", None),
        (ChatRequest, "`.?", None),
    ],
)
def test_a_field_is_guessed_only_where_it_is_near(kind, typed, meant):
    base = {"prompt": "a"} if kind is CompletionRequest else {"messages": [USER]}
    error = refusal(kind, base | {typed: 1})
    assert (error.param, error.code) == (typed, "unknown_field")
    assert error.message == f"There is no field `{typed}`" + (f"; did you mean `{meant}`?" if meant else ".")


@pytest.mark.parametrize(
    ("fields", "place", "meant"),
    [
        ({"messages": [{"role": "user", "contents": "a"}]}, "messages.0.contents", "content"),
        ({"messages": [{"rol": "user", "content": "a"}]}, "messages.0.rol", "role"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "txt": "a"}]}]}, "messages.0.content.0.txt", "text"),
        ({"messages": [{**USER, "weight": 1}]}, "messages.0.weight", None),
        ({"tools": [{"type": "function", "functions": {"name": "f"}}]}, "tools.0.functions", "function"),
        ({"tools": [{**TOOL, "cache_control": {}}]}, "tools.0.cache_control", None),
        ({"tools": [TOOL], "tool_choice": {**NAMED, "typ": 1}}, "tool_choice.typ", "type"),
        ({"stream": True, "stream_options": {"includeusage": True}}, "stream_options.includeusage", "include_usage"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schemas": {}}}}, "response_format.json_schema.schemas", "schema"),
        ({"response_format": {"type": "json_object", "schema": {}}}, "response_format.schema", None),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_field_within_a_field_is_guessed_as_well(fields, place, meant):
    error = refused_chat(**{"messages": (USER,), **fields})
    assert (error.param, error.code) == (place.partition(".")[0], "unknown_field")
    assert error.message == f"There is no field `{place}`" + (f"; did you mean `{meant}`?" if meant else ".")


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ([USER, CALLED, {"role": "tool", "content": "r"}], r"`messages\.2`: .*`tool_call_id`"),
        ([USER, CALLED, {**RESULT, "tool_call_id": None}], r"`messages\.2`: .*`tool_call_id`"),
        ([USER, CALLED, {**RESULT, "tool_call_id": "y"}], r"`messages\.2\.tool_call_id`.*`y`"),
        ([USER, RESULT], r"`messages\.1\.tool_call_id`.*`x`"),
        ([USER, RESULT, CALLED], r"`messages\.1\.tool_call_id`.*`x`"),
        ([USER, CALLED, {**USER, "tool_call_id": "x"}], r"`messages\.2`: `tool_call_id`.*user"),
    ],
)
def test_a_tools_turn_names_a_call_that_was_made_before_it(messages, told):
    error = refused_chat(messages)
    assert error.param == "messages"
    assert re.match(told, error.message)


def test_results_of_several_calls_and_of_earlier_turns_are_taken():
    second = {**CALLED, "tool_calls": [{**CALL, "id": "y"}, {**CALL, "id": "z"}]}
    answers = [{**RESULT, "tool_call_id": id} for id in ("z", "y", "x")]
    assert len(read_request(ChatRequest, {"messages": [USER, CALLED, RESULT, second, *answers, USER]}).messages) == 8


@pytest.mark.parametrize("key", ["05", "00", "-1", "+1", " 1", "1_0", "1e3", "²", "٣", "", "1234567890"])
def test_a_bias_is_for_a_token_id_as_it_is_written(key):
    assert refusal(CompletionRequest, {"prompt": "a", "logit_bias": {"5": 1, key: 2}}).param == "logit_bias"


@pytest.mark.parametrize("key", ["0", "5", "123456789"])
def test_a_bias_of_a_plain_token_id_is_taken(key):
    assert read_request(CompletionRequest, {"prompt": "a", "logit_bias": {key: 2}}).sampling()["logit_bias"] == {key: 2}


def formed(**described):
    return {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "object"}, **described}}}


@pytest.mark.parametrize("strict", ["yes", 1, {}])
def test_strict_is_true_or_false(strict):
    assert "`response_format.json_schema.strict`: must be true or false" in refused_chat(**formed(strict=strict)).message


@pytest.mark.parametrize("name", ["", "a" * 65, "a b", "é", "a\n", "a.b", 5])
def test_a_schemas_name_is_what_openai_takes(name):
    """1 to 64 of a-z, A-Z, 0-9, underscores and dashes (OpenAI API reference, response_format.json_schema.name)."""
    error = refused_chat(**formed(name=name))
    assert error.param == "response_format"
    assert error.message.startswith("`response_format.json_schema.name`: must be text of 1 to 64 letters")


@pytest.mark.parametrize("described", [{}, {"name": "a" * 64}, {"name": "A-z_0"}, {"strict": False, "description": "d"}])
def test_a_schema_is_taken_as_it_is(described):
    constraint = read_request(ChatRequest, {"messages": [USER], **formed(**described)}).constraint
    assert constraint == {"kind": "json_schema", "value": {"type": "object"}}


@pytest.mark.parametrize("choice", ["required", NAMED])
@pytest.mark.parametrize(("field", "value"), [("stop", "x"), ("stop", ["x"]), ("ignore_eos", True), ("min_tokens", 1)])
def test_a_call_that_is_asked_for_is_not_ended_in_its_middle(choice, field, value):
    error = refused_chat(tools=[TOOL], tool_choice=choice, **{field: value})
    assert error.param == field
    assert "`tool_choice`" in error.message
    for free in ("auto", "none", None):
        read_request(ChatRequest, {"messages": [USER], "tools": [TOOL], "tool_choice": free, field: value})
    read_request(
        ChatRequest, {"messages": [USER], "tools": [TOOL], "tool_choice": choice, "stop": [], "ignore_eos": False, "min_tokens": 0}
    )


def test_two_names_of_one_setting_exclude_each_other():
    error = refusal(TokenizeRequest, {"content": "a", "add_special": True, "add_special_tokens": False})
    assert error.param == "add_special"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (DetokenizeRequest, {"tokens": [""] * 2000}),
        (ScoreRequest, {"context": "a", "continuations": [[""] * 2000]}),
        (ChatRequest, {"messages": [{"role": "user", "content": [{}] * 2000}]}),
        (ChatRequest, {"messages": [{"role": "assistant", "tool_calls": [{}] * 128}] * 1000}),
        (ChatRequest, {"messages": [USER], "choice": [1] * 2000}),
        (ChatRequest, {"messages": [USER], "tools": [{}] * 128}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_one_wrong_item_of_a_long_list_is_enough(kind, body):
    """A report on each of a million would hold up all that is served."""
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(body)
    assert caught.value.error_count() < 10


def described(kind):
    return jsonschema.Draft202012Validator(kind.model_json_schema())


@pytest.mark.parametrize(("kind", "body"), WHOLE, ids=lambda value: getattr(value, "__name__", ""))
def test_the_description_allows_what_is_taken(kind, body):
    described(kind).validate(body)


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [USER, CALLED, {"role": "tool", "content": "r"}]},
        {"messages": [USER, CALLED, {**RESULT, "tool_call_id": None}]},
        {"messages": [{**USER, "tool_call_id": "x"}]},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "user", "content": None}]},
        {"messages": [{"role": "assistant", "content": None, "tool_calls": []}]},
        {"messages": [{**USER, "tool_calls": [CALL]}]},
        {"logit_bias": {"05": 1}},
        {"logit_bias": {"x": 1}},
        {"logit_bias": {"5": 101}},
        formed(strict="yes"),
        formed(name=""),
        formed(name="a" * 65),
        formed(name="a b"),
        formed(schema="{}"),
        {"response_format": {"type": "yaml"}},
        {"response_format": {"type": "json_schema"}},
        {"response_format": {"type": "json_object", "schema": {}}},
        {"modalities": []},
        {"choice": []},
    ],
    ids=lambda value: json.dumps(value)[-50:],
)
def test_the_description_forbids_what_is_refused(fields):
    body = {"messages": [USER], **fields}
    refusal(ChatRequest, body)
    assert not described(ChatRequest).is_valid(body)
