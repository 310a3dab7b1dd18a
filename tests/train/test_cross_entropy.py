"""The overwriting loss against the plain formula, differentiated by torch."""

import pytest
import torch
from torch.nn import functional as F

from touchstone.train import cross_entropy
from touchstone.train.cross_entropy import overwriting_nll

N, V = 7, 11


@pytest.fixture
def scored():
    rng = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(N, V, generator=rng, dtype=torch.float64)
    counts = torch.tensor([True, False, True, True, False, True, True])
    return logits, torch.randint(0, V, (N,), generator=rng), counts


def plain(logits, targets, counts, label_smoothing, z_loss):
    """The loss as the formula has it."""
    log_p = F.log_softmax(logits, -1)
    nll = -(log_p[torch.arange(N), targets.masked_fill(~counts, 0)] * counts).sum()
    spread = -(log_p.mean(-1) * counts).sum()
    return (1 - label_smoothing) * nll + label_smoothing * spread + z_loss * (logits.logsumexp(-1).square() * counts).sum(), nll


@pytest.mark.parametrize(("label_smoothing", "z_loss"), [(0.0, 0.0), (0.2, 0.0), (0.0, 0.3), (0.1, 0.01)])
@pytest.mark.parametrize("factor", [1.0, 0.37])
@pytest.mark.parametrize("rows_at_once", [1, 3, N])
def test_loss_and_gradient_are_those_of_the_formula(scored, label_smoothing, z_loss, factor, rows_at_once, monkeypatch):
    monkeypatch.setattr(cross_entropy, "_rows_at_once", lambda x: rows_at_once)
    logits, targets, counts = scored
    theirs, ours = (logits.clone().requires_grad_() for _ in range(2))
    expected, expected_nll = plain(theirs, targets, counts, label_smoothing, z_loss)
    (factor * expected).backward()
    total, nll = overwriting_nll(ours * 1.0, targets, counts, label_smoothing, z_loss)
    (factor * total).backward()
    torch.testing.assert_close((total, nll), (expected.detach(), expected_nll.detach()), rtol=1e-12, atol=0, check_stride=False)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-13)


def test_targets_that_do_not_count_may_hold_anything(scored):
    logits, targets, counts = scored
    leaf = logits.clone().requires_grad_()
    overwriting_nll(leaf * 1.0, torch.where(counts, targets, -100), counts, 0.1, 0.1)[0].backward()
    assert leaf.grad[~counts].abs().max() == 0


def test_the_gradient_takes_the_place_of_the_logits_and_is_handed_on_once(scored):
    logits, targets, counts = scored
    leaf = logits.float().requires_grad_()
    overwritten = leaf * 1.0
    total, _ = overwriting_nll(overwritten, targets, counts, 0.0, 0.0)
    total.backward(retain_graph=True)
    torch.testing.assert_close(overwritten.detach(), leaf.grad, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="handed on already"):
        total.backward()


def test_a_network_whose_backward_pass_reads_the_logits_is_refused_and_not_wrong(scored):
    logits, targets, counts = scored
    total, _ = overwriting_nll(torch.tanh(logits.clone().requires_grad_()), targets, counts, 0.0, 0.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


def test_bfloat16_logits_are_left_and_get_a_gradient_rounded_once(scored):
    logits, targets, counts = scored
    rough = logits.bfloat16()
    ours, theirs = rough.clone().requires_grad_(), rough.float().requires_grad_()
    overwriting_nll(ours, targets, counts, 0.0, 0.0)[0].backward()
    plain(theirs, targets, counts, 0.0, 0.0)[0].backward()
    assert torch.equal(ours.detach(), rough)
    torch.testing.assert_close(ours.grad.float(), theirs.grad.bfloat16().float(), rtol=1 / 128, atol=1e-7)
