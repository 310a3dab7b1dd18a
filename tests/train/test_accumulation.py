"""Micro-batches change what is in memory at once, and nothing else."""

import itertools

import numpy as np
import pytest
import torch
from tiny_run import N_ROWS, VOCAB, make_config, make_net, make_source, make_trainer

from touchstone.errors import ConfigError, DataError
from touchstone.models import build, decoder_spec
from touchstone.nn.experts import ExpertsSpec
from touchstone.nn.mlp import MlpSpec
from touchstone.text.batch import PaddedRows, Plan
from touchstone.train import Causal, OptimConfig
from touchstone.train.step import noise_keys

pytestmark = pytest.mark.slow


def trained(folder, micro_batch_size, *, kind="adamw", dropout=0.0, clip_norm=1.0, objective=None, dtype=torch.float32):
    config = make_config(n_steps=6, batch_size=8, micro_batch_size=micro_batch_size, clip_norm=clip_norm, optim=OptimConfig(kind=kind))
    net = make_net(dropout=dropout).to(dtype)
    make_trainer(folder, net=net, config=config, objective=objective or Causal(label_smoothing=0.1)).run()
    return dict(net.named_parameters())


@pytest.mark.parametrize(
    ("micro_batch_size", "dropout", "clip_norm"),
    [(3, 0.3, 0.05), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((1, 0.3, None), (3, 0.0, 0.05), (4, 0.0, None)))],
)
def test_accumulation_equals_the_big_batch_after_several_adamw_steps_on_ragged_rows(tmp_path, micro_batch_size, dropout, clip_norm):
    big = trained(tmp_path / "big", None, dropout=dropout, clip_norm=clip_norm)
    small = trained(tmp_path / "small", micro_batch_size, dropout=dropout, clip_norm=clip_norm)
    for name, parameter in big.items():
        torch.testing.assert_close(small[name], parameter, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_what_is_left_of_a_difference_is_rounding_in_double_precision_it_is_gone(tmp_path, kind):
    big, small = (trained(tmp_path / str(size), size, kind=kind, dropout=0.3, dtype=torch.float64) for size in (None, 3))
    for name, parameter in big.items():
        torch.testing.assert_close(small[name], parameter, rtol=0, atol=1e-13)


def test_the_check_above_can_fail_a_mean_of_means_is_another_run(tmp_path):
    class MeanOfMeans(Causal):
        def __call__(self, net, batch, noise):
            loss = super().__call__(net, batch, noise)
            return type(loss)(loss.total / loss.count, torch.ones((), dtype=torch.long))

    big, small = (trained(tmp_path / str(size), size, objective=MeanOfMeans()) for size in (None, 3))
    assert max((small[name] - parameter).abs().max().item() for name, parameter in big.items()) > 1e-5


def test_an_objective_that_is_no_sum_refuses_to_be_cut(tmp_path):
    objective = Causal()
    objective.additive = False
    with pytest.raises(ConfigError, match="do not add up"):
        make_trainer(tmp_path, objective=objective)
    make_trainer(tmp_path, objective=objective, config=make_config(micro_batch_size=None))


@pytest.mark.parametrize("name", ["balance_weight", "z_weight"])
def test_a_network_whose_experts_add_means_to_the_loss_refuses_to_be_cut(tmp_path, name):
    dense = decoder_spec(vocab_size=VOCAB, d_model=12, n_layers=2, n_heads=4, n_kv_heads=2, d_head=4, max_seq_len=9)

    def trainer_of(weight, config):
        experts = ExpertsSpec(n_experts=3, n_active=2, expert=MlpSpec(d_ff=5, activation="silu", gated=True), **{name: weight})
        blocks = (dense.decoder.blocks[0], dense.decoder.blocks[1].replace(mlp=experts))
        return make_trainer(tmp_path, net=build(dense.replace(decoder=dense.decoder.replace(blocks=blocks))), config=config)

    with pytest.raises(ConfigError, match=f"`{name}` adds means .* do not add up; leave `micro_batch_size` out"):
        trainer_of(0.01, make_config())
    trainer_of(0.01, make_config(micro_batch_size=None))
    trainer_of(0.0, make_config())


def test_rows_of_like_length_share_a_micro_batch_each_with_its_own_noise(tmp_path):
    seen = []

    class Watching(Causal):
        def __call__(self, net, batch, noise):
            seen.append((batch.token_ids.shape[1], len(batch.token_ids), noise.keys.tolist()))
            return super().__call__(net, batch, noise)

    source, config = make_source(), make_config(n_steps=1)
    trainer = make_trainer(tmp_path, source=source, objective=Watching(), evaluate=None, config=config)
    trainer.run()
    ids = trainer._gradients.example_ids(0)
    order = np.argsort(source.lengths[ids], kind="stable")
    assert [n for _, n, _ in seen] == [2, 2, 1]
    assert [width for width, _, _ in seen] == [source.lengths[ids[order[k : k + 2]]].max() for k in (0, 2, 4)]
    assert [key for _, _, keys in seen for key in keys] == noise_keys(config.seed, 0, 5)[order].tolist()


def test_a_batch_in_which_nothing_counts_is_refused_but_a_micro_batch_may_be_empty(tmp_path):
    rows = [[1, 2, 3]] * 6
    quiet = PaddedRows(rows, counts=[[True] * 3] + [[False] * 3] * 5)
    config = make_config(n_steps=4, batch_size=6, micro_batch_size=1)
    assert make_trainer(tmp_path / "one", source=quiet, config=config).run().status == "finished"
    silent = PaddedRows(rows, counts=[[False] * 3] * 6)
    with pytest.raises(DataError, match="counts"):
        make_trainer(tmp_path / "none", source=silent, config=config).run()


def test_noise_keys_differ_by_seed_step_and_row_and_not_by_how_a_batch_is_cut():
    keys = {tuple(noise_keys(seed, step, 7)) for seed, step in itertools.product((0, 1, 2**63, 2**64 - 1), range(30))}
    assert len({key for row in keys for key in row}) == 4 * 30 * 7
    assert np.array_equal(noise_keys(3, 5, 7)[:4], noise_keys(3, 5, 4))


def test_every_example_is_seen_exactly_once_an_epoch(tmp_path):
    seen = []

    class Watching(PaddedRows):
        def batch(self, example_ids):
            seen.extend(example_ids.tolist())
            return super().batch(example_ids)

    source = make_source()
    source.__class__ = Watching
    make_trainer(tmp_path, source=source, evaluate=None, config=make_config(micro_batch_size=None)).run()
    for epoch in range(3):
        assert sorted(seen[epoch * N_ROWS : (epoch + 1) * N_ROWS]) == list(range(N_ROWS))


def test_no_two_rows_of_a_run_have_the_same_noise(tmp_path):
    seen = []

    class Watching(Causal):
        def __call__(self, net, batch, noise):
            seen.extend(noise.keys.tolist())
            return super().__call__(net, batch, noise)

    make_trainer(tmp_path, objective=Watching(), evaluate=None).run()
    assert len(set(seen)) == len(seen) == 18 * 5


@pytest.mark.parametrize(("n_examples", "batch_size"), [(23, 5), (7, 9), (4000, 3)])
def test_the_examples_of_a_step_are_those_of_the_plan(tmp_path, n_examples, batch_size):
    source = PaddedRows([[1, 2, 3]] * n_examples)
    config = make_config(batch_size=batch_size, n_steps=500)
    gradients = make_trainer(tmp_path, source=source, config=config)._gradients
    plan = Plan(n_examples, batch_size, config.seed)
    for step in (0, 1, 63, 64, 65, 400, 64, 0):
        assert np.array_equal(gradients.example_ids(step), plan.example_ids(step))
