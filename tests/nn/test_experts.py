import pytest
import torch

from touchstone.errors import ConfigError
from touchstone.models import build, decoder_spec
from touchstone.nn.dropout import Noise, number_dropouts
from touchstone.nn.experts import ExpertsSpec, balance_loss, build_experts, router_z_loss
from touchstone.nn.mlp import MlpSpec
from touchstone.nn.shared import Route, Shared

B, T, D, F, E, A = 3, 5, 12, 7, 4, 2
EXPERT = MlpSpec(d_ff=F, activation="silu", gated=True)
SPEC = ExpertsSpec(n_experts=E, n_active=A, expert=EXPERT)

SPECS = [
    SPEC,
    SPEC.replace(renormalise=False),
    SPEC.replace(n_active=1, renormalise=False),
    SPEC.replace(n_active=E),
    SPEC.replace(shared=MlpSpec(d_ff=9, activation="silu", gated=True)),
    SPEC.replace(expert=MlpSpec(d_ff=F, activation="relu", bias=True)),
]


def made(spec):
    """The layer with weights large enough for every token to prefer some experts clearly."""
    layer = build_experts(spec, D).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    number_dropouts(layer)
    return layer


def token_by_token(layer, x):
    """The formula, written for one token at a time."""
    spec, mixed = layer.spec, torch.zeros_like(x)
    for place in [(row, token) for row in range(x.shape[0]) for token in range(x.shape[1])]:
        probabilities = (layer.router.weight @ x[place]).exp()
        probabilities = probabilities / probabilities.sum()
        best = sorted(range(spec.n_experts), key=lambda number: -float(probabilities.detach()[number]))[: spec.n_active]
        total = sum(probabilities[number] for number in best) if spec.renormalise else 1.0
        for number in best:
            mixed[place] = mixed[place] + probabilities[number] / total * layer.experts[number](x[place])
        if spec.shared is not None:
            gate = 1 / (1 + (-layer.shared_gate.weight[0] @ x[place]).exp())
            mixed[place] = mixed[place] + gate * layer.shared_expert(x[place])
    return mixed


@pytest.mark.parametrize("spec", SPECS, ids=range(len(SPECS)))
def test_a_token_gets_its_likeliest_experts_each_times_its_probability(spec):
    layer, x = made(spec), torch.randn(B, T, D, dtype=torch.float64)
    torch.testing.assert_close(layer(x), token_by_token(layer, x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("spec", SPECS, ids=range(len(SPECS)))
def test_gradients_are_those_of_the_formula(spec):
    layer, x = made(spec), torch.randn(B, T, D, dtype=torch.float64, requires_grad=True)
    weight, parameters = torch.randn(B, T, D, dtype=torch.float64), [x, *layer.parameters()]
    ours = torch.autograd.grad((layer(x) * weight).sum(), parameters)
    expected = torch.autograd.grad((token_by_token(layer, x) * weight).sum(), parameters, allow_unused=True)
    for ours_one, expected_one in zip(ours, expected, strict=True):
        torch.testing.assert_close(ours_one, torch.zeros_like(ours_one) if expected_one is None else expected_one, rtol=0, atol=1e-11)


@pytest.mark.parametrize("spec", SPECS, ids=range(len(SPECS)))
def test_the_spec_counts_the_parameters_that_are_built(spec):
    assert sum(p.numel() for p in build_experts(spec, D).parameters()) == spec.n_parameters(D)


def test_a_token_is_multiplied_by_the_router_its_experts_and_the_shared_one():
    shared = MlpSpec(d_ff=9, activation="silu", gated=True)
    assert SPEC.product_weights(D) == E * D + A * 3 * D * F
    assert SPEC.replace(shared=shared).product_weights(D) == E * D + A * 3 * D * F + 3 * D * 9 + D


def test_an_expert_without_tokens_changes_nothing_and_has_gradients_of_zero():
    layer, x = made(SPEC), torch.rand(B, T, D, dtype=torch.float64) + 0.1
    with torch.no_grad():
        layer.router.weight[2] = -10.0  # every feature is above zero: the last choice of every token
    output = layer(x)
    output.sum().backward()
    assert all(bool((p.grad == 0).all()) for p in layer.experts[2].parameters())
    assert all(bool((p.grad != 0).any()) for p in layer.experts[0].parameters())
    with torch.no_grad():
        for parameter in layer.experts[2].parameters():
            parameter.fill_(torch.inf)
    assert torch.equal(layer(x), output)


def test_what_a_token_gets_does_not_hang_on_the_tokens_beside_it():
    layer, x = made(SPEC), torch.randn(B, T, D, dtype=torch.float64)
    torch.testing.assert_close(layer(x[1:2, 3:4]), layer(x)[1:2, 3:4], rtol=0, atol=1e-12)


NOISY = SPEC.replace(jitter=0.3, expert=EXPERT.replace(dropout=0.4), shared=MlpSpec(d_ff=9, activation="silu", gated=True, dropout=0.2))


def test_with_keys_the_noise_of_a_row_does_not_hang_on_its_batch():
    layer, x, keys = made(NOISY).train(), torch.randn(B, T, D, dtype=torch.float64), torch.tensor([5, 1 << 40, 77])
    whole = layer(x, Shared(masks={}, noise=Noise(keys)))
    turned = layer(x.flip(0), Shared(masks={}, noise=Noise(keys.flip(0)))).flip(0)
    alone = torch.cat([layer(x[row : row + 1], Shared(masks={}, noise=Noise(keys[row : row + 1]))) for row in range(B)])
    longer = torch.cat([x, torch.randn(B, 2, D, dtype=torch.float64)], dim=1)
    padded = layer(longer, Shared(masks={}, noise=Noise(keys)))[:, :T]
    for other in (turned, alone, padded):
        torch.testing.assert_close(other, whole, rtol=0, atol=1e-12)
    assert not torch.allclose(whole, layer(x, Shared(masks={}, noise=Noise(keys + 1))))
    assert not torch.allclose(whole, layer.eval()(x))


def test_two_tokens_of_a_row_that_share_an_expert_drop_different_features():
    spec = ExpertsSpec(n_experts=2, n_active=2, expert=MlpSpec(d_ff=64, activation="relu", dropout=0.5))
    layer, x = made(spec).train(), torch.ones(1, 2, D, dtype=torch.float64)
    first, second = layer(x, Shared(masks={}, noise=Noise(torch.tensor([3]))))[0]
    assert not torch.allclose(first, second)


def seen_by_router(layer, x, noise):
    seen = []
    hook = layer.router.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    output = layer(x, Shared(masks={}, noise=noise))
    hook.remove()
    return seen[0].view_as(x), output


@pytest.mark.parametrize("noise", [None, Noise(torch.arange(64))], ids=["torch's generator", "keys"])
def test_jitter_multiplies_what_the_router_sees_by_numbers_around_one(noise):
    layer, x = made(SPEC.replace(jitter=0.25)).train(), torch.randn(64, T, D, dtype=torch.float64)
    factors = seen_by_router(layer, x, noise)[0] / x
    n = factors.numel()
    assert 0.75 <= float(factors.min()) < 0.76
    assert 1.24 < float(factors.max()) <= 1.25
    deviation = 0.25 / 3**0.5
    assert abs(float(factors.mean()) - 1) < 4 * deviation / n**0.5
    assert abs(float(factors.std()) - deviation) < 0.01
    assert torch.equal(seen_by_router(layer.eval(), x, noise)[0], x)


def test_jitter_leaves_what_the_experts_see_alone():
    layer, x = made(SPEC.replace(jitter=0.25, n_active=E, renormalise=False)).train(), torch.randn(B, T, D, dtype=torch.float64)
    seen, output = seen_by_router(layer, x, Noise(torch.arange(B)))
    probabilities = (seen @ layer.router.weight.T).softmax(-1)
    expected = sum(probabilities[..., number, None] * expert(x) for number, expert in enumerate(layer.experts))
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)


def test_every_layer_has_a_jitter_of_its_own():
    spec = decoder_spec(vocab_size=11, d_model=D, n_layers=2, n_heads=3, max_seq_len=9)
    block = spec.stack.blocks[0].replace(mlp=SPEC.replace(jitter=0.25))
    net = build(spec.replace(decoder=spec.stack.replace(blocks=(block, block)))).train()
    drawn = []
    for layer in net.decoder.layers:
        x = torch.ones(1, T, D)
        drawn.append(seen_by_router(layer.mlp, x, Noise(torch.tensor([9])))[0])
    assert not torch.equal(*drawn)


def test_in_half_precision_the_router_still_chooses_in_fp32():
    layer, x = made(SPEC).bfloat16(), torch.randn(B, T, D).bfloat16()
    shared = Shared(masks={})
    layer.spec = SPEC.replace(balance_weight=1.0)
    assert layer(x, shared).dtype == torch.bfloat16
    assert shared.routes[0].logits.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.float()(x.float()).dtype == torch.float32


def routes_of(logits, n_active):
    chosen = logits.topk(n_active, dim=-1).indices
    return Route(logits, torch.zeros_like(logits, dtype=torch.bool).scatter(1, chosen, True))


def test_the_balance_loss_is_e_times_shares_times_probabilities():
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.5]], dtype=torch.float64)
    shares = [2 / 4, 1 / 4, 1 / 4]  # of the tokens, by their first choice
    means = [sum(row.exp()[e] / row.exp().sum() for row in logits) / 4 for e in range(3)]
    expected = 3 * sum(share * mean for share, mean in zip(shares, means, strict=True))
    torch.testing.assert_close(balance_loss([routes_of(logits, 1)], None), expected)


def test_the_balance_loss_of_even_experts_is_the_number_of_active_ones():
    even = Route(
        torch.zeros(E * 3, E), torch.eye(E, dtype=torch.bool).repeat(3, 1) | torch.eye(E, dtype=torch.bool).roll(1, 0).repeat(3, 1)
    )
    assert float(balance_loss([even], None)) == pytest.approx(A)


def test_the_balance_loss_joins_the_layers_and_leaves_padding_out():
    layers, counts = [torch.randn(B * T, E, dtype=torch.float64) for _ in range(2)], torch.rand(B, T) < 0.6
    kept = torch.cat([logits[counts.reshape(-1)] for logits in layers])
    joined = balance_loss([routes_of(logits, A) for logits in layers], counts)
    torch.testing.assert_close(joined, balance_loss([routes_of(kept, A)], None))


@pytest.mark.slow
def test_a_network_reports_the_balance_times_its_factor_and_nothing_without_one():
    spec = decoder_spec(vocab_size=11, d_model=D, n_layers=2, n_heads=3, max_seq_len=9)
    dense, experts = spec.stack.blocks[0], spec.stack.blocks[0].replace(mlp=SPEC.replace(balance_weight=0.5))
    token_ids, mask = torch.randint(0, 11, (B, T)), torch.ones(B, T, dtype=torch.bool).tril(2)

    def loss(weight):
        blocks = (dense, experts.replace(mlp=SPEC.replace(balance_weight=weight)))
        return build(spec.replace(decoder=spec.stack.replace(blocks=blocks)), seed=4)(token_ids, mask=mask).aux

    assert loss(0.0) == {}
    torch.testing.assert_close(loss(0.5)["balance"], 0.5 * loss(1.0)["balance"])
    assert float(loss(1.0)["balance"].detach()) >= 1.0


def test_the_balance_loss_trains_the_router_alone():
    layer, shared = made(SPEC.replace(balance_weight=1.0)), Shared(masks={})
    layer(torch.randn(B, T, D, dtype=torch.float64), shared)
    balance_loss(shared.routes, None).backward()
    assert bool((layer.router.weight.grad != 0).any())
    assert all(p.grad is None for p in layer.experts.parameters())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"n_active": E + 1}, r"`n_active` \(5\) must be at most `n_experts` \(4\)"),
        ({"n_experts": 1, "n_active": 1}, "n_experts"),
        ({"jitter": 1.0}, "jitter"),
        ({"balance_weight": -0.1}, "balance_weight"),
    ],
    ids=str,
)
def test_impossible_experts_are_refused(changes, says):
    with pytest.raises(ConfigError, match=says):
        SPEC.replace(**changes)


def test_the_z_loss_is_the_mean_square_of_the_log_of_the_sum_over_what_counts():
    layers, counts = [torch.randn(B * T, E, dtype=torch.float64) for _ in range(2)], torch.rand(B, T) < 0.6
    kept = [row for logits in layers for row in logits[counts.reshape(-1)]]
    expected = sum(row.exp().sum().log() ** 2 for row in kept) / len(kept)
    torch.testing.assert_close(router_z_loss([routes_of(logits, A) for logits in layers], counts), expected)


def test_a_wide_router_multiplies_in_fp32_whatever_the_network_is_in():
    layer, shared = build_experts(SPEC.replace(z_weight=1.0, wide_router=True), D).to(torch.bfloat16), Shared(masks={})
    x = torch.randn(B, T, D).to(torch.bfloat16)
    layer(x, shared)
    expected = x.reshape(-1, D).float() @ layer.router.weight.float().T
    torch.testing.assert_close(shared.routes[0].logits, expected, rtol=0, atol=1e-6)
