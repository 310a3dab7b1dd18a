"""Held-out documents are scored once each token, by the very probabilities the network gives."""

import math

import numpy as np
import pytest
import torch

from touchstone.errors import DataError
from touchstone.evaluate.language import (
    EncodedTexts,
    collect_logits,
    encode_documents,
    fit_temperature,
    sample_documents,
    score_language,
)
from touchstone.models import build, decoder_spec, recurrent_spec
from touchstone.models.ngram import NgramModel, NgramSpec
from touchstone.text.document import Document
from touchstone.text.tokenizer import Tokenizer

pytestmark = pytest.mark.slow

V, PREFIX = 11, 10


@pytest.fixture
def net():
    return build(decoder_spec(vocab_size=V, d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, max_seq_len=8), seed=3)


@pytest.fixture
def texts():
    rng = np.random.default_rng(5)
    token_ids = tuple(rng.integers(0, V, size=n) for n in (7, 1, 21))
    return EncodedTexts(("a", "b", "c"), token_ids, np.array([13, 2, 40]), PREFIX)


def whole_logits(net, ids):
    """Logits before each token, from one plain forward pass."""
    inputs = torch.tensor([[PREFIX, *ids[:-1]]])
    with torch.no_grad():
        return net(inputs).logits[0].double()


def test_a_document_within_the_context_is_scored_as_one_forward_pass(net, texts):
    score = score_language(net, texts)
    for place in (0, 1):
        ids = texts.token_ids[place]
        expected = -whole_logits(net, ids).log_softmax(-1)[torch.arange(len(ids)), torch.from_numpy(ids)]
        np.testing.assert_allclose(score.token_nats[place], expected.numpy(), rtol=0, atol=1e-5)


def test_every_window_scores_half_a_context_of_new_tokens(net, texts):
    score = score_language(net, texts)
    ids = texts.token_ids[2]
    for first in range(8, 21, 4):  # windows after the first end after 4 more tokens and hold 8
        end = min(first + 4, 21)
        inputs = np.concatenate([[PREFIX], ids])[end - 8 : end]
        with torch.no_grad():
            logits = net(torch.from_numpy(inputs)[None]).logits[0].double()
        expected = -logits.log_softmax(-1)[torch.arange(8), torch.from_numpy(ids[end - 8 : end])].numpy()
        np.testing.assert_allclose(score.token_nats[2][first:end], expected[first - end :], rtol=0, atol=1e-5)
    assert score.n_tokens == 29


def test_a_recurrent_model_sees_all_that_came_before():
    net = build(recurrent_spec(vocab_size=V, d_model=6, d_hidden=5), seed=1)
    ids = np.random.default_rng(2).integers(0, V, size=17)
    score = score_language(net, EncodedTexts(("a",), (ids,), np.array([17]), PREFIX))
    expected = -whole_logits(net, ids).log_softmax(-1)[torch.arange(17), torch.from_numpy(ids)]
    np.testing.assert_allclose(score.token_nats[0], expected.numpy(), rtol=0, atol=1e-5)


def test_bits_per_byte_are_all_bits_over_all_bytes_and_perplexity_is_by_token(net, texts):
    score = score_language(net, texts)
    nats = np.concatenate(score.token_nats)
    assert score.bits_per_byte().value == pytest.approx(nats.sum() / math.log(2) / 55, rel=1e-12)
    assert score.perplexity().value == pytest.approx(math.exp(nats.mean()), rel=1e-12)
    assert score.bits_per_byte().low <= score.bits_per_byte().value <= score.bits_per_byte().high
    assert score.bits_per_byte().n == 3


def test_asking_for_confidences_does_not_change_the_score(net, texts):
    plain, with_confidences = score_language(net, texts), score_language(net, texts, temperatures=(1.0, 2.5))
    np.testing.assert_allclose(np.concatenate(with_confidences.token_nats), np.concatenate(plain.token_nats), rtol=0, atol=1e-6)


def test_confidence_is_the_likeliest_tokens_probability_at_the_temperature(net, texts):
    found = score_language(net, texts, temperatures=(1.0, 2.5)).confidences
    ids = texts.token_ids[0]
    logits = whole_logits(net, ids)
    for temperature in (1.0, 2.5):
        best = (logits / temperature).softmax(-1).max(-1)
        np.testing.assert_allclose(found[temperature].confidence[:7], best.values.numpy(), rtol=0, atol=1e-5)
        assert found[temperature].correct[:7].tolist() == (best.indices.numpy() == ids).tolist()
        assert len(found[temperature].confidence) == 29


def test_collected_logits_are_those_of_the_scored_tokens_in_text_order(net, texts):
    logits, targets = collect_logits(net, texts, n_tokens=29)
    assert targets.tolist() == np.concatenate(texts.token_ids).tolist()
    np.testing.assert_allclose(logits[:7], whole_logits(net, texts.token_ids[0]).numpy(), rtol=0, atol=1e-5)


def test_collected_logits_are_thinned_evenly(net, texts):
    logits, targets = collect_logits(net, texts, n_tokens=10)  # every third of 29
    assert targets.tolist() == [int(ids[place]) for ids in texts.token_ids for place in range(0, len(ids), 3)]
    assert logits.shape == (3 + 1 + 7, V)


@torch.no_grad()
def test_a_temperature_undoes_a_scaling_of_the_logits():
    """A model's own draws are calibrated at temperature 1; when its logits are made three times as sharp, at 3."""
    net = build(recurrent_spec(vocab_size=V, d_model=6, d_hidden=5), seed=1)
    net.lm_head.bias.copy_(torch.linspace(-1.5, 1.5, V))
    rng, ids, cache = np.random.default_rng(11), [PREFIX], net.new_cache(1)
    for _ in range(1500):
        probabilities = net(torch.tensor([ids[-1:]]), cache=cache).logits[0, -1].double().softmax(-1)
        ids.append(int(rng.choice(V, p=probabilities.numpy())))
    texts = EncodedTexts(("drawn",), (np.array(ids[1:]),), np.array([1500]), PREFIX)
    assert fit_temperature(net, texts, n_tokens=1500).temperature == pytest.approx(1.0, abs=0.1)
    net.lm_head.weight.mul_(3)
    net.lm_head.bias.mul_(3)
    assert fit_temperature(net, texts, n_tokens=1500).temperature == pytest.approx(3.0, abs=0.3)


def test_an_ngram_model_is_scored_by_the_same_call(texts):
    model = NgramModel.fit(NgramSpec(vocab_size=V, order=3), np.concatenate(texts.token_ids))
    score = score_language(model, texts, temperatures=(1.0,))
    context = [PREFIX]
    for place, token in enumerate(texts.token_ids[0]):
        logprobs = model.next_log_probs(context)
        assert score.token_nats[0][place] == pytest.approx(-logprobs[token], abs=1e-6)
        assert score.confidences[1.0].confidence[place] == pytest.approx(math.exp(logprobs.max()), abs=1e-6)
        context.append(int(token))


def test_blocks_of_one_file_are_resampled_together(net, texts):
    joined = EncodedTexts(("a", "c", "c"), texts.token_ids, texts.n_bytes, PREFIX)
    assert score_language(net, joined).bits_per_byte().n == 2


def test_documents_are_encoded_with_their_bytes_and_empty_ones_left_out():
    tokenizer = Tokenizer.train(["héllo wörld " * 20], kind="bytes")
    documents = [Document("né", "a.txt"), Document("", "b.txt"), Document("x", "c.jsonl", line=7)]
    texts = encode_documents(tokenizer, documents)
    assert texts.sources == ("a.txt", "c.jsonl")
    assert texts.n_bytes.tolist() == [3, 1]
    assert [tokenizer.decode(ids.tolist()) for ids in texts.token_ids] == ["né", "x"]
    with pytest.raises(DataError, match="no text to score"):
        encode_documents(tokenizer, documents[1:2])


def test_a_sample_of_documents_is_within_its_bytes_and_depends_on_names_alone():
    documents = [Document("x" * 10, f"{i}.txt") for i in range(20)]
    chosen = sample_documents(documents, 55)
    assert len(chosen) == 5
    assert {d.source for d in sample_documents(documents[::-1], 55)} == {d.source for d in chosen}
    assert [d.source for d in chosen] == [d.source for d in documents if d in chosen]
    assert sample_documents(documents, 200) == documents
