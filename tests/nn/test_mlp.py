import math

import pytest
import torch

from touchstone.errors import ConfigError
from touchstone.nn.dropout import Noise
from touchstone.nn.mlp import ACTIVATIONS, GatedMlp, Mlp, MlpSpec, build_mlp
from touchstone.nn.shared import Shared

B, T, D, F = 3, 5, 12, 7
X = torch.linspace(-4, 4, 33, dtype=torch.float64)

FORMULAS = {
    "relu": lambda x: max(x, 0.0),
    "relu2": lambda x: max(x, 0.0) ** 2,
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "tanh": math.tanh,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_its_formula(name):
    expected = torch.tensor([FORMULAS[name](x) for x in X.tolist()], dtype=torch.float64)
    torch.testing.assert_close(ACTIVATIONS[name](X), expected, rtol=1e-12, atol=1e-12)


def test_the_gradient_of_squared_relu_is_twice_relu():
    x = X.clone().requires_grad_()
    ACTIVATIONS["relu2"](x).sum().backward()
    torch.testing.assert_close(x.grad, 2 * X.clamp(min=0))


def affine(linear, x):
    return x @ linear.weight.T + (0 if linear.bias is None else linear.bias)


@pytest.mark.parametrize("bias", [False, True])
def test_the_plain_layer_is_down_of_act_of_up(bias):
    mlp, x = build_mlp(MlpSpec(d_ff=F, activation="tanh", bias=bias), D).double(), torch.randn(B, T, D, dtype=torch.float64)
    assert type(mlp) is Mlp
    torch.testing.assert_close(mlp(x), affine(mlp.down_proj, affine(mlp.up_proj, x).tanh()))


@pytest.mark.parametrize("bias", [False, True])
def test_the_gated_layer_acts_on_the_gate_only(bias):
    mlp, x = build_mlp(MlpSpec(d_ff=F, activation="tanh", gated=True, bias=bias), D).double(), torch.randn(B, T, D, dtype=torch.float64)
    assert type(mlp) is GatedMlp
    torch.testing.assert_close(mlp(x), affine(mlp.down_proj, affine(mlp.gate_proj, x).tanh() * affine(mlp.up_proj, x)))


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_the_spec_counts_the_parameters_that_are_built(gated, bias):
    spec = MlpSpec(d_ff=F, gated=gated, bias=bias)
    assert sum(p.numel() for p in build_mlp(spec, D).parameters()) == spec.n_parameters(D)


def test_dropout_falls_on_the_inner_features():
    mlp = build_mlp(MlpSpec(d_ff=F, activation="relu", dropout=0.5), D)
    x, noise = torch.randn(B, T, D), Noise(torch.arange(B))
    inner = mlp.up_proj(x).relu()
    expected = mlp.down_proj(inner * mlp.dropout.kept(inner.shape, noise) / 0.5)
    torch.testing.assert_close(mlp(x, Shared(masks={}, noise=noise)), expected)


def test_an_unknown_activation_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match=r"activation.*'gelu_tanh'.*not 'swish'"):
        MlpSpec(d_ff=F, activation="swish")
