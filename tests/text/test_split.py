"""Sides without leakage, blocks of long texts, and mixtures."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from touchstone.errors import ConfigError, DataError
from touchstone.text.document import Document
from touchstone.text.split import SIDES, Mixture, assign_sides, block_chars, cut_blocks, cut_long, split_documents


def document(seed, n_words=60, prefix=""):
    rng = random.Random(seed)
    return Document(prefix + " ".join("".join(rng.choices("abcdefghijklm", k=6)) for _ in range(n_words)), f"{seed}.txt")


@pytest.fixture
def documents():
    """60 documents; each of the first 20 has a near-copy."""
    originals = [document(seed, 40 + seed) for seed in range(40)]
    copies = [Document(original.text + f" and {place}", f"copy{place}.txt") for place, original in enumerate(originals[:20])]
    return originals + copies


def sides_of(splits):
    return {document.source: side for side in SIDES for document in getattr(splits, side)}


def test_no_group_is_on_two_sides_and_nothing_is_lost(documents):
    splits = split_documents(documents, 0.15, 0.2)
    side = sides_of(splits)
    assert len(side) == len(documents)
    for place in range(20):
        assert side[f"{place}.txt"] == side[f"copy{place}.txt"]
    numbers = [set(splits.groups[name].tolist()) for name in SIDES]
    assert sum(map(len, numbers)) == len(set.union(*numbers))
    assert [len(splits.groups[name]) for name in SIDES] == [len(splits.train), len(splits.valid), len(splits.test)]
    assert splits.n_near_copies == 20


def test_fractions_of_the_bytes_are_met_within_a_tenth(documents):
    many = [document(seed, 30 + seed % 50) for seed in range(400)]
    splits = split_documents(many, 0.1, 0.2)
    total = sum(one.n_bytes for one in many)
    assert sum(one.n_bytes for one in splits.valid) / total == pytest.approx(0.1, rel=0.1)
    assert sum(one.n_bytes for one in splits.test) / total == pytest.approx(0.2, rel=0.1)


def test_sides_depend_on_content_and_seed_not_on_order_or_names(documents):
    before = {one.text: None for one in documents}
    for side in SIDES:
        for one in getattr(split_documents(documents, 0.1, 0.1), side):
            before[one.text] = side
    renamed = [Document(one.text, f"other/{place}", 3) for place, one in enumerate(reversed(documents))]
    after = split_documents(renamed, 0.1, 0.1)
    assert all(before[one.text] == side for side in SIDES for one in getattr(after, side))
    assert sides_of(split_documents(documents, 0.1, 0.1, seed=1)) != sides_of(split_documents(documents, 0.1, 0.1))


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 1000), min_size=3, max_size=25),
    valid=st.floats(0.01, 0.4),
    test=st.floats(0.01, 0.4),
    seed=st.integers(0, 99),
)
def test_no_side_is_empty_while_there_are_three_groups(sizes, valid, test, seed):
    keys = [bytes([place]) * 32 for place in range(len(sizes))]
    sides = assign_sides(np.arange(len(sizes)), np.array(sizes), keys, valid_fraction=valid, test_fraction=test, seed=seed)
    assert set(sides.tolist()) == {0, 1, 2}


def test_a_fraction_of_nothing_leaves_the_side_empty(documents):
    splits = split_documents(documents, 0.0, 0.2)
    assert not splits.valid
    assert splits.test


def test_too_few_independent_documents_are_refused():
    with pytest.raises(DataError, match="too little text to split: 5 documents in 1 groups of near-copies, 3 groups are needed"):
        split_documents([document(1)] * 5, 0.1, 0.1)


@pytest.mark.parametrize(("valid", "test"), [(0.5, 0.5), (-0.1, 0.1), (0.1, 1.0)])
def test_fractions_that_leave_nothing_to_learn_from_are_refused(documents, valid, test):
    with pytest.raises(ConfigError, match="valid_fraction"):
        split_documents(documents, valid, test)


@settings(deadline=None)
@given(text=st.text(alphabet="ab \n", max_size=400), target=st.integers(1, 60), line=st.sampled_from([None, 1, 7]))
def test_blocks_join_to_the_text_and_know_their_lines(text, target, line):
    blocks = cut_blocks(Document(text, "x", line, {"title": "t"}), target)
    assert "".join(block.text for block in blocks) == text
    assert all(len(block.text) <= target * 1.5 + 1 for block in blocks)
    assert {(block.source, block.fields["title"]) for block in blocks} == {("x", "t")}
    if len(blocks) > 1:
        place = 0
        for block in blocks:
            assert block.line == (line or 1) + text.count("\n", 0, place)
            place += len(block.text)


def test_blocks_are_cut_at_blank_lines_where_there_are_some():
    text = "\n\n".join("line one\nline two" for _ in range(30))
    blocks = cut_blocks(Document(text, "x"), 60)
    assert all(block.text.endswith("line two\n\n") for block in blocks[:-1])


def test_only_documents_longer_than_a_side_are_cut():
    short, long = document(1, 100), document(2, 20_000)
    longest, target = block_chars(len(short.text) + len(long.text), 0.05, 0.1)
    assert longest == int(0.05 * (len(short.text) + len(long.text)))
    blocks = list(cut_long([short, long], longest, target))
    assert blocks[0] is short
    assert len(blocks) > 100
    assert "".join(block.text for block in blocks[1:]) == long.text


def test_text_too_short_for_a_block_on_each_side_is_refused_with_what_is_needed():
    with pytest.raises(DataError, match="too little text to split: 900 characters, at least 3072 are needed"):
        block_chars(900, 0.05, 0.05)
    assert block_chars(900, 0, 0) == (901, 901)


def test_a_mixture_keeps_its_shares_and_uses_each_example_once_before_any_twice():
    mixture = Mixture({"a": 13, "b": 300}, {"a": 1, "b": 3}, seed=5, period=20)
    picks = mixture.at(np.arange(400))
    a, b = picks.examples[picks.sources == 0], picks.examples[picks.sources == 1]
    assert (len(a), len(b)) == (100, 300)
    assert sorted(b.tolist()) == list(range(300))
    for epoch in range(7):
        assert sorted(a[epoch * 13 : (epoch + 1) * 13].tolist()) == list(range(13))
    for start in range(0, 400, 20):
        assert np.bincount(picks.sources[start : start + 20]).tolist() == [5, 15]


def test_a_mixture_is_a_pure_function_of_seed_and_index():
    sizes, weights = {"a": 50, "b": 7, "c": 20}, {"a": 0.7, "b": 0.1, "c": 0.2}
    whole = Mixture(sizes, weights, seed=1).at(np.arange(3000))
    some = Mixture(sizes, weights, seed=1).at(np.array([2999, 5, 1700]))
    assert some.sources.tolist() == whole.sources[[2999, 5, 1700]].tolist()
    assert some.examples.tolist() == whole.examples[[2999, 5, 1700]].tolist()
    assert np.any(Mixture(sizes, weights, seed=2).at(np.arange(3000)).sources != whole.sources)


@pytest.mark.slow
@given(weights=st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=9), period=st.integers(9, 50))
def test_quotas_fill_the_period_and_leave_no_source_out(weights, period):
    names = [str(place) for place in range(len(weights))]
    quotas = Mixture(dict.fromkeys(names, 3), dict(zip(names, weights, strict=True)), period=period).quotas
    assert quotas.sum() == period
    assert quotas.min() >= 1


@pytest.mark.parametrize(
    ("sizes", "weights"),
    [({"a": 1}, {"b": 1.0}), ({}, {}), ({"a": 0}, {"a": 1.0}), ({"a": 1}, {"a": 0.0}), ({"a": 1}, {"a": float("nan")})],
)
def test_a_mixture_that_makes_no_sense_is_refused(sizes, weights):
    with pytest.raises(ConfigError):
        Mixture(sizes, weights)
