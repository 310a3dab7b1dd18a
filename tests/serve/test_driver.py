"""The steps of the engine process: what goes wrong with one request ends that one alone."""

import threading

import pytest

from touchstone.infer import Request, Sampling
from touchstone.serve.driver import Driver, Generation, Reading


@pytest.fixture
def running(chat_model):
    """A driver on a thread, and what it sent; `running(send)` takes another way to send."""
    sent, ended = [], []

    def start(send=sent.append):
        driver = Driver(chat_model.engine, send, ended.append)
        thread = threading.Thread(target=driver.run)
        thread.start()
        started.append((driver, thread))
        return driver, sent

    started = []
    yield start
    for driver, thread in started:
        driver.stop()
        thread.join(20)
        assert not thread.is_alive()


def until_over(sent, ids):
    for _ in range(2000):
        if ids <= {message["id"] for message in list(sent) if message.get("end") or "error" in message}:
            return {message["id"]: message for message in sent if message.get("end") or "error" in message}
        threading.Event().wait(0.01)
    raise AssertionError(f"not over: {sent[-3:]}")


def asked(n=8):
    return [Request("One day", Sampling(max_new_tokens=n, temperature=0.0, ignore_eos=True))]


@pytest.mark.slow
def test_an_event_that_cannot_be_told_ends_its_own_request_alone(running):
    driver, sent = running()

    def fails(event):
        raise ZeroDivisionError

    driver.add(Generation(1, asked(), fails))
    driver.add(Generation(2, asked(), lambda event: {"k": event.token_id}))
    over = until_over(sent, {1, 2})
    assert over[1]["error"]["status"] == 500
    assert over[2]["end"] is True
    assert sum(len(message.get("events", ())) for message in sent if message["id"] == 2) == 8
    assert driver.facts()["running"] == driver.facts()["cache_used"] == 0


@pytest.mark.slow
def test_a_piece_of_reading_that_cannot_be_sent_ends_its_own_request_alone(running):
    sent = []

    def send(message):
        if message.get("is_odd"):
            raise ValueError("too large")
        sent.append(message)

    driver, _ = running(send)
    driver.add(Reading(1, iter([{"id": 1}, {"id": 1, "is_odd": True}, {"id": 1}])))
    driver.add(Reading(2, iter([{"id": 2}] * 4)))
    over = until_over(sent, {1, 2})
    assert over[1]["error"]["status"] == 500
    assert [message for message in sent if message["id"] == 2] == [{"id": 2}] * 4 + [{"id": 2, "end": True}]
