import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from touchstone.errors import ConfigError
from touchstone.models import decoder_spec, describe, recurrent_spec
from touchstone.models.describe import parts
from touchstone.nn.position import LinearScaling, RotaryPositions

SIZES = {"vocab_size": 1100, "d_model": 12, "n_layers": 3, "n_heads": 4, "max_seq_len": 90, "d_head": 4}


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(["rotary", "learned", "sinusoidal", "alibi", "none"]),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["pre", "post", "inner"]),
    st.integers(1, 200),
    st.lists(st.one_of(st.none(), st.integers(1, 50)), min_size=3, max_size=3),
)
def test_the_parts_add_up_to_the_whole(positions, gated, tied, place, context, windows):
    spec = decoder_spec(**SIZES, positions=positions, gated=gated, tied=tied, norm_place=place, windows=windows, qk_norm=gated, bias=tied)
    rows = parts(spec, context=context)
    assert sum(part.n_parameters for part in rows) == spec.n_parameters()
    assert sum(part.flops_per_token for part in rows) == spec.flops_per_token(context)


@pytest.mark.parametrize("tied", [False, True])
def test_the_parts_of_a_recurrent_model_add_up(tied):
    spec = recurrent_spec(vocab_size=11, d_model=7, d_hidden=7, n_layers=2, tied=tied)
    assert sum(part.n_parameters for part in parts(spec)) == spec.n_parameters()
    assert sum(part.flops_per_token for part in parts(spec)) == spec.flops_per_token(1)


PRE = """\
  ┌── × 3 ────────
  │ ├─────────╮
  │ norm1     │  rms, eps 1e-05
  │ attn      │  4 heads of 4, 2 key-value, rotary, theta 10,000
  │ + ◀───────╯
  │ ├─────────╮
  │ norm2     │  rms, eps 1e-05
  │ mlp       │  → 32 →, silu(gate) · up
  │ + ◀───────╯
  └────────────────
"""
POST = """\
  ┌── × 3 ────────
  │ ├─────────╮
  │ attn      │  4 heads of 4, ALiBi
  │ + ◀───────╯
  │ norm1        layer, eps 1e-05
  │ ├─────────╮
  │ mlp       │  → 48 →, relu2
  │ + ◀───────╯
  │ norm2        layer, eps 1e-05
  └────────────────
"""
INNER = """\
  ┌── × 3 ────────
  │ ├─────────╮
  │ attn      │  4 heads of 4
  │ norm1     │  rms, eps 1e-05
  │ + ◀───────╯
  │ ├─────────╮
  │ mlp       │  → 32 →, silu(gate) · up
  │ norm2     │  rms, eps 1e-05
  │ + ◀───────╯
  └────────────────
"""


@pytest.mark.parametrize(
    ("drawing", "settings"),
    [
        (PRE, {"n_kv_heads": 2}),
        (POST, {"norm_place": "post", "positions": "alibi", "norm": "layer", "activation": "relu2", "gated": False}),
        (INNER, {"norm_place": "inner", "positions": "none"}),
    ],
    ids=["pre", "post", "inner"],
)
def test_a_block_is_drawn_with_its_norms_where_they_are(drawing, settings):
    """A norm stands inside the residual line or outside it as the formula of its place says."""
    assert drawing in describe(decoder_spec(**SIZES, **settings))


def test_blocks_that_differ_are_drawn_once_each_and_their_order_is_said():
    text = describe(decoder_spec(**{**SIZES, "n_layers": 6}, windows=[8, 8, None, 8, 8, None]))
    assert "  layers          A×2 B A×2 B\n" in text
    assert text.count("┌── ") == 2
    assert text.count("window 8") == 1


def test_everything_that_is_set_is_shown():
    spec = decoder_spec(**SIZES, positions="learned", dropout=0.25, bias=True, qk_norm=True, norm_place="post", tied=False)
    block = spec.stack.blocks[0]
    position = RotaryPositions(max_seq_len=90, d_rotary=2, scaling=LinearScaling(factor=2.0))
    block = block.replace(attn=block.attn.replace(scale=0.5, window=9, position=position), mlp=block.mlp.replace(dropout=0.125))
    spec = spec.replace(
        decoder=spec.stack.replace(blocks=[block], input_norm=block.norm),
        embed=spec.embed.replace(scale=3.0),
        head=spec.head.replace(scale=0.75, bias=True),
    )
    text = describe(spec)
    shown = ["1,100 × 12, × 3", "learned, 90", "input_norm", "rotary on 2, theta 10,000, linear scaling", "window 9", "q/k norm rms"]
    shown += ["bias on qkv and o", "scale 0.5", "dropout 0.25 on the weights", "dropout 0.25 before the +", "dropout         0.25"]
    shown += ["silu(gate) · up, bias, dropout 0.125", "12 → 1,100 + bias, × 0.75"]
    for words in shown:
        assert words in text, words


def test_the_head_of_a_tied_model_says_whose_weight_it_uses():
    assert "lm_head         the weight of embed" in describe(decoder_spec(**SIZES))


def test_sizes_are_those_of_the_weights_and_the_cache():
    """Three layers of two key-value heads of 4, keys and values, four bytes: 192 a token; 2000 tokens are 375 KiB."""
    spec = decoder_spec(**SIZES, n_kv_heads=2)
    text = describe(spec, context=2000)
    assert "cache: 192 bytes a token in fp32, 375.0 KiB a row of 2,000 tokens; half in bf16" in text
    assert f"weights: {4 * spec.n_parameters() / 1024:,.1f} KiB in fp32, {2 * spec.n_parameters() / 1024:,.1f} KiB in bf16" in text
    assert f"{spec.n_parameters():,}" in text
    assert f"a training token (forward and backward): {3 * spec.flops_per_token(2000) / 1e6:,.2f} M FLOPs" in text


def test_a_recurrent_model_has_a_state_and_no_cache():
    text = describe(recurrent_spec(vocab_size=11, d_model=5, d_hidden=7, n_layers=2, dropout=0.25))
    assert "layers.0        lstm 5 → 7, dropout 0.25\n  layers.1        lstm 7 → 7, dropout 0.25\n" in text
    assert "state: 112 bytes a row in fp32, whatever its length" in text  # hidden and cell, two layers, seven wide
    assert "cache" not in text


def test_the_model_s_own_length_is_the_context_unless_one_is_given():
    spec = decoder_spec(**SIZES)
    assert describe(spec) == describe(spec, context=90) != describe(spec, context=91)
    with pytest.raises(ConfigError, match=r"`context` \(0\)"):
        describe(spec, context=0)


def test_no_line_ends_in_a_space():
    for spec in (decoder_spec(**SIZES), recurrent_spec(vocab_size=11, d_model=5, d_hidden=7)):
        assert all(line == line.rstrip() for line in describe(spec).splitlines())
