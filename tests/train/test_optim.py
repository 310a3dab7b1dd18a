import pytest
import torch

from touchstone.errors import ConfigError, RunFolderError
from touchstone.models import ClassifyHead, TagHead, build, decoder_spec, encoder_spec, recurrent_spec
from touchstone.train.optim import OptimConfig, build_optimizer, parameter_groups


@pytest.fixture
def net():
    spec = decoder_spec(
        vocab_size=11,
        d_model=12,
        n_layers=2,
        n_heads=4,
        n_kv_heads=2,
        max_seq_len=9,
        positions="learned",
        bias=True,
        qk_norm=True,
        tied=False,
    )
    return build(spec, seed=1)


def set_gradients(net, seed=2):
    rng = torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=rng)


def test_every_parameter_has_exactly_one_role(net):
    groups = parameter_groups(net)
    sorted_ = [*groups.matrices, *groups.tables, *groups.head, *groups.vectors]
    assert sorted(sorted_) == sorted(name for name, _ in net.named_parameters())
    assert set(groups.tables) == {"embed.weight", "decoder.positions.weight"}
    assert set(groups.head) == {"lm_head.weight"}
    assert all(parameter.ndim == 1 for parameter in groups.vectors.values())
    assert "decoder.layers.0.attn.q_proj.weight" in groups.matrices


@pytest.mark.parametrize(
    ("head", "names"),
    [
        (ClassifyHead(n_labels=3, activation="tanh"), {"classify_head.dense.weight", "classify_head.out.weight"}),
        (TagHead(n_labels=3), {"tag_head.out.weight"}),
        (None, {"lm_head.dense.weight"}),
    ],
)
def test_matrices_of_any_head_are_the_heads_and_every_table_is_a_table(head, names):
    groups = parameter_groups(build(encoder_spec(vocab_size=11, d_model=12, n_layers=1, n_heads=3, max_seq_len=9, head=head)))
    assert set(groups.head) == names
    assert set(groups.tables) == {"embed.weight", "embed.token_types", "encoder.positions.weight"}


def test_a_tied_head_is_a_table_and_recurrent_weights_are_matrices():
    tied = parameter_groups(build(decoder_spec(vocab_size=11, d_model=12, n_layers=1, n_heads=3, max_seq_len=9)))
    assert set(tied.tables) == {"embed.weight"}
    assert not tied.head
    lstm = parameter_groups(build(recurrent_spec(vocab_size=11, d_model=6, d_hidden=7)))
    assert len(lstm.matrices) == 2
    assert set(lstm.head) == {"lm_head.weight"}


def test_frozen_parameters_are_left_out(net):
    net.embed.weight.requires_grad_(False)
    assert "embed.weight" not in parameter_groups(net).tables
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ConfigError, match="no parameter to train"):
        build_optimizer(net, OptimConfig())


def test_adamw_follows_its_formula_with_decay_where_it_belongs(net):
    config = OptimConfig(learning_rate=0.01, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.5, embedding_learning_rate=0.03)
    groups = parameter_groups(net)
    expected = {name: p.detach().double().clone() for name, p in net.named_parameters()}
    first = {name: torch.zeros_like(p) for name, p in expected.items()}
    second = {name: torch.zeros_like(p) for name, p in expected.items()}
    optimizer = build_optimizer(net, config)
    for t, factor in ((1, 1.0), (2, 0.5), (3, 0.25)):
        set_gradients(net, seed=t)
        for name, parameter in net.named_parameters():
            g, rate = parameter.grad.double(), factor * (0.03 if name in groups.tables else 0.01)
            decay = 0.5 if name in groups.matrices or name in groups.head else 0.0
            first[name] = 0.8 * first[name] + 0.2 * g
            second[name] = 0.9 * second[name] + 0.1 * g * g
            step = (first[name] / (1 - 0.8**t)) / ((second[name] / (1 - 0.9**t)).sqrt() + 1e-6)
            expected[name] = expected[name] * (1 - rate * decay) - rate * step
        optimizer.step(factor)
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameter.detach().double(), expected[name], rtol=1e-5, atol=1e-6)


def test_tables_decay_only_when_asked(net):
    for asked, factor in ((False, 1.0), (True, 1 - 0.01 * 0.5)):
        copy = build(net.spec, seed=1)
        for parameter in copy.parameters():
            parameter.grad = torch.zeros_like(parameter)
        build_optimizer(copy, OptimConfig(learning_rate=0.01, weight_decay=0.5, decay_embeddings=asked)).step(1.0)
        torch.testing.assert_close(copy.embed.weight, net.embed.weight * factor)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_l1_moves_decaying_weights_straight_to_zero_and_keeps_them_there(net, kind):
    config = OptimConfig(kind=kind, learning_rate=0.1, muon_learning_rate=0.1, weight_decay=0.0, l1=0.05)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimizer, groups = build_optimizer(net, config), parameter_groups(net)
    for _ in range(3):
        for parameter in net.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step(0.5)
    for name, parameter in net.named_parameters():
        way = 3 * 0.1 * 0.5 * 0.05 if name in groups.matrices or name in groups.head else 0.0
        expected = before[name].sign() * (before[name].abs() - way).clamp(min=0)
        torch.testing.assert_close(parameter.detach(), expected)
    assert any((p == 0).any() for p in groups.matrices.values())


def test_muon_takes_the_hidden_matrices_alone(net):
    optimizer = build_optimizer(net, OptimConfig(kind="muon"))
    groups = parameter_groups(net)
    state = optimizer.state()
    assert {name.removeprefix("muon.momentum.") for name in state if name.startswith("muon.")} == set(groups.matrices)
    assert {name.removeprefix("adamw.exp_avg.") for name in state if name.startswith("adamw.exp_avg.")} == {
        *groups.tables,
        *groups.head,
        *groups.vectors,
    }


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_loaded_state_continues_bit_for_bit(net, kind):
    config = OptimConfig(kind=kind)
    optimizer = build_optimizer(net, config)
    set_gradients(net, 5)
    optimizer.step(1.0)
    twin = build(net.spec, seed=9)
    other = build_optimizer(twin, config)
    twin.load_state_dict(net.state_dict())
    other.load_state({name: tensor.clone() for name, tensor in optimizer.state().items()})
    for seed in (6, 7):
        for either, its_optimizer in ((net, optimizer), (twin, other)):
            set_gradients(either, seed)
            its_optimizer.step(0.3)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))


def test_a_state_of_another_network_or_kind_is_refused_with_every_difference(net):
    state = build_optimizer(net, OptimConfig()).state()
    state.pop("adamw.exp_avg.embed.weight")
    state["adamw.step.embed.weight"] = torch.zeros(2)
    state["adamw.exp_avg.extra"] = torch.zeros(1)
    with pytest.raises(RunFolderError) as caught:
        build_optimizer(net, OptimConfig()).load_state(state)
    for said in (
        "`adamw.exp_avg.embed.weight` is missing",
        "`adamw.exp_avg.extra` is unknown",
        "`adamw.step.embed.weight` is (2,), not ()",
    ):
        assert said in str(caught.value)


def test_betas_of_one_are_refused():
    with pytest.raises(ConfigError, match="betas"):
        OptimConfig(betas=(0.9, 1.0))
