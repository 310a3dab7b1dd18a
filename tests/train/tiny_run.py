"""A training run of a few milliseconds a step that has everything a real one has; also a program, for tests that kill it.

python tiny_run.py FOLDER      see --help
"""

import argparse
import json
import os
import signal
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


def main():
    """Run it and print how it ended."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--obey", action="store_true", help="print each step and wait for a line before the next")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--simple", action="store_true", help="no accumulation, and no random numbers but of dropout")
    parser.add_argument("--stop-at", type=int, help="send this process SIGTERM after this step")
    wanted = parser.parse_args()
    torch.set_num_threads(1)

    def follow(report):
        if report.step == wanted.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        if wanted.obey:
            print(report.step, flush=True)
            sys.stdin.readline()

    config = make_config(compile=wanted.compile, micro_batch_size=None if wanted.simple else 2)
    objective = Causal() if wanted.simple else NoisyCausal()
    outcome = make_trainer(wanted.folder, objective=objective, config=config, on_step=follow).run()
    print(json.dumps({"status": outcome.status, "step": outcome.step, "sha256": outcome.weights_sha256}), flush=True)


if __name__ == "__main__":
    main()
