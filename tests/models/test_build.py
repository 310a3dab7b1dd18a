import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from touchstone.models import build, decoder_spec, initialise, recurrent_spec

SMALL = {"vocab_size": 11, "d_model": 12, "n_layers": 2, "n_heads": 4, "max_seq_len": 9, "d_head": 4}

DECODERS = st.fixed_dictionaries(
    {
        "vocab_size": st.integers(1, 20),
        "d_model": st.integers(1, 20),
        "n_layers": st.integers(1, 3),
        "n_heads": st.sampled_from([4, 8]),
        "n_kv_heads": st.sampled_from([1, 2, 4]),
        "d_head": st.sampled_from([2, 6]),
        "d_ff": st.one_of(st.none(), st.integers(1, 20)),
        "max_seq_len": st.integers(1, 20),
        "gated": st.booleans(),
        "bias": st.booleans(),
        "norm": st.sampled_from(["layer", "rms"]),
        "norm_place": st.sampled_from(["pre", "post", "inner"]),
        "positions": st.sampled_from(["rotary", "learned", "sinusoidal", "alibi", "none"]),
        "qk_norm": st.booleans(),
        "tied": st.booleans(),
        "window": st.one_of(st.none(), st.integers(1, 9)),
    }
)
RECURRENT = st.fixed_dictionaries(
    {
        "vocab_size": st.integers(1, 20),
        "d_model": st.just(7),
        "d_hidden": st.just(7),
        "n_layers": st.integers(1, 3),
        "cell": st.sampled_from(["lstm", "gru"]),
        "tied": st.booleans(),
    }
) | st.fixed_dictionaries({"vocab_size": st.integers(1, 20), "d_model": st.integers(1, 9), "d_hidden": st.integers(1, 9)})


def n_built(spec):
    return sum(parameter.numel() for parameter in build(spec, seed=None).parameters())


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(DECODERS)
def test_a_decoder_has_the_parameters_its_spec_counts(sizes):
    spec = decoder_spec(**sizes)
    assert spec.n_parameters() == n_built(spec)


@settings(deadline=None, max_examples=30)
@given(RECURRENT)
def test_a_recurrent_model_has_the_parameters_its_spec_counts(sizes):
    spec = recurrent_spec(**sizes)
    assert spec.n_parameters() == n_built(spec)


@pytest.mark.parametrize(
    "spec", [decoder_spec(**SMALL), recurrent_spec(vocab_size=11, d_model=5, d_hidden=7)], ids=["decoder", "recurrent"]
)
def test_a_seed_gives_the_same_weights_and_another_seed_others(spec):
    first, again, other = build(spec, seed=3).state_dict(), build(spec, seed=3).state_dict(), build(spec, seed=4).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["embed.weight"], other["embed.weight"])


def test_building_leaves_torchs_own_generator_where_it_was():
    """Weights come from the seed alone; what training draws must not move with the shape of the model."""
    before = torch.get_rng_state()
    build(decoder_spec(**SMALL))
    assert torch.equal(torch.get_rng_state(), before)


def test_first_weights_have_the_deviations_of_gpt2():
    net = build(
        decoder_spec(vocab_size=500, d_model=64, n_layers=3, n_heads=4, max_seq_len=90, positions="learned", gated=False, bias=True)
    )
    for name, parameter in net.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            expected = 0.02 / math.sqrt(2 * 3)
        elif parameter.ndim == 2:
            expected = 0.02
        else:
            assert bool((parameter == (1.0 if "norm" in name and name.endswith("weight") else 0.0)).all()), name
            continue
        error = 5 / math.sqrt(2 * parameter.numel())  # five standard errors of a deviation
        assert parameter.std().item() == pytest.approx(expected, rel=error), name
        assert abs(parameter.mean().item()) < 5 * expected / math.sqrt(parameter.numel()), name


def test_initialising_again_leaves_nothing_of_what_was_trained():
    spec = decoder_spec(**SMALL, norm="layer", bias=True, tied=False)
    net = build(spec.replace(head=spec.head.replace(bias=True)), seed=3)
    expected = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1.0)
    initialise(net, seed=3)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_an_lstm_starts_by_remembering():
    net = build(recurrent_spec(vocab_size=11, d_model=5, d_hidden=7, n_layers=2), seed=3)
    for layer in net.decoder.layers:
        assert bool((layer.cell.bias_ih_l0[7:14] + layer.cell.bias_hh_l0[7:14] == 1.0).all())
        for parameter in (layer.cell.weight_ih_l0, layer.cell.weight_hh_l0):
            assert parameter.abs().max() <= 1 / math.sqrt(7)
            assert parameter.abs().max() > 0.8 / math.sqrt(7)


def test_a_tied_head_has_no_weight_of_its_own():
    tied, untied = build(decoder_spec(**SMALL, tied=True)), build(decoder_spec(**SMALL, tied=False))
    assert set(untied.state_dict()) - set(tied.state_dict()) == {"lm_head.weight"}
    tied.head(torch.ones(1, 12)).sum().backward()
    assert tied.embed.weight.grad is not None


def test_module_names_are_those_every_tool_finds_them_under():
    spec = decoder_spec(**{**SMALL, "n_layers": 1}, positions="learned", bias=True, qk_norm=True, norm="layer", tied=False)
    names = set(build(spec).state_dict())
    biased = [f"decoder.layers.0.{part}" for part in ("attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.o_proj", "norm1", "norm2")]
    biased += [f"decoder.layers.0.{part}" for part in ("attn.q_norm", "attn.k_norm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")]
    expected = {f"{part}.{kind}" for part in [*biased, "decoder.final_norm"] for kind in ("weight", "bias")}
    assert names == expected | {"embed.weight", "decoder.positions.weight", "lm_head.weight"}
