import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from touchstone.errors import ConfigError, DataError, Unsupported
from touchstone.infer import logits
from touchstone.infer.pairs import encode_pair
from touchstone.infer.score import (
    Rolling,
    loglikelihood,
    rolling_logits,
    rolling_token_logprobs,
    rolling_windows,
)
from touchstone.models import MaskedLmHead, TagHead, build, decoder_spec, encoder_spec, recurrent_spec
from touchstone.models.ngram import NgramModel, NgramSpec

V, BOUND = 11, 24
RNG = np.random.default_rng(8)
TEXTS = [RNG.integers(0, V, n) for n in (61, 1, 24, 25, 7, 48, 90)]


def full_logprobs(net, inputs):
    """(T, V) by one plain pass."""
    with torch.no_grad():
        return net(torch.tensor(np.asarray(inputs)[None])).logits[0].double().log_softmax(-1).numpy()


def windows_of_the_harness(token_list, prefix_token, max_seq_len, context_len):
    """lm-evaluation-harness 0.4.9, lm_eval/utils.py, get_rolling_token_windows, for the inputs and the tokens each predicts."""
    pred_len = max_seq_len - context_len + 1
    predicted = min(max_seq_len, len(token_list))
    if token_list:
        yield [prefix_token, *token_list[: predicted - 1]], token_list[:predicted]
    while predicted < len(token_list):
        n = min(len(token_list) - predicted, pred_len)
        end = predicted + n
        yield token_list[end - max_seq_len - 1 : end - 1], token_list[end - n : end]
        predicted += n


sizes = st.integers(1, 9).flatmap(lambda window: st.tuples(st.just(window), st.integers(1, window)))


@pytest.mark.slow
@given(st.integers(0, 40), sizes)
def test_windows_are_those_of_lm_evaluation_harness(n_tokens, window_and_stride):
    window, stride = window_and_stride
    tokens = list(range(1, n_tokens + 1))
    inputs = [0, *tokens[:-1]]
    ours = [(inputs[begin:end], tokens[first:end]) for begin, end, first in rolling_windows(n_tokens, window, stride)]
    assert ours == list(windows_of_the_harness(tokens, 0, window, window - stride + 1))


@given(st.integers(0, 60), sizes)
def test_every_token_is_scored_once_with_enough_left_context(n_tokens, window_and_stride):
    window, stride = window_and_stride
    scored = []
    for begin, end, first in rolling_windows(n_tokens, window, stride):
        assert end - begin <= window
        assert begin == 0 or first - begin >= window - stride
        scored += range(first, end)
    assert scored == list(range(n_tokens))


@pytest.mark.slow
@settings(deadline=None, max_examples=15)
@given(st.lists(st.lists(st.integers(0, V - 1), max_size=30), max_size=4), sizes, st.integers(1, 40))
def test_rolling_equals_scoring_each_token_by_itself_in_its_window(texts, window_and_stride, max_tokens):
    window, stride = window_and_stride
    net = SHORT
    results = rolling_token_logprobs(net, texts, prefix_id=3, stride=stride, max_seq_len=window, max_tokens=max_tokens)
    assert [len(result) for result in results] == [len(text) for text in texts]
    for text, result in zip(texts, results, strict=True):
        one_by_one = []
        for inputs, predicted in windows_of_the_harness(text, 3, window, window - stride + 1):
            full = full_logprobs(net, inputs)[-len(predicted) :]
            one_by_one += full[np.arange(len(predicted)), predicted].tolist()
        np.testing.assert_allclose(result, one_by_one, rtol=0, atol=1e-5)


SHORT = build(decoder_spec(vocab_size=V, d_model=12, n_layers=1, n_heads=3, max_seq_len=9), seed=4).eval()


def test_a_text_within_the_context_equals_one_full_pass(any_net):
    text = TEXTS[2][:20]
    full = full_logprobs(any_net, [5, *text[:-1]])
    [ours] = rolling_token_logprobs(any_net, [text], prefix_id=5)
    np.testing.assert_allclose(ours, full[np.arange(20), text], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_stride_one_gives_every_token_the_longest_context_there_is(net):
    text = TEXTS[0]
    whole = np.concatenate([[2], text])
    expected = [full_logprobs(net, whole[max(0, end - BOUND) : end])[-1, whole[end]] for end in range(1, len(whole))]
    [ours] = rolling_token_logprobs(net, [text], prefix_id=2, stride=1)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("stride", [None, 5])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_recurrent_model_carries_its_state_through_texts_of_any_length(cell, stride, monkeypatch):
    monkeypatch.setattr(logits, "_CARRY_WIDTH", 8)
    net = build(recurrent_spec(vocab_size=V, d_model=5, d_hidden=7, cell=cell, n_layers=2), seed=2).eval()
    ours = rolling_token_logprobs(net, TEXTS, prefix_id=1, stride=stride, max_tokens=24)  # three texts side by side
    for text, result in zip(TEXTS, ours, strict=True):
        full = full_logprobs(net, [1, *text[:-1]])
        np.testing.assert_allclose(result, full[np.arange(len(text)), text], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_attention_without_positions_carries_its_cache(monkeypatch):
    monkeypatch.setattr(logits, "_CARRY_WIDTH", 8)
    net = build(decoder_spec(vocab_size=V, d_model=12, n_layers=2, n_heads=3, max_seq_len=9, positions="none"), seed=2).eval()
    for text, result in zip(TEXTS, rolling_token_logprobs(net, TEXTS, prefix_id=1, max_tokens=24), strict=True):
        full = full_logprobs(net, [1, *text[:-1]])
        np.testing.assert_allclose(result, full[np.arange(len(text)), text], rtol=0, atol=1e-5)


@pytest.fixture
def ngram():
    return NgramModel.fit(NgramSpec(vocab_size=V, order=3), RNG.integers(0, V, 400), boundaries=[0, 150])


def test_an_ngram_model_scores_each_token_after_its_own_context(ngram):
    for text, result in zip(TEXTS, rolling_token_logprobs(ngram, TEXTS, prefix_id=1, stride=3), strict=True):
        whole = [1, *text.tolist()]
        expected = [ngram.next_log_probs(whole[max(0, place - 2) : place])[whole[place]] for place in range(1, len(whole))]
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("core", ["net", "ngram", "lstm"])
def test_logits_chunks_are_bounded_and_hold_every_token_once(core, request, monkeypatch):
    monkeypatch.setattr(logits, "MAX_LOGITS", 6 * V)
    model = build(recurrent_spec(vocab_size=V, d_model=5, d_hidden=7), seed=2) if core == "lstm" else request.getfixturevalue(core)
    stride = 7 if core == "net" else None
    expected = rolling_token_logprobs(model, TEXTS, prefix_id=1, stride=stride)
    seen = [np.full(len(text), np.nan) for text in TEXTS]
    for chunk in rolling_logits(model, TEXTS, prefix_id=1, stride=stride):
        assert 0 < len(chunk.logits) <= 6
        logprobs = chunk.logits.double().log_softmax(-1).numpy()
        for n, (target, row, place) in enumerate(zip(chunk.targets.tolist(), chunk.rows, chunk.places, strict=True)):
            assert math.isnan(seen[row][place])
            assert TEXTS[row][place] == target
            seen[row][place] = logprobs[n, target]
    for ours, theirs in zip(seen, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def test_the_head_never_sees_more_hidden_states_than_are_scored(net, monkeypatch):
    n_rows = []
    head = net.head
    monkeypatch.setattr(net, "head", lambda hidden: n_rows.append(len(hidden)) or head(hidden))
    loglikelihood(net, [([1, 2, 3, 4], [5, 6]), ([1] * 20, [2])])
    assert sum(n_rows) == 3


PAIRS = [([1, 2, 3], [4, 5]), ([7], [8, 9, 1, 2]), ([3, 1, 4, 1, 5, 9], [2]), ([7, 7], [0])]


def test_loglikelihood_equals_the_sum_by_hand(any_net):
    for (context, continuation), result in zip(PAIRS, loglikelihood(any_net, PAIRS, max_tokens=8), strict=True):
        full = full_logprobs(any_net, [*context, *continuation][:-1])[len(context) - 1 :]
        by_hand = full[np.arange(len(continuation)), continuation]
        np.testing.assert_allclose(result.token_logprobs, by_hand, rtol=0, atol=1e-5)
        assert result.logprob == pytest.approx(by_hand.sum(), abs=1e-5)
        assert result.is_greedy == (full.argmax(-1).tolist() == continuation)
        assert (result.n_truncated, result.confidence) == (0, None)


def test_the_models_own_continuation_is_greedy(net):
    with torch.no_grad():
        best = net(torch.tensor([[1, 2, 3]])).logits[0, -1].argmax().item()
    right, wrong = loglikelihood(net, [([1, 2, 3], [best]), ([1, 2, 3], [(best + 1) % V])])
    assert right.is_greedy
    assert not wrong.is_greedy


def test_a_context_that_does_not_fit_loses_its_oldest_tokens_and_says_how_many(net):
    context, continuation = RNG.integers(0, V, 40).tolist(), [3, 4, 5]
    [long] = loglikelihood(net, [(context, continuation)])
    kept = (context + continuation)[-(BOUND + 1) :]  # so many inputs as the context holds, and the last target
    full = full_logprobs(net, kept[:-1])[-3:]
    np.testing.assert_allclose(long.token_logprobs, full[np.arange(3), continuation], rtol=0, atol=1e-5)
    assert long.n_truncated == 43 - 25


def test_a_continuation_longer_than_the_context_is_refused(net):
    assert loglikelihood(net, [([1], [2] * BOUND)])[0].n_truncated == 0
    with pytest.raises(ConfigError, match=r"Pair 1: the continuation has 25 tokens and the context holds 24"):
        loglikelihood(net, [([1], [2]), ([1], [2] * 25)])


def test_a_recurrent_model_truncates_nothing():
    net = build(recurrent_spec(vocab_size=V, d_model=5, d_hidden=7), seed=2)
    context, continuation = RNG.integers(0, V, 600).tolist(), [3, 4, 5]
    [result] = loglikelihood(net, [(context, continuation)])
    full = full_logprobs(net.eval(), [*context, 3, 4])[-3:]
    np.testing.assert_allclose(result.token_logprobs, full[np.arange(3), continuation], rtol=0, atol=1e-5)
    assert result.n_truncated == 0


def test_an_ngram_models_loglikelihood_equals_the_sum_by_hand(ngram):
    for (context, continuation), result in zip(PAIRS, loglikelihood(ngram, PAIRS), strict=True):
        whole, n = [*context, *continuation], len(context)
        each = [ngram.next_log_probs(whole[:place]) for place in range(n, len(whole))]
        assert result.token_logprobs == pytest.approx([each[i][token] for i, token in enumerate(continuation)], abs=1e-12)
        assert result.is_greedy == all(each[i].argmax() == token for i, token in enumerate(continuation))


@pytest.mark.parametrize("pair", [([], [1]), ([1], [])])
def test_an_empty_side_is_refused(net, pair):
    with pytest.raises(ConfigError, match="at least one token"):
        loglikelihood(net, [pair])


@pytest.mark.parametrize("stride", [0, -1, 25])
def test_a_stride_beyond_the_window_is_refused(net, stride):
    with pytest.raises(ConfigError, match=r"`stride`.*24"):
        rolling_token_logprobs(net, TEXTS, prefix_id=1, stride=stride)


def test_scoring_leaves_training_mode_as_it_was_and_uses_no_dropout():
    net = build(decoder_spec(vocab_size=V, d_model=12, n_layers=1, n_heads=3, max_seq_len=30, dropout=0.5), seed=1).train()
    [ours] = rolling_token_logprobs(net, [TEXTS[4]], prefix_id=1)
    assert net.training
    full = full_logprobs(net.eval(), [1, *TEXTS[4][:-1]])
    np.testing.assert_allclose(ours, full[np.arange(7), TEXTS[4]], rtol=0, atol=1e-5)


def test_nothing_to_score_gives_nothing(net):
    assert loglikelihood(net, []) == []
    assert rolling_token_logprobs(net, [], prefix_id=0) == []
    assert [len(result) for result in rolling_token_logprobs(net, [[], [1], []], prefix_id=0)] == [0, 1, 0]


class TestPairEncoding:
    """As `TemplateLM._encode_pair` and `loglikelihood` of lm-evaluation-harness 0.4.9; pieces: see conftest."""

    def ids(self, pieces, context, continuation, prefix_id=0):
        return encode_pair(pieces, context, continuation, prefix_id)

    def test_trailing_white_space_moves_to_the_continuation(self, pieces):
        assert self.ids(pieces, "a \n", "d") == (pieces.encode("a"), pieces.encode(" \nd"))

    def test_the_continuation_is_what_follows_the_contexts_length_in_the_joined_encoding(self, pieces):
        # joined "dabc" is [d, abc] while "da" alone is [d, a]: the continuation has nothing left after two tokens
        assert pieces.encode("dabc") == [8, 6]
        # joined "a" + "b c" is [ab, " ", c]: one token after the context's one token are two
        assert self.ids(pieces, "a", "b c") == ([1], [7, 3])

    def test_a_continuation_that_the_join_swallows_is_encoded_apart(self, pieces):
        assert self.ids(pieces, "da", "bc") == ([8, 1], [5])

    def test_an_empty_context_becomes_the_prefix_token(self, pieces):
        assert self.ids(pieces, "", "ab") == ([0], [4])
        assert self.ids(pieces, " ", "ab") == ([0], [7, 4])

    def test_an_empty_context_without_a_prefix_token_is_refused(self, pieces):
        with pytest.raises(ConfigError, match="beginning- or end-of-text"):
            self.ids(pieces, "", "ab", prefix_id=None)

    def test_an_empty_continuation_is_refused(self, pieces):
        with pytest.raises(ConfigError, match="`continuation` is empty"):
            self.ids(pieces, "ab", "")


def test_bits_per_byte_and_perplexity_follow_their_formulas():
    rolling = Rolling(logprob=-6.0, token_logprobs=(-1.0, -2.0, -3.0), n_bytes=8)
    assert rolling.bits_per_byte == pytest.approx(6.0 / math.log(2) / 8)
    assert rolling.perplexity == pytest.approx(math.exp(2.0))


def test_figures_of_an_empty_text_are_refused_rather_than_not_a_number():
    empty = Rolling(0.0, (), 0)
    with pytest.raises(DataError, match="bytes"):
        _ = empty.bits_per_byte
    with pytest.raises(DataError, match="at least one token"):
        _ = empty.perplexity


def test_a_window_longer_than_the_token_budget_is_read_alone(net):
    roomy, tight = (rolling_token_logprobs(net, TEXTS, prefix_id=1, max_tokens=n) for n in (4096, 10))
    for ours, theirs in zip(tight, roomy, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("head", [MaskedLmHead(), TagHead(n_labels=3)])
def test_a_network_that_predicts_no_next_token_scores_no_text(head):
    """A masked language model has logits over the vocabulary too, but has seen the token it would be asked for."""
    net = build(encoder_spec(vocab_size=29, d_model=12, n_layers=1, n_heads=3, max_seq_len=24, head=head)).eval()
    with pytest.raises(Unsupported, match="predicts no next token"):
        loglikelihood(net, [([3], [5])])
    for rolling in (rolling_token_logprobs, rolling_logits):
        with pytest.raises(Unsupported, match="predicts no next token"):
            list(rolling(net, [[3, 5]], prefix_id=1))
