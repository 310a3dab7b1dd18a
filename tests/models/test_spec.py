import inspect
import json

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from touchstone.config import load, parse, to_yaml
from touchstone.errors import ConfigError, UnknownName
from touchstone.models import EmbedSpec, LmHead, ModelSpec, RecurrentStack, Stack, decoder_spec, recurrent_spec
from touchstone.nn.attention import AttentionSpec
from touchstone.nn.block import BlockSpec
from touchstone.nn.mlp import MlpSpec
from touchstone.nn.norm import NormSpec
from touchstone.nn.position import LearnedPositions, LinearScaling, Llama3Scaling, RotaryPositions, YarnScaling
from touchstone.nn.recurrent import RecurrentSpec

SMALL = {"vocab_size": 11, "d_model": 12, "n_layers": 3, "n_heads": 4, "max_seq_len": 9}
BLOCK = BlockSpec(attn=AttentionSpec(n_heads=2, n_kv_heads=1, d_head=3), mlp=MlpSpec(d_ff=7))

SCALINGS = st.one_of(
    st.none(),
    st.builds(LinearScaling, factor=st.floats(0.5, 8)),
    st.builds(
        Llama3Scaling,
        factor=st.floats(1, 8),
        low_freq_factor=st.just(1.0),
        high_freq_factor=st.floats(2, 8),
        original_max_seq_len=st.just(64),
    ),
    st.builds(YarnScaling, factor=st.floats(1, 8), original_max_seq_len=st.just(64), truncate=st.booleans()),
)
BLOCKS = st.builds(
    BlockSpec,
    attn=st.builds(
        AttentionSpec,
        n_heads=st.just(4),
        n_kv_heads=st.sampled_from([1, 2, 4]),
        d_head=st.just(6),
        position=st.one_of(
            st.none(), st.builds(RotaryPositions, theta=st.floats(2, 1e6), max_seq_len=st.integers(1, 99), scaling=SCALINGS)
        ),
        window=st.one_of(st.none(), st.integers(1, 9)),
        qk_norm=st.one_of(st.none(), st.just(NormSpec(norm_eps=1e-6))),
        scale=st.one_of(st.none(), st.floats(0.1, 2)),
    ),
    mlp=st.builds(MlpSpec, d_ff=st.integers(1, 9), gated=st.booleans(), activation=st.sampled_from(["relu2", "silu"])),
    norm_place=st.sampled_from(["pre", "post", "inner"]),
    dropout=st.floats(0, 0.9),
)
SPECS = st.builds(
    ModelSpec,
    embed=st.builds(EmbedSpec, vocab_size=st.integers(1, 99), d_model=st.integers(1, 9), scale=st.floats(0.5, 3)),
    decoder=st.builds(
        Stack,
        blocks=st.lists(BLOCKS, min_size=1, max_size=2).flatmap(
            lambda few: st.lists(st.sampled_from(few), min_size=1, max_size=5).map(tuple)
        ),
        causal=st.just(True),
        position=st.one_of(st.none(), st.builds(LearnedPositions, max_seq_len=st.integers(1, 99), offset=st.integers(0, 2))),
        final_norm=st.one_of(st.none(), st.just(NormSpec(kind="layer", bias=False))),
    ),
    head=st.builds(LmHead, tied=st.booleans(), bias=st.booleans(), scale=st.floats(0.5, 3)),
)


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(SPECS)
def test_a_spec_survives_json_and_yaml(spec):
    assert parse(ModelSpec, json.loads(spec.model_dump_json())) == spec
    assert parse(ModelSpec, yaml.safe_load(to_yaml(spec))) == spec
    assert spec.replace() == spec


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_recurrent_spec_survives_a_file(kind, tmp_path):
    spec = recurrent_spec(vocab_size=11, d_model=5, d_hidden=7, n_layers=2, cell=kind, dropout=0.25)
    (tmp_path / "spec.yaml").write_text(to_yaml(spec))
    assert load(ModelSpec, tmp_path / "spec.yaml") == spec


def test_runs_of_equal_blocks_are_written_once():
    windowed = BLOCK.replace(attn=BLOCK.attn.replace(window=4))
    stack = Stack(blocks=(BLOCK, BLOCK, BLOCK, windowed, BLOCK), causal=True)
    written = stack.model_dump(mode="json")["blocks"]
    assert [(run["repeat"], run["block"]["attn"]["window"]) for run in written] == [(3, None), (1, 4), (1, None)]
    assert parse(Stack, stack.model_dump(mode="json")) == stack


def test_blocks_may_be_written_out_or_repeated_by_hand():
    block = BLOCK.model_dump(mode="json")
    assert parse(Stack, {"causal": True, "blocks": [block, {"repeat": 2, "block": block}]}).blocks == (BLOCK,) * 3


@pytest.mark.parametrize("repeat", [0, -1, 10_001, True, 2.0, "3"])
def test_a_senseless_repeat_is_refused(repeat):
    with pytest.raises(ConfigError, match=r"`repeat` \(.*\) must be a whole number from 1 to 10000"):
        parse(Stack, {"causal": True, "blocks": [{"repeat": repeat, "block": BLOCK.model_dump(mode="json")}]})


def test_an_unknown_key_of_a_block_is_refused_with_its_place_and_the_nearest_name():
    block = {**BLOCK.model_dump(mode="json"), "droput": 0.1}
    with pytest.raises(ConfigError, match=r"blocks\.1: unknown key `droput`; did you mean `dropout`"):
        parse(Stack, {"causal": True, "blocks": [BLOCK.model_dump(mode="json"), block]})


def with_head(**head):
    return {"embed": EmbedSpec(vocab_size=11, d_model=5), "head": LmHead(**({"tied": False} | head))}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ModelSpec(**with_head()), "a model needs an `encoder`, a `decoder` or both"),
        (lambda: ModelSpec(**with_head(), decoder=Stack(blocks=(BLOCK,), causal=False)), "set `decoder.causal` to true"),
        (
            lambda: ModelSpec(**with_head(tied=True), decoder=RecurrentStack(cell=RecurrentSpec(d_hidden=7))),
            r"a tied head needs hidden states \(7\) of the width `d_model` \(5\); untie it",
        ),
        (lambda: ModelSpec(**with_head(), decoder=Stack(blocks=(), causal=True)), "`decoder.blocks` is empty"),
        (lambda: EmbedSpec(vocab_size=0, d_model=5), "vocab_size"),
        (lambda: EmbedSpec(vocab_size=11, d_model=5, scale=float("nan")), "scale"),
        (lambda: EmbedSpec(vocab_size="11", d_model=5), "vocab_size"),
        (lambda: BlockSpec(attn=BLOCK.attn, mlp=BLOCK.mlp, dropout=1.0), "dropout"),
        (
            lambda: decoder_spec(**{**SMALL, "n_heads": 5}),
            r"`d_model` \(12\) must be a multiple of `n_heads` \(5\) unless `d_head` is given",
        ),
        (lambda: decoder_spec(**{**SMALL, "n_heads": 0}), r"`n_heads` \(0\)"),
        (lambda: decoder_spec(**SMALL, n_kv_heads=3), r"`n_heads` \(4\) must be a multiple of `n_kv_heads` \(3\); nearest: 2"),
        (lambda: decoder_spec(**SMALL, n_kv_heads=0), "n_kv_heads"),
        (lambda: decoder_spec(**SMALL, positions="none", d_ff=0), "d_ff"),
        (lambda: decoder_spec(**SMALL), r"`d_rotary` \(3\) must be even"),
        (lambda: decoder_spec(**SMALL, positions="none", windows=[2, None]), r"`windows` .* one entry for each of `n_layers` \(3\)"),
        (lambda: decoder_spec(**SMALL, positions="none", windows=[2, 3, 4], window=2), "no `window` beside it"),
    ],
)
def test_an_impossible_model_is_refused_with_rule_value_and_remedy(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_decoder_spec_says_all_it_was_asked_for():
    spec = decoder_spec(
        **{**SMALL, "d_model": 16},
        n_kv_heads=2,
        d_ff=7,
        activation="relu2",
        gated=False,
        bias=True,
        norm="layer",
        norm_eps=1e-3,
        norm_place="inner",
        rope_theta=77.0,
        qk_norm=True,
        windows=[2, None, 3],
        tied=False,
        dropout=0.5,
    )
    norm = NormSpec(kind="layer", norm_eps=1e-3)
    for block, window in zip(spec.stack.blocks, [2, None, 3], strict=True):
        position = RotaryPositions(theta=77.0, max_seq_len=9)
        attn = AttentionSpec(
            n_heads=4, n_kv_heads=2, d_head=4, qkv_bias=True, o_bias=True, position=position, window=window, qk_norm=norm, dropout=0.5
        )
        mlp = MlpSpec(d_ff=7, activation="relu2", gated=False, bias=True, dropout=0.0)
        assert block == BlockSpec(attn=attn, mlp=mlp, norm=norm, norm_place="inner", dropout=0.5)
    assert (spec.head.tied, spec.stack.dropout, spec.stack.final_norm) == (False, 0.5, norm)
    assert (spec.kind, spec.vocab_size, spec.d_model, spec.n_layers, spec.max_seq_len, spec.d_hidden) == ("decoder", 11, 16, 3, 9, 16)


def test_a_post_norm_stack_has_no_norm_after_the_last():
    assert decoder_spec(**{**SMALL, "d_model": 16}, norm_place="post").stack.final_norm is None


@pytest.mark.parametrize(("gated", "expected"), [(False, 4 * 30), (True, 80)])  # 8/3 x 30 = 80, a multiple of 16 already
def test_the_usual_inner_width_is_four_or_eight_thirds_of_the_model(gated, expected):
    spec = decoder_spec(**{**SMALL, "d_model": 30, "n_heads": 3}, positions="none", gated=gated)
    assert spec.stack.blocks[0].mlp.d_ff == expected


def test_an_unknown_kind_of_positions_is_refused_with_those_there_are():
    with pytest.raises(UnknownName, match=r"No kind of positions `rope`.*alibi, learned, none, rotary, sinusoidal"):
        inspect.unwrap(decoder_spec)(**SMALL, positions="rope")  # as without the type checks of the tests


def test_the_length_is_the_shortest_that_any_part_was_made_for():
    table = LearnedPositions(max_seq_len=7)
    attn = BLOCK.attn.replace(d_head=4, position=RotaryPositions(max_seq_len=5))
    assert Stack(blocks=(BLOCK,), causal=True).max_seq_len is None
    assert Stack(blocks=(BLOCK, BLOCK.replace(attn=attn)), causal=True, position=table).max_seq_len == 5
    assert recurrent_spec(vocab_size=11, d_model=5, d_hidden=7).max_seq_len is None


def test_parameters_of_a_decoder_by_hand():
    """V=11 D=8 H=4 G=2 K=2 F=5, two layers, learned positions over 9, layer norms, biases, plain MLP, untied."""
    spec = decoder_spec(
        vocab_size=11, d_model=8, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=5, max_seq_len=9,
        positions="learned", norm="layer", bias=True, gated=False, tied=False,
    )  # fmt: skip
    attn = (8 * 8 + 8) + 2 * (8 * 4 + 4) + (8 * 8 + 8)
    mlp = (8 * 5 + 5) + (5 * 8 + 8)
    assert spec.n_parameters() == 11 * 8 + 9 * 8 + 2 * (attn + mlp + 2 * 16) + 16 + 11 * 8


def test_flops_of_a_decoder_by_hand():
    """A multiply and an add are two; each of the two layers meets min(context, window) keys."""
    sizes = {"vocab_size": 11, "d_model": 8, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "d_ff": 5, "max_seq_len": 9}
    spec = decoder_spec(**sizes, windows=[None, 3])
    products = 2 * (8 * 8 + 2 * 8 * 4 + 8 * 8 + 3 * 8 * 5)
    keys = 6 + 3
    assert spec.flops_per_token(6) == 2 * products + 2 * 2 * 8 * keys + 2 * 11 * 8


def test_parameters_and_flops_of_recurrent_models_by_hand():
    """V=11 W=5 D=7: torch's two bias vectors a layer; four gates or three."""
    for kind, gates in (("lstm", 4), ("gru", 3)):
        spec = recurrent_spec(vocab_size=11, d_model=5, d_hidden=7, n_layers=2, cell=kind)
        layers = gates * 7 * (5 + 7 + 2) + gates * 7 * (7 + 7 + 2)
        assert spec.n_parameters() == 11 * 5 + layers + (11 * 7 + 11)
        assert spec.flops_per_token(99) == 2 * gates * 7 * (5 + 7) + 2 * gates * 7 * (7 + 7) + 2 * 11 * 7
