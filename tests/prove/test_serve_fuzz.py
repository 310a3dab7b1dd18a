"""Five hundred requests a route and phase, made from the description of the API, against a decoder, an encoder and a recurrent model.

What a request may never bring about: a 5xx, no answer, an answer that /openapi.json does not foresee, a second start of the engine, a
traceback. Takes some ten minutes.
"""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "serve"))

from fuzzing import fuzz
from running import Server, write_chat_model, write_id_model, write_reading_model
from serving_load import settled

N_EXAMPLES = 500

pytestmark = pytest.mark.prove


@pytest.mark.parametrize("write", [write_chat_model, write_reading_model, write_id_model], ids=lambda write: write.__name__)
def test_thousands_of_drawn_requests_harm_nothing(tmp_path, write, capsys):
    server = Server(write(tmp_path / "model")).wait()
    try:
        found = fuzz(server, N_EXAMPLES, seed=20260101)
        with capsys.disabled():
            print(f"\n{write.__name__}: {found.n_requests} requests, {dict(sorted(found.answers.items()))}")
        assert found.failures == []
        assert set(found.answers) <= {200, 400, 404, 405, 413, 415}
        assert settled(server)["touchstone:engine_starts",] == 1
        assert server.ask("GET", "/health")[0] == 200
        assert not any("Traceback" in line for line in server.log)
    finally:
        server.close()
