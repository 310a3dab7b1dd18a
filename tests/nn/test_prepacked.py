"""Weights laid out once: the numbers of the plain call, of the weight as it is now, and nothing kept of weights that are gone."""

import copy
import gc
import pickle

import pytest
import torch

from touchstone.nn import prepacked
from touchstone.nn.linear import Linear, build_linear
from touchstone.nn.prepacked import PrepackedProduct, prepack, prepacking_works
from touchstone.nn.products import multiply_onednn, onednn_product

pytestmark = pytest.mark.skipif(not prepacking_works(), reason="this build of torch has no prepacked oneDNN product")


@pytest.fixture
def layer():
    return build_linear(33, 17, bias=True)


def multiplied(layer, x, n_times=1):
    with torch.inference_mode():
        return [layer(x) for _ in range(n_times)][-1]


@pytest.mark.parametrize("shape", [(2, 33), (9, 33), (3, 5, 33), (600, 33)])
def test_the_numbers_are_the_plain_calls_and_those_of_the_formula(layer, shape):
    product, x = prepack(layer), torch.randn(shape)
    wanted = (x.double() @ layer.weight.double().T + layer.bias.double()).float()
    for _ in range(3):
        found = multiplied(layer, x)
        assert torch.equal(found, multiply_onednn(x, layer.weight.detach(), layer.bias.detach()))
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert product.n_laid_out == 1


def test_one_prompt_and_its_single_rows_lay_nothing_out(layer):
    product = prepack(layer)
    multiplied(layer, torch.randn(7, 33))
    for shape in ((33,), (1, 33), (1, 1, 33), (0, 33)):
        x = torch.randn(shape)
        assert torch.equal(multiplied(layer, x, 3), onednn_product(x, layer.weight, layer.bias))
    assert product.n_laid_out == 0


@pytest.mark.parametrize("change", ["in place", "of its data"])
def test_a_weight_that_changed_is_laid_out_anew(layer, change):
    product, x = prepack(layer), torch.randn(4, 33)
    before = multiplied(layer, x, 3)
    with torch.no_grad():
        if change == "in place":
            layer.weight.mul_(2)
        else:
            layer.weight.data = layer.weight.data * 2
    for _ in range(3):
        torch.testing.assert_close(multiplied(layer, x) - layer.bias.detach(), 2 * (before - layer.bias.detach()), rtol=1e-5, atol=1e-5)
    assert product.n_laid_out == 1


def test_training_and_other_types_do_without(layer):
    product, x = prepack(layer), torch.randn(4, 33)
    for _ in range(3):
        layer(x).square().sum().backward()
    assert layer.weight.grad.abs().sum() > 0
    layer.double()
    multiplied(layer, x.double(), 3)
    assert product.n_laid_out == 0


@pytest.mark.slow
def test_nothing_is_kept_of_a_weight_that_is_gone_or_for_one_that_is_made_anew_for_each_call():
    net = torch.nn.Sequential(build_linear(8, 8, bias=False), build_linear(8, 8, bias=False))
    product = prepack(net)
    multiplied(net, torch.randn(3, 8), 2)
    assert product.n_laid_out == 2
    del net[1]
    gc.collect()
    assert product.n_laid_out == 1
    with torch.no_grad():
        for _ in range(3):
            product(torch.randn(3, 8), net[0].weight * 1, None)
    assert product.n_laid_out == 1


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["deepcopy", "pickle"])
def test_a_copy_of_a_network_has_layouts_of_its_own(layer, copied):
    x = torch.randn(4, 33)
    prepack(layer)
    wanted = multiplied(layer, x, 2)
    other = copied(layer)
    assert isinstance(other.product, PrepackedProduct)
    assert other.product is not layer.product
    assert torch.equal(multiplied(other, x, 2), wanted)


def test_layers_side_by_side_share_the_product(layer):
    other = build_linear(33, 6, bias=True)
    product = prepack(torch.nn.ModuleList([layer, other]))
    joined, x = layer.beside(other), torch.randn(4, 33)
    assert isinstance(joined, Linear)
    found = multiplied(joined, x, 2)
    assert product.n_laid_out == 1
    torch.testing.assert_close(found, torch.cat([multiplied(layer, x), multiplied(other, x)], dim=-1), rtol=1e-5, atol=1e-5)


def test_operators_that_do_not_agree_or_are_missing_are_not_used(monkeypatch):
    monkeypatch.setattr(prepacked, "laid_out", lambda weight: weight.detach() * 1.01)
    assert not prepacking_works()

    def missing(weight):
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_reorder_linear_weight'")

    monkeypatch.setattr(prepacked, "laid_out", missing)
    assert not prepacking_works()
