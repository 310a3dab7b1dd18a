"""The routes beside generation: health, models, figures, tokens; and what is read: scores, labels, vectors."""

import base64

import numpy as np
import openai
import pytest
from running import figures, sdk, write_reading_model

import touchstone
from touchstone.calibrate.drift import N_BINS

pytestmark = pytest.mark.slow

TEXT = "One day 天 <|im_end|> met"
LABELS = {"endpoint", "status", "finished_reason", "le"}


@pytest.fixture(scope="module")
def reading_model(reading_folder):
    return touchstone.load(reading_folder)


def test_a_ready_server_is_healthy(server):
    assert server.ask("GET", "/health")[::2] == (200, b'{"status":"ok"}')


def test_the_model_is_listed_with_what_it_can(server, reader):
    with sdk(server) as client:
        (found,) = client.models.list().data
        assert client.models.retrieve("tiny-chat") == found
    assert (found.id, found.object, found.owned_by) == ("tiny-chat", "model", "touchstone")
    assert (found.can, found.max_model_len, found.chat, found.calibrated) == (["generate", "loglikelihood", "rolling"], 256, True, True)
    assert server.ask("GET", "/models")[2] == server.ask("GET", "/v1/models")[2]
    with sdk(reader) as client:
        (found,) = client.models.list().data
    assert (found.id, found.can, found.chat) == ("tiny-reader", ["classify", "encode"], False)


def test_figures_count_what_was_done_and_hold_nothing_that_a_client_wrote(server):
    before = figures(server)
    whole = server.post("/v1/completions", {"prompt": "One day a girl", "max_tokens": 5, "n": 2, "ignore_eos": True})[1]
    after = figures(server)
    grown = {key: after[key] - before.get(key, 0) for key in after}
    assert grown["touchstone:requests_total", ("endpoint", "completions"), ("status", "2xx")] == 1
    assert grown["touchstone:request_success_total", ("finished_reason", "length")] == 2
    assert grown["touchstone:prompt_tokens_total",] == whole["usage"]["prompt_tokens"]
    assert grown["touchstone:generation_tokens_total",] == 10
    assert grown["touchstone:time_to_first_token_seconds_count",] == 2
    assert grown["touchstone:inter_token_latency_seconds_count",] == 8
    assert grown["touchstone:e2e_request_latency_seconds_count",] == grown["touchstone:request_queue_time_seconds_count",] == 1
    assert (
        after["touchstone:num_requests_running",]
        == after["touchstone:num_requests_waiting",]
        == after["touchstone:kv_cache_usage_perc",]
        == 0
    )
    assert after["touchstone:engine_up",] == after["touchstone:engine_starts",] == 1
    server.post("/v1/completions", {"prompt": 3})
    server.ask("POST", "/v1/completions", b"{", headers={"content-type": "application/json"})
    server.ask("GET", "/health", headers={"host": "canary"})
    refused = figures(server)
    for endpoint, n in (("completions", 2), ("other", 1)):
        key = "touchstone:requests_total", ("endpoint", endpoint), ("status", "4xx")
        assert refused[key] == after.get(key, 0) + n
    assert refused["touchstone:e2e_request_latency_seconds_count",] == after["touchstone:e2e_request_latency_seconds_count",]
    for number in range(40):
        server.post("/v1/completions", {"model": f"canary-{number}", "prompt": "x"})
        server.ask("GET", f"/v1/models/canary-{number}")
        server.ask("GET", f"/canary-{number}")
        server.ask(f"CANARY{number}", "/v1/completions")
    last = figures(server)
    assert {name for key in last for name, _ in key[1:]} == LABELS
    assert not any("canary" in str(key).lower() for key in last)
    assert len(last) == len(refused), "refused requests add a status of an endpoint, no more"


def test_texts_become_tokens_and_tokens_their_text_again(server, chat_model):
    ids = chat_model.tokenizer.encode(TEXT)
    found = server.post("/tokenize", {"content": TEXT})[1]
    assert (found["tokens"], found["count"], found["max_model_len"]) == (ids, len(ids), 256)
    assert not set(ids) & chat_model.tokenizer.special_ids
    assert server.post("/detokenize", {"tokens": ids})[1]["content"] == TEXT
    assert server.post("/tokenize", {"prompt": TEXT})[1]["tokens"] == list(chat_model.tokenizer.encode_special(TEXT).token_ids)
    pieces = server.post("/tokenize", {"content": "天a", "with_pieces": True})[1]["tokens"]
    assert [piece["id"] for piece in pieces] == chat_model.tokenizer.encode("天a")
    everything = list(range(chat_model.tokenizer.vocab_size))
    assert server.post("/detokenize", {"tokens": everything})[1]["content"] == chat_model.tokenizer.decode(everything, skip_special=False)
    for path, body in (
        ("/detokenize", {"tokens": [10**6]}),
        ("/detokenize", {"tokens": [-1]}),
        ("/tokenize", {}),
        ("/tokenize", {"content": 1}),
    ):
        status, told = server.post(path, body)
        assert (status, set(told["error"])) == (400, {"message", "type", "param", "code"})


def test_scores_are_those_of_the_engine_to_the_last_digit(exact, exact_model):
    context, answers = "One day a girl met", [" a dog.", " the sea", " 天"]
    found = exact.post("/v1/score", {"context": context, "continuations": answers})[1]["data"]
    expected = exact_model.loglikelihood([(context, answer) for answer in answers])
    for told, done in zip(found, expected, strict=True):
        assert (told["logprob"], tuple(told["token_logprobs"]), told["is_greedy"]) == (done.logprob, done.token_logprobs, done.is_greedy)
        assert (told["n_tokens"], told["n_truncated"]) == (len(done.token_logprobs), 0)
        assert tuple(told["confidence"]["value"]) == done.confidence.value
    ids = [exact_model.tokenizer.encode(text) for text in (context, *answers)]
    by_ids = exact.post("/v1/score", {"context": ids[0], "continuations": ids[1:]})[1]["data"]
    assert [told["logprob"] for told in by_ids] == [
        done.logprob for done in exact_model.loglikelihood([(ids[0], each) for each in ids[1:]])
    ]
    closed = exact.post("/v1/score", {"context": context, "continuations": answers, "closed": True, "task": "none such"})[1]
    chosen = exact_model.choose([(context, answers)], task="none such")[0]
    assert [told["probability"] for told in closed["data"]] == [float(each) for each in chosen.probabilities]
    assert [told["logprob"] for told in closed["data"]] == list(chosen.logprobs)
    assert (closed["best"], closed["confidence_reason"]) == (chosen.best, chosen.confidence_reason)
    many = exact.post("/v1/score", {"context": context, "continuations": [f" {n}" for n in range(40)]})[1]["data"]
    assert [told["index"] for told in many] == list(range(40))


def test_labels_are_those_of_the_engine(reader, reading_model):
    texts = ["dog hello sea", "One day a girl", "hello", "system", "a dog", "the sea", "and they went", "user", "true", "met"]
    found = reader.post("/v1/classify", {"input": texts})[1]
    for told, done in zip(found["data"], reading_model.classify(texts), strict=True):
        assert (told["label"], told["labels"]) == (done.label, list(done.labels))
        assert told["probabilities"] == pytest.approx(done.probabilities, abs=1e-6)
        assert told["confidence"]["value"] == pytest.approx(done.confidence.value, abs=1e-6)
        assert (told["confidence"]["method"], told["confidence"]["target"]) == ("temperature", "class")
    counts = [len(reading_model.tokenizer.encode_special(text).token_ids) for text in texts]
    assert found["usage"] == {"prompt_tokens": sum(counts), "total_tokens": sum(counts)}
    alone = reader.post("/v1/classify", {"input": texts[0]})[1]["data"][0]
    assert alone["probabilities"] == pytest.approx(found["data"][0]["probabilities"], abs=1e-6)
    status, told = reader.post("/v1/completions", {"prompt": "a"})
    assert (status, told["error"]["code"]) == (400, "unsupported")


def test_a_drift_of_live_confidences_shows_in_the_figures(tmp_path, started):
    """One text again and again, where the temperature was measured on confidences of every size."""
    server = started(write_reading_model(tmp_path / "watched", confidences=(20,) * N_BINS)).wait()
    assert not any("drift" in name for name, *_ in figures(server))
    for _ in range(4):
        assert server.post("/v1/classify", {"input": ["dog hello sea"] * 50})[0] == 200
    after = {
        name.removeprefix("touchstone:calibration_"): value
        for (name, *labels), value in figures(server).items()
        if labels == [("calibration", "class")]
    }
    assert after["live_answers"] == 200
    assert after["drift_evidence"] >= 1
    assert 0.4 < after["drift_distance"] <= 1
    warned = [line for line in server.log if "have drifted" in line]
    assert len(warned) == 1


def test_vectors_have_length_one_and_are_the_same_in_both_forms(reader, reading_model):
    texts = ["dog hello sea", "One day a girl", "hello"] * 4
    expected = reading_model.encode(texts).astype(np.float64)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    with sdk(reader) as client, sdk(reader, is_strict=False) as lenient:
        plain = client.embeddings.create(model="tiny-reader", input=texts, encoding_format="float")
        default = lenient.embeddings.create(model="tiny-reader", input=texts)  # the client asks for base64 and decodes it
        packed = lenient.embeddings.create(model="tiny-reader", input=texts, encoding_format="base64")
    vectors = np.array([each.embedding for each in plain.data])
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
    decoded = np.array([np.frombuffer(base64.b64decode(each.embedding), dtype="<f4") for each in packed.data])
    np.testing.assert_array_equal(decoded, vectors.astype(np.float32))
    np.testing.assert_array_equal(np.array([each.embedding for each in default.data], dtype=np.float32), decoded)
    assert [each.index for each in plain.data] == list(range(12))
    assert plain.usage.prompt_tokens == plain.usage.total_tokens > 0


def test_vectors_of_token_ids_are_those_of_their_text_and_what_is_too_long_is_refused(reader, reading_model):
    ids = reading_model.tokenizer.encode("dog hello sea")
    with sdk(reader) as client:
        by_ids, by_text = (
            client.embeddings.create(model="tiny-reader", input=given, encoding_format="float") for given in (ids, "dog hello sea")
        )
        assert by_ids.data[0].embedding == pytest.approx(by_text.data[0].embedding, abs=1e-6)
        for given in ("dog " * 40, ["hello", "dog " * 40]):
            with pytest.raises(openai.BadRequestError, match="too large"):
                client.embeddings.create(model="tiny-reader", input=given)
        for given in ("", [], [[]], [10**6]):
            with pytest.raises(openai.BadRequestError):
                client.embeddings.create(model="tiny-reader", input=given)


def test_a_model_without_a_tokenizer_tells_token_ids_as_they_come(id_folder, started):
    served = started(id_folder).wait()
    asked = {"prompt": [3, 4, 5], "max_tokens": 6, "temperature": 0, "ignore_eos": True}
    status, whole = served.post("/v1/completions", asked)
    assert status == 200
    expected = touchstone.load(id_folder).generate([[3, 4, 5]], max_new_tokens=6, temperature=0.0, ignore_eos=True)[0].token_ids
    assert tuple(whole["choices"][0]["token_ids"]) == expected
    with sdk(served, is_strict=False) as client:  # the SDK's type of a chunk knows no `finish_reason` of null
        settings = {"prompt": [3, 4, 5], "max_tokens": 6, "temperature": 0}
        chunks = list(client.completions.create(model="ids-only", stream=True, extra_body={"ignore_eos": True}, **settings))
    told = [chunk.choices[0].token_ids for chunk in chunks]
    assert [token_id for ids in told for token_id in ids] == list(expected)
    assert len(told) >= 6


def test_token_ids_are_told_beside_text_where_they_are_asked_for(server):
    asked = {"prompt": "One day", "max_tokens": 4, "temperature": 0, "ignore_eos": True}
    assert "token_ids" not in server.post("/v1/completions", asked)[1]["choices"][0]
    assert len(server.post("/v1/completions", {**asked, "return_token_ids": True})[1]["choices"][0]["token_ids"]) == 4
