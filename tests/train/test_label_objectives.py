"""Losses over labels and hidden tokens equal the formulas, and count what they say."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from touchstone.errors import ConfigError, ShapeError
from touchstone.train.label_objectives import Classify, Span, Tag
from touchstone.train.objective import TensorBatch
from touchstone.train.sequence_objectives import MaskedLm, Seq2Seq

B, T, S, V, N = 3, 5, 4, 11, 7


class Fixed(nn.Module):
    """A network that gives the same scores whatever it reads, and keeps what it was asked."""

    def __init__(self, *shape, **aux):
        super().__init__()
        self.scores = nn.Parameter(torch.randn(*shape, generator=torch.Generator().manual_seed(3)))
        self.aux, self.asked = aux, {}

    def forward(self, token_ids, **asked):
        self.asked = {"token_ids": token_ids, **asked}
        return SimpleNamespace(logits=self.scores * 1.0, hidden=self.scores * 1.0, aux=self.aux)

    body = forward  # whose hidden states are the scores

    def head(self, hidden):
        return hidden


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(5)


@pytest.fixture
def mask():
    return torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0]], dtype=torch.bool)


def tokens(rng):
    return torch.randint(0, V, (B, T), generator=rng)


def test_a_class_is_one_choice_a_text(rng, mask):
    net, targets = Fixed(B, N), torch.tensor([2, 0, 6])
    types = torch.zeros(B, T, dtype=torch.long)
    batch = TensorBatch(tokens(rng), targets, torch.ones(B, dtype=torch.bool), mask, token_types=types)
    loss = Classify()(net, batch, None)
    assert loss.total.item() == pytest.approx(F.cross_entropy(net.scores, targets, reduction="sum").item(), rel=1e-6)
    assert loss.count.item() == B
    assert loss.parts["accuracy"].item() == (net.scores.argmax(-1) == targets).sum().item()
    assert net.asked["token_types"] is types
    assert net.asked["mask"] is mask


def test_label_smoothing_of_a_class_is_torchs(rng, mask):
    net, targets = Fixed(B, N), torch.tensor([2, 0, 6])
    batch = TensorBatch(tokens(rng), targets, torch.ones(B, dtype=torch.bool), mask)
    expected = F.cross_entropy(net.scores, targets, reduction="sum", label_smoothing=0.2)
    assert Classify(0.2)(net, batch, None).total.item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_tag_is_scored_where_a_word_begins(rng, mask):
    net, targets = Fixed(B, T, N), torch.randint(0, N, (B, T), generator=rng)
    counts = mask & (torch.rand(B, T, generator=rng) < 0.7)
    loss = Tag()(net, TensorBatch(tokens(rng), targets, counts, mask), None)
    assert loss.total.item() == pytest.approx(F.cross_entropy(net.scores[counts], targets[counts], reduction="sum").item(), rel=1e-6)
    assert loss.count.item() == counts.sum().item()
    loss.total.backward()
    assert not net.scores.grad[~counts].any()


def test_the_ends_of_a_span_are_choices_among_the_tokens_that_are_there(rng, mask):
    net, targets = Fixed(B, T, 2), torch.tensor([[1, 4], [0, 1], [3, 3]])
    loss = Span()(net, TensorBatch(tokens(rng), targets, torch.ones(B, 2, dtype=torch.bool), mask), None)
    expected = 0.0
    for row in range(B):
        for end in range(2):
            scores = net.scores[row, mask[row], end]
            expected -= scores.log_softmax(-1)[targets[row, end]].item()
    assert loss.total.item() == pytest.approx(expected, rel=1e-6)
    assert loss.count.item() == 2 * B


def test_hidden_tokens_alone_are_scored(rng, mask):
    net, targets = Fixed(B, T, V), torch.randint(0, V, (B, T), generator=rng)
    counts = mask & (torch.rand(B, T, generator=rng) < 0.5)
    loss = MaskedLm()(net, TensorBatch(tokens(rng), targets, counts, mask), None)
    assert loss.total.item() == pytest.approx(F.cross_entropy(net.scores[counts], targets[counts], reduction="sum").item(), rel=1e-6)
    assert loss.count.item() == counts.sum().item()
    loss.total.backward()
    assert not net.scores.grad[~counts].any()
    assert net.scores.grad[counts].abs().sum() > 0


def test_a_target_is_written_behind_its_source(rng, mask):
    net, targets = Fixed(B, T, V), torch.randint(0, V, (B, T), generator=rng)
    source, source_mask = torch.randint(0, V, (B, S), generator=rng), torch.ones(B, S, dtype=torch.bool)
    batch = TensorBatch(tokens(rng), targets, mask, mask, source_ids=source, source_mask=source_mask)
    loss = Seq2Seq(label_smoothing=0.1)(net, batch, None)
    expected = F.cross_entropy(net.scores[mask], targets[mask], reduction="sum", label_smoothing=0.1)
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-6)
    assert net.asked["source_ids"] is source
    assert net.asked["source_mask"] is source_mask


def test_the_balance_of_experts_counts_once_for_each_target(rng, mask):
    targets, counts = torch.randint(0, V, (B, T), generator=rng), mask
    batch = TensorBatch(tokens(rng), targets, counts, mask)
    plain, balanced = (MaskedLm()(net, batch, None) for net in (Fixed(B, T, V), Fixed(B, T, V, balance=torch.tensor(0.25))))
    assert (balanced.total - plain.total).item() == pytest.approx(0.25 * counts.sum().item(), rel=1e-5)
    assert balanced.parts["balance"].item() / balanced.count.item() == pytest.approx(0.25)
    assert balanced.parts["nll"].item() == plain.parts["nll"].item()


def test_a_head_of_another_objective_is_refused(rng, mask):
    batch = TensorBatch(tokens(rng), torch.tensor([2, 0, 6]), torch.ones(B, dtype=torch.bool), mask)
    with pytest.raises(ShapeError, match="give the model the head of this objective"):
        Classify()(Fixed(B, T, N), batch, None)


@pytest.mark.parametrize("kind", [Classify, Tag, Seq2Seq])
@pytest.mark.parametrize("smoothing", [1.0, -0.1])
def test_impossible_smoothing_is_refused(kind, smoothing):
    with pytest.raises(ConfigError):
        kind(smoothing)


def test_settings_tell_the_objectives_apart():
    found = [objective.settings() for objective in (MaskedLm(), Seq2Seq(), Seq2Seq(0.1), Classify(), Tag(), Span(), Classify(0.1))]
    assert len({str(settings) for settings in found}) == len(found)
