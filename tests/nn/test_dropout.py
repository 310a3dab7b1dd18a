import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from touchstone.nn.dropout import Dropout, Noise, number_dropouts

B, T, D = 3, 5, 12
KEYS = st.integers(-(2**63), 2**63 - 1)


def noise(*keys):
    return Noise(torch.tensor(keys))


def chance(n, p):
    """Five standard deviations of a share of n draws: about one false alarm in two million."""
    return 5 * math.sqrt(p * (1 - p) / n)


@settings(deadline=None, max_examples=30)
@given(KEYS, st.integers(0, 40), st.sampled_from([0.1, 0.5, 0.9]))
def test_the_share_dropped_is_near_p_for_any_key_and_site(key, site, p):
    drop = Dropout(p)
    drop.site = site
    dropped = ~drop.kept(torch.Size([1, 64, 128]), noise(key))
    assert dropped.double().mean().item() == pytest.approx(p, abs=chance(64 * 128, p))


@settings(deadline=None, max_examples=20)
@given(KEYS, st.sampled_from([0.1, 0.5, 0.9]))
def test_the_expected_value_is_kept(key, p):
    """Over many keys the mean of each value is the value; its deviation is |x| sqrt(p / (1 - p) / n)."""
    n, x = 4096, torch.linspace(-2, 2, 7, dtype=torch.float64)
    keys = key ^ torch.arange(n)
    mean = Dropout(p)(x.expand(n, -1), Noise(keys)).mean(0)
    assert bool(((mean - x).abs() <= 5 * x.abs() * math.sqrt(p / (1 - p) / n)).all())


def test_what_is_kept_is_scaled_and_what_is_dropped_is_zero():
    drop, x = Dropout(0.25), torch.randn(B, T, D, dtype=torch.float64)
    kept = drop.kept(x.shape, noise(1, 2, 3))
    torch.testing.assert_close(drop(x, noise(1, 2, 3)), torch.where(kept, x / 0.75, 0.0))


def test_a_row_drops_the_same_in_any_batch_and_with_more_padding():
    drop = Dropout(0.5)
    batch = drop.kept(torch.Size([3, 7, D]), noise(11, 22, 33))
    alone = drop.kept(torch.Size([1, T, D]), noise(22))
    assert torch.equal(batch[1:2, :T], alone)


def agreement(a, b):
    return (a == b).double().mean().item()


@pytest.mark.parametrize("other", [2, 1 + 2**32, 2**32, -1], ids=["next", "high half", "halves swapped", "negative"])
def test_rows_of_different_keys_drop_independently(other):
    drop, size = Dropout(0.5), torch.Size([1, 64, 128])
    same = agreement(drop.kept(size, noise(1)), drop.kept(size, noise(other)))
    assert same == pytest.approx(0.5, abs=chance(64 * 128, 0.5))


def test_two_sites_drop_independently():
    first, second = Dropout(0.5), Dropout(0.5)
    number_dropouts(torch.nn.Sequential(first, torch.nn.Sequential(torch.nn.Identity(), second)))
    size = torch.Size([1, 64, 128])
    assert (first.site, second.site) == (0, 1)
    same = agreement(first.kept(size, noise(1)), second.kept(size, noise(1)))
    assert same == pytest.approx(0.5, abs=chance(64 * 128, 0.5))


@pytest.mark.parametrize("shift", [(0, 1), (1, 0), (1, 1), (2, 3)])
def test_neighbouring_places_drop_independently(shift):
    kept = Dropout(0.5).kept(torch.Size([1, 64, 128]), noise(7))[0]
    same = agreement(kept, kept.roll(shift, dims=(0, 1)))
    assert same == pytest.approx(0.5, abs=chance(64 * 128, 0.5))


def test_attention_weights_have_three_places_that_count():
    kept = Dropout(0.5).kept(torch.Size([1, 8, 32, 32]), noise(7))[0]
    for dim in range(3):
        assert agreement(kept, kept.roll(1, dims=dim)) == pytest.approx(0.5, abs=chance(8 * 32 * 32, 0.5))


@pytest.mark.parametrize("keyed", [None, noise(1, 2, 3)], ids=["generator", "keys"])
def test_nothing_is_dropped_out_of_training_or_at_p_zero(keyed):
    x = torch.randn(B, T, D)
    assert Dropout(0.5).eval()(x, keyed) is x
    assert Dropout(0.0)(x, keyed) is x


def test_without_keys_the_generator_draws():
    x = torch.ones(B, T, D)
    torch.manual_seed(5)
    first = Dropout(0.5)(x)
    torch.manual_seed(5)
    assert torch.equal(Dropout(0.5)(x), first)
    assert not torch.equal(Dropout(0.5)(x), first)


def test_the_gradient_passes_where_the_value_passed():
    drop, x = Dropout(0.5), torch.randn(B, T, D, requires_grad=True)
    drop(x, noise(1, 2, 3)).sum().backward()
    assert torch.equal(x.grad, drop.kept(x.shape, noise(1, 2, 3)) / 0.5)
