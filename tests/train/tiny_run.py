"""A training run of a few milliseconds a step that has everything a real one has; also a program, for tests that kill it.

python tiny_run.py FOLDER [--obey]      --obey: print each step and wait for a line before the next
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from touchstone.models import build, decoder_spec
from touchstone.text.batch import PaddedRows
from touchstone.train import Causal, OptimConfig, ScheduleConfig, TensorBatch, TrainConfig, Trainer

VOCAB = 11
N_ROWS = 23
N_STEPS = 18  # of 5 rows: epoch 1 ends in step 5, epoch 2 in step 10, epoch 3 in step 14


def make_source(n_rows=N_ROWS, seed=4):
    """Rows of 2 to 9 tokens."""
    rng = np.random.default_rng(seed)
    return PaddedRows([rng.integers(0, VOCAB, size=n).tolist() for n in rng.integers(2, 10, size=n_rows)])


def make_net(dropout=0.1, seed=1):
    """A decoder of one layer."""
    return build(
        decoder_spec(vocab_size=VOCAB, d_model=12, n_layers=1, n_heads=4, n_kv_heads=2, d_head=4, max_seq_len=9, dropout=dropout), seed=seed
    )


def make_config(**changes):
    """Three epochs and a bit, in micro-batches of 2, 2 and 1 rows; Muon, so that both kinds of state are there."""
    settings = {
        "n_steps": N_STEPS,
        "batch_size": 5,
        "micro_batch_size": 2,
        "eval_every": 4,
        "sample_every": 6,
        "save_every": 3,
        "seed": 7,
        "optim": OptimConfig(kind="muon", learning_rate=0.01),
        "schedule": ScheduleConfig(kind="cosine", warmup_steps=3),
    }
    return TrainConfig(**(settings | changes))


def evaluate(net):
    """The loss of the first rows; draws from all the generators that training must not miss."""
    torch.rand(3)
    np.random.rand(3)
    loss = Causal()(net, TensorBatch.of(make_source().batch(np.arange(4))), None)
    return {"loss": loss.total.item() / loss.count.item()}


def sample(net, step):
    """Greedy continuations of token 1."""
    torch.rand(2)
    return [{"text": int(net(torch.tensor([[1]])).logits[0, -1].argmax()), "at": step}]


class NoisyCausal(Causal):
    """A causal objective that also draws from torch's own generator, as a masking objective may."""

    def __call__(self, net, batch, noise):
        loss = super().__call__(net, batch, noise)
        return type(loss)(loss.total * (1 + 0.1 * torch.rand(())), loss.count, loss.unit, loss.parts)


def make_trainer(folder, *, config=None, net=None, objective=None, source=None, **callbacks):
    """The tiny run in a folder; anything can be replaced."""
    parts = {"evaluate": evaluate, "sample": sample, "fingerprint": {"tokenizer": "none"}}
    return Trainer(
        net or make_net(), objective or NoisyCausal(), source or make_source(), config or make_config(), folder, **(parts | callbacks)
    )


def read_lines(path):
    """The records of a JSON lines file; every line must be whole."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def main(folder, obey):
    """Run it and print how it ended."""
    torch.set_num_threads(1)

    def tell(what):
        print(json.dumps(what), flush=True)
        if obey:
            sys.stdin.readline()

    outcome = make_trainer(Path(folder), on_step=lambda report: tell({"step": report.step})).run()
    obey = False
    tell({"status": outcome.status, "step": outcome.step, "sha256": outcome.weights_sha256})


if __name__ == "__main__":
    main(sys.argv[1], "--obey" in sys.argv)
