"""Programs that misbehave, one way each; what the kernel must allow for a promise to hold is said by the verdict."""

import contextlib
import os
from pathlib import Path

import pytest

from touchstone.errors import ConfigError, Unsupported
from touchstone.evaluate import sandbox
from touchstone.evaluate.sandbox import Limits, run_tests

pytestmark = pytest.mark.slow

TESTS = "assert double(4) == 8\n"
RIGHT = "double = lambda x: 2 * x\n"
AMPLE = Limits(wall_s=120, cpu_s=30)
"""Time that no program here needs, however busy the machine; those that never end are given less."""


def judge(program, tests=TESTS, limits=AMPLE):
    return run_tests(program, tests, limits)


@pytest.fixture(scope="module")
def confined():
    """Skips where this kernel does not let this user make namespaces."""
    held = judge(RIGHT).held
    if not {"files", "network", "processes"} <= held:
        pytest.skip(f"this user may not make namespaces here; only {', '.join(sorted(held)) or 'nothing'} holds")


def test_right_passes_and_wrong_fails_with_the_line_that_failed():
    assert judge(RIGHT).status == "passed"
    found = judge("double = lambda x: x")
    assert (found.status, found.reason) == ("failed", "AssertionError at line 1 of the tests: assert double(4) == 8")
    assert judge("import nothing_of_the_kind").reason.startswith("ModuleNotFoundError")
    assert judge("def double(x):\nreturn").reason.startswith("IndentationError")
    assert judge("x = '\0'").status == "failed"


@pytest.mark.parametrize(
    "end",
    [
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "raise SystemExit",
        "exit = quit = None\nraise KeyboardInterrupt",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import atexit, os; atexit.register(os._exit, 0); raise SystemExit(0)",
    ],
)
def test_ending_before_the_tests_do_is_no_pass(end):
    assert judge(end).status == "failed"
    assert judge(f"def double(x):\n    {end.splitlines()[-1]}\n").status == "failed"


@pytest.mark.parametrize(
    "trick",
    [
        "import builtins\nbuiltins.AssertionError = type('Never', (Exception,), {})",
        "import builtins\nbuiltins.exec = builtins.compile = lambda *a, **k: None",
        "class AssertionError(BaseException): pass",
        "import os, json\nos.write = os._exit = json.dumps = lambda *a, **k: None",
        "import sys\nsys.excepthook = lambda *a: None\nsys.stdout = sys.stderr = None",
        "import sys\nsys.flags = None",
        "import os\nfor fd in range(3, 60):\n    try: os.write(fd, b'passed {\"passed\": true}\\n')\n    except OSError: pass",
        "class Bad(Exception):\n    def __str__(self): raise self\ndef double(x): raise Bad",
    ],
)
def test_putting_other_things_in_place_of_builtins_is_no_pass(trick):
    assert judge(f"double = lambda x: x\n{trick}").status == "failed"


def test_endless_programs_run_out_of_processor_time_or_of_time():
    found = judge("while True: pass", limits=Limits(wall_s=120, cpu_s=1))
    assert (found.status, found.reason) == ("timeout", "more than 1 s of the processor")
    found = judge("import time, signal\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)\ntime.sleep(60)", limits=Limits(wall_s=0.5))
    assert (found.status, found.reason) == ("timeout", "more than 0.5 s")


def test_a_memory_hog_fails_and_the_limit_is_the_address_space():
    assert judge("x = bytearray(1 << 40)").reason.startswith("MemoryError")
    program = f"x = bytearray({300 << 20})\n{RIGHT}"
    if "memory" in judge(RIGHT).held:
        assert judge(program, limits=Limits(memory_bytes=200 << 20)).status == "failed"
    assert judge(program, limits=Limits(memory_bytes=600 << 20)).status == "passed"


def test_what_is_printed_is_bounded_and_does_not_stop_the_program():
    found = judge(f"print('a' * 3_000_000)\n{RIGHT}", limits=Limits(output_bytes=100))
    assert (found.status, found.output) == ("passed", "a" * 100)
    found = judge("print('said')\nraise ValueError('你好 \\x1b[31m')")
    assert (found.output, found.reason) == ("said\n", "ValueError: 你好 \\x1b[31m")


def test_there_is_no_input_no_environment_and_no_package():
    assert judge("input()").reason.startswith("EOFError")
    assert judge(f"import os\nassert not os.environ\n{RIGHT}").status == "passed"
    assert judge("import numpy").reason.startswith("ModuleNotFoundError")


def test_the_working_folder_can_be_written_up_to_the_limit_and_is_gone_afterwards():
    write = "import os\nprint(os.getcwd())\nwith open('x', 'wb') as f: f.write(bytes({}))\n" + RIGHT
    found = judge(write.format(1000), limits=Limits(file_bytes=1 << 20))
    assert found.status == "passed"
    assert not Path(found.output.strip(), "x").exists()
    assert judge(write.format(2 << 20), limits=Limits(file_bytes=1 << 20)).status == "failed"


def test_processes_and_threads_are_bounded(confined):
    bomb = "import os, time\nn = 0\ntry:\n    while n < 200:\n        if os.fork() == 0: time.sleep(30)\n        n += 1\n"
    bomb += "except OSError: print(n)\n"
    found = judge(bomb + RIGHT, limits=Limits(n_processes=9))
    assert (found.status, found.output) == ("passed", "8\n")
    assert judge("import os\nwhile True: os.fork()", limits=Limits(wall_s=1)).status in ("failed", "timeout")
    threads = "import threading\nt = threading.Thread(target=print)\nt.start()\nt.join()\n"
    assert judge(threads + RIGHT).status == "passed"


def test_no_process_outlives_the_verdict(confined, monkeypatch, tmp_path):
    worker = tmp_path / "worker_of_this_test.py"  # its name is on the command line of every process of its
    worker.write_bytes(sandbox._WORKER.read_bytes())
    monkeypatch.setattr(sandbox, "_WORKER", worker)
    stays = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(600)\n"
    assert judge(stays + RIGHT).status == "passed"
    assert judge(stays + "time.sleep(600)", limits=Limits(wall_s=0.5)).status == "timeout"
    alive = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # ended meanwhile
            alive += [path] if worker.name.encode() in path.read_bytes() else []
    assert alive == []


def test_a_copy_of_the_program_has_no_say():
    found = judge("import os\nif os.fork():\n    os.wait()\n    raise ValueError\n" + RIGHT)
    assert found.status == "failed"


def test_nothing_of_the_users_is_seen_or_written(confined, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("told")
    assert judge(f"print(open({str(secret)!r}).read())").reason.startswith("FileNotFoundError")
    seen = judge(f"import os\nprint(sorted(os.listdir('/')))\nprint(os.path.exists({str(Path.cwd())!r}))\n{RIGHT}").output
    assert "False" in seen
    assert "proc" not in seen
    for place in (f"{tmp_path}/new", os.__file__, "/usr/new"):
        assert judge(f"open({place!r}, 'a').write('x')").status == "failed"
    assert list(tmp_path.iterdir()) == [secret]
    assert judge("import os\nos.setuid(0)").status == "failed" or os.geteuid() == 0
    assert judge("import ctypes\nassert ctypes.CDLL(None).mount(b'x', b'/tmp', b'tmpfs', 0, None) == 0").status == "failed"


def test_there_is_no_network_not_even_loopback(confined):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = judge(f"import socket\nsocket.create_connection(('127.0.0.1', {port}), timeout=1)")
    assert (found.status, found.reason[:7]) == ("failed", "OSError")


def test_the_standard_library_works_inside(confined):
    program = "import hashlib, decimal, json, re, sqlite3, ssl, tempfile, zoneinfo, multiprocessing, subprocess\ntempfile.TemporaryFile()\n"
    assert judge(program + RIGHT).status == "passed"


def test_sets_have_one_order_in_every_run():
    program = "print(list({'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'}))\n" + RIGHT
    assert len({judge(program).output for _ in range(3)}) == 1


def test_without_namespaces_the_verdict_says_so(monkeypatch, tmp_path):
    worker = tmp_path / "worker.py"
    text = sandbox._WORKER.read_text("utf-8")
    worker.write_text(text.replace("\nNAMESPACES = ", "\nNAMESPACES = 3 #"), "utf-8")  # a combination that every kernel refuses
    monkeypatch.setattr(sandbox, "_WORKER", worker)
    found = judge(RIGHT)
    assert not {"files", "network"} & found.held
    if found.status == "error":
        assert os.geteuid() == 0
        assert "run as an ordinary user" in found.reason
    else:
        assert found.status == "passed"
        assert judge("double = lambda x: x").status == "failed"
        forked = judge("import os\nif os.fork() == 0: os._exit(0)\n" + RIGHT)
        assert forked.status == ("passed" if os.geteuid() == 0 else "failed")


def test_tests_that_do_not_compile_are_an_error_and_no_verdict():
    found = judge(RIGHT, tests="assert (")
    assert found.status == "error"
    assert found.reason.startswith("the tests do not compile: ")


def test_a_worker_that_does_not_start_is_an_error(monkeypatch, tmp_path):
    worker = tmp_path / "worker.py"
    worker.write_text("raise OSError('no such machine')")
    monkeypatch.setattr(sandbox, "_WORKER", worker)
    found = judge(RIGHT)
    assert (found.status, found.reason) == ("error", "the process did not start: OSError: no such machine")
    monkeypatch.setattr(sandbox.os, "name", "nt")
    with pytest.raises(Unsupported, match="WSL"):
        judge(RIGHT)


def test_limits_that_cannot_be_are_refused():
    for field in ({"wall_s": 0}, {"memory_bytes": 1}, {"n_processes": 0}, {"seconds": 3}):
        with pytest.raises((ConfigError, ValueError)):
            Limits(**field)
