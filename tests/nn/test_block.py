import pytest
import torch

from touchstone.nn.attention import AttentionSpec
from touchstone.nn.block import Block, BlockSpec, build_block
from touchstone.nn.dropout import Noise, number_dropouts
from touchstone.nn.mask import AttentionMask
from touchstone.nn.mlp import MlpSpec
from touchstone.nn.norm import NormSpec
from touchstone.nn.shared import Shared

B, T, D = 3, 5, 12
SHARED = Shared(masks={None: AttentionMask(None, is_causal=True)})


def spec_of(place, **settings):
    attn = AttentionSpec(n_heads=4, n_kv_heads=2, d_head=3)
    return BlockSpec(attn=attn, mlp=MlpSpec(d_ff=7), norm=NormSpec(kind="layer"), norm_place=place, **settings)


def block_of(place, **settings):
    block = build_block(spec_of(place, **settings), D).double()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.5)
    return block


def by_definition(block, place, x):
    attend, mlp, norm1, norm2 = (lambda y: block.attn(y, SHARED)[0]), block.mlp, block.norm1, block.norm2
    if place == "pre":
        x = x + attend(norm1(x))
        return x + mlp(norm2(x))
    if place == "post":
        x = norm1(x + attend(x))
        return norm2(x + mlp(x))
    x = x + norm1(attend(x))
    return x + norm2(mlp(x))


@pytest.mark.parametrize("place", ["pre", "post", "inner"])
def test_a_norm_place_is_its_formula(place):
    block, x = block_of(place), torch.randn(B, T, D, dtype=torch.float64)
    assert type(block) is Block
    torch.testing.assert_close(block(x, SHARED)[0], by_definition(block, place, x))


@pytest.mark.parametrize("place", ["pre", "post", "inner"])
def test_dropout_falls_on_what_a_sublayer_adds_and_not_on_the_stream(place):
    """With the kept values of both sublayers known, the formula holds with each of them multiplied in."""
    block, x = block_of(place, dropout=0.5), torch.randn(B, T, D, dtype=torch.float64)
    number_dropouts(block)
    noise = Noise(torch.arange(B))
    keep1, keep2 = (drop.kept(x.shape, noise) / 0.5 for drop in (block.attn_dropout, block.mlp_dropout))
    shared = Shared(masks=SHARED.masks, noise=noise)
    if place == "pre":
        y = x + block.attn(block.norm1(x), SHARED)[0] * keep1
        expected = y + block.mlp(block.norm2(y)) * keep2
    elif place == "post":
        y = block.norm1(x + block.attn(x, SHARED)[0] * keep1)
        expected = block.norm2(y + block.mlp(y) * keep2)
    else:
        y = x + block.norm1(block.attn(x, SHARED)[0] * keep1)
        expected = y + block.norm2(block.mlp(y) * keep2)
    torch.testing.assert_close(block(x, shared)[0], expected)


@pytest.mark.parametrize("place", ["pre", "post", "inner"])
def test_attention_weights_are_returned_if_asked_for_and_change_nothing(place):
    block, x = block_of(place), torch.randn(B, T, D, dtype=torch.float64)
    out, weights, _ = block(x, SHARED, weights=True)
    plain, nothing, _ = block(x, SHARED)
    assert weights is not None
    assert weights.shape == (B, 4, T, T)
    assert nothing is None
    torch.testing.assert_close(out, plain)


def test_what_the_attention_adds_may_have_a_share_of_its_own():
    block = block_of("post", dropout=0.5, attn_dropout=0.0)
    assert (block.attn_dropout.p, block.mlp_dropout.p) == (0.0, 0.5)
    assert block_of("post", dropout=0.5).attn_dropout.p == 0.5


def test_the_spec_counts_the_parameters_that_are_built():
    spec = spec_of("pre")
    assert sum(p.numel() for p in build_block(spec, D).parameters()) == spec.n_parameters(D)
