"""The fused head and loss against the plain ones."""

import copy

import numpy as np
import pytest
import torch
from tiny_run import make_net, make_source

from touchstone.models import build, decoder_spec, recurrent_spec
from touchstone.nn.products import use_product
from touchstone.train import Causal, TensorBatch, autocast
from touchstone.train import objective as objective_module
from touchstone.train.head_loss import can_fuse, head_nll

NETS = {
    "tied": lambda: make_net(dropout=0.0),
    "untied": lambda: build(decoder_spec(vocab_size=11, d_model=12, n_layers=1, n_heads=3, max_seq_len=9, tied=False), seed=1),
    "recurrent with a head bias": lambda: build(recurrent_spec(vocab_size=11, d_model=6, d_hidden=7), seed=1),
}


@pytest.fixture(params=[1, 7, 256])
def rows_at_once(request, monkeypatch):
    monkeypatch.setattr("touchstone.train.head_loss._ROWS", request.param)


@pytest.fixture
def batch():
    return TensorBatch.of(make_source().batch(np.arange(5)))


def both_ways(net, batch, monkeypatch):
    """Loss and gradients, fused and plain."""
    results = []
    for is_fused in (True, False):
        twin = copy.deepcopy(net).train()
        monkeypatch.setattr(objective_module, "can_fuse", can_fuse if is_fused else lambda *_: False)
        loss = Causal()(twin, batch, None)
        (2.5 * loss.total).backward()
        results.append((loss, {name: parameter.grad for name, parameter in twin.named_parameters()}))
    return results


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("product", ["torch", "onednn"])
def test_fused_and_plain_give_the_same_loss_and_gradients(kind, product, batch, rows_at_once, monkeypatch):
    net = NETS[kind]()
    use_product(net, product)
    assert can_fuse(net, net.body(batch.token_ids, mask=batch.mask).hidden)
    (fused, ours), (plain, theirs) = both_ways(net, batch, monkeypatch)
    assert fused.count == plain.count
    torch.testing.assert_close(fused.total, plain.total)
    torch.testing.assert_close(fused.parts["nll"], plain.parts["nll"])
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-5)


def test_in_double_precision_the_gradients_agree_to_its_last_bits(batch, rows_at_once, monkeypatch):
    (_, ours), (_, theirs) = both_ways(NETS["untied"]().double(), batch, monkeypatch)
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=0, atol=1e-12)


def test_a_loss_of_hundreds_of_nats_is_not_infinite(batch, monkeypatch):
    net = NETS["untied"]()
    with torch.no_grad():
        net.lm_head.weight *= 3e4
    (fused, ours), (plain, theirs) = both_ways(net, batch, monkeypatch)
    assert fused.total / fused.count > 200
    torch.testing.assert_close(fused.total, plain.total)
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-3, atol=1e-2)


def test_a_frozen_head_gets_no_gradient_and_hands_on_the_right_one(batch):
    net = NETS["untied"]()
    net.lm_head.weight.requires_grad_(False)
    hidden = torch.randn(9, 12, requires_grad=True)
    targets = torch.arange(9)
    head_nll(net, hidden, targets).backward()
    fused, hidden.grad = hidden.grad, None
    torch.nn.functional.cross_entropy(net.head(hidden), targets, reduction="sum").backward()
    torch.testing.assert_close(fused, hidden.grad)
    assert net.lm_head.weight.grad is None


def test_where_it_is_no_gain_or_cannot_be_the_plain_way_is_taken(batch):
    net = NETS["tied"]()
    hidden = net.body(batch.token_ids, mask=batch.mask).hidden
    assert can_fuse(net, hidden)
    with torch.no_grad():
        assert not can_fuse(net, hidden)
    with autocast("bfloat16", "cpu"):
        assert not can_fuse(net, hidden)
    assert not can_fuse(net, hidden.bfloat16())
