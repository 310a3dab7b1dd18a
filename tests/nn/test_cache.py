import pytest
import torch

from touchstone.errors import ShapeError, Unsupported
from touchstone.nn.cache import GrowingLayer, GrowingState, RecurrentState, StaticLayer, StaticState
from touchstone.nn.mask import NO_ORDER

B, G, K = 3, 2, 4
ORDER = torch.tensor([[0, 1, 2], [NO_ORDER, 0, 1], [0, NO_ORDER, NO_ORDER]])


def growing(n_layers=2):
    return GrowingState([GrowingLayer(*torch.zeros(2, B, G, 0, K)) for _ in range(n_layers)], torch.zeros(B, dtype=torch.long))


def static(capacity=5, n_layers=2):
    return StaticState([StaticLayer(*torch.zeros(2, B, G, capacity + 1, K)) for _ in range(n_layers)], torch.zeros(B, dtype=torch.long))


def push(state, order, k):
    """One forward pass as a stack makes it; what the last layer lets the queries see."""
    place = state.begin(order)
    seen = [layer.append(k + number, -k - number, place) for number, layer in enumerate(state.layers)]
    state.commit(order, place)
    return place, seen[-1]


def new_keys(n_tokens):
    return torch.randn(B, G, n_tokens, K)


@pytest.mark.parametrize("make", [growing, static])
def test_lengths_count_the_tokens_that_count(make):
    state = make()
    push(state, ORDER, new_keys(3))
    assert state.lengths.tolist() == [3, 2, 1]
    push(state, torch.tensor([[3], [NO_ORDER], [1]]), new_keys(1))
    assert state.lengths.tolist() == [4, 2, 2]


@pytest.mark.parametrize("make", [growing, static])
def test_queries_meet_every_token_under_its_order(make):
    state, k = make(), new_keys(3)
    place, (keys, values) = push(state, ORDER, k)
    for row, order in enumerate(ORDER.tolist()):
        for token, number in enumerate(order):
            if number != NO_ORDER:
                slot = place.key_order[row].tolist().index(number)
                assert torch.equal(keys[row, :, slot], k[row, :, token] + 1)
                assert torch.equal(values[row, :, slot], -k[row, :, token] - 1)


def test_a_static_row_lies_without_gaps():
    place, _ = push(static(), ORDER, new_keys(3))
    assert place.key_order.tolist() == [[0, 1, 2], [0, 1, NO_ORDER], [0, NO_ORDER, NO_ORDER]]


def test_a_static_cache_shows_one_slot_at_least():
    state = static()
    place = state.begin(torch.full((B, 2), NO_ORDER))
    assert place.key_order.shape == (B, 1)


def test_a_full_static_cache_says_so():
    state = static(capacity=2)
    with pytest.raises(ShapeError, match=r"3 tokens do not fit a static cache of 2; .*`max_seq_len`"):
        state.begin(ORDER)


@pytest.mark.parametrize("make", [growing, static])
@pytest.mark.parametrize("lengths", [[4, 0, 0], [0, -1, 0], [1, 1]])
def test_trim_refuses_lengths_that_are_not_there(make, lengths):
    state = make()
    push(state, ORDER, new_keys(3))
    with pytest.raises(ShapeError, match=r"from 0 to \[3, 2, 1\], not \["):
        state.trim(torch.tensor(lengths))


@pytest.mark.parametrize("make", [growing, static])
def test_a_trimmed_token_is_seen_no_more(make):
    state = make()
    push(state, ORDER, new_keys(3))
    state.trim(torch.tensor([1, 0, 1]))
    place = state.begin(torch.tensor([[1], [0], [1]]))
    assert [sorted(n for n in row if n != NO_ORDER) for row in place.key_order.tolist()] == [[0, 1], [0], [0, 1]]


def test_a_growing_cache_gives_trimmed_slots_back():
    state = growing()
    push(state, ORDER, new_keys(3))
    state.trim(torch.zeros(B, dtype=torch.long))
    assert state.nbytes == 0


@pytest.mark.parametrize("make", [growing, static])
def test_reorder_takes_as_many_rows_as_there_are(make):
    with pytest.raises(ShapeError, match="one row index for each of the 3 rows, not 2; use `keep`"):
        make().reorder(torch.tensor([0, 1]))


def test_a_recurrent_state_refuses_to_forget():
    state = RecurrentState([torch.zeros(2, B, 4)], torch.zeros(B, dtype=torch.long))
    assert not state.can_trim
    with pytest.raises(Unsupported, match="`snapshot`"):
        state.trim(torch.zeros(B, dtype=torch.long))
    with pytest.raises(ShapeError, match="use `keep`"):
        state.reorder(torch.tensor([0]))


def test_bytes_are_those_of_keys_and_values_unrepeated():
    state = growing()
    push(state, ORDER, new_keys(3))
    assert state.nbytes == 2 * 2 * B * G * 3 * K * 4  # layers, keys and values, … , fp32
    assert static(capacity=5).nbytes == 2 * 2 * B * G * 6 * K * 4
    assert RecurrentState([torch.zeros(2, B, 5), torch.zeros(2, B, 5)], torch.zeros(B, dtype=torch.long)).nbytes == 2 * 2 * B * 5 * 4


@pytest.mark.parametrize("make", [growing, static])
def test_a_snapshot_is_untouched_by_what_comes_after(make):
    state = make()
    push(state, ORDER, new_keys(3))
    snapshot = state.snapshot()
    before = [(layer.k.clone(), layer.v.clone()) for layer in state.layers]
    push(state, torch.tensor([[3], [2], [1]]), new_keys(1))
    state.keep(torch.tensor([2, 0]))
    for _ in range(2):  # restoring twice: the first must not hand the snapshot itself out
        state.restore(snapshot)
        assert state.lengths.tolist() == [3, 2, 1]
        for layer, (k, v) in zip(state.layers, before, strict=True):
            assert torch.equal(layer.k, k)
            assert torch.equal(layer.v, v)
        push(state, torch.tensor([[3], [2], [1]]), new_keys(1))
