"""The whole server, asked over HTTP."""


def test_a_completion_is_answered_and_streamed_alike(server):
    asked = {"prompt": "One day", "max_tokens": 12, "temperature": 0, "logprobs": 2}
    status, whole = server.post("/v1/completions", asked)
    assert status == 200
    assert whole["usage"] == {
        "prompt_tokens": whole["usage"]["prompt_tokens"],
        "completion_tokens": 12,
        "total_tokens": 12 + whole["usage"]["prompt_tokens"],
    }
    assert len(whole["choices"][0]["confidence"]["value"]) == 12
