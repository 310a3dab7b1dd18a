import pytest
import torch

from touchstone.nn.dropout import Noise
from touchstone.nn.recurrent import RecurrentLayer, RecurrentSpec

B, T, W, D = 3, 5, 4, 7
KINDS = ["lstm", "gru"]


def layer_of(kind, **settings):
    return RecurrentLayer(RecurrentSpec(kind=kind, d_hidden=D, **settings), W).double()


def state_of(layer, n_rows=B):
    n_states = 2 if isinstance(layer.cell, torch.nn.LSTM) else 1
    return [torch.randn(n_rows, D, dtype=torch.float64) for _ in range(n_states)]


def step_by_formula(cell, x, state):
    """The equations as torch documents them, gates input, forget, cell, output for LSTM and reset, update, new for GRU."""
    from_x, from_h = x @ cell.weight_ih_l0.T + cell.bias_ih_l0, state[0] @ cell.weight_hh_l0.T + cell.bias_hh_l0
    if isinstance(cell, torch.nn.LSTM):
        i, f, g, o = (from_x + from_h).chunk(4, dim=1)
        c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        return [o.sigmoid() * c.tanh(), c]
    (rx, zx, nx), (rh, zh, nh) = from_x.chunk(3, dim=1), from_h.chunk(3, dim=1)
    r, z = (rx + rh).sigmoid(), (zx + zh).sigmoid()
    n = (nx + r * nh).tanh()
    return [(1 - z) * n + z * state[0]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_is_its_equations(kind):
    layer, x = layer_of(kind), torch.randn(B, T, W, dtype=torch.float64)
    state = state_of(layer)
    out, after = layer(x, state, None, None)
    for t in range(T):
        state = step_by_formula(layer.cell, x[:, t], state)
        torch.testing.assert_close(out[:, t], state[0])
    for ours, expected in zip(after, state, strict=True):
        torch.testing.assert_close(ours, expected)


MASK = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 0], [1, 0, 1, 0, 1]], dtype=torch.bool)
WITH_EMPTY = torch.tensor([[0, 0, 0, 0, 0], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.bool)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mask", [MASK, WITH_EMPTY, torch.zeros_like(MASK)], ids=["ragged", "some empty", "all empty"])
def test_a_ragged_row_equals_its_counting_tokens_alone(kind, mask):
    layer, x = layer_of(kind), torch.randn(B, T, W, dtype=torch.float64)
    state = state_of(layer)
    out, after = layer(x, state, mask, None)
    for row in range(B):
        own = [s[row : row + 1] for s in state]
        if bool(mask[row].any()):
            expected, own = layer(x[row : row + 1, mask[row]], own, None, None)
            torch.testing.assert_close(out[row, mask[row]], expected[0])
        for ours, theirs in zip(after, own, strict=True):
            torch.testing.assert_close(ours[row : row + 1], theirs)
        assert bool((out[row, ~mask[row]] == 0).all())


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_a_ragged_batch_are_those_of_its_rows(kind):
    layer, x = layer_of(kind), torch.randn(B, T, W, dtype=torch.float64)
    state = state_of(layer)
    parameters = list(layer.parameters())
    batch = torch.autograd.grad(layer(x, state, WITH_EMPTY, None)[0].square().sum(), parameters)
    alone = torch.autograd.grad(layer(x[1:2, :3], [s[1:2] for s in state], None, None)[0].square().sum(), parameters)
    for ours, theirs in zip(batch, alone, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_dropout_falls_on_the_output_and_not_on_the_state():
    layer, x = layer_of("lstm", dropout=0.5), torch.randn(B, T, W, dtype=torch.float64)
    state, noise = state_of(layer), Noise(torch.arange(B))
    plain, after = layer.eval()(x, state, None, noise)
    dropped, same = layer.train()(x, state, None, noise)
    torch.testing.assert_close(dropped, plain * layer.dropout.kept(plain.shape, noise) / 0.5)
    for ours, theirs in zip(same, after, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_layers", [1, 3])
def test_the_spec_counts_the_parameters_of_its_layers(kind, n_layers):
    spec = RecurrentSpec(kind=kind, n_layers=n_layers, d_hidden=D)
    layers = [RecurrentLayer(spec, W if layer == 0 else D) for layer in range(n_layers)]
    assert sum(p.numel() for layer in layers for p in layer.parameters()) == spec.n_parameters(W)
