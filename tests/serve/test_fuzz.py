"""Requests made from the description of the API itself, right ones and broken ones: each is answered as it foresees, none with a 5xx."""

import pytest
from attacks import asked, eventually, head, sent
from fuzzing import fuzz

pytestmark = pytest.mark.slow

KEY = "key-of-the-only-client"


def test_whatever_the_description_allows_or_forbids_is_answered_as_it_says(started, chat_folder):
    server = started(chat_folder, environment={"TOUCHSTONE_API_KEY": KEY}).wait()
    headers = {"authorization": f"Bearer {KEY}"}
    found = fuzz(server, 20, seed=1, headers=headers, requires_key=True)
    assert found.failures == []
    assert found.n_requests > 1500
    for path in ("/v1/completions", "/v1/chat/completions", "/v1/score", "/tokenize", "/detokenize"):
        counts = found.statuses[f"POST {path}"]
        assert counts[200] > 20, path
        assert counts[400] > 20, path
    assert set(found.answers) <= {200, 400, 401, 404, 405, 415}
    key = [f"authorization: Bearer {KEY}"]
    eventually(lambda: b"num_requests_running 0.0\n" in sent(server.port, head("GET", "/metrics", headers=key)).body)
    assert b"engine_starts 1.0\n" in sent(server.port, head("GET", "/metrics", headers=key)).body
    assert asked(server.port, "/v1/completions", {"prompt": "a", "max_tokens": 1}, headers=key).status == 200
    assert not any("Traceback" in line for line in server.log)
