import pytest
import torch

from touchstone.nn import products
from touchstone.nn.linear import Linear, build_linear
from touchstone.nn.products import choose_product, onednn_product, torch_product, use_product

needs_onednn = pytest.mark.skipif(not products.onednn_works(), reason="this build of torch has no oneDNN fp32 product")


def operands(shape=(3, 5, 12), d_out=7, dtype=torch.float32):
    x, weight, bias = torch.randn(shape, dtype=dtype), torch.randn(d_out, shape[-1], dtype=dtype), torch.randn(d_out, dtype=dtype)
    return [t.requires_grad_() for t in (x, weight, bias)]


@needs_onednn
@pytest.mark.parametrize("shape", [(12,), (5, 12), (3, 5, 12)])
@pytest.mark.parametrize("d_out", [7, 17])
@pytest.mark.parametrize("biased", [False, True])
def test_onednns_product_equals_torchs_forward_and_backward(shape, d_out, biased):
    x, weight, bias = operands(shape, d_out)
    inputs = (x, weight, bias) if biased else (x, weight)
    results = []
    for product in (torch_product, onednn_product):
        out = product(x, weight, bias if biased else None)
        results.append((out, *torch.autograd.grad(out.square().sum(), inputs)))
    for theirs, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@needs_onednn
def test_a_transposed_input_is_read_as_it_lies():
    x, weight = torch.randn(12, 5).t(), torch.randn(7, 12)
    torch.testing.assert_close(onednn_product(x, weight, None), torch_product(x, weight, None), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_torchs_own_bits(dtype):
    x, weight, bias = operands(dtype=dtype)
    assert torch.equal(onednn_product(x, weight, bias), torch_product(x, weight, bias))


def test_a_product_of_no_rows_has_no_rows():
    x, weight, bias = operands((0, 12))
    assert onednn_product(x, weight, bias).shape == (0, 7)


def test_a_network_uses_the_product_it_was_given():
    net = torch.nn.Sequential(build_linear(12, 7, bias=True), torch.nn.ReLU(), build_linear(7, 3, bias=False))
    use_product(net, "onednn")
    assert all(layer.product is onednn_product for layer in net if isinstance(layer, Linear))
    use_product(net, "torch")
    assert all(layer.product is torch_product for layer in net if isinstance(layer, Linear))


@pytest.mark.slow
def test_the_choice_is_measured():
    choice = choose_product()
    assert choice.name in ("torch", "onednn")
    assert choice.name == "torch" or choice.gain >= 1.1


@needs_onednn
@pytest.mark.parametrize(("gain", "name"), [(1.5, "onednn"), (1.05, "torch"), (0.5, "torch")])
def test_only_a_clear_gain_is_taken_and_the_reason_names_it(gain, name, monkeypatch):
    monkeypatch.setattr(products, "_gain", lambda works: gain)
    choice = choose_product()
    assert (choice.name, choice.gain) == (name, gain)
    assert f"{gain:.2f} times" in choice.reason


def test_a_product_that_does_not_agree_is_not_chosen(monkeypatch):
    monkeypatch.setattr(products, "multiply_onednn", lambda x, weight, bias: torch.nn.functional.linear(x, weight, bias) * 1.01)
    choice = choose_product()
    assert (choice.name, choice.gain) == ("torch", None)


def test_a_missing_operator_is_not_chosen(monkeypatch):
    def missing(x, weight, bias):
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_linear_pointwise'")

    monkeypatch.setattr(products, "multiply_onednn", missing)
    assert choose_product().name == "torch"


@needs_onednn
def test_a_trainings_choice_is_measured_with_the_gradients(monkeypatch):
    asked = []
    monkeypatch.setattr(products, "_to_weight", lambda grad, x: asked.append(1) or grad.t() @ x)
    monkeypatch.setattr(products, "onednn_works", lambda: True)
    choose_product()
    assert asked
