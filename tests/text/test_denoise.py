"""BART's noises: their shares, and that only what is hidden or left out is gone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchstone.text.corrupt import generator_of
from touchstone.text.denoise import Noises, add_noise, drop_tokens, infill, rotate, shuffle_sentences

MASK = 999
KEYS = st.integers(-(2**63), 2**63 - 1)
LENGTHS = st.integers(1, 80)
SHARES = st.floats(0.0, 1.0)


@given(length=LENGTHS, key=KEYS, share=SHARES, mean_span=st.floats(0.5, 6.0))
def test_as_many_tokens_are_hidden_as_the_share_says_and_the_rest_keep_their_order(length, key, share, mean_span):
    text = np.arange(length)
    noised = infill(text, generator_of(key), mask_id=MASK, share=share, mean_span=mean_span)
    kept = noised[noised != MASK]
    assert length - kept.size == int(np.ceil(length * share))
    assert (np.diff(kept) > 0).all()
    assert noised.size <= length


@given(length=st.integers(30, 80), key=KEYS)
def test_each_span_has_one_mask_where_it_was(length, key):
    text = np.arange(length)
    noised = infill(text, generator_of(key), mask_id=MASK, share=0.2).tolist()
    around = [-1, *noised, length]
    for before, token, after in zip(around, around[1:], around[2:], strict=False):
        if token == MASK:
            assert MASK not in (before, after)  # spans do not touch
        elif MASK not in (before, after):
            assert token == before + 1 or before == -1  # nothing is gone where there is no mask
    gone = [after - before > 1 for before, token, after in zip(around, around[1:], around[2:], strict=False) if token == MASK]
    assert sum(gone) >= 1


def test_spans_have_the_lengths_of_a_poisson_distribution_nothing_included():
    lengths = []
    for key in range(400):
        noised = [-1, *infill(np.arange(400), generator_of(key), mask_id=MASK).tolist(), 400]
        lengths += [after - before - 1 for before, token, after in zip(noised, noised[1:], noised[2:], strict=False) if token == MASK]
    counts = np.bincount(lengths)
    n = counts.sum()
    assert np.mean(lengths) == pytest.approx(3.0, abs=0.1)  # the last span of a text is cut, which takes away a little
    assert counts[0] / n == pytest.approx(np.exp(-3), abs=0.01)
    assert counts[3] / n == pytest.approx(np.exp(-3) * 27 / 6, abs=0.02)


@pytest.mark.slow
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=8), key=KEYS)
def test_sentences_change_places_whole(lengths, key):
    text = np.arange(sum(lengths))
    ends = np.zeros(text.size, dtype=bool)
    ends[np.cumsum(lengths) - 1] = True
    shuffled = shuffle_sentences(text, generator_of(key), ends).tolist()
    sentences = [part.tolist() for part in np.split(text, np.cumsum(lengths)[:-1])]
    found = []
    while shuffled:
        sentence = next(s for s in sentences if s[0] == shuffled[0])
        assert shuffled[: len(sentence)] == sentence
        found.append(sentence)
        shuffled = shuffled[len(sentence) :]
    assert sorted(found) == sentences


def test_every_order_of_three_sentences_is_as_likely():
    text, ends = np.arange(3), np.ones(3, dtype=bool)
    orders = [tuple(shuffle_sentences(text, generator_of(key), ends).tolist()) for key in range(3000)]
    counts = np.array([orders.count(order) for order in set(orders)])
    assert len(counts) == 6
    assert (np.abs(counts - 500) < 5 * np.sqrt(500)).all()


@given(length=LENGTHS, key=KEYS, share=SHARES)
def test_left_out_tokens_leave_no_trace(length, key, share):
    kept = drop_tokens(np.arange(length), generator_of(key), share)
    assert kept.size == length - round(length * share)
    assert (np.diff(kept) > 0).all()


@pytest.mark.slow
@given(length=LENGTHS, key=KEYS)
def test_a_rotated_text_goes_round(length, key):
    turned = rotate(np.arange(length), generator_of(key))
    assert np.array_equal(np.roll(turned, int(turned[0])), np.arange(length))


def test_shares_of_nothing_change_nothing():
    text = np.arange(20)
    none = Noises(mask_share=0, shuffle_share=0, drop_share=0, rotate_share=0)
    assert np.array_equal(add_noise(text, generator_of(3), none, mask_id=MASK, ends_sentence=np.ones(20, dtype=bool)), text)


@pytest.mark.parametrize("field", ["shuffle_share", "rotate_share"])
def test_a_share_of_the_texts_is_put_in_another_order(field):
    text, ends = np.arange(30), np.arange(30) % 3 == 2
    quiet = {"mask_share": 0.0, "shuffle_share": 0.0, "drop_share": 0.0, "rotate_share": 0.0}
    changed = [
        not np.array_equal(add_noise(text, generator_of(key), Noises(**quiet | {field: 0.25}), mask_id=MASK, ends_sentence=ends), text)
        for key in range(2000)
    ]
    assert np.mean(changed) == pytest.approx(0.25, abs=0.05)


def test_masks_are_never_left_out():
    noises = Noises(mask_share=0.5, mean_span=1.0, drop_share=0.5, shuffle_share=0.0)
    noised = add_noise(np.arange(40), generator_of(5), noises, mask_id=MASK, ends_sentence=np.zeros(40, dtype=bool))
    assert (noised != MASK).sum() == 10  # 20 left out, half of the rest hidden
