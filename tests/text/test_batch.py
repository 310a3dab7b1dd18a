"""Windows and rows as arrays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from touchstone.errors import ConfigError, DataError
from touchstone.text.batch import PackedWindows, PaddedRows, group_by_token_budget, write_shards
from touchstone.text.document import Document
from touchstone.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([], kind="bytes")


@pytest.fixture(scope="module")
def make_shards(tmp_path_factory, tokenizer):
    def make(lengths, shard_tokens=11):
        rng = np.random.default_rng(len(lengths))
        texts = ["".join(chr(97 + int(code)) for code in rng.integers(0, 26, length)) for length in lengths]
        folder = tmp_path_factory.mktemp("shards")
        return write_shards(folder, [Document(text, "x") for text in texts], tokenizer, shard_tokens=shard_tokens)

    return make


LENGTHS = st.lists(st.integers(0, 12), min_size=1, max_size=8)


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(lengths=LENGTHS, context=st.integers(1, 9), isolate=st.booleans())
def test_windows_equal_a_plain_slicing(make_shards, lengths, context, isolate):
    shards = make_shards(lengths)
    stream = shards.read(0, shards.n_tokens).tolist()
    owners = [number for number, length in enumerate(lengths) for _ in range(length + 1)]
    if len(stream) - 1 < context:
        with pytest.raises(DataError, match="is longer than the data"):
            PackedWindows(shards, context)
        return
    windows = PackedWindows(shards, context, isolate_documents=isolate)
    assert windows.n_examples == len(range(0, len(stream) - 1, context))
    batch = windows.batch(np.arange(windows.n_examples)[::-1])
    assert batch.example_ids.tolist() == list(range(windows.n_examples))[::-1]
    seen = []
    for row, start in enumerate(reversed(range(0, len(stream) - 1, context))):
        for t in range(context):
            place = start + t
            is_there, has_target = place < len(stream), place + 1 < len(stream)
            assert batch.token_ids[row, t] == (stream[place] if is_there else 0)
            assert batch.targets[row, t] == (stream[place + 1] if has_target else 0)
            assert (batch.mask is None or bool(batch.mask[row, t])) == is_there
            scored = has_target and (not isolate or owners[place] == owners[place + 1])
            assert batch.counts[row, t] == scored
            if isolate and is_there:
                assert batch.segments[row, t] == owners[place]
            if scored:
                seen.append(place + 1)
    if isolate:
        starts = {sum(length + 1 for length in lengths[:number]) for number in range(len(lengths))}
        assert sorted(seen) == [place for place in range(1, len(stream)) if place not in starts]
    else:
        assert sorted(seen) == list(range(1, len(stream)))
        assert batch.segments is None


def test_arrays_have_the_types_and_shapes_they_promise(make_shards):
    windows = PackedWindows(make_shards([9, 4, 7]), 5, isolate_documents=True)
    batch = windows.batch([2, 0, 1])
    assert {array.shape for array in (batch.token_ids, batch.targets, batch.counts, batch.segments)} == {(3, 5)}
    assert [array.dtype for array in (batch.token_ids, batch.targets, batch.segments, batch.example_ids)] == [np.int64] * 4
    assert batch.counts.dtype == bool
    assert batch.mask is None
    assert windows.batch([windows.n_examples - 1]).mask is not None


def test_windows_know_what_they_depend_on(make_shards):
    shards, other = make_shards([9, 4]), make_shards([9, 5, 1])
    prints = {
        PackedWindows(shards, 3).fingerprint,
        PackedWindows(shards, 4).fingerprint,
        PackedWindows(shards, 3, isolate_documents=True).fingerprint,
        PackedWindows(other, 3).fingerprint,
    }
    assert len(prints) == 4
    assert PackedWindows(shards, 3).fingerprint in prints


def test_a_context_longer_than_the_data_names_the_longest(make_shards):
    with pytest.raises(DataError, match=r"`context` \(64\) is longer than the data: 15 tokens .* at most 14"):
        PackedWindows(make_shards([9, 4]), 64)


@pytest.mark.parametrize("ids", [[-1], [99], [], [[0]]])
def test_examples_that_are_not_there_are_refused(make_shards, ids):
    for examples in (PackedWindows(make_shards([9, 4]), 3), PaddedRows([[1, 2]])):
        with pytest.raises(ConfigError, match="example ids"):
            examples.batch(ids)


def test_rows_are_padded_to_the_longest_of_their_batch():
    rows = PaddedRows([[5, 6, 7], [8, 9], [1, 2, 3, 4]], pad_id=11, counts=[[0, 1, 1], [1, 0], [1, 1, 0, 1]])
    batch = rows.batch([1, 0])
    assert batch.token_ids.tolist() == [[8, 11], [5, 6]]
    assert batch.targets.tolist() == [[9, 11], [6, 7]]
    assert batch.counts.tolist() == [[False, False], [True, True]]
    assert batch.mask.tolist() == [[True, False], [True, True]]
    assert batch.example_ids.tolist() == [1, 0]
    whole = rows.batch([2])
    assert whole.mask is None
    assert whole.counts.tolist() == [[True, False, True]]
    assert rows.lengths.tolist() == [2, 1, 3]


def test_rows_know_what_they_depend_on():
    prints = {
        PaddedRows([[1, 2], [3, 4]]).fingerprint,
        PaddedRows([[1, 2], [3, 5]]).fingerprint,
        PaddedRows([[1, 2], [3, 4]], pad_id=1).fingerprint,
        PaddedRows([[1, 2], [3, 4]], counts=[[1, 1], [1, 0]]).fingerprint,
    }
    assert len(prints) == 4


@pytest.mark.parametrize(("rows", "counts"), [([], None), ([[1]], None), ([[1, 2]], [[True]])])
def test_rows_without_a_target_are_refused(rows, counts):
    with pytest.raises(DataError):
        PaddedRows(rows, counts=counts)


@pytest.mark.slow
@given(lengths=st.lists(st.integers(0, 30), max_size=40), budget=st.integers(30, 100))
def test_groups_hold_every_row_once_within_the_budget_longest_first(lengths, budget):
    groups = group_by_token_budget(lengths, budget)
    assert sorted(row for group in groups for row in group.tolist()) == list(range(len(lengths)))
    longest = [max(lengths[row] for row in group) for group in groups]
    assert longest == sorted(longest, reverse=True)
    assert all(length * len(group) <= budget for length, group in zip(longest, groups, strict=True))


def test_groups_are_as_large_as_the_budget_allows():
    assert [group.tolist() for group in group_by_token_budget([3, 10, 5, 5, 4], 12)] == [[1], [2, 3], [4, 0]]


def test_a_row_over_the_budget_is_named():
    with pytest.raises(ConfigError, match="row 1 has 40 tokens, `max_tokens` is 30"):
        group_by_token_budget([3, 40, 5], 30)
