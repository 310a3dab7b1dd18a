"""The process that renders: what a template computes is measured, and what befalls its process is not laid to the conversation."""

import os
import signal
import threading
import time

import pytest

from touchstone.errors import ConfigError, Unavailable
from touchstone.text.chat_template import RenderLimits, Template

ECHO = "{{ messages[0] }}"
BUSY = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
SHORT = RenderLimits(seconds=0.5, wall_s=1.2, start_s=4)


@pytest.fixture
def opened():
    """Templates that are closed after the test."""
    found = []

    def make(source, limits):
        found.append(Template(source, limits))
        return found[-1]

    yield make
    for template in found:
        template.close()


def pid_of(template):
    return template._apart._process.pid


def stopped_as_they_come(template, until):
    """Stop every process of a template as soon as it is there."""
    seen = set()
    while not until.is_set():
        process = template._apart._process
        if process is not None and process.pid not in seen:
            seen.add(process.pid)
            os.kill(process.pid, signal.SIGSTOP)
        time.sleep(0.0005)


@pytest.mark.slow
def test_a_process_that_was_stopped_is_replaced_and_the_same_rendering_succeeds(opened):
    template = opened(ECHO, SHORT)
    pid = pid_of(template)
    os.kill(pid, signal.SIGSTOP)
    assert template.render({"messages": ["x"]}) == "x"
    assert pid_of(template) != pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.slow
def test_a_long_conversation_for_a_stopped_process_blocks_nobody(opened):
    """More than a pipe holds: the write itself would wait for ever."""
    template = opened(ECHO, SHORT)
    os.kill(pid_of(template), signal.SIGSTOP)
    text = "long " * 40_000
    assert template.render({"messages": [text]}) == text


@pytest.mark.slow
def test_one_that_is_stopped_again_and_again_is_not_the_fault_of_the_conversation(opened):
    template, until = opened(ECHO, SHORT), threading.Event()
    stopping = threading.Thread(target=stopped_as_they_come, args=(template, until))
    stopping.start()
    try:
        with pytest.raises(Unavailable, match=r"stopped or got no processor time, twice.*Try again"):
            template.render({"messages": ["x"]})
    finally:
        until.set()
        stopping.join()
    assert template.render({"messages": ["x"]}) == "x"


@pytest.mark.slow
def test_a_process_that_was_killed_from_outside_is_replaced(opened):
    template = opened(ECHO, SHORT)
    os.kill(pid_of(template), signal.SIGKILL)
    assert template.render({"messages": ["x"]}) == "x"


@pytest.mark.slow
def test_what_computes_too_long_is_the_conversations_fault_and_is_tried_once(opened):
    template = opened(BUSY, RenderLimits(seconds=0.2, wall_s=60))
    pid = pid_of(template)
    with pytest.raises(ConfigError, match=r"computed for more than 0\.2 s"):
        template.render({"messages": []})
    assert template._apart._process is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.slow
def test_the_limit_is_of_processor_time_and_not_of_the_clock(opened):
    """Stopped for longer than the limit in the middle of its work, and then let go on."""
    template = opened("{% for a in range(99999) %}{% endfor %}{{ messages[0] }}", RenderLimits(seconds=0.5, wall_s=60, start_s=20))
    pid = pid_of(template)
    os.kill(pid, signal.SIGSTOP)
    going_on = threading.Timer(0.8, os.kill, (pid, signal.SIGCONT))
    going_on.start()
    assert template.render({"messages": ["x"]}) == "x"
    going_on.join()
    assert pid_of(template) == pid


def test_what_writes_far_too_much_is_the_templates_fault(opened):
    template = opened("{% for a in range(9999) %}{{ 'abcdefgh' * 9999 }}{% endfor %}", RenderLimits(max_chars=100))
    with pytest.raises(ConfigError, match="more than 100 characters"):
        template.render({"messages": []})
