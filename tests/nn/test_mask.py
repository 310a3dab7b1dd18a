import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from touchstone.nn.mask import NO_ORDER, AttentionMask, attention_mask, token_order, token_positions

T, F = True, False


def test_the_order_of_a_token_is_how_many_count_before_it():
    mask = torch.tensor([[T, T, T, F], [F, F, T, T], [T, F, T, F], [F, F, F, F]])
    assert token_order(mask).tolist() == [[0, 1, 2, -1], [-1, -1, 0, 1], [0, -1, 1, -1], [-1, -1, -1, -1]]


def test_the_order_goes_on_from_what_the_cache_holds():
    mask = torch.tensor([[T, T], [F, T]])
    assert token_order(mask, torch.tensor([5, 3])).tolist() == [[5, 6], [-1, 3]]


def test_positions_are_the_order_and_zero_where_a_token_does_not_count():
    assert token_positions(torch.tensor([[-1, 0, -1, 1]])).tolist() == [[0, 0, 0, 1]]


def test_positions_start_again_in_each_document():
    order, segments = torch.arange(6)[None], torch.tensor([[4, 4, 4, 9, 9, 2]])
    assert token_positions(order, segments).tolist() == [[0, 1, 2, 0, 1, 0]]


def test_positions_start_again_in_a_document_that_opens_with_padding():
    mask = torch.tensor([[F, T, T, F, T, T, F]])
    segments = torch.tensor([[0, 0, 0, 1, 1, 1, 1]])
    assert token_positions(token_order(mask), segments).tolist() == [[0, 0, 1, 0, 0, 1, 0]]


def test_one_order_serves_rows_with_different_documents():
    segments = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1]])
    assert token_positions(torch.arange(4)[None], segments).tolist() == [[0, 1, 0, 1], [0, 0, 1, 2]]


ROWS = st.integers(1, 6).flatmap(
    lambda n: st.tuples(
        st.lists(st.booleans(), min_size=n, max_size=n),
        st.lists(st.integers(0, 2), min_size=n, max_size=n),
        st.integers(0, n),
    )
)


@pytest.mark.slow
@settings(deadline=None)
@given(ROWS, st.booleans(), st.one_of(st.none(), st.integers(1, 4)))
def test_a_mask_allows_what_the_rules_say(row, causal, window):
    """The last tokens are the queries, as in a cached step; each rule is written out by counting."""
    counts, segments, n_before = row
    n = len(counts)
    order = token_order(torch.tensor([counts]))
    queries = slice(min(n_before, n - 1), n)
    segment_ids = torch.tensor([segments])
    mask = attention_mask(
        order[:, queries],
        order,
        causal=causal,
        window=window,
        query_segments=segment_ids[:, queries],
        key_segments=segment_ids,
    )
    assert mask.allowed is not None
    assert not mask.is_causal
    for query in range(n)[queries]:
        for key in range(n):
            if not counts[query]:
                expected = key == 0
            else:
                between = sum(counts[min(query, key) : max(query, key)])  # tokens that count from one to the other
                expected = counts[key] and segments[query] == segments[key]
                expected = expected and (key <= query or not causal) and (window is None or between < window)
            assert bool(mask.allowed[0, 0, query - queries.start, key]) == expected


@pytest.mark.slow
@settings(deadline=None)
@given(ROWS)
def test_every_query_may_look_somewhere(row):
    order = token_order(torch.tensor([row[0]]))
    segments = torch.tensor([row[1]])
    mask = attention_mask(order, order, causal=True, window=1, query_segments=segments, key_segments=segments)
    assert bool(mask.allowed.any(dim=-1).all())


def test_a_whole_pattern_written_out_is_a_triangle_or_everything():
    assert AttentionMask(None, is_causal=True).dense(3, 3, torch.device("cpu"))[0, 0].tolist() == [[T, F, F], [T, T, F], [T, T, T]]
    assert AttentionMask(None, is_causal=True).dense(1, 3, torch.device("cpu"))[0, 0].tolist() == [[T, T, T]]
    assert bool(AttentionMask(None).dense(2, 3, torch.device("cpu")).all())


def test_no_order_is_below_every_order():
    assert NO_ORDER < 0
