"""Products in int8 against the formula in float64, the same bits by every operator and for any number of rows."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from touchstone.errors import ConfigError, ShapeError
from touchstone.nn import int8_products
from touchstone.nn.int8 import Int8Linear, Int8Table, beside, use_int8_product
from touchstone.nn.int8_choice import is_exact
from touchstone.nn.int8_products import INT8_PRODUCTS, MANY_ROWS
from touchstone.nn.linear import Linear

EXACT = [name for name, product in INT8_PRODUCTS.items() if is_exact(product)]
OPERATORS = [
    pytest.param(name, marks=pytest.mark.skipif(name not in EXACT, reason="its sums overflow on this processor, so it is never used"))
    for name in INT8_PRODUCTS
]
SHAPES = (
    (0, 5, 7),
    (1, 1, 1),
    (1, 64, 3),
    (2, 37, 41),
    (3, 129, 65),
    (17, 31, 130),
    (17, 3, 1),
    (3, 1, 5),
    (2, 1536, 5),
    (2, 3073, 5),
    (130, 40, 9),
)
ROWS = (1, 2, 3, 5, 16, 64, MANY_ROWS, MANY_ROWS + 1)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def linear(d_in, d_out, bias=True, seed=1):
    layer = Linear(d_in, d_out, bias=bias)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(0, 0.3, generator=rng(seed))
    return layer


def forced(layer, operator):
    use_int8_product(layer, operator)
    return layer


def formula(layer, x):
    """y = (q · W_q) · w · a + b: a and q rounded in fp32 as IEEE 754 says, the rest in float64. And the size of what is rounded."""
    rows = x.numpy() * (1 if layer.smooth is None else layer.smooth.numpy())
    step = np.abs(rows).max(axis=1, keepdims=True) / np.float32(127)
    with np.errstate(invalid="ignore"):
        codes = np.nan_to_num(np.rint(rows / step)).astype(np.float64)
    sums = codes @ layer.weight.numpy().astype(np.float64).T
    product = sums * layer.scale.numpy() * step
    bias = 0.0 if layer.bias is None else layer.bias.numpy().astype(np.float64)
    return product + bias, np.abs(product) + np.abs(bias)


@pytest.mark.parametrize("smoothed", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("operator", OPERATORS)
def test_a_product_is_the_formula_up_to_the_rounding_of_its_last_steps(operator, shape, bias, smoothed):
    n_rows, d_in, d_out = shape
    smooth = 2.0 ** -torch.randint(0, 5, (d_in,), generator=rng(2)).float() if smoothed else None
    layer = forced(Int8Linear.of(linear(d_in, d_out, bias), smooth), operator)
    x = torch.randn(n_rows, d_in, generator=rng()) * 3
    found = layer(x)
    expected, size = formula(layer, x)
    assert found.dtype == torch.float32
    assert found.shape == (n_rows, d_out)
    assert (np.abs(found.numpy() - expected) <= 4 * 2.0**-24 * size + 1e-30).all()  # sum to fp32, two scales, the bias


@pytest.mark.slow
@given(n_rows=st.integers(1, 5), d_in=st.integers(1, 40), d_out=st.integers(1, 9), seed=st.integers(0, 99))
def test_a_product_is_as_far_from_that_of_real_numbers_as_half_steps_allow(n_rows, d_in, d_out, seed):
    exact = linear(d_in, d_out, seed=seed)
    layer = Int8Linear.of(exact)
    x = torch.randn(n_rows, d_in, generator=rng(seed)).double()
    weight = exact.weight.detach().double()
    a, w = x.abs().amax(1, keepdim=True) / 127, weight.abs().amax(1) / 127
    allowed = x.abs().sum(1, keepdim=True) * w / 2 + a / 2 * weight.abs().sum(1) + d_in * a * w / 4
    wanted = x @ weight.t() + exact.bias.detach().double()
    assert bool(((layer(x.float()) - wanted).abs() <= allowed * (1 + 1e-5) + 1e-6).all())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_all_operators_give_the_same_bits(shape):
    n_rows, d_in, d_out = shape
    layer, x = Int8Linear.of(linear(d_in, d_out)), torch.randn(n_rows, d_in, generator=rng())
    wanted = forced(layer, "reference")(x)
    for operator in EXACT:
        assert torch.equal(forced(layer, operator)(x), wanted), operator


@pytest.mark.slow
@pytest.mark.parametrize("d_in", [48, 37, 771])
@pytest.mark.parametrize("operator", [*OPERATORS, "mixed"])
def test_a_rows_bits_depend_on_no_other_row_and_on_no_thread(operator, d_in):
    smooth = 2.0 ** -torch.randint(0, 3, (d_in,), generator=rng(2)).float()
    layer = Int8Linear.of(linear(d_in, 131), smooth)
    use_int8_product(layer, *(("int_mm", EXACT[1], "floats") if operator == "mixed" else (operator,)))
    n_all = MANY_ROWS + 2
    x = torch.randn(n_all, d_in, generator=rng())
    alone = torch.cat([layer(x[row : row + 1]) for row in range(n_all)])
    n_threads = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            for n_rows in ROWS:
                for start in {0, 1, n_all - n_rows}:
                    assert torch.equal(layer(x[start : start + n_rows]), alone[start : start + n_rows])
    finally:
        torch.set_num_threads(n_threads)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("operator", OPERATORS)
def test_a_row_that_is_not_finite_gives_nan_and_leaves_the_others_alone(operator, wrong):
    layer, x = forced(Int8Linear.of(linear(37, 11)), operator), torch.randn(5, 37, generator=rng())
    sound = layer(x)
    x[2, 36] = wrong
    found = layer(x)
    assert bool(found[2].isnan().all())
    others = [0, 1, 3, 4]
    assert torch.equal(found[others], sound[others])


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("value", [0.0, 1e-45, -1e-40, 3e-38])
def test_a_row_of_nothing_gives_the_bias(operator, value):
    layer = forced(Int8Linear.of(linear(37, 11)), operator)
    torch.testing.assert_close(layer(torch.full((2, 37), value)), layer.bias.expand(2, -1), rtol=0, atol=1e-35)


def test_weights_of_nothing_give_nothing():
    layer = Int8Linear.of_weight(torch.zeros(3, 5), None)
    assert torch.equal(layer(torch.randn(2, 5, generator=rng())), torch.zeros(2, 3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_float_types_are_read_as_fp32(dtype):
    layer, x = Int8Linear.of(linear(12, 7)), torch.randn(3, 5, 12, generator=rng()).to(dtype)
    assert torch.equal(layer(x), layer(x.float()))
    assert layer(x).shape == (3, 5, 7)


def test_factors_on_the_inputs_keep_large_ones_from_rounding_the_rest_away():
    exact, x = linear(64, 48, bias=False), torch.randn(32, 64, generator=rng())
    large = torch.ones(64)
    large[[3, 40]] = 128.0
    with torch.no_grad():
        exact.weight /= large
    wanted, given = exact(x * large).detach(), x * large

    def error(layer):
        return float((layer(given) - wanted).norm() / wanted.norm())

    assert error(Int8Linear.of(exact)) > 0.1
    assert error(Int8Linear.of(exact, 1 / large)) < 0.015


def test_layers_beside_each_other_are_one_layer_that_stores_nothing_twice():
    layers = [Int8Linear.of(linear(12, width, seed=width)) for width in (5, 3, 7)]
    x = torch.randn(4, 12, generator=rng())
    apart = torch.cat([layer(x) for layer in layers], dim=1)
    joined = beside(layers)
    assert torch.equal(joined(x), apart)
    assert torch.equal(torch.cat([layer(x) for layer in layers], dim=1), apart)
    assert joined.holds(*layers)
    assert not joined.holds(*layers[::-1])
    assert {layer.weight.untyped_storage().data_ptr() for layer in layers} == {joined.weight.untyped_storage().data_ptr()}


def test_layers_beside_each_other_keep_their_factors_and_their_operators():
    smooth = 2.0 ** -torch.arange(12).float()
    layers = [forced(Int8Linear.of(linear(12, width, bias=False, seed=width), smooth), "reference") for width in (5, 3)]
    x = torch.randn(4, 12, generator=rng())
    apart = torch.cat([layer(x) for layer in layers], dim=1)
    joined = beside(layers)
    assert torch.equal(joined(x), apart)
    assert joined.more_rows is layers[0].more_rows


@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_layers_that_lie_beside_each_other_are_not_moved_again(kind):
    plain = [Linear(7, n) for n in (5, 3, 4)]
    layers = plain if kind == "float32" else [Int8Linear.of(layer) for layer in plain]
    first = beside(layers)
    places = [layer.weight.data_ptr() for layer in layers]
    again = beside(layers)
    assert [layer.weight.data_ptr() for layer in layers] == places
    assert again.weight.data_ptr() == first.weight.data_ptr()
    assert first.holds(*layers)
    assert again.holds(*layers)
    x = torch.randn(2, 7)
    assert torch.equal(again(x), first(x))
    torch.testing.assert_close(beside(layers[:2])(x), first(x)[:, :8])  # fewer of them are one layer too
    assert beside(layers[::-1]).weight.data_ptr() not in places  # in another order they are copied


def test_layers_with_other_factors_are_not_put_beside_each_other():
    plain, smooth = Int8Linear.of(linear(12, 5)), Int8Linear.of(linear(12, 5), torch.full((12,), 0.5))
    for pair in ((plain, smooth), (smooth, plain), (plain, Int8Linear.of(linear(11, 5)))):
        with pytest.raises(ShapeError, match="one input"):
            beside(pair)


def test_layers_in_fp32_are_put_beside_each_other_by_the_same_word():
    layers, x = [linear(12, 5), linear(12, 3)], torch.randn(4, 12, generator=rng())
    torch.testing.assert_close(beside(layers)(x), torch.cat([layer(x) for layer in layers], dim=1))


def test_new_weights_are_packed_anew():
    layer, other = (forced(Int8Linear.of(linear(12, 5, seed=seed)), "qlinear") for seed in (1, 2))
    x = torch.randn(4, 12, generator=rng())
    layer(x)
    layer.load_state_dict(other.state_dict())
    assert torch.equal(layer(x), other(x))


def test_a_copy_computes_the_same():
    layer, x = forced(Int8Linear.of(linear(12, 5)), "qlinear"), torch.randn(4, 12, generator=rng())
    assert torch.equal(layer(x), copy.deepcopy(layer)(x))


def test_there_are_no_gradients():
    assert not Int8Linear.of(linear(12, 5))(torch.randn(4, 12, requires_grad=True)).requires_grad


def test_what_cannot_be_exact_or_finite_is_refused():
    with pytest.raises(ConfigError, match="at most 133144 inputs"):  # (2^31 - 1) / 127^2
        Int8Linear(133145, 1, bias=False)
    with pytest.raises(ConfigError, match="not finite"):
        Int8Linear.of_weight(torch.tensor([[1.0, float("nan")]]), None)


@pytest.mark.parametrize("smooth", [None, 2.0 ** -torch.arange(12).float().remainder(3)])
def test_a_table_gives_its_rows_to_within_half_a_step(smooth):
    weight = torch.randn(11, 12, generator=rng())
    table = Int8Table(Int8Linear.of_weight(weight, None, smooth), scale=2.0)
    token_ids = torch.tensor([[3, 0, 10], [10, 10, 5]])
    factors = torch.ones(12) if smooth is None else smooth
    step = (weight / factors).abs().amax(1, keepdim=True) / 127 * factors
    apart = (table(token_ids) - 2 * weight[token_ids]).abs()
    assert bool((apart <= 1.0001 * step[token_ids]).all())
    assert (table.weight.dtype, table.weight.device.type) == (torch.float32, "cpu")


def test_a_chosen_operator_is_used_by_every_layer_of_a_network():
    net = nn.Sequential(Int8Linear.of(linear(12, 5)), nn.ModuleList([Int8Linear.of(linear(5, 3))]))
    use_int8_product(net, "reference", "halves")
    for layer in (net[0], net[1][0]):
        assert [layer.one_row, layer.more_rows, layer.many_rows] == [int8_products.reference, int8_products.halves, int8_products.halves]


def test_the_operator_follows_the_number_of_rows():
    layer, asked = Int8Linear.of(linear(12, 5)), []
    for name in ("one_row", "more_rows", "many_rows"):
        setattr(layer, name, lambda codes, by, name=name: asked.append((name, len(codes))) or codes @ by.columns.float())
    for n_rows in (0, 1, 2, MANY_ROWS - 1, MANY_ROWS):
        layer(torch.randn(n_rows, 12))
    assert asked == [("more_rows", 0), ("one_row", 1), ("more_rows", 2), ("more_rows", MANY_ROWS - 1), ("many_rows", MANY_ROWS)]


def test_whole_numbers_beyond_fp32_are_added_and_rounded_once():
    found = int8_products._total([torch.full((1, 1), number) for number in (2.0**24, 1.0, 1.0)])
    assert found.item() == 2**24 + 2  # in fp32 2^24 + 1 is 2^24
