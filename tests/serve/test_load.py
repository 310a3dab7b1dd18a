"""A busy server: everybody gets what they get alone, nothing stays held for those who left, and SIGTERM waits for the streams."""

import json

import pytest
from serving_load import long_cases, made_cases, run_end, run_load, settled

pytestmark = pytest.mark.slow

SECONDS = 10


def test_under_load_every_answer_is_the_one_alone_and_nothing_is_left_behind(started, chat_folder, exact_model):
    server = started(chat_folder, "--invariant").wait()
    cases = made_cases(exact_model, 24, seed=1)
    tally = run_load(server, cases, n_clients=64, n_hostile=86, seconds=SECONDS, seed=2)
    assert tally.problems == []
    assert tally.n_whole >= 64
    assert tally.n_left > 0
    assert sum(tally.hostile.values()) == 86
    settled(server)
    (status, headers, data), problems, code = run_end(server, long_cases(exact_model, 4, n_new=120))
    assert (status, json.loads(data)["error"]["code"], headers["retry-after"].isdecimal()) == (503, "draining", True)
    assert problems == []
    assert code == 0
