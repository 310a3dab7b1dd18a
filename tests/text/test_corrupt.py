"""Hidden tokens and spans: how many, which, and that nothing is lost."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchstone.errors import ConfigError
from touchstone.text.corrupt import corrupt_spans, generator_of, mask_tokens, noise_mask, span_lengths
from touchstone.text.token_kinds import TokenKinds

V, MASK = 50, 3
SPECIALS = (0, 1, 2, MASK)


@pytest.fixture(scope="module")
def kinds():
    """Ids 0 to 3 are special, even ones begin a word."""
    ids = np.arange(V)
    is_special = np.isin(ids, SPECIALS)
    return TokenKinds(is_special, (ids % 2 == 0) | is_special, np.zeros(V, dtype=bool))


ROWS = st.lists(st.integers(0, V - 1), min_size=1, max_size=60).map(lambda row: np.array(row, dtype=np.int64))
KEYS = st.integers(-(2**63), 2**63 - 1)


@pytest.mark.slow
@given(row=ROWS, key=KEYS, share=st.floats(0.01, 1.0))
def test_a_share_of_the_ordinary_tokens_is_chosen_at_least_one_and_never_a_special_one(kinds, row, key, share):
    masked = mask_tokens(row, generator_of(key), mask_id=MASK, kinds=kinds, share=share)
    n_ordinary = int((~np.isin(row, SPECIALS)).sum())
    assert masked.is_chosen.sum() == (max(1, round(n_ordinary * share)) if n_ordinary else 0)
    assert not np.isin(row[masked.is_chosen], SPECIALS).any()
    assert np.array_equal(masked.token_ids[~masked.is_chosen], row[~masked.is_chosen])
    put_in = masked.token_ids[masked.is_chosen]
    assert not np.isin(put_in[put_in != MASK], SPECIALS).any()


@pytest.mark.slow
@given(row=ROWS, key=KEYS)
def test_the_same_key_hides_the_same_tokens_and_the_text_stays_as_it_was(kinds, row, key):
    before = row.copy()
    first, second = (mask_tokens(row, generator_of(key), mask_id=MASK, kinds=kinds, share=0.4) for _ in range(2))
    assert np.array_equal(first.token_ids, second.token_ids)
    assert np.array_equal(row, before)


def test_eight_in_ten_are_masked_one_in_ten_is_another_token_one_in_ten_is_left(kinds):
    row = np.full(40_000, 10)
    masked = mask_tokens(row, generator_of(7), mask_id=MASK, kinds=kinds, share=0.5)
    hidden = masked.token_ids[masked.is_chosen]
    n = hidden.size
    assert n == 20_000
    spread = 4 * np.sqrt(0.25 / n)  # more than four deviations of either share
    assert (hidden == MASK).mean() == pytest.approx(0.8, abs=spread)
    assert (hidden == 10).mean() == pytest.approx(0.1 + 0.1 / (V - len(SPECIALS)), abs=spread)
    others = hidden[(hidden != MASK) & (hidden != 10)]
    assert set(others.tolist()) == set(range(4, V)) - {10}


@pytest.mark.slow
@given(row=ROWS, key=KEYS, share=st.floats(0.05, 0.9))
def test_whole_words_are_chosen_whole_and_within_the_share_unless_one_alone_is_longer(kinds, row, key, share):
    masked = mask_tokens(row, generator_of(key), mask_id=MASK, kinds=kinds, share=share, whole_words=True)
    words, word = [], []
    for place, token in enumerate(row.tolist()):
        if token in SPECIALS or token % 2 == 0:
            words.append(word)
            word = []
        if token not in SPECIALS:
            word.append(place)
    words = [word for word in [*words, word] if word]
    chosen = [bool(masked.is_chosen[word[0]]) for word in words]
    for word, is_chosen in zip(words, chosen, strict=True):
        assert (masked.is_chosen[word] == is_chosen).all()
    if words:
        n_wanted = max(1, round(sum(map(len, words)) * share))
        assert masked.is_chosen.sum() <= n_wanted or sum(chosen) == 1
        assert any(chosen)
    assert masked.is_chosen.sum() == sum(len(word) for word, is_chosen in zip(words, chosen, strict=True) if is_chosen)


@pytest.mark.slow
@given(length=st.integers(1, 300), key=KEYS, density=st.floats(0.05, 0.9), mean_span=st.floats(1.0, 10.0))
def test_noise_has_the_counts_of_t5_and_begins_with_what_is_shown(length, key, density, mean_span):
    is_noise = noise_mask(length, generator_of(key), density=density, mean_span=mean_span)
    padded = max(length, 2)
    n_noise = min(max(round(padded * density), 1), padded - 1)
    assert len(is_noise) == length
    assert not is_noise[0]
    if length > 1:
        assert is_noise.sum() == n_noise
        assert is_noise[-1]
        n_spans = min(max(round(n_noise / mean_span), 1), n_noise, padded - n_noise)
        assert (np.diff(is_noise.astype(int)) == 1).sum() == n_spans


@pytest.mark.parametrize(
    ("longest", "density", "n_tokens", "n_target"),
    [(512, 0.15, 568, 114), (64, 0.5, 94, 64), (3, 0.15, 2, 3)],
)
def test_lengths_are_those_of_t5(longest, density, n_tokens, n_target):
    """568 and 114 are the numbers of T5's own pre-training; at a density of 0.5 it holds the target to the length too."""
    found = span_lengths(longest, density=density)
    assert (found.n_tokens, found.n_target) == (n_tokens, n_target)
    assert found.n_source <= longest


def test_a_length_without_room_for_a_span_is_refused():
    with pytest.raises(ConfigError, match="raise `context`"):
        span_lengths(2)


@pytest.mark.slow
@given(longest=st.integers(3, 200), density=st.floats(0.05, 0.95), mean_span=st.floats(1.0, 8.0), key=KEYS)
def test_no_source_and_no_target_is_longer_than_allowed(longest, density, mean_span, key):
    found = span_lengths(longest, density=density, mean_span=mean_span)
    is_noise = noise_mask(found.n_tokens, generator_of(key), density=density, mean_span=mean_span)
    hidden = corrupt_spans(np.arange(found.n_tokens), is_noise, np.arange(2000, 1000, -1))
    assert (len(hidden.source) + 1, len(hidden.target) + 1) == (found.n_source, found.n_target)
    assert max(found.n_source, found.n_target) <= longest


def test_lengths_equal_those_of_hugging_faces_flax_script_for_every_source_length():
    """compute_input_and_target_lengths of examples/flax/language-modeling/run_t5_mlm_flax.py, written out."""

    def sizes(n_tokens, density, mean):
        n_noise = round(n_tokens * density)
        n_spans = round(n_noise / mean)
        return n_tokens - n_noise + n_spans + 1, n_noise + n_spans + 1

    for n_source in range(12, 200, 7):
        n_tokens = n_source
        while sizes(n_tokens + 1, 0.15, 3.0)[0] <= n_source:
            n_tokens += 1
        found = span_lengths(n_source)
        assert (found.n_tokens, found.n_source, found.n_target) == (n_tokens, *sizes(n_tokens, 0.15, 3.0))


@pytest.mark.slow
@given(length=st.integers(3, 120), key=KEYS, density=st.floats(0.1, 0.6))
def test_source_and_target_rebuild_the_text(length, key, density):
    sentinels = np.arange(1000, 900, -1)
    text = np.arange(length)
    is_noise = noise_mask(length, generator_of(key), density=density)
    hidden = corrupt_spans(text, is_noise, sentinels)
    behind, here = {}, None
    for token in hidden.target.tolist():
        here = token if token > 900 else here
        behind.setdefault(here, []).extend([] if token > 900 else [token])
    rebuilt = [part for token in hidden.source.tolist() for part in (behind[token] if token > 900 else [token])]
    assert rebuilt == text.tolist()
    used = [token for token in hidden.source.tolist() if token > 900]
    assert used == sentinels[: len(used)].tolist() == [token for token in hidden.target.tolist() if token > 900]


def test_the_example_of_the_t5_paper():
    """Figure 2: Thank you <X> me to your party <Y> week . -> <X> for inviting <Y> last <Z>."""
    text = np.arange(10)  # Thank you for inviting me to your party last week
    is_noise = np.isin(text, [2, 3, 8])
    hidden = corrupt_spans(text, is_noise, np.array([99, 98, 97]))
    assert hidden.source.tolist() == [0, 1, 99, 4, 5, 6, 7, 98, 9]
    assert hidden.target.tolist() == [99, 2, 3, 98, 8, 97]


def test_more_spans_than_sentinels_are_refused():
    with pytest.raises(ConfigError, match=r"2 spans need as many sentinels, the vocabulary has 1"):
        corrupt_spans(np.arange(5), np.array([0, 1, 0, 1, 0], dtype=bool), np.array([9]))


@pytest.mark.slow
def test_every_way_to_cut_noise_into_spans_is_as_likely():
    """Six noise tokens in two spans: five ways, each a fifth."""
    firsts = [int(np.argmin(noise_mask(40, generator_of(key))[np.argmax(noise_mask(40, generator_of(key))) :])) for key in range(2000)]
    counts = np.bincount(firsts, minlength=6)[1:6]
    assert counts.sum() == 2000
    assert (np.abs(counts - 400) < 5 * np.sqrt(400 * 0.8)).all()
