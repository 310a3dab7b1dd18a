"""Trivial answers give what their definitions say."""

import math

import pytest

from touchstone.errors import DataError
from touchstone.evaluate.baselines import (
    adaptive_byte_nats,
    byte_ngram,
    commonest_of,
    lead,
    sentence_like,
    sentences_of,
    word_overlap,
)


def one_by_one(text, before=""):
    counts, nats = [0.5] * 256, 0.0
    for byte in before.encode():
        counts[byte] += 1
    for byte in text.encode():
        nats -= math.log(counts[byte] / sum(counts))
        counts[byte] += 1
    return nats


@pytest.mark.parametrize(("text", "before"), [("abracadabra", ""), ("天地玄黄", ""), ("dog", "the dog and the cat"), ("", "x")])
def test_counting_bytes_costs_what_it_costs_step_by_step(text, before):
    assert adaptive_byte_nats(text, before) == pytest.approx(one_by_one(text, before), rel=1e-9, abs=1e-9)


def test_the_byte_ngram_is_a_distribution_over_what_may_come():
    model = byte_ngram(["abab", "abba"], order=2)
    shared = model.nats("ab")
    total = sum(math.exp(shared - model.nats("ab" + chr(byte))) for byte in range(128))
    rest = sum(math.exp(shared - model.nats("ab" + chr(code))) for code in range(0x80, 0x80))
    assert 0.4 < total + rest < 1  # the other half of all bytes, and the start of a text, have the rest
    assert model.nats("ab") < model.nats("zz")


def test_an_ngram_without_text_is_an_error():
    with pytest.raises(DataError, match="training text"):
        byte_ngram(["", ""])


def test_sentences_end_at_their_marks_in_both_languages():
    assert sentences_of("One. Two! Is 3.5 three? Yes") == ["One.", "Two!", "Is 3.5 three?", "Yes"]
    assert sentences_of("天黑了。人来了！什么？") == ["天黑了。", "人来了！", "什么？"]
    assert sentences_of("a\nb") == ["a", "b"]
    assert sentences_of("") == [""]
    assert lead("One. Two. Three.", 2) == "One. Two."


def test_the_likest_sentence_shares_most_words():
    assert (
        sentence_like("who sold the red boat", "Ann has a dog. The red boat was sold by Bob. It rains.") == "The red boat was sold by Bob."
    )


def test_overlap_is_jaccards():
    assert word_overlap("a b c", "b c d e") == pytest.approx(2 / 5)
    assert word_overlap("", "") == 0


def test_the_commonest_label_is_the_first_by_name_of_equals():
    assert commonest_of(["b", "a", "b", "a", "c"]) == "a"
    with pytest.raises(DataError):
        commonest_of([])
