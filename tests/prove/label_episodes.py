"""A made-up world of items and label words, and a small model that learns it: for what a prompt's own bias does to answers.

Everything here is synthetic. An episode is a few lines "item arrow label separator". Items are of one of two classes, and tell it with a
reliability of their own. Each class has six label words, of which one is drawn for an episode, so that which words answer can only be read
from the lines before. Words are not equally common: of the two in an episode one is the right answer more often, by a popularity of the
word and a part that is the episode's own. A model of such episodes expects popular words, as a model of real text does (Zhao et al. 2021),
and its bias is known by construction. Three items have no class and stand for content-free inputs.
"""

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from touchstone.models import build, decoder_spec
from touchstone.train.optim import OptimConfig, build_optimizer

N_ITEMS, N_BLANK, N_WORDS, N_TEMPLATES = 64, 3, 12, 5  # items and words of even number are of class 0, of odd number of class 1
N_LINES = 12
POPULARITY = np.repeat(np.linspace(-1.25, 1.25, N_WORDS // 2), 2)  # log odds: the commonest word beats the rarest at 12 to 1
EPISODE_SPREAD = 0.6  # standard deviation of the part of the log odds that is the episode's own
RELIABILITY = (0.65, 0.98)  # least and largest probability that an item stands beside its own class's label
BLANK_SHARE, CUT_SHARE = 0.08, 0.08  # lines with an item of no class; episodes that begin at an arrow, as text cut anywhere does

START, FIRST_ARROW = 0, 1
FIRST_SEPARATOR = FIRST_ARROW + N_TEMPLATES
FIRST_BLANK = FIRST_SEPARATOR + N_TEMPLATES
FIRST_ITEM = FIRST_BLANK + N_BLANK
FIRST_WORD = FIRST_ITEM + N_ITEMS
VOCAB_SIZE = FIRST_WORD + N_WORDS
BLANKS = tuple(range(FIRST_BLANK, FIRST_BLANK + N_BLANK))

ITEM_RELIABILITY = np.random.default_rng(7).permutation(np.linspace(*RELIABILITY, N_ITEMS))
_FITS = (np.arange(N_ITEMS)[None] % 2) == np.arange(2)[:, None]
ITEM_SHARES = np.where(_FITS, ITEM_RELIABILITY, 1 - ITEM_RELIABILITY)
ITEM_SHARES /= ITEM_SHARES.sum(axis=1, keepdims=True)  # (class, item): how often each item stands for a class


@dataclass(frozen=True)
class Trained:
    """A network that learned episodes, and how it went. loss: nats a label over the last tenth of the steps."""

    net: torch.nn.Module
    n_parameters: int
    n_steps: int
    n_episodes: int
    loss: float
    cpu_seconds: float


def items_for(classes, rng):
    """An item for each class, drawn as in training."""
    edges = ITEM_SHARES.cumsum(axis=1)
    return (rng.random(len(classes))[:, None] > edges[classes]).sum(axis=1).clip(max=N_ITEMS - 1)


def episodes(n, rng):
    """Token ids (n, 1 + 4 N_LINES)."""
    words = 2 * rng.integers(N_WORDS // 2, size=(n, 2)) + np.arange(2)  # one of each class
    odds = POPULARITY[words[:, 0]] - POPULARITY[words[:, 1]] + rng.normal(0, EPISODE_SPREAD, n)
    classes = (rng.random((n, N_LINES)) > 1 / (1 + np.exp(-odds[:, None]))).astype(int)
    items = FIRST_ITEM + items_for(classes.ravel(), rng).reshape(n, N_LINES)
    is_blank = rng.random((n, N_LINES)) < BLANK_SHARE
    items = np.where(is_blank, FIRST_BLANK + rng.integers(N_BLANK, size=(n, N_LINES)), items)
    labels = FIRST_WORD + np.take_along_axis(words, classes, axis=1)
    template = rng.integers(N_TEMPLATES, size=n)
    arrows, separators = (np.broadcast_to((first + template)[:, None], (n, N_LINES)) for first in (FIRST_ARROW, FIRST_SEPARATOR))
    lines = np.stack([items, arrows, labels, separators], axis=2).reshape(n, 4 * N_LINES)
    is_cut = rng.random(n) < CUT_SHARE
    lines[is_cut] = np.concatenate([lines[is_cut, 1:], lines[is_cut, -1:]], axis=1)
    return np.concatenate([np.full((n, 1), START), lines], axis=1)


def train(n_steps, *, batch=48, d_model=208, n_layers=2, seed=0, tell=None):
    """A decoder of about a million parameters that learned the labels of episodes; only labels count in the loss."""
    spec = decoder_spec(vocab_size=VOCAB_SIZE, d_model=d_model, n_layers=n_layers, n_heads=8, max_seq_len=64)
    net = build(spec, seed=seed)
    optimizer = build_optimizer(net, OptimConfig(kind="muon", learning_rate=3e-3, weight_decay=0.0))
    rng, losses, began = np.random.default_rng(seed), [], time.process_time()
    for step in range(n_steps):
        ids = torch.from_numpy(episodes(batch, rng))
        targets = ids[:, 1:]
        is_label = targets >= FIRST_WORD
        loss = F.cross_entropy(net(ids[:, :-1]).logits[is_label], targets[is_label])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(min(1.0, (step + 1) / 20, 3 * (1 - step / n_steps)))  # to 0 over the last third
        losses.append(loss.item())
        if tell is not None and (step + 1) % 50 == 0:
            tell(step + 1, net)
    n_parameters = sum(parameter.numel() for parameter in net.parameters())
    late = float(np.mean(losses[-max(1, n_steps // 10) :]))
    return Trained(net.eval(), n_parameters, n_steps, n_steps * batch, late, time.process_time() - began)
