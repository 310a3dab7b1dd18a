import dataclasses

import numpy as np
import pytest
import torch

from touchstone.errors import ConfigError, ShapeError
from touchstone.models import build, decoder_spec
from touchstone.text.batch import PaddedRows
from touchstone.train.objective import Causal, TensorBatch, token_nll

B, T, V = 3, 5, 11


@pytest.fixture
def scored():
    rng = torch.Generator().manual_seed(1)
    logits = torch.randn(B, T, V, generator=rng, requires_grad=True)
    targets = torch.randint(0, V, (B, T), generator=rng)
    counts = torch.rand(B, T, generator=rng) < 0.6
    return logits, targets, counts


def log_p(logits):
    return logits.double() - logits.double().exp().sum(-1, keepdim=True).log()


def test_nll_is_the_sum_of_minus_log_p_over_the_counted_targets(scored):
    logits, targets, counts = scored
    loss = token_nll(logits, targets, counts)
    expected = -sum(log_p(logits)[b, t, targets[b, t]] for b in range(B) for t in range(T) if counts[b, t])
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-6)
    assert loss.count.item() == int(counts.sum())
    assert loss.parts["nll"].item() == loss.total.item()


def test_label_smoothing_mixes_the_target_with_the_uniform_distribution_and_logs_the_plain_nll(scored):
    logits, targets, counts = scored
    wanted = torch.full((B, T, V), 0.1 / V, dtype=torch.double).scatter_add(-1, targets[..., None], torch.full((B, T, 1), 0.9).double())
    expected = -(wanted * log_p(logits)).sum(-1)[counts].sum()
    loss = token_nll(logits, targets, counts, label_smoothing=0.1)
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-6)
    assert loss.parts["nll"].item() == pytest.approx(token_nll(logits, targets, counts).total.item(), rel=1e-6)


def test_targets_that_do_not_count_give_no_gradient_whatever_they_hold(scored):
    logits, targets, counts = scored
    token_nll(logits, targets, counts).total.backward()
    assert logits.grad[~counts].abs().max() == 0
    changed = torch.where(counts, targets, (targets + 1) % V)
    assert token_nll(logits, changed, counts).total.item() == token_nll(logits, targets, counts).total.item()


def test_nothing_to_count_is_an_error_and_not_a_nan(scored):
    logits, targets, counts = scored
    with pytest.raises(ShapeError, match="counts"):
        token_nll(logits, targets, torch.zeros_like(counts))


def test_bfloat16_logits_are_summed_in_float32():
    logits = torch.zeros(1, 4096, 7, dtype=torch.bfloat16)
    loss = token_nll(logits, torch.zeros(1, 4096, dtype=torch.long), torch.ones(1, 4096, dtype=torch.bool))
    assert loss.total.dtype == torch.float32
    assert loss.total.item() == pytest.approx(4096 * np.log(7), rel=1e-5)


@pytest.fixture
def net_and_rows():
    net = build(decoder_spec(vocab_size=V, d_model=12, n_layers=1, n_heads=4, n_kv_heads=2, d_head=4, max_seq_len=9), seed=2)
    rng = np.random.default_rng(3)
    return net, PaddedRows([rng.integers(0, V, size=n).tolist() for n in (4, 9, 2, 6)])


def test_the_causal_loss_of_a_ragged_batch_is_the_sum_of_its_rows(net_and_rows):
    net, rows = net_and_rows
    objective = Causal(label_smoothing=0.1, z_loss=1e-2)
    whole = objective(net, TensorBatch.of(rows.batch(np.arange(4))), None)
    alone = [objective(net, TensorBatch.of(rows.batch(np.array([i]))), None) for i in range(4)]
    assert whole.total.item() == pytest.approx(sum(loss.total.item() for loss in alone), rel=1e-5)
    assert whole.count.item() == sum(loss.count.item() for loss in alone) == 3 + 8 + 1 + 5


def test_z_loss_adds_the_squared_log_of_the_normaliser(net_and_rows):
    net, rows = net_and_rows
    batch = TensorBatch.of(rows.batch(np.array([1])))
    logits = net(batch.token_ids, mask=batch.mask).logits.double()
    added = Causal(z_loss=0.5)(net, batch, None).total - Causal()(net, batch, None).total
    assert added.item() == pytest.approx(0.5 * logits.exp().sum(-1).log().square().sum().item(), rel=1e-4)


def test_tensors_hold_what_the_arrays_held(net_and_rows):
    _, rows = net_and_rows
    arrays = rows.batch(np.array([2, 0]))
    tensors = TensorBatch.of(arrays)
    for field in dataclasses.fields(tensors):
        array = getattr(arrays, field.name)
        assert getattr(tensors, field.name) is None if array is None else np.array_equal(getattr(tensors, field.name).numpy(), array)


@pytest.mark.parametrize("settings", [{"label_smoothing": 1.0}, {"label_smoothing": -0.1}, {"z_loss": -1.0}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ConfigError):
        Causal(**settings)
