import itertools
import tracemalloc
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from touchstone.errors import ConfigError, DataError, ModelFolderError, ShapeError
from touchstone.models.ngram import NgramModel, NgramSpec

V = 7


class PlainKneserNey:
    """Interpolated Kneser-Ney straight from Chen & Goodman 1998: dictionaries, one n-gram at a time, recursion over the order."""

    def __init__(self, documents, order, vocab_size, modified):
        self.order, self.vocab_size, self.modified = order, vocab_size, modified
        occurrences = Counter()
        before = defaultdict(set)
        for document in documents:
            for end, k in itertools.product(range(1, len(document) + 1), range(1, order + 1)):
                if end - k >= 0:
                    ngram = tuple(document[end - k : end])
                    occurrences[ngram] += 1
                    before[ngram].add(document[end - k - 1] if end - k > 0 else "start of a document")
        self.counts = [{}]
        for k in range(1, order + 1):
            self.counts.append({g: occurrences[g] if k == order else len(before[g]) for g in occurrences if len(g) == k})
        self.discounts = [None, *(self.estimate(self.counts[k]) for k in range(1, order + 1))]

    def estimate(self, counts):
        n = [sum(c == j for c in counts.values()) for j in range(5)]
        y = n[1] / (n[1] + 2 * n[2]) if n[1] else 0
        if not self.modified:
            return {1: y, 2: y, 3: y} if 0 < y < 1 else {1: 0.5, 2: 0.5, 3: 0.5}
        if n[1] and n[2] and n[3]:
            d = {j: j - (j + 1) * y * n[j + 1] / n[j] for j in (1, 2, 3)}
            if all(0 < d[j] < j for j in d):
                return d
        return {1: 0.5, 2: 1.0, 3: 1.5}

    def prob(self, token, context):
        k = len(context) + 1
        lower = self.prob(token, context[1:]) if context else 1 / self.vocab_size
        after = {w: self.counts[k][(*context, w)] for w in range(self.vocab_size) if (*context, w) in self.counts[k]}
        total = sum(after.values())
        if total == 0:
            return lower
        d = self.discounts[k]
        gamma = sum(d[min(c, 3)] for c in after.values()) / total
        seen = after.get(token, 0)
        return (seen - d[min(seen, 3)] if seen else 0) / total + gamma * lower

    def log_probs(self, document):
        return [np.log(self.prob(token, tuple(document[max(0, i - self.order + 1) : i]))) for i, token in enumerate(document)]


def zipf_documents(rng, n_documents, vocab_size=V):
    weights = 1 / np.arange(1, vocab_size + 1)
    return [rng.choice(vocab_size, size=rng.integers(1, 60), p=weights / weights.sum()).tolist() for _ in range(n_documents)]


def stream(documents):
    lengths = [len(document) for document in documents]
    return np.array(list(itertools.chain(*documents)), dtype=np.int64), np.cumsum([0, *lengths])


@pytest.mark.parametrize("discounts", ["modified", "single"])
@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_every_token_scores_as_the_formula_written_plainly(order, discounts):
    rng = np.random.default_rng(order)
    train, held_out = zipf_documents(rng, 23), zipf_documents(rng, 4)
    spec = NgramSpec(vocab_size=V, order=order, discounts=discounts)
    model = NgramModel.fit(spec, *stream(train))
    plain = PlainKneserNey(train, order, V, modified=discounts == "modified")
    expected = np.concatenate([plain.log_probs(document) for document in [*train, *held_out]])
    np.testing.assert_allclose(model.token_log_probs(*stream([*train, *held_out])), expected, rtol=0, atol=1e-12)


def test_the_estimated_discounts_are_used_once_the_data_can_give_them():
    documents = zipf_documents(np.random.default_rng(5), 40, vocab_size=11)
    model = NgramModel.fit(NgramSpec(vocab_size=11, order=3), *stream(documents))
    plain = PlainKneserNey(documents, 3, 11, modified=True)
    assert not model.discounts[2].fallback
    assert model.discounts[2].values == pytest.approx(tuple(plain.discounts[3].values()), rel=1e-13)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    documents=st.lists(st.lists(st.integers(0, V - 1), min_size=1, max_size=12), min_size=1, max_size=5),
    context=st.lists(st.integers(0, V - 1), max_size=6),
    order=st.integers(1, 5),
    discounts=st.sampled_from(["modified", "single"]),
)
def test_a_distribution_sums_to_one_and_leaves_no_token_out(documents, context, order, discounts):
    model = NgramModel.fit(NgramSpec(vocab_size=V, order=order, discounts=discounts), *stream(documents))
    probs = np.exp(model.next_log_probs(context))
    assert probs.sum() == pytest.approx(1, abs=1e-12)
    assert (probs > 0).all()


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    documents=st.lists(st.lists(st.integers(0, V - 1), min_size=1, max_size=12), min_size=1, max_size=5),
    order=st.integers(1, 5),
    discounts=st.sampled_from(["modified", "single"]),
)
def test_tiny_data_scores_as_the_formula_with_the_stated_fallback(documents, order, discounts):
    model = NgramModel.fit(NgramSpec(vocab_size=V, order=order, discounts=discounts), *stream(documents))
    plain = PlainKneserNey(documents, order, V, modified=discounts == "modified")
    expected = np.concatenate([plain.log_probs(document) for document in documents])
    np.testing.assert_allclose(model.token_log_probs(*stream(documents)), expected, rtol=0, atol=1e-12)


@pytest.fixture
def model():
    return NgramModel.fit(NgramSpec(vocab_size=V, order=4), *stream(zipf_documents(np.random.default_rng(3), 19)))


def test_the_next_token_distribution_agrees_with_the_score_of_a_text(model):
    text = np.random.default_rng(4).integers(0, V, 31)
    scores = model.token_log_probs(text)
    stepwise = [model.next_log_probs(text[:place])[token] for place, token in enumerate(text)]
    np.testing.assert_allclose(scores, stepwise, rtol=0, atol=1e-14)


def test_a_batch_of_unequal_contexts_equals_each_alone(model):
    contexts = [[], [2], [0, 1], [3, 0, 1, 0, 0], [6, 6, 6]]
    batch = model.next_log_probs_batch(contexts)
    np.testing.assert_array_equal(batch, np.stack([model.next_log_probs(context) for context in contexts]))
    assert batch.shape == (5, V)


def test_a_context_never_reaches_across_the_start_of_a_document(model):
    first, second = [0, 1, 0, 2], [1, 0, 3]
    joined = model.token_log_probs(np.array(first + second), [0, 4])
    apart = np.concatenate([model.token_log_probs(np.array(first)), model.token_log_probs(np.array(second))])
    np.testing.assert_array_equal(joined, apart)
    assert not np.array_equal(joined, model.token_log_probs(np.array(first + second)))


def test_an_end_offset_and_empty_documents_change_nothing():
    tokens = np.array([0, 1, 2, 0, 1, 1, 0])
    spec = NgramSpec(vocab_size=V, order=3)
    expected = NgramModel.fit(spec, tokens, [0, 4]).token_log_probs(tokens, [0, 4])
    np.testing.assert_array_equal(NgramModel.fit(spec, tokens, [0, 4, 4, 7]).token_log_probs(tokens, [0, 4, 4, 7]), expected)


def test_long_texts_score_the_same_in_small_pieces(model, monkeypatch):
    tokens, starts = stream(zipf_documents(np.random.default_rng(6), 9))
    whole = model.token_log_probs(tokens, starts)
    monkeypatch.setattr("touchstone.models.ngram._CHUNK", 5)
    np.testing.assert_array_equal(model.token_log_probs(tokens, starts), whole)


def test_unsigned_token_files_score_like_plain_integers(model):
    tokens = np.random.default_rng(7).integers(0, V, 40)
    np.testing.assert_array_equal(model.token_log_probs(tokens.astype(np.uint16)), model.token_log_probs(tokens))


@pytest.mark.slow
def test_a_large_vocabulary_at_a_high_order_does_not_overflow():
    vocab_size = 250_000
    tokens = np.random.default_rng(8).choice([0, 7, vocab_size - 1], size=200)
    documents = [tokens.tolist()]
    model = NgramModel.fit(NgramSpec(vocab_size=vocab_size, order=6), tokens)
    low = {0: 0, 7: 1, vocab_size - 1: 2}
    plain = PlainKneserNey([[low[t] for t in documents[0]]], 6, 3, modified=True)
    plain.vocab_size = vocab_size
    renamed = [low[t] for t in documents[0]]
    gap = [
        model.token_log_probs(tokens)[i] - np.log(plain_prob(plain, renamed[i], tuple(renamed[max(0, i - 5) : i]), vocab_size))
        for i in range(0, 200, 13)
    ]
    np.testing.assert_allclose(gap, 0, atol=1e-12)


def plain_prob(plain, token, context, vocab_size):
    """The plain model over the three tokens that occur, its uniform level spread over the whole vocabulary."""
    k = len(context) + 1
    lower = plain_prob(plain, token, context[1:], vocab_size) if context else 1 / vocab_size
    after = {w: plain.counts[k][(*context, w)] for w in range(3) if (*context, w) in plain.counts[k]}
    total = sum(after.values())
    d = plain.discounts[k]
    if not total:
        return lower
    seen = after.get(token, 0)
    return (seen - d[min(seen, 3)] if seen else 0) / total + sum(d[min(c, 3)] for c in after.values()) / total * lower


def test_arrays_give_the_model_back_bit_for_bit(model):
    tokens = np.random.default_rng(9).integers(0, V, 57)
    arrays = model.to_arrays()
    again = NgramModel.from_arrays(model.spec, {name: array.copy() for name, array in arrays.items()})
    np.testing.assert_array_equal(again.token_log_probs(tokens), model.token_log_probs(tokens))
    assert again.discounts == model.discounts
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.int32)}


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("order1.counts", lambda a: a[:-1]),
        ("order1.counts", lambda a: -a),
        ("order2.tokens", lambda a: a + V),
        ("order2.tokens", lambda a: a[::-1].copy()),
        ("order3.counts", lambda a: a * 0),
        ("order3.offsets", lambda a: a[::-1].copy()),
        ("order4.offsets", lambda a: a[:-1]),
        ("order4.tokens", lambda a: a[:-1]),
        ("order3.counts", lambda a: a.astype(np.float64)),
    ],
)
def test_a_damaged_array_is_refused_by_name(model, name, spoil):
    arrays = model.to_arrays()
    arrays[name] = spoil(arrays[name])
    with pytest.raises(ModelFolderError, match=r"order\d\."):
        NgramModel.from_arrays(model.spec, arrays)


def test_an_ngram_whose_tail_is_missing_is_refused():
    model = NgramModel.fit(NgramSpec(vocab_size=V, order=3), np.array([0, 1, 2]))
    arrays = model.to_arrays()
    arrays["order3.tokens"] = np.array([5], dtype=np.int32)  # 0 1 5, where 1 5 was never seen
    with pytest.raises(ModelFolderError, match=r"order3\.tokens"):
        NgramModel.from_arrays(model.spec, arrays)


def test_missing_and_unknown_arrays_are_named(model):
    arrays = model.to_arrays()
    arrays["order9.counts"] = arrays.pop("order2.counts")
    with pytest.raises(ModelFolderError, match=r"order2\.counts, order9\.counts"):
        NgramModel.from_arrays(model.spec, arrays)


@pytest.mark.parametrize("tokens", [[], [0, V], [-1, 0]])
def test_no_tokens_or_ids_outside_the_vocabulary_are_refused(tokens):
    with pytest.raises(DataError, match=r"tokens|vocab_size"):
        NgramModel.fit(NgramSpec(vocab_size=V), np.array(tokens, dtype=np.int64))


@pytest.mark.parametrize("boundaries", [[], [1], [0, 3, 2], [0, 9]])
def test_boundaries_that_are_no_offsets_are_refused(boundaries):
    with pytest.raises(ShapeError, match="boundaries"):
        NgramModel.fit(NgramSpec(vocab_size=V), np.array([0, 1, 2, 0]), boundaries)


def test_impossible_specs_are_refused():
    with pytest.raises(ConfigError, match="order"):
        NgramSpec(vocab_size=V, order=0)
    with pytest.raises(ConfigError, match="vocab_size"):
        NgramSpec(vocab_size=0)


def test_an_empty_text_scores_as_no_tokens(model):
    assert model.token_log_probs(np.array([], dtype=np.int64)).shape == (0,)


@pytest.mark.slow
def test_fitting_and_scoring_keep_to_the_stated_memory():
    tokens = np.random.default_rng(10).choice(4096, size=200_000).astype(np.uint16)  # no repetition: the most n-grams there can be
    tracemalloc.start()
    try:
        model = NgramModel.fit(NgramSpec(vocab_size=4096), tokens)
        peak = tracemalloc.get_traced_memory()[1]
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        model.token_log_probs(tokens)
        scoring = tracemalloc.get_traced_memory()[1] - held
    finally:
        tracemalloc.stop()
    assert model.nbytes / sum(model.n_ngrams) < 26
    assert peak - model.nbytes < 120 * tokens.size
    assert scoring < 40e6
