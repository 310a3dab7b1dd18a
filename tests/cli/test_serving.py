"""`serve` and `chat` from the terminal: one line for what cannot be, quiet ends, and Chinese where it is asked for."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from touchstone.cli.main import main

sys.path.append(str(Path(__file__).parents[1] / "serve"))
from attacks import eventually

CHINESE = re.compile("[\u4e00-\u9fff]")
START_S = 60


def error_of(capsys, *words):
    """The one line on stderr of a command that ends with code 2."""
    assert main(list(words)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@contextlib.contextmanager
def started(*words):
    """A command in a process of its own; what it writes is in `communicate()`."""
    command = [sys.executable, "-m", "touchstone.cli.main", *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def status_of(port):
    """What `/health` says; None while nobody listens."""
    with contextlib.suppress(OSError), contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("GET", "/health")
        return json.loads(connection.getresponse().read())["status"]
    return None


def taking_signals(process):
    """Wait until the process has a handler for SIGTERM; nobody asks it over HTTP before."""

    def catches():
        assert process.poll() is None, process.communicate()
        caught = re.search(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
        return int(caught[1], 16) >> (signal.SIGTERM - 1) & 1

    eventually(catches, START_S)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("host", "near"),
    [
        ("http://models.example.org/", "`--allow-host models.example.org`"),
        ("models.example.org:8000", "`--allow-host models.example.org`"),
        ("a b", "such as"),
        ("", "such as"),
        ("*", "such as"),
        ("http://[", "such as"),
        ("\u4f8b.org", "such as"),
    ],
)
def test_what_is_no_host_name_is_refused_with_the_name_that_was_meant(host, near, tmp_path, capsys):
    line = error_of(capsys, "serve", str(tmp_path), "--allow-host", "good.example.org", "--allow-host", host)
    assert "is no host name" in line
    assert near in line


@pytest.mark.parametrize("name", ["", "   ", "x" * 257, "a\nb", "a\x1b[2Jb"])
def test_a_name_that_nobody_can_read_is_refused(name, tmp_path, capsys):
    assert "from 1 to 256 printable characters" in error_of(capsys, "serve", str(tmp_path), "--name", name)


@pytest.mark.parametrize(
    ("typed", "address"),
    [
        ("127.0.0.1:8199", "http://127.0.0.1:8199"),
        ("localhost", "http://localhost"),
        ("models.example.org:80/v1", "http://models.example.org:80/v1"),
        ("[::1]:8000", "http://[::1]:8000"),
        ("ftp://x", "http://x"),
        ("http:/x:1", "http://x:1"),
    ],
)
def test_what_looks_like_an_address_is_answered_with_how_one_begins(typed, address, capsys):
    line = error_of(capsys, "chat", typed, "hi")
    assert line.endswith(f"begins with http:// or https://, such as {address}.")
    assert typed in line


@pytest.mark.parametrize("typed", ["runs/mine", "organisation/model", "C:model", "gpt2"])
def test_what_looks_like_a_folder_is_not_taken_for_an_address(typed, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert "http" not in error_of(capsys, "chat", typed, "hi")


def test_a_server_that_is_not_there_is_named_with_its_port(capsys):
    port = free_port()
    assert f"127.0.0.1:{port} cannot be reached" in error_of(capsys, "chat", f"http://127.0.0.1:{port}", "hi")


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("serve",),
        ("serve", "m", "--port", "99999"),
        ("serve", "m", "--port", "x"),
        ("serve", "m", "--step-seconds", "x"),
        ("serve", "m", "--prot", "1"),
        ("serve", "m", "more"),
        ("serve", "m", "--weights", "int9"),
        ("serve", "m", "--name", ""),
        ("serve", "m", "--allow-host", "http://x/"),
        ("serve", "m", "--host", "0.0.0.0"),
        ("serve", "m", "--api-key-file", "none.txt"),
        ("chat", "http://127.0.0.1:1", "hi"),
        ("chat", "127.0.0.1:1", "hi"),
        ("chat", "nosuch", "hi"),
        ("chat", "m", "hi", "--name", "x"),
        ("chat", "http://x", "hi", "--device", "cpu"),
        ("chat", "m", "hi", "--logit-bias", "x"),
    ],
)
def test_an_error_is_in_the_language_that_was_asked_for(words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TOUCHSTONE_API_KEY", raising=False)
    english = error_of(capsys, *words)
    assert not CHINESE.search(english)
    assert not re.search("Input should|Value error|unable to parse", english)
    chinese = error_of(capsys, *words, "--lang", "zh")
    assert CHINESE.search(chinese)
    assert not re.search(r"[A-Za-z]{2,} [a-z]{2,} [a-z]{2,}", re.sub(r"`[^`]*`|pip install", "", chinese)), "no English sentence in it"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "told"), [(("--temperature=-1",), "`--temperature`: must be 0"), (("--device", "tpu"), "Leave `--device`")]
)
def test_settings_are_named_as_they_are_typed(words, told, capsys, model_folder, monkeypatch):
    line = error_of(capsys, "chat", str(model_folder), "hi", *words)
    assert told in line
    assert "Sampling" not in line


@pytest.mark.slow
@pytest.mark.parametrize(("options", "told"), [((), "No folder `nosuch`"), (("--lang", "zh"), "没有文件夹 `nosuch`")])
def test_a_model_that_is_not_there_is_one_line_and_nothing_of_the_log(options, told, tmp_path):
    command = [sys.executable, "-m", "touchstone.cli.main", "serve", "nosuch", "--port", "0", *options]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "HF_HUB_CACHE": str(tmp_path)}, check=False
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"touchstone: {told}")


@pytest.mark.slow
def test_a_device_that_is_not_there_is_one_line_and_nothing_of_the_log(model_folder):
    with started("serve", model_folder, "--port", "0", "--device", "tpu") as process:
        _, err = process.communicate(timeout=START_S)
    assert process.returncode == 2
    (line,) = err.splitlines()
    assert line.startswith("touchstone: This machine has no device `tpu`")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="what a process catches is read from /proc")
@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_is_ended_while_its_model_is_opened_ends_quietly(sig, model_folder):
    with started("serve", model_folder, "--port", "0") as process:
        taking_signals(process)
        process.send_signal(sig)
        out, err = process.communicate(timeout=START_S)
    assert process.returncode == 0
    assert out.splitlines()[-1] == "Ended before the model was open."
    assert err == ""


@pytest.mark.slow
def test_the_log_of_a_server_that_came_up_is_whole_and_its_words_are_chinese(model_folder):
    port = free_port()
    with started("serve", model_folder, "--port", port, "--lang", "zh") as process:
        deadline = time.monotonic() + START_S
        while status_of(port) != "ok":
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)  # each question is a line in a pipe that nobody reads yet
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=START_S)
    assert process.returncode == 0
    assert all(CHINESE.search(line) for line in out.splitlines())
    told = [json.loads(line).get("event", "request") for line in err.splitlines()]
    assert (told[0], told[-1]) == ("listening", "engine_ended")
    assert {"ready", "request"} <= set(told)
