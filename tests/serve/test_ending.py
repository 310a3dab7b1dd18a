"""How a server ends: what runs is finished or told why it is not, nothing new is taken, and no process stays behind."""

import contextlib
import signal

import pytest
from attacks import asked, connected, eventually, family, head, is_running, read_answer, sent, until_closed, with_body
from running import CONTEXT, events_of

pytestmark = pytest.mark.slow

PATH = "/v1/completions"
N_NEW = CONTEXT - 2
LONG = {"prompt": [5], "max_tokens": N_NEW, "ignore_eos": True, "stream": True}
ENDLESS = {"prompt": [1, 2], "max_tokens": 10**6, "ignore_eos": True, "stream": True}  # for the recurrent model, which has no context


@contextlib.contextmanager
def streams(server, body, n=4):
    """Connections on which an answer has begun."""
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(n):
            connection = stack.enter_context(connected(server.port))
            connection.sendall(with_body("POST", PATH, body))
            found.append((connection, _until_first_event(connection)))
        yield found


def _until_first_event(connection):
    data = b""
    while b"data: " not in data:
        part = connection.recv(1 << 16)
        assert part, data
        data += part
    return data


def rest_of(stream):
    """The events of a stream that has ended."""
    connection, begun = stream
    return events_of(read_answer(begun + until_closed(connection), "POST").body)


def all_gone(pids):
    eventually(lambda: not any(is_running(pid) for pid in pids))


def test_what_runs_is_finished_and_what_comes_is_told_to_come_again(started, chat_folder):
    server = started(chat_folder).wait()
    assert asked(server.port, "/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1}).status == 200
    pids = family(server.process.pid)
    assert len(pids) >= 3, "the server, the engine, and what renders conversations"
    with streams(server, LONG) as running:
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: sent(server.port, head("GET", "/health")).json() == {"status": "draining"})
        for path, body in (
            (PATH, {"prompt": "a"}),
            ("/tokenize", {"content": "a"}),
            ("/v1/score", {"context": "a", "continuations": ["b"]}),
        ):
            late = asked(server.port, path, body)
            assert (late.status, late.error()["code"]) == (503, "draining")
            assert late.headers["retry-after"].isdecimal()
        health = sent(server.port, head("GET", "/health"))
        assert (health.status, health.headers["retry-after"].isdecimal()) == (503, True)
        for stream in running:
            events = rest_of(stream)
            assert not any("error" in event for event in events)
            assert events[-1]["choices"][0]["finish_reason"] == "length"
    assert server.process.wait(30) == 0
    all_gone(pids)


def test_what_is_not_finished_at_the_deadline_is_told_so(started, id_folder):
    server = started(id_folder, "--drain-seconds", "0.5").wait()
    pids = family(server.process.pid)
    with streams(server, ENDLESS) as running, connected(server.port) as whole:
        whole.sendall(with_body("POST", PATH, {**ENDLESS, "stream": False}))
        eventually(lambda: b"num_requests_running 5.0" in sent(server.port, head("GET", "/metrics")).body)
        server.process.send_signal(signal.SIGTERM)
        for stream in running:
            *events, last = rest_of(stream)
            assert not any("error" in event for event in events)
            assert set(last["error"]) == {"message", "type", "param", "code"}
            assert (last["error"]["type"], "before this answer was complete" in last["error"]["message"]) == ("server_error", True)
        answer = read_answer(until_closed(whole), "POST")
        assert (answer.status, answer.headers["retry-after"].isdecimal()) == (503, True)
        answer.error()
    assert server.process.wait(30) == 0
    all_gone(pids)


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once_with_a_word_to_each_stream(started, id_folder, first):
    server = started(id_folder, "--drain-seconds", "1000").wait()
    pids = family(server.process.pid)
    with streams(server, ENDLESS) as running:
        server.process.send_signal(first)
        eventually(lambda: sent(server.port, head("GET", "/health")).status == 503)
        server.process.send_signal(signal.SIGINT)
        for stream in running:
            assert "at once" in rest_of(stream)[-1]["error"]["message"]
    assert server.process.wait(30) == 0
    all_gone(pids)


def test_an_idle_server_ends_with_its_idle_connections(started, id_folder):
    server = started(id_folder).wait()
    pids = family(server.process.pid)
    with connected(server.port) as idle, connected(server.port) as half:
        half.sendall(b"GET /health HTTP/1.1\r\n")
        assert sent(server.port, head("GET", "/health")).status == 200
        assert server.end() == 0
        assert until_closed(idle) == b""
    all_gone(pids)


def test_who_still_sends_a_body_is_told_to_come_again_and_keeps_nobody_waiting(started, id_folder):
    server = started(id_folder, "--drain-seconds", "1000").wait()
    with connected(server.port) as half, streams(server, {**LONG, "max_tokens": 200}, n=1) as running:
        half.sendall(with_body("POST", PATH, {"prompt": [1], "max_tokens": 1})[:-3])
        eventually(lambda: b"touchstone:engine_up 1.0" in sent(server.port, head("GET", "/metrics")).body)
        server.process.send_signal(signal.SIGTERM)
        answer = read_answer(until_closed(half), "POST")
        assert (answer.status, answer.error()["code"]) == (503, "draining")
        assert not any("error" in event for event in rest_of(running[0]))
    assert server.process.wait(30) == 0
    assert not [line for line in server.log if "Traceback" in line]


def test_a_server_that_is_told_to_end_while_it_opens_its_model_ends(started, id_folder):
    server = started(id_folder).wait_for_address()
    health = sent(server.port, head("GET", "/health"))
    if health.status == 503:
        assert health.json() == {"status": "loading"}
        assert asked(server.port, PATH, {"prompt": [1], "max_tokens": 1}).error()["code"] == "unavailable"
    pids = family(server.process.pid)
    assert server.end() == 0
    all_gone(pids)
