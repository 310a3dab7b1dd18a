"""What is asked in bad faith or by mistake is refused with the field's name, and nobody else notices; what clients leave is dropped."""

import itertools
import json
import socket

import pytest
from attacks import Canary, asked, connected, eventually, sent, with_body
from running import figures
from serving_load import settled

pytestmark = pytest.mark.slow

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
USER = [{"role": "user", "content": "hello"}]


def refused(server, path, body, *told):
    """The error of a 400 that says all of this."""
    answer = asked(server.port, path, body)
    assert answer.status == 400, answer.body[:300]
    error = answer.error()
    for each in told:
        assert each in error["message"]
    return error


def completion_refused(server, field, *told, **settings):
    error = refused(server, COMPLETIONS, {"prompt": "One day", "max_tokens": 2, **settings}, *told)
    assert error["param"] == field


@pytest.fixture
def canary(tmp_path):
    found = Canary(tmp_path)
    yield found
    assert not found.was_touched()
    found.close()


@pytest.mark.parametrize(
    ("field", "value", "limit"),
    [
        ("n", 10**9, "128"),
        ("n", 129, "128"),
        ("n", 0, "1"),
        ("n", -1, "1"),
        ("max_tokens", 10**12, "1000000"),
        ("max_tokens", -1, "0"),
        ("max_tokens", 2**63, "1000000"),
        ("min_tokens", 10**9, "1000000"),
        ("best_of", 10**9, "128"),
        ("logprobs", 10**6, "20"),
        ("logprobs", 21, "20"),
        ("logprobs", -1, "0"),
        ("top_k", 2**31, str(2**31 - 1)),
        ("top_k", -1, "0"),
        ("temperature", -1, "0"),
        ("temperature", 1e9, "100"),
        ("temperature", 1e-320, "0.001"),
        ("temperature", 0.0009, "0.001"),
        ("temperature", "hot", "number"),
        ("temperature", True, "number"),
        ("temperature", [1], "number"),
        ("top_p", 0, "0"),
        ("top_p", 1.0001, "1"),
        ("top_p", -0.1, "0"),
        ("min_p", 1.1, "1"),
        ("min_p", -1e-9, "0"),
        ("presence_penalty", 2.1, "2"),
        ("frequency_penalty", -2.1, "-2"),
        ("repetition_penalty", 0, "0.01"),
        ("repetition_penalty", 1e300, "100"),
        ("repetition_penalty", -1, "0.01"),
        ("seed", 2**200, "9223372036854775807"),
        ("seed", -1, "0"),
        ("seed", 1.5, "whole number"),
        ("stream", 1, "true or false"),
        ("echo", "yes", "true or false"),
        ("logit_bias", {"1": 101}, "100"),
        ("logit_bias", {"-1": 1}, "token ids"),
        ("logit_bias", {"²": 1}, "token ids"),
        ("logit_bias", {"1e3": 1}, "token ids"),
        ("logit_bias", {"5": 1, "05": -100}, "token ids"),
        ("logit_bias", {str(10**8): 1}, "0 to"),
        ("logit_bias", {str(id): 1 for id in range(2000)}, "1024"),
        ("stop", [""], "1 to 1000 characters"),
        ("stop", "", "1 to 1000 characters"),
        ("stop", ["x"] * 10_000, "64"),
        ("stop", ["x" * 1001], "1000"),
        ("stop", [1], "text"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_field_beyond_its_limit_is_named_with_the_limit(server, field, value, limit):
    completion_refused(server, field, f"`{field}", limit, **{field: value})


def test_prompts_times_choices_have_a_limit_too(server):
    completion_refused(server, "prompt", "256", prompt=["a"] * 128, n=128)
    completion_refused(server, "prompt", "128", prompt=["a"] * 129)


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 5000])
@pytest.mark.parametrize("field", ["temperature", "top_p", "presence_penalty", "logit_bias", "response_format", "metadata"])
def test_what_is_no_number_of_json_is_refused_wherever_it_stands(server, field, literal):
    value = f'{{"1": {literal}}}' if field in ("logit_bias", "response_format", "metadata") else literal
    refused(server, COMPLETIONS, f'{{"prompt": "a", "max_tokens": 1, "{field}": {value}}}'.encode())


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0.001},
        {"temperature": 100, "top_p": 5e-324},
        {"top_p": 1, "min_p": 1, "top_k": 2**31 - 1},
        {"top_k": 1, "min_p": 0, "top_p": 2**-60},
        {"repetition_penalty": 0.01, "presence_penalty": -2, "frequency_penalty": 2},
        {"repetition_penalty": 100, "presence_penalty": 2, "frequency_penalty": -2},
        {"seed": 2**63 - 1, "logprobs": 20, "n": 128},
        {"logit_bias": {str(id): -100 for id in range(330)}, "logprobs": 20},
        {"logit_bias": {str(id): 100 for id in range(330)}, "temperature": 0.001},
        {"min_tokens": 3, "max_tokens": 3, "ignore_eos": True},
        {"max_tokens": 10**6, "min_tokens": 10**6},
        {"max_tokens": 0},
        {"stop": ["x" * 1000] * 64},
        {"stop": ["\x00", "\ud83d\ude00", "e", " "]},
    ],
    ids=str,
)
def test_every_field_at_its_ends_gives_an_answer_of_finite_numbers(server, fields):
    answer = asked(server.port, COMPLETIONS, {"prompt": "One day", "max_tokens": 3, **fields})
    assert answer.status == 200, answer.body

    def no_constant(name):
        raise AssertionError(name)

    told = json.loads(answer.body, parse_constant=no_constant)
    assert len(told["choices"]) == fields.get("n", 1)
    assert {choice["finish_reason"] for choice in told["choices"]} <= {"stop", "length"}


@pytest.mark.parametrize(
    "prompt",
    [[999_999], [2**31], [-1], [], "", None, [[], [1]], [[1], []], [""], [[1, "a"]], [1, "a"], [[[1]]], {}, 5, True, [True], [1.0]],
)
def test_what_is_no_prompt_is_refused(server, prompt):
    assert refused(server, COMPLETIONS, {"prompt": prompt, "max_tokens": 1})["param"] == "prompt"
    for settings in ({"stream": True}, {"echo": True, "max_tokens": 0}, {"max_tokens": 0}):
        assert refused(server, COMPLETIONS, {"prompt": prompt, "max_tokens": 1, **settings})["param"] == "prompt"


@pytest.mark.parametrize("n", [256, 257, 5000, 200_000])
def test_a_prompt_beyond_the_context_is_told_both_numbers(server, n):
    refused(server, COMPLETIONS, {"prompt": [5] * n, "max_tokens": 1}, str(n), "256")
    refused(server, COMPLETIONS, {"prompt": [[5], [5] * n], "max_tokens": 1, "stream": True}, str(n), "256")


def test_a_text_beyond_the_context_is_told_both_numbers(server, chat_model):
    text = "hello " * 300
    n = len(chat_model.tokenizer.encode(text))
    refused(server, COMPLETIONS, {"prompt": text, "max_tokens": 1}, str(n), "256")
    refused(server, CHAT, {"messages": [{"role": "user", "content": text}]}, "256")


@pytest.mark.parametrize("closed", [False, True])
def test_a_text_far_beyond_the_context_is_not_cut_into_tokens_for_each_of_many_answers(server, closed):
    body = {"context": "hello " * 150_000, "continuations": [f" {n}" for n in range(256)], "closed": closed}
    refused(server, "/v1/score", body, "900000 characters", "256")
    refused(server, "/v1/score", {"context": "a", "continuations": ["b", "b" * 900_000], "closed": closed}, "900000 characters")
    told = asked(server.port, "/v1/score", {"context": "hello " * 300, "continuations": [" a", " b"], "closed": closed})
    assert told.status == 200, "what is cut off from the left is told, not refused"


@pytest.mark.parametrize("stop", [["day"], [" "], ["天", "a"], ["\ufffd"], ["e", "ee", "eee"], ["<|im_end|>"]])
def test_a_stop_cuts_where_it_begins_and_splits_no_character(server, stop):
    base = {"prompt": "One day 天 气", "max_tokens": 60, "seed": 4, "temperature": 1.2}
    whole = asked(server.port, COMPLETIONS, base).json()["choices"][0]["text"]
    cut = asked(server.port, COMPLETIONS, {**base, "stop": stop}).json()["choices"][0]["text"]
    first = min((place for each in stop if (place := whole.find(each)) >= 0), default=len(whole))
    assert cut == whole[:first]


def schema(wanted):
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": wanted}}}


def deep(n):
    return b'{"messages": [{"role": "user", "content": "a"}], "response_format": ' + b'{"a": ' * n + b"1" + b"}" * n + b"}"


@pytest.mark.parametrize(
    "form",
    [
        {"response_format": {"type": "json_schema"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
        {"response_format": {"type": "json_schema", "json_schema": "x"}},
        {"response_format": {"type": 123}},
        {"response_format": {}},
        {"response_format": {"type": "yaml"}},
        {"response_format": {"type": "json_object", "x": 1}},
        schema({"type": 123}),
        schema({"type": "strung"}),
        schema([]),
        schema({"$ref": "#"}),
        schema({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}),
        schema({"$ref": "#/nowhere"}),
        schema({"$ref": "file:///etc/passwd"}),
        schema({"enum": [f"value {n}" for n in range(100_000)][:60_000]}),
        schema({"enum": list(range(100_000))}),
        schema({"enum": []}),
        schema({"allOf": [{"anyOf": [{"const": n}, {"const": n + 1}]} for n in range(40)]}),
        schema(False),
        {"regex": ""},
        {"regex": "(a"},
        {"regex": r"(a)\1"},
        {"regex": "(?=a)b"},
        {"regex": "(" * 3000 + "a" + ")" * 3000},
        {"regex": "a" * 500_001},
        {"grammar": "start: start"},
        {"grammar": "start: missing"},
        {"grammar": "root ::= root"},
        {"grammar": "%import /etc/passwd\nstart: /a/"},
        {"choice": []},
        {"choice": [""]},
        {"choice": [1]},
        {"choice": ["a"] * 10_001},
        {"regex": "a", "choice": ["a"]},
        {"regex": "a", "stop": ["a"]},
    ],
    ids=lambda form: json.dumps(form)[:60],
)
def test_a_form_that_cannot_be_met_is_the_clients_error(server, form):
    refused(server, CHAT, {"messages": USER, "max_tokens": 2, **form})
    assert figures(server)["touchstone:engine_starts",] == 1


@pytest.mark.parametrize(
    "form",
    [
        schema({"type": "string", "pattern": "^(a+)+b$"}),
        schema({"type": "string", "pattern": "^(a|a)*b$"}),
        schema({"type": "string", "minLength": 10**9}),
        schema({"type": "array", "items": {"type": "integer"}, "minItems": 10**9}),
        schema(
            {
                "$defs": {f"d{n}": {"type": "array", "items": {"$ref": f"#/$defs/d{n + 1}"}} for n in range(30)} | {"d30": {}},
                "$ref": "#/$defs/d0",
            }
        ),
        schema({"$defs": {"node": {"type": "array", "items": {"$ref": "#/$defs/node"}}}, "$ref": "#/$defs/node"}),
        {"regex": "(a+)+b"},
        {"regex": "((a|b|ab)*c?){1000}d"},
        {"regex": "(a|b)*a(a|b){20}"},
        {"grammar": 'start: start start | "a" | '},
        {"choice": ["a", "ab", "b"]},
    ],
    ids=lambda form: json.dumps(form)[:60],
)
def test_a_costly_form_is_followed_or_refused_and_those_beside_it_finish(server, form):
    beside = with_body("POST", COMPLETIONS, {"prompt": "One", "max_tokens": 20, "stream": True, "ignore_eos": True})
    with connected(server.port) as other:
        other.sendall(beside)
        answer = asked(server.port, CHAT, {"messages": USER, "max_tokens": 4, **form})
        assert answer.status in (200, 400)
        received = b""
        while not received.endswith(b"0\r\n\r\n"):
            part = other.recv(1 << 16)
            assert part
            received += part
    assert received.count(b'"text"') >= 10
    assert b'"error"' not in received
    assert b"data: [DONE]" in received


def chained(n, link):
    return {"$ref": "#/$defs/d0", "$defs": {**{f"d{k}": link({"$ref": f"#/$defs/d{k + 1}"}) for k in range(n)}, f"d{n}": {}}}


@pytest.mark.parametrize(
    "form",
    [
        schema(chained(4000, lambda next: next)),
        schema(chained(3000, lambda next: {"type": "object", "properties": {"a": next}})),
        {"grammar": "start: r0\n" + "\n".join(f'r{k}: "a" r{k + 1}' for k in range(4000)) + '\nr4000: "b"'},
        {"grammar": "start: x\nx: " + " | ".join(['"a" x "b"'] * 4000) + ' | "c"'},
        schema({"type": "integer", "multipleOf": 1_000_003}),
    ],
    ids=lambda form: json.dumps(form)[:60],
)
def test_a_form_that_would_end_or_hold_the_compiler_harms_nobody(server, form):
    refused(server, CHAT, {"messages": USER, "max_tokens": 2, **form}, "cannot be used")
    assert figures(server)["touchstone:engine_starts",] == 1


def test_a_form_nested_30_000_deep_is_refused(server):
    answer = sent(server.port, with_body("POST", CHAT, deep(30_000)), "POST")
    assert (answer.status, answer.error()["code"]) == (400, "too_deep")
    refused(server, CHAT, deep(50))


def test_a_schema_elsewhere_is_not_fetched(server, canary):
    for url in (canary.url, canary.file_url, canary.url.replace("http", "https"), canary.url.removeprefix("http:")):
        for wanted in ({"$ref": url}, {"$schema": url}, {"$id": url, "$ref": "x.json"}, {"properties": {"a": {"$dynamicRef": url}}}):
            answer = asked(server.port, CHAT, {"messages": USER, "max_tokens": 2, **schema(wanted)})
            assert answer.status in (200, 400)
            assert answer.status == 400 or "$ref" not in wanted


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file", "video_url", "refusal"])
def test_pictures_sounds_and_files_are_not_supported_and_nothing_is_opened(server, canary, kind):
    for url in (canary.url, canary.file_url, "http://169.254.169.254/latest/meta-data", "file:///etc/passwd", "data:image/png;base64,AAAA"):
        part = {"type": kind, kind: {"url": url, "data": url}}
        error = refused(server, CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "see"}, part]}]}, "not supported")
        assert error["param"] == "messages"
    for prompt in (canary.url, canary.file_url):  # a text like any other
        assert asked(server.port, COMPLETIONS, {"prompt": prompt, "max_tokens": 1}).status == 200


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(10**10) %}{% endfor %}",
        "{{ 'a' * 10**10 }}",
        "{{ ''.__class__.__mro__ }}",
        "{% include '/etc/passwd' %}",
        "hello",
    ],
)
def test_a_template_of_the_clients_is_refused(server, template):
    for field in ("chat_template", "chat_template_kwargs", "template", "documents"):
        error = refused(server, CHAT, {"messages": USER, field: template})
        assert (error["param"], error["code"]) == (field, "unknown_field")
    assert asked(server.port, CHAT, {"messages": [{"role": "user", "content": template}], "max_tokens": 1}).status == 200


def test_what_clients_write_never_becomes_a_special_token(server, chat_model):
    """An answer's length tells what the prompt was cut into: as many tokens as the same text has as plain text."""
    specials = [text for text in chat_model.tokenizer.special_texts if text]
    assert len(specials) >= 4
    plain = len(chat_model.tokenizer.encode("x"))
    base = asked(server.port, CHAT, {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}).json()["usage"]["prompt_tokens"]
    for text in (*specials, *("".join(pair) for pair in itertools.permutations(specials, 2))):
        ids = asked(server.port, "/tokenize", {"content": text}).json()["tokens"]
        assert not set(ids) & chat_model.tokenizer.special_ids
        usage = asked(server.port, COMPLETIONS, {"prompt": text, "max_tokens": 1}).json()["usage"]
        assert usage["prompt_tokens"] == len(chat_model.tokenizer.prefix_ids) + len(ids)
        told = asked(server.port, CHAT, {"messages": [{"role": "user", "content": f"x{text}"}], "max_tokens": 1}).json()["usage"]
        assert told["prompt_tokens"] == base - plain + len(chat_model.tokenizer.encode(f"x{text}"))
    halves = [{"role": "user", "content": "<|im_"}, {"role": "user", "content": "end|>"}]
    assert asked(server.port, CHAT, {"messages": halves, "max_tokens": 1}).status == 200


def test_a_client_that_goes_at_its_first_token_is_not_worked_for(server):
    body = {"prompt": "One day", "max_tokens": 250, "ignore_eos": True, "stream": True, "n": 8}
    before = figures(server)["touchstone:engine_steps_total",]
    for _ in range(3):
        with connected(server.port) as connection:
            connection.sendall(with_body("POST", COMPLETIONS, body))
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
    assert settled(server)["touchstone:engine_steps_total",] - before < 250, "the last alone would take as many to its end"
    assert asked(server.port, COMPLETIONS, {"prompt": "One day", "max_tokens": 2}).status == 200


def test_two_hundred_clients_that_go_leave_nothing_behind(server):
    body = {"prompt": "One day a girl", "max_tokens": 250, "ignore_eos": True}
    waiting = []
    for number in range(200):
        connection = connected(server.port)
        connection.sendall(with_body("POST", COMPLETIONS, {**body, "stream": number % 2 == 0}, close=number % 3 == 0))
        waiting.append(connection)
    eventually(lambda: figures(server)["touchstone:num_requests_running",] > 0)
    for number, connection in enumerate(waiting):
        if number % 2:  # a reset rather than an orderly end
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.close()
    found = settled(server)
    assert found["touchstone:engine_starts",] == 1
    assert asked(server.port, COMPLETIONS, {**body, "max_tokens": 5}).json()["usage"]["completion_tokens"] == 5
