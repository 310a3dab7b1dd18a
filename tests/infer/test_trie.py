import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from touchstone.calibrate.prior import Contextual
from touchstone.errors import ConfigError
from touchstone.infer.answer_set import shares_of
from touchstone.infer.calibration import labels_hash
from touchstone.infer.language_model import LanguageModel
from touchstone.infer.score import loglikelihood
from touchstone.infer.trie import grow_tries
from touchstone.models import build, decoder_spec
from touchstone.models.card import Calibration, Card

V = 13

token_rows = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), min_size=1, max_size=12)


@pytest.mark.slow
@given(token_rows, st.integers(1, 400), st.integers(1, 40))
def test_tries_hold_every_row_once_and_never_a_node_too_many(rows, d_model, most):
    arrays = [np.array(row, dtype=np.int64) for row in rows]
    tries = list(grow_tries(arrays, d_model=d_model, most=most))
    assert sorted(row for trie in tries for row in trie.rows) == list(range(len(rows)))
    for trie in tries:
        assert trie.n_tokens <= most or len(trie.rows) == 1 or all(rows[row] == rows[trie.rows[0]] for row in trie.rows)
        for row, path in zip(trie.rows, trie.paths, strict=True):
            assert [trie.token_ids[node] for node in path] == rows[row]
            assert trie.positions[path].tolist() == list(range(len(path)))
        beginnings = {tuple(rows[row][: n + 1]) for row in trie.rows for n in range(len(rows[row]))}
        assert trie.n_tokens == len(beginnings)


@pytest.mark.slow
@given(token_rows)
def test_a_node_sees_what_is_on_its_way_from_the_root(rows):
    (trie,) = grow_tries([np.array([0, *row]) for row in rows], d_model=10**9, most=10**9)
    distance = trie.distance()
    beginnings = {}
    for row, path in zip(trie.rows, trie.paths, strict=True):
        for n, node in enumerate(path):
            beginnings[int(node)] = tuple([0, *rows[row]][: n + 1])
    for node, text in beginnings.items():
        for other, start in beginnings.items():
            sees = len(start) <= len(text) and text[: len(start)] == start
            assert (distance[node, other] >= 0) == sees
            if sees:
                assert distance[node, other] == len(text) - len(start)


def test_a_row_joins_only_where_reading_its_beginning_again_costs_more():
    begin, rng = np.arange(300), np.random.default_rng(0)
    rows = [
        np.concatenate([begin[:n_shared], rng.integers(300, 400, n_new)]) for n_shared, n_new in ((200, 8), (200, 8), (1, 290), (1, 290))
    ]
    assert [len(trie.rows) for trie in grow_tries(rows, d_model=768, most=4096)].count(2) == 1
    assert len(list(grow_tries(rows, d_model=768, most=4096))) == 3


PLAIN = {"vocab_size": V, "d_model": 24, "n_layers": 2, "n_heads": 4, "max_seq_len": 64}
SPECS = {
    "learned positions": decoder_spec(**PLAIN, positions="learned"),
    "rotary, grouped, window": decoder_spec(**PLAIN, n_kv_heads=2, d_head=6, window=7),
    "alibi": decoder_spec(**PLAIN, positions="alibi"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECS)
def test_scores_over_a_trie_are_those_of_each_pair_alone(name):
    net = build(SPECS[name], seed=1).eval()
    rng = np.random.default_rng(2)
    contexts = [rng.integers(0, V, n).tolist() for n in (30, 12, 12, 1)]
    pairs = [(context, rng.integers(0, V, n).tolist()) for context in contexts for n in (1, 2, 5, 5)]
    pairs += [(contexts[0], [3]), (contexts[0], [3, 4]), (contexts[0], [3, 4, 5]), (contexts[1][:6], [*contexts[1][6:], 2])]
    together, alone = loglikelihood(net, pairs), loglikelihood(net, pairs, max_tokens=0)
    for a, b in zip(together, alone, strict=True):
        assert a.token_logprobs == pytest.approx(b.token_logprobs, abs=2e-6)
        assert a.is_greedy == b.is_greedy


def test_shared_contexts_are_read_once(monkeypatch):
    net = build(SPECS["learned positions"], seed=1).eval()
    seen = []
    embed = net.embed.forward
    monkeypatch.setattr(net.embed, "forward", lambda ids: (seen.append(ids.numel()), embed(ids))[1])
    loglikelihood(net, [(list(range(10)), [n, n]) for n in range(4)])
    assert sum(seen) == 10 + 4  # the context, and the first token of each answer


def test_shares_of_answers_add_up_and_do_not_count_longer_ones():
    logprobs = [np.log(0.5), np.log(0.3), np.log(0.1), np.log(0.2)]  # "a", "ab", "abc", "d"
    shares = np.exp(shares_of(logprobs, [[1], [1, 2], [1, 2, 3], [4]]))
    assert shares == pytest.approx(np.array([0.5 - 0.3, 0.3 - 0.1, 0.1, 0.2]) / 0.7)
    assert np.exp(shares_of([np.log(0.2), np.log(0.6)], [[1], [2]])) == pytest.approx([0.25, 0.75])
    with pytest.raises(ConfigError, match="Answers 0 and 2 are the same"):
        shares_of([-1.0, -2.0, -1.0], [[1], [2], [1]])


@pytest.mark.slow
def test_shares_are_those_of_a_model_that_must_write_a_legal_answer():
    """By brute force: all texts of three tokens, each counted for the longest legal answer that it begins with."""
    net = build(SPECS["learned positions"], seed=4).eval()
    context, answers = [1, 2, 3], [[4], [4, 5], [4, 5, 6], [7, 1], [7]]
    weights = {tuple(answer): 0.0 for answer in answers}
    with torch.no_grad():

        def walk(tokens, logprob):
            if len(tokens) == 3:
                ends = [tuple(tokens[:n]) for n in (3, 2, 1) if tuple(tokens[:n]) in weights]
                if ends:
                    weights[ends[0]] += np.exp(logprob)
                return
            logits = net(torch.tensor([context + tokens])).logits[0, -1].double().log_softmax(-1)
            for token in range(V):
                if tokens or token in (4, 7):
                    walk([*tokens, token], logprob + logits[token].item())

        walk([], 0.0)
    (found,) = LanguageModel(net).choose([(context, answers)])
    total = sum(weights.values())
    assert found.probabilities == pytest.approx([weights[tuple(answer)] / total for answer in answers], abs=1e-5)
    assert found.best == int(np.argmax(found.probabilities))


def test_a_question_needs_answers():
    model = LanguageModel(build(SPECS["learned positions"]).eval())
    for wrong in (([1], [[2]]), ([1], "ab"), [1, 2, 3]):
        with pytest.raises(ConfigError, match="Question 0"):
            model.choose([wrong])
    with pytest.raises(ConfigError, match="Question 1: Answers 0 and 1"):
        model.choose([([1], [[2], [3]]), ([1], [[2], [2]])])


def test_a_stored_calibration_of_answers_is_applied_to_its_task_and_answers_only():
    net = build(SPECS["learned positions"], seed=4).eval()
    answers = [[4], [5], [6]]
    plain = LanguageModel(net)
    [raw] = plain.choose([([1, 2, 3], answers)])
    record = Calibration(
        target="answer-set",
        task="mood",
        labels_hash=labels_hash([str(tuple(answer)) for answer in answers]),
        method="contextual",
        params={name: value for name, value in Contextual.fit(np.array([raw.shares])).to_dict().items() if name != "method"},
        statistic={},
        weights_hash=plain.weights_hash,
        numeric_scheme=plain.numeric_scheme,
        n=1,
        date="2026-01-01",
    )
    model = LanguageModel(net, card=Card(calibration=(record,)))
    [found] = model.choose([([1, 2, 3], answers)], task="mood")
    assert found.confidence.value == pytest.approx([1 / 3] * 3)  # what is asked is the content-free input itself
    assert found.shares == pytest.approx(raw.shares)
    assert model.choose([([1, 2, 3], answers)])[0].confidence is None
    assert "`other`" in model.choose([([1, 2, 3], answers)], task="other")[0].confidence_reason
    assert "other answers" in model.choose([([1, 2, 3], answers[::-1])], task="mood")[0].confidence_reason
    with torch.no_grad():
        next(net.parameters()).add_(0.01)
    assert "other weights" in model.choose([([1, 2, 3], answers)], task="mood")[0].confidence_reason
