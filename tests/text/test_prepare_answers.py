"""Rows divided without leakage, and a vocabulary that is learned once."""

import itertools
import random

import pytest

from touchstone.errors import DataError
from touchstone.text.labelled import LabelledText
from touchstone.text.prepare import DataConfig, TokenizerConfig
from touchstone.text.prepare_answers import divide, learned_tokenizer
from touchstone.text.tokenizer import Tokenizer


def rows(n=60):
    """Rows of eight words drawn from two hundred, so that no two are alike."""
    rng = random.Random(3)
    words = ["".join(rng.choice("abcdefgh") for _ in range(5)) for _ in range(200)]
    return [LabelledText(" ".join(rng.choices(words, k=8)), str(i % 3), f"a:{i}") for i in range(n)]


DATA = DataConfig(sources=("a",), valid_fraction=0.2, test_fraction=0.1)


def test_every_row_is_on_one_side_in_its_order():
    given = rows()
    sides = divide(given, lambda row: row.text, DATA)
    assert sorted(sides.train + sides.valid + sides.test, key=given.index) == given
    for side in (sides.train, sides.valid, sides.test):
        assert side == sorted(side, key=given.index)
    assert sides.sizes == {"train": len(sides.train), "valid": len(sides.valid), "test": len(sides.test)}
    assert len(sides.valid) == pytest.approx(12, abs=2)
    assert len(sides.test) == pytest.approx(6, abs=1)


def test_rows_with_one_text_stay_together():
    given = [LabelledText(row.text, label, row.place) for row in rows(30) for label in "xyz"]
    sides = divide(given, lambda row: row.text, DATA)
    texts = [{row.text for row in side} for side in (sides.train, sides.valid, sides.test)]
    assert all(not one & other for one, other in itertools.combinations(texts, 2))
    assert sides.n_near_copies == 60


def test_the_sides_do_not_depend_on_the_order_of_the_rows_and_their_hash_does():
    one, other = divide(rows(), lambda row: row.text, DATA), divide(rows()[::-1], lambda row: row.text, DATA)
    assert {row.text for row in one.test} == {row.text for row in other.test}
    assert one.rows_hash != other.rows_hash
    assert divide(rows(), lambda row: row.text, DATA).rows_hash == one.rows_hash


def test_a_given_side_is_taken_as_it_is_and_its_near_copies_are_not_learned_from():
    given = rows(60)
    valid = [*rows(70)[60:], LabelledText(given[7].text, "2", "b:1")]
    sides = divide(given, lambda row: row.text, DATA, valid=valid)
    assert sides.valid == valid
    assert sides.n_left_out == 1
    assert sorted(sides.train + sides.test, key=given.index) == [*given[:7], *given[8:]]
    assert len(sides.test) == pytest.approx(6, abs=1)
    both = divide(given, lambda row: row.text, DATA, valid=valid, test=given[:3])
    assert (both.test, both.train) == (given[:3], [*given[3:7], *given[8:]])
    assert both.rows_hash != sides.rows_hash


def test_too_few_rows_for_the_sides_are_refused():
    with pytest.raises(DataError, match="too little text to split"):
        divide(rows(2), lambda row: row.text, DATA)


def test_a_vocabulary_is_learned_once_for_the_same_texts(tmp_path, monkeypatch):
    texts, settings = [row.text for row in rows()], TokenizerConfig(vocab_size=290)
    first = learned_tokenizer(texts, settings, tmp_path)
    monkeypatch.setattr(Tokenizer, "train", lambda *_, **__: pytest.fail("learned again"))
    assert learned_tokenizer(texts, settings, tmp_path).fingerprint == first.fingerprint
    monkeypatch.undo()
    other = learned_tokenizer(texts, TokenizerConfig(vocab_size=291), tmp_path)
    assert other.vocab_size == 291
