import os
import signal
import threading

import pytest

from touchstone.train.signals import StopNow, StopSignals


def send(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_a_request_and_the_handlers_come_back(number):
    before = signal.getsignal(number)
    with StopSignals() as stop:
        assert not stop.requested
        send(number)
        assert stop.requested
        assert stop.name == signal.Signals(number).name
    assert signal.getsignal(number) is before


def test_code_that_is_not_breakable_is_never_broken_into():
    with StopSignals() as stop:
        for _ in range(5):
            send()
        assert stop.count == 5


def test_the_second_signal_breaks_what_the_first_one_leaves():
    sent = []

    def work(stop):
        with stop.breakable(2):
            for number in (1, 2, 3):
                sent.append(number)
                send()

    with StopSignals() as stop, pytest.raises(StopNow):
        work(stop)
    assert sent == [1, 2]


def test_after_breaking_in_once_nothing_is_broken_into():
    with StopSignals() as stop:
        with pytest.raises(StopNow), stop.breakable(1):
            send()
        send()
        assert stop.count == 2


def test_breakable_work_is_not_begun_when_the_signal_came_before():
    with StopSignals() as stop:
        send()
        with pytest.raises(StopNow), stop.breakable(1):
            pytest.fail("must not begin")


def test_an_except_exception_cannot_swallow_it():
    assert not issubclass(StopNow, Exception)


def test_in_another_thread_nothing_is_installed():
    seen = []

    def work():
        with StopSignals() as stop:
            seen.append((signal.getsignal(signal.SIGTERM), stop.requested))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(before, False)]
