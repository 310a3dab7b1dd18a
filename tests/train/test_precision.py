import itertools

import numpy as np
import pytest
import torch
from tiny_run import make_config, make_net, make_source

from touchstone.train import Causal, TensorBatch, autocast, measure_bf16_gain, measure_pace, weights_sha256


@pytest.fixture
def batch():
    return TensorBatch.of(make_source().batch(np.arange(4)))


def test_autocast_computes_products_in_bfloat16_and_the_loss_in_float32(batch):
    net, seen = make_net(dropout=0.0), []
    net.decoder.layers[0].mlp.up_proj.register_forward_hook(lambda module, given, made: seen.append(made.dtype))
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        with autocast(precision, "cpu"):
            loss = Causal()(net, batch, None)
        assert seen.pop() == dtype
        assert loss.total.dtype == torch.float32
        loss.total.backward()
    assert {parameter.grad.dtype for parameter in net.parameters()} == {torch.float32}


def test_bfloat16_gradients_point_where_float32_ones_do(batch):
    nets = [make_net(dropout=0.0) for _ in range(2)]
    for net, precision in zip(nets, ("float32", "bfloat16"), strict=True):
        with autocast(precision, "cpu"):
            loss = Causal()(net, batch, None)
        loss.total.backward()
    flat = [torch.cat([parameter.grad.reshape(-1) for parameter in net.parameters()]) for net in nets]
    assert torch.cosine_similarity(*flat, dim=0) > 0.99  # eight bits of mantissa
    assert not torch.equal(*flat)


@pytest.mark.parametrize(("bfloat16_s", "ratio", "chosen"), [(1.0, 2.0, "bfloat16"), (1.95, 2 / 1.95, "float32"), (4.0, 0.5, "float32")])
def test_bfloat16_is_chosen_only_where_it_gains(batch, bfloat16_s, ratio, chosen):
    durations = itertools.cycle([2.0, bfloat16_s])
    now, is_start = [0.0], [True]

    def clock():
        if not is_start[0]:
            now[0] += next(durations)
        is_start[0] = not is_start[0]
        return now[0]

    gain = measure_bf16_gain(make_net(), Causal(), batch, n=3, clock=clock)
    assert gain.ratio == pytest.approx(ratio)
    assert gain.chosen == chosen
    assert f"{gain.ratio:.2f} times" in str(gain)


@pytest.mark.slow
def test_measuring_leaves_network_and_generators_as_they_were(batch):
    net = make_net()
    before, state = weights_sha256(net), torch.get_rng_state()
    measure_bf16_gain(net, Causal(), batch, n=1)
    assert measure_pace(net, Causal(), make_source(), make_config(), n_steps=2) > 0
    assert weights_sha256(net) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.slow
def test_the_pace_is_the_median_of_the_measured_steps():
    durations = iter([9.0, 9.0, 3.0, 1.0, 2.0])
    now, is_start = [0.0], [True]

    def clock():
        if not is_start[0]:
            now[0] += next(durations)
        is_start[0] = not is_start[0]
        return now[0]

    assert measure_pace(make_net(), Causal(), make_source(), make_config(), n_steps=3, clock=clock) == pytest.approx(2.0)
