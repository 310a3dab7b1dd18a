"""Specs drawn at random over all their axes: what is built, saved and loaded is what was drawn, whatever is combined with what."""

import json
import math
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from touchstone.config import parse
from touchstone.models import build, decoder_spec
from touchstone.models.checkpoint import load_model, save_model
from touchstone.models.families import choose_family
from touchstone.models.heads import ClassifyHead, LmHead, MaskedLmHead, PoolHead, SpanHead, TagHead
from touchstone.models.spec import EmbedSpec, ModelSpec, RecurrentStack, Stack
from touchstone.nn.attention import AttentionSpec
from touchstone.nn.block import BlockSpec
from touchstone.nn.experts import ExpertsSpec
from touchstone.nn.mlp import ACTIVATIONS, MlpSpec
from touchstone.nn.norm import NormSpec
from touchstone.nn.position import (
    AlibiPositions,
    LearnedPositions,
    LinearScaling,
    Llama3Scaling,
    RelativePositions,
    RotaryPositions,
    SinusoidalPositions,
    YarnScaling,
)
from touchstone.nn.recurrent import RecurrentSpec

pytestmark = pytest.mark.slow

V, LENGTH = 11, 16

flags = st.booleans()
few = st.integers(1, 3)
shares = st.sampled_from([0.0, 0.1])
factors = st.sampled_from([0.5, 1.0, 3.0])
activations = st.sampled_from(sorted(ACTIVATIONS))
poolings = st.sampled_from(["first", "last", "mean", "max"])
problems = st.sampled_from(["single-label", "multi-label", "regression"])

norms = st.builds(NormSpec, kind=st.sampled_from(["layer", "rms"]), norm_eps=st.sampled_from([1e-5, 1e-12, 0.2]), bias=flags)
mlps = st.builds(MlpSpec, d_ff=st.sampled_from([5, 8]), activation=activations, gated=flags, bias=flags, dropout=shares)
scalings = st.sampled_from(
    [
        LinearScaling(factor=2.0),
        Llama3Scaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_seq_len=8),
        YarnScaling(factor=4.0, original_max_seq_len=8),
        YarnScaling(factor=2.0, original_max_seq_len=8, mscale=2.0, mscale_all_dim=0.5, truncate=False),
    ]
)


@st.composite
def experts(draw, n_experts):
    return ExpertsSpec(
        n_experts=n_experts,
        n_active=draw(st.integers(1, n_experts)),
        expert=draw(mlps),
        renormalise=draw(flags),
        shared=draw(st.none() | mlps),
        balance_weight=draw(shares),
        z_weight=draw(shares),
        wide_router=draw(flags),
        jitter=draw(shares),
    )


@st.composite
def in_attention(draw, d_head):
    kind = draw(st.sampled_from(["none", "alibi", "relative", "rotary"]))
    if kind == "alibi":
        return AlibiPositions(max_seq_len=LENGTH)
    if kind == "relative":
        return RelativePositions(n_buckets=draw(st.sampled_from([4, 8])), max_distance=9, both_ways=draw(flags))
    if kind == "rotary" and d_head > 1:
        d_rotary = draw(st.sampled_from([None, 2] if d_head % 2 == 0 else [2]))
        theta = draw(st.sampled_from([10_000.0, 7.0]))
        return RotaryPositions(theta=theta, d_rotary=d_rotary, max_seq_len=LENGTH, scaling=draw(st.none() | scalings))
    return None


@st.composite
def attentions(draw, *, across=False):
    """across: of one side's tokens to the other's, which has neither positions nor a window."""
    n_kv_heads, d_head = draw(few), draw(st.integers(1, 4))
    position = None if across else draw(in_attention(d_head))
    additive = not isinstance(position, AlibiPositions | RelativePositions) and draw(flags)
    return AttentionSpec(
        n_heads=n_kv_heads * draw(few),
        n_kv_heads=n_kv_heads,
        d_head=d_head,
        qkv_bias=draw(flags),
        o_bias=draw(flags),
        position=position,
        window=None if across else draw(st.none() | st.just(3)),
        qk_norm=draw(st.none() | norms),
        score="additive" if additive else "scaled_dot",
        scale=None if additive else draw(st.none() | factors),
        dropout=draw(shares),
    )


@st.composite
def blocks(draw, n_experts, *, looks_at_source):
    return BlockSpec(
        attn=draw(attentions()),
        cross=draw(attentions(across=True)) if looks_at_source else None,
        mlp=draw(mlps | experts(n_experts)),
        norm=draw(norms),
        norm_place=draw(st.sampled_from(["pre", "post", "inner"])),
        dropout=draw(shares),
    )


@st.composite
def attention_stacks(draw, *, causal, looks_at_source=False):
    n_experts = draw(st.integers(2, 4))
    tables = st.builds(LearnedPositions, max_seq_len=st.just(LENGTH), offset=st.sampled_from([0, 2])) | st.builds(
        SinusoidalPositions, max_seq_len=st.just(LENGTH), layout=st.sampled_from(["interleaved", "halves"])
    )
    return Stack(
        blocks=tuple(draw(st.lists(blocks(n_experts, looks_at_source=looks_at_source), min_size=1 if causal else 0, max_size=3))),
        causal=causal,
        position=draw(st.none() | tables),
        input_norm=draw(st.none() | norms),
        dropout=draw(shares),
        final_norm=draw(st.none() | norms),
        final_dropout=draw(shares),
    )


@st.composite
def recurrent_stacks(draw, *, both_ways, looks_at_source=False):
    cell = RecurrentSpec(
        kind=draw(st.sampled_from(["lstm", "gru"])), n_layers=draw(few), d_hidden=draw(few), both_ways=both_ways, dropout=draw(shares)
    )
    return RecurrentStack(cell=cell, cross=draw(attentions(across=True)) if looks_at_source else None, dropout=draw(shares))


@st.composite
def heads(draw, *, ties):
    tied = ties and draw(flags)
    kinds = {
        "lm": st.builds(LmHead, tied=st.just(tied), bias=flags, scale=factors),
        "masked-lm": st.builds(MaskedLmHead, tied=st.just(tied), bias=flags, activation=activations, norm=norms),
        "classify": st.builds(
            ClassifyHead,
            n_labels=few,
            pooling=poolings,
            activation=st.none() | activations,
            bias=flags,
            dropout=shares,
            drop_pooled=flags,
            problem=problems,
        ),
        "tag": st.builds(TagHead, n_labels=few, bias=flags, dropout=shares),
        "span": st.builds(SpanHead, dropout=shares),
        "pool": st.builds(PoolHead, pooling=poolings, activation=activations),
        "none": st.none(),
    }
    return draw(kinds[draw(st.sampled_from(sorted(kinds)))])


@st.composite
def specs(draw, kind):
    two_sided, both_ways = kind.endswith("encoder-decoder"), draw(flags)
    if "recurrent" in kind:
        encoder = draw(recurrent_stacks(both_ways=both_ways)) if "encoder" in kind else None
        decoder = None if kind == "recurrent-encoder" else draw(recurrent_stacks(both_ways=False, looks_at_source=two_sided))
    else:
        encoder = draw(attention_stacks(causal=False)) if "encoder" in kind else None
        decoder = None if kind == "encoder" else draw(attention_stacks(causal=True, looks_at_source=two_sided))
    embed = EmbedSpec(vocab_size=V, d_model=draw(st.sampled_from([5, 6])), scale=draw(factors), n_token_types=draw(st.sampled_from([0, 2])))
    answers = decoder if decoder is not None else encoder
    ties = not isinstance(answers, RecurrentStack) or answers.d_out == embed.d_model
    return ModelSpec(embed=embed, encoder=encoder, decoder=decoder, head=draw(heads(ties=ties)))


KINDS = ["decoder", "encoder", "encoder-decoder", "recurrent", "recurrent-encoder", "recurrent-encoder-decoder"]
every_kind = pytest.mark.parametrize("kind", KINDS)


def check_built(spec, kind):
    """The network has the parameters that the spec counts, and answers in the shape of its head."""
    assert spec.kind == kind
    assert parse(ModelSpec, json.loads(json.dumps(spec.model_dump(mode="json")))) == spec
    net = build(spec, seed=3).eval()
    assert sum(parameter.numel() for parameter in net.parameters()) == spec.n_parameters()
    assert math.isfinite(spec.flops_per_token(LENGTH))
    token_ids, sides = torch.randint(0, V, (2, 7)), {}
    if kind.endswith("encoder-decoder"):
        sides = {"source_ids": torch.randint(0, V, (2, 4)), "source_mask": torch.tensor([[True] * 4, [True] * 2 + [False] * 2])}
    output = net(token_ids, mask=torch.ones(2, 7, dtype=torch.bool), **sides)
    assert output.logits.shape[0] == 2
    assert bool(output.logits.isfinite().all())
    return net


def check_saved(net, folder):
    """The folder gives back the spec and every tensor, bit for bit; returns what was written."""
    saved = save_model(folder, net)
    loaded = load_model(folder)
    assert loaded.spec == net.spec
    before, after = net.state_dict(), loaded.net.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    return saved


@every_kind
@settings(max_examples=12)
@given(data=st.data())
def test_what_is_built_has_the_parameters_that_the_spec_counts(kind, data):
    check_built(data.draw(specs(kind)), kind)


@pytest.mark.slow
@every_kind
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_saved_model_loads_as_it_was(kind, data, quick_disk):
    net = check_built(data.draw(specs(kind)), kind)
    with tempfile.TemporaryDirectory() as folder:
        check_saved(net, Path(folder) / "model")


@st.composite
def plain_settings(draw):
    """What `plain_decoder` takes."""
    learned = draw(flags)
    sizes = {
        "n_layers": draw(few),
        "n_heads": draw(st.sampled_from([2, 6])),
        "n_kv_heads": None if learned else draw(st.sampled_from([None, 1, 2])),
        "d_head": None if learned else draw(st.sampled_from([None, 2, 4])),
        "positions": "learned" if learned else "rotary",
        "norm": "layer" if learned else "rms",
        "norm_eps": draw(st.sampled_from([1e-5, 1e-3])),
        "bias": learned or draw(flags),
        "gated": not learned and draw(flags),
        "activation": draw(st.sampled_from(["silu", "gelu", "gelu_tanh", "relu", "relu2"])),
        "qk_norm": not learned and draw(flags),
        "window": None if learned else draw(st.none() | st.just(3)),
        "tied": draw(flags),
        "dropout": draw(shares),
    }
    expert = MlpSpec(d_ff=7, activation="silu", gated=True)
    routed = st.builds(
        ExpertsSpec, n_experts=st.just(4), n_active=few, expert=st.just(expert), renormalise=flags, shared=st.none() | st.just(expert)
    )
    head = (
        st.just(LmHead(tied=sizes["tied"]))
        | st.none()
        | st.builds(ClassifyHead, n_labels=few, pooling=st.just("last"), bias=st.just(False), problem=problems)
        | st.builds(TagHead, n_labels=few, bias=st.just(True), dropout=shares)
        | st.just(SpanHead())
    )
    return {"sizes": sizes, "experts": None if learned else draw(st.none() | routed), "head": draw(head)}


def plain_decoder(sizes, experts, head):
    """Equal blocks within what some class of transformers can say, or just outside."""
    spec = decoder_spec(vocab_size=V, d_model=12, d_ff=20, max_seq_len=LENGTH, **sizes)
    if experts is not None:
        spec = spec.replace(decoder=spec.stack.replace(blocks=[block.replace(mlp=experts) for block in spec.stack.blocks]))
    return spec.replace(head=head)


AUTO = {
    **{"lm": "AutoModelForCausalLM", "classify": "AutoModelForSequenceClassification", "tag": "AutoModelForTokenClassification"},
    **{"span": "AutoModelForQuestionAnswering", "base": "AutoModel"},
}


@pytest.mark.slow
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much])
@given(data=st.data())
def test_transformers_opens_what_it_has_a_class_for_with_the_same_logits(data, quick_disk):
    import transformers

    spec = plain_decoder(**data.draw(plain_settings()))
    assume(not choose_family(spec).is_native)
    net = check_built(spec, "decoder")
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    token_ids = torch.randint(3, V, (2, 7))
    with tempfile.TemporaryDirectory() as folder:
        saved = check_saved(net, Path(folder) / "model")
        assert saved.opens_in_transformers
        auto = getattr(transformers, AUTO[spec.head.kind if spec.head else "base"])
        eager = {"attn_implementation": "eager", "experts_implementation": "eager"}  # their grouped kernel refuses such widths
        theirs, report = auto.from_pretrained(Path(folder) / "model", output_loading_info=True, pad_token_id=0, **eager)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        output = theirs.eval()(token_ids)
        ours = net(token_ids).logits
    if "start_logits" in output:
        expected = torch.stack([output.start_logits, output.end_logits], dim=-1)
    else:
        expected = output.logits if "logits" in output else output.last_hidden_state
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5 * max(float(expected.abs().max()), 1.0))
