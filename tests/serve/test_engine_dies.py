"""One of the processes is killed: those who wait are told at once, the engine is started again, and nobody is left behind."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from attacks import asked, eventually, family, head, is_running, sent
from running import figures
from test_ending import ENDLESS, PATH, all_gone, rest_of, streams

from touchstone.errors import ConfigError
from touchstone.serve import frames
from touchstone.serve.frames import Channel, packed

pytestmark = pytest.mark.slow


def is_healthy(server):
    return sent(server.port, head("GET", "/health")).status == 200


def answered(server):
    return asked(server.port, PATH, {"prompt": [1], "max_tokens": 3}).json()["usage"]["completion_tokens"] == 3


def test_a_killed_engine_is_told_to_every_stream_and_started_again(started, id_folder):
    server = started(id_folder).wait()
    for number in range(2):
        engine = server.engine_pid()
        with streams(server, ENDLESS, n=8) as running:
            os.kill(engine, signal.SIGKILL)
            for stream in running:
                *events, last = rest_of(stream)
                assert not any("error" in event for event in events)
                assert (last["error"]["type"], "started again" in last["error"]["message"]) == ("server_error", True)
        health = sent(server.port, head("GET", "/health"))
        if health.status != 200:
            assert health.json()["status"] in ("dead", "loading")
            assert health.headers["retry-after"].isdecimal()
            refused = asked(server.port, PATH, {"prompt": [1], "max_tokens": 3})
            assert refused.status == 200 or (refused.error()["code"], refused.headers["retry-after"]) == ("unavailable", "2")
            sent(server.port, head("GET", "/metrics"))
        eventually(lambda: is_healthy(server))
        assert answered(server)
        assert server.engine_pid() != engine
        found = figures(server)
        assert (found["touchstone:engine_starts",], found["touchstone:engine_up",]) == (number + 2, 1)
    assert not any("Traceback" in line for line in server.log)


def test_health_is_503_from_the_death_on_until_the_model_is_open_again(started, chat_folder):
    """With a chat under way, so that what renders conversations goes with its engine."""
    server = started(chat_folder).wait()
    chat = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 3}
    assert asked(server.port, "/v1/chat/completions", chat).status == 200
    old = family(server.process.pid) - {server.process.pid}
    os.kill(server.engine_pid(), signal.SIGKILL)
    seen = set()

    def is_back():
        health = sent(server.port, head("GET", "/health"))
        seen.add((health.status, health.json()["status"]))
        return health.status == 200 and len(seen) > 1

    eventually(is_back)
    assert (200, "ok") in seen
    assert {status for status, _ in seen} == {200, 503}
    all_gone(old)
    assert asked(server.port, "/v1/chat/completions", chat).status == 200
    assert server.end() == 0


def test_an_engine_that_hangs_is_killed_and_started_again(started, id_folder):
    """Stopped in the middle of its work: it lives, its socket is open, and nothing comes."""
    server = started(id_folder, "--step-seconds", "1").wait()
    engine = server.engine_pid()
    with streams(server, ENDLESS, n=2) as running:
        os.kill(engine, signal.SIGSTOP)
        for stream in running:
            assert "started again" in rest_of(stream)[-1]["error"]["message"]
    eventually(lambda: is_healthy(server))
    assert answered(server)
    assert server.engine_pid() != engine
    events = [json.loads(line) for line in server.log if '"event": "engine_' in line]
    assert [(event["event"], event.get("exit_code", event.get("seconds"))) for event in events] == [
        ("engine_hung", 1.0),
        ("engine_ended", -signal.SIGKILL),
    ]


def test_when_the_server_is_killed_its_processes_end_too(started, chat_folder):
    server = started(chat_folder).wait()
    assert asked(server.port, "/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1}).status == 200
    pids = family(server.process.pid)
    assert len(pids) >= 3
    with streams(server, {"prompt": [5], "max_tokens": 250, "ignore_eos": True, "stream": True}, n=2):
        server.process.kill()
        all_gone(pids)


class Engine:
    """An engine process whose other side is this test."""

    def __init__(self, folder):
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "touchstone.serve.engine_process", str(theirs.fileno())]
        self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, text=True)
        theirs.close()
        self._socket = ours
        self.channel = Channel(ours)
        self.channel.send({"model": str(folder), "device": "auto", "dtype": "auto", "weights": None, "invariant": False, "draft": None})

    def close(self):
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture
def engine(id_folder):
    found = Engine(id_folder)
    yield found
    if found.process.poll() is None:
        found.process.kill()
    found.process.communicate()


def test_an_engine_whose_server_has_gone_before_it_was_answered_ends(engine):
    """What it was about to say has nobody to hear it; that must not be what keeps it."""
    assert engine.channel.receive()["event"] == "ready"
    for number in range(50):
        engine.channel.send({"id": number, "do": "stats"})
    engine.channel.send({"id": 99, "do": "generate", "prompts": [[1]], "sampling": {"max_new_tokens": 10**6}, "salt": ""})
    engine.close()
    assert engine.process.wait(30) == 0
    assert "Traceback" not in engine.process.stderr.read()


def test_a_message_that_is_damaged_ends_the_engine_and_not_with_a_hang(engine):
    assert engine.channel.receive()["event"] == "ready"
    engine._socket.sendall(b"\xff\xff\xff\xff" + b"x" * 100)
    assert engine.process.wait(30) == 0


def test_messages_arrive_whole_whatever_they_hold_and_one_that_is_too_large_is_refused_here(monkeypatch):
    left, right = socket.socketpair()
    one, other = Channel(left), Channel(right)
    messages = [{"text": text} for text in ("", "\x00\n", "天\U0001f600", "a" * 500_000)]
    reading = threading.Thread(target=lambda: [one.send(message) for message in messages])
    reading.start()
    assert [other.receive() for _ in messages] == messages
    reading.join()
    monkeypatch.setattr(frames, "MAX_FRAME_BYTES", 100)
    with pytest.raises(ConfigError, match="at most 100"):
        one.send({"text": "a" * 100})
    one.send({"id": 1})
    assert other.receive() == {"id": 1}
    left.close()
    right.close()
    assert json.loads(packed({"id": 1})[4:]) == {"id": 1}


def test_nothing_but_the_one_port_listens(server):
    """The processes talk over a socket that has no name: nobody else can connect."""
    inodes = {}
    for pid in family(server.process.pid):
        if not is_running(pid):
            continue
        for name in Path(f"/proc/{pid}/fd").iterdir():
            target = str(name.readlink())
            if target.startswith("socket:["):
                inodes[target[8:-1]] = pid
    listening = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{server.process.pid}/net/{table}").read_text(encoding="ascii").splitlines()[1:]:
            entry = line.split()
            if entry[9] in inodes and entry[3] == "0A":
                listening.append(int(entry[1].rpartition(":")[2], 16))
    assert listening == [server.port]
    named = [
        entry
        for line in Path(f"/proc/{server.process.pid}/net/unix").read_text(encoding="ascii").splitlines()[1:]
        if (entry := line.split())[6] in inodes and len(entry) > 7
    ]
    assert named == []
