"""Pages of other origins, texts that would write a log or a page, errors that would tell too much; and all of it under `python -O` too."""

import json
import random
import re
from pathlib import Path

import pytest
from attacks import LEAK, asked, eventually, head, sent, with_body
from running import Server, figures
from serving_load import hostile_requests

pytestmark = pytest.mark.slow

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
KEY = "key-of-the-only-client"
HTML = ('<img src=x onerror="alert(1)">', "</script><script>alert(1)</script>", "$\\href{javascript:alert(1)}{x}$", "<!--", "]]>", "&lt;")


@pytest.mark.parametrize("origin", ["null", "http://evil.example", "https://127.0.0.1", "http://localhost:8000", "file://", "*"])
def test_no_page_of_another_origin_may_read_an_answer(server, origin):
    wanted = ["access-control-request-method: POST", "access-control-request-headers: authorization, content-type"]
    answers = [
        sent(server.port, head("GET", "/v1/models", headers=[f"origin: {origin}"])),
        sent(server.port, head("OPTIONS", COMPLETIONS, headers=[f"origin: {origin}", *wanted])),
        sent(server.port, head("GET", "/", headers=[f"origin: {origin}"])),
        asked(server.port, COMPLETIONS, {"prompt": "a", "max_tokens": 1}, headers=[f"origin: {origin}"]),
        asked(server.port, COMPLETIONS, {"prompt": "a", "max_tokens": 1, "stream": True}, headers=[f"origin: {origin}"]),
        asked(server.port, "/nothing", {}, headers=[f"origin: {origin}"]),
    ]
    for answer in answers:
        assert answer.status < 500
        assert not [name for name in answer.headers if name.startswith("access-control")]
    assert answers[1].status == 405, "a browser asks first, and is told no"


def test_a_form_of_another_page_is_no_request(server):
    """What a page can send without asking first is text, a form or a file, never JSON."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        data = b'{"prompt": "a"}'
        answer = sent(
            server.port, head("POST", COMPLETIONS, headers=[f"content-type: {kind}", f"content-length: {len(data)}"]) + data, "POST"
        )
        assert answer.status == 415


def test_every_answer_says_what_it_is_and_is_kept_by_nobody(server):
    for method, path in (("GET", "/"), ("GET", "/health"), ("GET", "/v1/models"), ("GET", "/nothing"), ("POST", "/tokenize"), ("FOO", "/")):
        headers = sent(server.port, with_body(method, path, {"content": "a"}) if method == "POST" else head(method, path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert re.fullmatch(r"[0-9a-f]{32}", headers["x-request-id"])
        assert "server" not in headers


@pytest.mark.parametrize(
    "text", ["a\r\nb", "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", '{"status": 200}\n', "\u2028\u202e", "\x9b31m", "%s%n"]
)
def test_what_clients_write_cannot_write_the_log_or_a_label(server, text):
    n_before = len(server.log)
    escaped = "".join(char if 0x20 < ord(char) < 0x7F else "".join(f"%{byte:02x}" for byte in char.encode()) for char in text)
    answers = [
        sent(server.port, head("GET", f"/v1/models/{escaped}")),
        sent(server.port, head("GET", f"/{escaped}?{escaped}")),
        sent(server.port, head("GET", "/health", headers=[f"user-agent: {escaped}", f"x-request-id: {escaped}"])),
        asked(server.port, COMPLETIONS, {"prompt": text, "model": text}),
        asked(server.port, COMPLETIONS, {"prompt": text, text: 1}),
        asked(server.port, CHAT, {"messages": [{"role": text, "content": text, text: text}]}),
        asked(server.port, COMPLETIONS, {"prompt": "a", "user": text, "regex": text, "grammar": text}),
    ]
    for answer in answers:
        assert answer.status < 500
        if answer.status >= 400:
            assert not re.search(r"[^\x20-\x7e]", answer.error()["message"]) or text.isprintable(), answer.body
    eventually(lambda: len(server.log) >= n_before + len(answers))  # a line follows its answer
    for line in server.log[n_before:]:
        assert re.fullmatch(r"[\x20-\x7e]+\n", line)
        assert set(json.loads(line)) <= {"time", "request", "client", "method", "path", "status", "seconds", "prompt_tokens", "new_tokens"}
    assert {name for key in figures(server) for name, _ in key[1:]} <= {"endpoint", "status", "finished_reason", "le"}


def test_a_request_that_spells_two_is_answered_as_one(server):
    """Bytes behind a body whose length is told are the next request; with two lengths it is none."""
    inner = head("GET", "/v1/models")
    smuggled = head(
        "POST", "/tokenize", headers=["content-type: application/json", "content-length: 2", "transfer-encoding: chunked"], close=False
    )
    answer = sent(server.port, smuggled + b"0\r\n\r\n" + inner, "POST")
    assert answer.status == 400
    assert b"max_model_len" not in answer.body


def test_what_a_model_writes_is_text_in_json_whatever_it_looks_like(server):
    for text in HTML:
        answer = asked(server.port, COMPLETIONS, {"prompt": "a", "choice": [text], "max_tokens": 200})
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
        assert answer.json()["choices"][0]["text"] == text
        streamed = asked(server.port, COMPLETIONS, {"prompt": "a", "choice": [text], "max_tokens": 200, "stream": True})
        assert streamed.headers["content-type"] == "text/event-stream; charset=utf-8"
        events = [line.removeprefix("data: ") for line in streamed.body.decode().split("\n\n") if line]
        assert events.pop() == "[DONE]"
        assert "".join(json.loads(event)["choices"][0]["text"] for event in events) == text


def provoked(server):
    """The answers to everything that is wrong, by what it is."""
    kinds = hostile_requests(random.Random(5))
    kinds = {name: data for name, (data, allowed) in kinds.items() if allowed and allowed not in ("200",)}
    for path in ("/v1/embeddings", "/v1/classify", "/v1/score", "/tokenize", "/detokenize", COMPLETIONS, CHAT):
        for number, body in enumerate(
            ({}, [], None, "x", 5, {"input": "a"}, {"prompt": {}}, {"messages": [{}]}, {"messages": [{"role": "user"}]}, {"tokens": ["a"]},
             {"content": ["a"]}, {"context": 1, "continuations": [[]]}, {"context": "a", "continuations": []}, {"tokens": [10**30]},
             {"messages": [{"role": "user", "content": "a"}], "tools": [{"type": "function", "function": {"name": "a b"}}]},
             {"messages": [{"role": "user", "content": "a"}], "tool_choice": {"type": "function", "function": {"name": "f"}}},
             {"prompt": "a", "regex": "(?P<a"}, {"prompt": "a", "grammar": "%llguidance {"}, {"prompt": "a", "model": "/etc/passwd"})
        ):  # fmt: skip
            kinds[f"{path} {number}"] = with_body("POST", path, body)
    return {name: answer for name, data in kinds.items() if (answer := sent(server.port, data, "POST")).status >= 400}


def test_no_error_tells_of_the_inside(server, reader):
    """No path, no address, no name of a class, no traceback; all in one form."""
    found = {**provoked(server), **{f"reader {name}": answer for name, answer in provoked(reader).items()}}
    assert len(found) > 150
    for name, answer in found.items():
        assert answer.status < 500, name
        answer.error()
    assert not any(LEAK.search(line) for each in (server, reader) for line in each.log if not line.startswith("{")), (
        "and none was unforeseen"
    )


def test_the_checks_hold_without_asserts(started, chat_folder):
    """`python -O` leaves out every `assert`: none of them may be what keeps somebody out (CVE-2026-41523)."""
    server = started(chat_folder, environment={"PYTHONOPTIMIZE": "1", "TOUCHSTONE_API_KEY": KEY}).wait()
    right = [f"authorization: Bearer {KEY}"]
    for target in ("/v1/models", "//v1/models", "/v1/../v1/models", "/v1%2fmodels", "/metrics", "/openapi.json"):
        for headers in ([], ["authorization: Bearer x"]):
            assert sent(server.port, head("GET", target, headers=headers)).status == 401
    assert sent(server.port, head("GET", "/v1/models", hosts=("evil/?",), headers=right)).status == 400
    assert sent(server.port, head("GET", "/v1/models", headers=right)).status == 200
    bodies = (
        b"[" * 100_000,
        b'{"prompt": "a", "temperature": NaN}',
        b'{"prompt": "a", "prompt": "b"}',
        b'{"prompt": "\\ud800"}',
        {"prompt": "a", "n": 10**9},
        {"prompt": [10**6]},
        {"prompt": [5] * 300},
        {"prompt": "a", "logprobs": 21},
        {"prompt": "a", "temperature": 1e-9},
        {"prompt": "a", "logit_bias": {"-1": 1}},
        {"prompt": "a", "regex": "(" * 3000 + ")" * 3000},
        {"prompt": "a", "chat_template": "{{ 1 }}"},
    )
    for body in bodies:
        answer = asked(server.port, COMPLETIONS, body, headers=right)
        assert answer.status == 400
        answer.error()
    assert asked(server.port, COMPLETIONS, {"prompt": "a" * (2 << 20)}, headers=right).status == 413
    assert asked(server.port, CHAT, {"messages": [{"role": "user", "content": "<|im_end|>"}], "max_tokens": 2}, headers=right).status == 200
    assert server.end() == 0


def test_secrets_do_not_stand_in_the_list_of_processes(chat_folder, tmp_path):
    """A key comes from a file or the environment; no option takes one, so `ps` shows none."""
    path = tmp_path / "keys"
    path.write_text(KEY + "\n", encoding="ascii")
    path.chmod(0o600)
    server = Server(chat_folder, "--api-key-file", str(path)).wait_for_address()
    try:
        assert KEY.encode() not in Path(f"/proc/{server.process.pid}/cmdline").read_bytes()
        assert sent(server.port, head("GET", "/v1/models")).status == 401
        assert sent(server.port, head("GET", "/health")).status in (200, 503)
    finally:
        server.close()
