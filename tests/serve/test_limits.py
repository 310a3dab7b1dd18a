"""What is too large, too deep, too slow or no JSON is refused before it costs anything; and nobody holds a connection for good."""

import contextlib
import json
import socket
from pathlib import Path

import pytest
from attacks import asked, connected, eventually, head, read_answer, rss_bytes, sent, until_closed, with_body
from few_files_server import N_FILES
from running import figures

from touchstone.serve.api_error import ApiError
from touchstone.serve.limits import read_json_body

PATH = "/v1/completions"
KEY = "authorization: Bearer key-of-the-first-client"
MIB = 1 << 20


def ended_at(server, path):
    """The lines of the access log about one path."""
    return [line for line in server.log if line.startswith("{") and json.loads(line).get("path") == path]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b'{"a": 1} x', "no JSON"),
        (b"{'a': 1}", "no JSON"),
        (b"\xef\xbb\xbf{}", "no JSON"),
        (b'{"a": NaN}', "NaN is no number"),
        (b'{"a": [1, -Infinity]}', "-Infinity is no number"),
        (b'{"a": Infinity}', "Infinity is no number"),
        (b'{"a": 1e999}', "1e999 is too large"),
        (b'{"a": -1e999}', "-1e999 is too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "no JSON"),
        (b'{"a": 1, "a": 2}', "`a` is there twice"),
        (b'{"a": {"b": 1, "b": 1}}', "`b` is there twice"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b'{"a": "\xed\xa0\x80"}', "not UTF-8"),
        (b'{"a": "\\ud800"}', "half of a surrogate"),
        (b'{"\\udfff": 1}', "half of a surrogate"),
        (b'{"a": "\\ude00\\ud83d"}', "half of a surrogate"),
        (b'{"a": "\x01"}', "no JSON"),
        (b"[" * 65 + b"]" * 65, "deeper than 64"),
        (b"[" * 100_000, "deeper than 64"),
        (b'{"a":' * 100_000, "deeper than 64"),
        (b"{[" * 50_000, "deeper than 64"),
        (b'"' + b'\\"' * 500_000, "no JSON"),  # a scan that begins again at each quotation mark would take hours
        (b'"' + b'\\"' * 500_000 + b"\\", "no JSON"),
        (b'"' * 500_001, "no JSON"),
    ],
)
def test_a_body_that_is_no_strict_json_is_told_why(data, told):
    with pytest.raises(ApiError, match=told) as caught:
        read_json_body(data, 64)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 64 + b"]" * 64,
        b'{"a": "' + b"[" * 1000 + b'"}',
        b'{"a": "\\"' + b"{" * 1000 + b'"}',
        b'{"a": "\\\\", "b": [1, 2.5, -3e-9, true, null, "\\ud83d\\ude00", "\xf0\x9f\x98\x80", "\\u0000"]}',
        json.dumps("a" * MIB).encode(),
    ],
)
def test_strict_json_is_read_as_python_reads_it(data):
    assert read_json_body(data, 64) == json.loads(data)


@pytest.mark.slow
def test_a_body_of_100_mb_is_refused_by_its_length_alone(server):
    """The answer comes before a byte of the body is sent; then the body is sent all the same, and takes no memory."""
    assert asked(server.port, PATH, {"prompt": "warm", "max_tokens": 1}).status == 200
    before = rss_bytes(server.process.pid)
    with connected(server.port) as connection:
        connection.sendall(head("POST", PATH, headers=["content-type: application/json", f"content-length: {100 * MIB}"]))
        answer = connection.recv(1 << 16)
        assert answer.startswith(b"HTTP/1.1 413 ")
        for _ in range(100):
            connection.sendall(b" " * MIB)
        answer = read_answer(answer + until_closed(connection), "POST")
    assert answer.error()["code"] == "body_too_large"
    assert rss_bytes(server.process.pid) - before < 10 * MIB
    assert server.ask("GET", "/health")[0] == 200


@pytest.mark.slow
def test_a_body_that_does_not_tell_its_length_is_read_no_further_than_the_limit(server):
    before = rss_bytes(server.process.pid)
    with connected(server.port) as connection:
        connection.sendall(head("POST", PATH, headers=["content-type: application/json", "transfer-encoding: chunked"]))
        for _ in range(100):
            connection.sendall(b"100000\r\n" + b" " * MIB + b"\r\n")
        connection.sendall(b"0\r\n\r\n")
        answer = read_answer(until_closed(connection), "POST")
    assert (answer.status, answer.error()["code"]) == (413, "body_too_large")
    assert rss_bytes(server.process.pid) - before < 10 * MIB


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/tokenize", "/v1/score"])
def test_json_nested_100_000_deep_harms_nothing(server, path):
    for body in (b"[" * 100_000 + b"]" * 100_000, b'{"prompt":' * 100_000, b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"):
        answer = asked(server.port, path, body)
        assert (answer.status, answer.error()["code"]) == (400, "too_deep")
    assert server.engine_pid()
    assert server.ask("GET", "/health")[0] == 200


@pytest.mark.slow
@pytest.mark.parametrize("text", ["\x00", "a\x00b", "\ufeff", "\uffff", "\U0010ffff", "\u202e\u0301\u200d", "\x1b[2J", "\r\n", " ", "�"])
def test_odd_characters_are_text_like_any_other(server, text):
    answer = asked(server.port, PATH, {"prompt": text, "max_tokens": 2})
    assert answer.status == 200
    chat = asked(server.port, "/v1/chat/completions", {"messages": [{"role": "user", "content": text}], "max_tokens": 2, "stop": text})
    assert chat.status == 200
    ids = asked(server.port, "/tokenize", {"content": text}).json()["tokens"]
    assert asked(server.port, "/detokenize", {"tokens": ids}).json()["content"] == text


@pytest.mark.slow
@pytest.mark.parametrize("body", [b'{"prompt": "\\ud800"}', b'{"prompt": "\xff\xfe"}', b'{"prompt": "a\xc3"}', b'{"\\udc00": 1}'])
def test_what_is_no_text_is_refused(server, body):
    answer = asked(server.port, PATH, body)
    assert answer.status == 400
    answer.error()


@pytest.mark.slow
@pytest.mark.parametrize("char", ["a", " ", "天", "\x00", "<"])
def test_ten_megabytes_of_one_character_are_answered(guarded, char):
    """Too long for the context, told by their length before they are cut into tokens; and as text they become tokens in bounded time."""
    text = char * (10 * MIB // len(json.dumps(char, ensure_ascii=False)[1:-1].encode()))
    body = json.dumps({"prompt": text, "max_tokens": 1}, ensure_ascii=False).encode()
    answer = asked(guarded.port, PATH, body, headers=[KEY])
    assert answer.status == 400
    assert "256" in answer.error()["message"]
    body = json.dumps({"messages": [{"role": "user", "content": text}]}, ensure_ascii=False).encode()
    answer = asked(guarded.port, "/v1/chat/completions", body, headers=[KEY])
    assert answer.status == 400
    answer.error()
    assert guarded.ask("GET", "/health")[0] == 200


@pytest.mark.slow
def test_half_a_header_and_a_header_that_trickles_are_closed_at_the_timeout(guarded):
    for beginning in (b"", b"GET", b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\nx: ", head("GET", "/health", close=False)):
        with connected(guarded.port) as connection:
            connection.sendall(beginning)
            found = until_closed(connection)
            assert found == b"" or found.startswith(b"HTTP/1.1 200 "), "only a whole request is answered"
    with connected(guarded.port) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\n")
        connection.settimeout(0.1)
        for _ in range(600):
            try:
                assert connection.recv(100) == b""
                break
            except TimeoutError:
                connection.sendall(b"x")
            except ConnectionError:
                break
        else:
            pytest.fail("a header that trickles holds its connection")


@pytest.mark.slow
def test_half_a_body_is_told_and_closed_at_the_timeout(guarded):
    whole = with_body("POST", PATH, {"prompt": "a", "max_tokens": 1}, headers=[KEY], close=False)
    with connected(guarded.port) as connection:
        connection.sendall(whole[:-5])
        answer = read_answer(until_closed(connection), "POST")
    assert answer.status == 408
    answer.error()
    with connected(guarded.port) as connection:
        connection.sendall(whole[:-5])
        connection.shutdown(socket.SHUT_WR)
        answer = read_answer(until_closed(connection), "POST")
    assert answer.status in (0, 400)


@pytest.mark.slow
def test_who_never_reads_the_answer_is_cut_off(guarded):
    """Else a few such clients would hold all the places that there are: the second answer of each waits until the first is taken."""
    body = json.dumps({"content": "天b" * 60_000, "with_pieces": True}, ensure_ascii=False).encode()  # some five megabytes of answer
    n_before = len(ended_at(guarded, "/tokenize"))
    silent = []
    for _ in range(2):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", guarded.port))
        for each in (body, {"content": "a"}):
            connection.sendall(with_body("POST", "/tokenize", each, headers=[KEY], close=False))
        silent.append(connection)
    eventually(lambda: len(ended_at(guarded, "/tokenize")) == n_before + 4)
    assert asked(guarded.port, "/tokenize", {"content": "a"}, headers=[KEY]).status == 200
    for connection in silent:
        connection.close()


@pytest.mark.slow
def test_too_many_connections_are_told_so_and_leave_room_when_they_go(guarded):
    waiting = [connected(guarded.port) for _ in range(40)]
    try:
        refused = 0
        for _ in range(5):
            answer = sent(guarded.port, head("GET", "/health"))
            refused += answer.status == 503
            if answer.status == 503:
                assert answer.error()["code"] == "too_many_connections"
                assert answer.headers["retry-after"].isdecimal()
        assert refused
    finally:
        for connection in waiting:
            connection.close()
    eventually(lambda: sent(guarded.port, head("GET", "/health")).status == 200)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (["content-type: text/plain"], 415),
        (["content-type: application/x-www-form-urlencoded"], 415),
        (["content-type: multipart/form-data; boundary=x"], 415),
        ([], 415),
        (["content-type: application/json", "content-encoding: gzip"], 415),
        (["content-type: application/json", "content-encoding: deflate"], 415),
        (["content-type: application/json; charset=utf-8"], 200),
        (["content-type: Application/JSON"], 200),
    ],
)
def test_only_plain_json_is_read(server, headers, status):
    data = b'{"content": "a"}'
    answer = sent(server.port, head("POST", "/tokenize", headers=[*headers, f"content-length: {len(data)}"]) + data, "POST")
    assert answer.status == status
    if status != 200:
        answer.error()


@pytest.mark.slow
@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET /health\r\n\r\n",
        b"GET /h\xc3\xa9 HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\nbad header\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\nx: a\x00b\r\n\r\n",
        b"POST /tokenize HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: -1\r\n\r\n",
        b"POST /tokenize HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"POST /tokenize HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: " + b"9" * 30 + b"\r\n\r\n",
        b"POST /tokenize HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100 + b"\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        (
            b"POST /tokenize HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: 15\r\n"
            b'transfer-encoding: chunked\r\n\r\nf\r\n{"content":"a"}\r\n0\r\n\r\n'
        ),
    ],
)
def test_what_is_no_http_is_told_so_in_the_form_of_all_errors(server, data):
    answer = sent(server.port, data)
    assert answer.status == 400
    answer.error()
    assert figures(server)["touchstone:engine_up",] == 1


@pytest.mark.slow
def test_headers_that_are_too_large_are_refused_in_one_piece_as_in_many(server):
    for n_bytes, status in ((12 << 10, 200), (20 << 10, 431), (60 << 10, 431), (200_000, 431), (500_000, 431)):
        assert server.ask("GET", "/health", headers={"x-padding": "a" * n_bytes})[0] == status
    assert server.ask("GET", "/health?" + "a" * (20 << 10))[0] == 431


@pytest.mark.slow
def test_a_conversation_that_cannot_fit_is_refused_before_it_is_cut_into_tokens(server):
    status, told = server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "a" * 900_000}]})
    assert status == 400
    assert "900000 characters" in told["error"]["message"]


@pytest.mark.slow
def test_more_silent_strangers_than_the_process_may_open_files_are_told_so_and_fill_no_log(started, id_folder):
    """Fewer connections are let in than there are files to open: none is used up to refuse the next one."""
    server = started(id_folder, script=Path(__file__).with_name("few_files_server.py")).wait()
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(connected(server.port)) for _ in range(2 * N_FILES)]
        refused = read_answer(until_closed(silent[-1]))
        assert (refused.status, refused.error()["code"]) == (503, "too_many_connections")
    eventually(lambda: sent(server.port, head("GET", "/health")).status == 200)
    assert not [line for line in server.log if "Traceback" in line or "out of system resource" in line]


@pytest.mark.slow
def test_an_answer_that_its_client_leaves_is_counted_as_cancelled(server):
    name = "touchstone:request_success_total", ("finished_reason", "cancelled")
    before = figures(server)[name]
    body = {"prompt": "One day", "max_tokens": 240, "ignore_eos": True, "n": 3, "stream": True}
    with connected(server.port) as connection:
        connection.sendall(with_body("POST", PATH, body))
        connection.recv(1)
    eventually(lambda: figures(server)[name] == before + 3)
