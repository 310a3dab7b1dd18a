"""The packed decoder computes what the network computes, for every choice of a spec, in any chunks, batches and placement of blocks."""

import random

import pytest
import torch

from conftest import sharpened
from touchstone.infer.blocks import BlockPool
from touchstone.infer.packed import PackedDecoder
from touchstone.infer.packed_body import cached_bytes_per_token, can_pack
from touchstone.infer.scheduler import Limits, Scheduler, Text
from touchstone.models import build, decoder_spec, encoder_spec, recurrent_spec
from touchstone.nn.experts import ExpertsSpec
from touchstone.nn.mlp import MlpSpec

pytestmark = pytest.mark.slow

V = 23
PLAIN = {"vocab_size": V, "d_model": 24, "n_layers": 2, "n_heads": 4, "max_seq_len": 48}
SPECS = {
    "rotary, grouped queries": decoder_spec(**PLAIN, n_kv_heads=2, d_head=10),
    "rotary, q/k norm, untied": decoder_spec(**PLAIN, qk_norm=True, tied=False),
    "learned, biases, layer norm, not gated": decoder_spec(
        **PLAIN, positions="learned", norm="layer", bias=True, gated=False, activation="gelu_tanh"
    ),
    "sinusoidal, post-norm": decoder_spec(**PLAIN, positions="sinusoidal", norm_place="post", norm="layer"),
    "alibi, grouped queries, inner norm": decoder_spec(**PLAIN, positions="alibi", n_kv_heads=2, norm_place="inner"),
    "alibi, window": decoder_spec(**PLAIN, positions="alibi", window=5),
    "window in one layer": decoder_spec(**PLAIN, windows=[None, 6], n_kv_heads=1),
    "no positions": decoder_spec(**PLAIN, positions="none"),
}


def with_experts(spec, **settings):
    experts = ExpertsSpec(n_experts=3, n_active=2, expert=MlpSpec(d_ff=20, activation="silu", gated=True), **settings)
    first, *others = spec.decoder.blocks
    return spec.replace(decoder=spec.decoder.replace(blocks=(first.replace(mlp=experts), *others)))


SPECS["experts"] = with_experts(decoder_spec(**PLAIN))
SPECS["experts and a shared one"] = with_experts(decoder_spec(**PLAIN), shared=MlpSpec(d_ff=12, activation="silu", gated=True))


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_step_gives_the_networks_logits(name, dtype):
    net = sharpened(SPECS[name]).to(dtype)
    check_against(net, n_texts=5, pool=BlockPool(60, 4), limits=Limits(max_texts=3, max_step_tokens=16, max_chunk=7))


@pytest.mark.parametrize("name", ["rotary, grouped queries", "alibi, window"])
def test_blocks_that_lie_scattered_change_nothing(name):
    pool = BlockPool(26, 2)
    for block in range(0, 26, 2):  # every second block is in use, so no two neighbours are free
        pool._state[block] = 1
    pool._n_free = 13
    check_against(sharpened(SPECS[name]), n_texts=2, pool=pool, limits=Limits(max_texts=1, max_chunk=5), longest=20)


def test_a_beginning_that_is_known_is_not_computed_again():
    net = sharpened(SPECS["rotary, grouped queries"])
    pool = BlockPool(40, 4)
    runner, scheduler = PackedDecoder(net, pool), Scheduler(pool)
    prompt = [n % V for n in range(18)]
    first, second = Text([*prompt, 1, 2], 30), Text([*prompt, 3], 30)
    run(runner, scheduler, net, [first], n_new=3)
    scheduler.add(second)
    (part,) = scheduler.plan()
    assert (part.start, part.end) == (16, 19)
    with runner.running():
        assert_close(runner.step([part])[0], expected(net, second.token_ids)[-1])


def test_drafts_are_scored_each_in_its_place():
    net = sharpened(SPECS["rotary, grouped queries"])
    pool = BlockPool(40, 4)
    runner, scheduler = PackedDecoder(net, pool), Scheduler(pool)
    text = Text([1, 2, 3], 20)
    scheduler.add(text)
    with runner.running():
        (part,) = scheduler.plan()
        runner.step([part])
        scheduler.computed(part)
        text.token_ids.append(4)
        text.drafts = [5, 6, 7]
        (part,) = scheduler.plan()
        logits = runner.step([part])
    assert_close(logits, expected(net, [*text.token_ids, 5, 6, 7])[-4:])


def test_the_weights_are_the_networks_own_after_training_and_after_replacement():
    net = sharpened(SPECS["learned, biases, layer norm, not gated"])
    pool = BlockPool(40, 4)
    runner = PackedDecoder(net, pool)
    n_before = sum(p.numel() for p in net.parameters())
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(0.7)
    run(runner, Scheduler(pool), net, [Text([4, 5, 6], 20)], n_new=2)
    net.double().float()  # every tensor is a new one
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.2)
    run(runner, Scheduler(pool), net, [Text([4, 5, 6], 20)], n_new=2)
    assert sum(p.numel() for p in net.parameters()) == n_before
    loss = net(torch.tensor([[1, 2, 3]])).logits.square().sum()
    loss.backward()
    assert all(p.grad is not None for p in net.parameters())


def test_what_cannot_be_packed_is_known():
    assert can_pack(build(SPECS["experts"]))
    assert not can_pack(build(recurrent_spec(vocab_size=V, d_model=8, d_hidden=8)))
    assert not can_pack(build(encoder_spec(vocab_size=V, d_model=12, n_layers=1, n_heads=3, max_seq_len=9)))
    additive = decoder_spec(**PLAIN, positions="none")
    block = additive.decoder.blocks[0]
    additive = additive.replace(decoder=additive.decoder.replace(blocks=(block.replace(attn=block.attn.replace(score="additive")),)))
    assert not can_pack(build(additive))


def test_the_bytes_of_a_token_are_counted():
    assert cached_bytes_per_token(build(SPECS["rotary, grouped queries"])) == 2 * 2 * 2 * 10 * 4


def check_against(net, *, n_texts, pool, limits, longest=30):
    rng = random.Random(3)
    texts = [Text([rng.randrange(V) for _ in range(rng.randrange(1, longest - 8))], longest) for _ in range(n_texts)]
    run(PackedDecoder(net, pool), Scheduler(pool, limits), net, texts, n_new=5)


def run(runner, scheduler, net, texts, n_new):
    """Write n_new random tokens to each text, every step's logits compared with the whole text's."""
    rng = random.Random(7)
    left = {id(text): n_new for text in texts}
    for text in texts:
        scheduler.add(text)
    with runner.running():
        while parts := scheduler.plan():
            logits = runner.step(parts)
            last = [part for part in parts if part.is_last]
            assert len(logits) == len(last)
            for part, row in zip(last, logits, strict=True):
                assert_close(row, expected(net, part.text.token_ids)[-1])
            for part in parts:
                scheduler.computed(part)
                if part.is_last:
                    left[id(part.text)] -= 1
                    if left[id(part.text)]:
                        part.text.token_ids.append(rng.randrange(V))
                    else:
                        scheduler.remove(part.text)


@torch.no_grad()
def expected(net, token_ids):
    was = net.training
    logits = net.eval()(torch.tensor([token_ids])).logits[0]
    net.train(was)
    return logits


def assert_close(a, b):
    tolerance = 1e-10 if b.dtype == torch.float64 else 1e-4
    assert (a.log_softmax(-1) - b.log_softmax(-1)).abs().max() < tolerance
