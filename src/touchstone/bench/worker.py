"""Our side of the training benchmark: the real Trainer on random tokens, taking turns with the peers.

Speaks the benchmark's protocol: a job as a JSON line, {"ready": true}, then for every {"units": n} n steps and {"seconds": s}.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from touchstone.models import build, decoder_spec
from touchstone.nn.products import choose_product
from touchstone.runtime import set_threads
from touchstone.text.batch import TokenBatch
from touchstone.train import Causal, OptimConfig, ScheduleConfig, StepReport, TrainConfig, Trainer

__all__ = ["main"]

N_ROWS = 64  # different rows of random tokens, as the peers have


class RandomRows:
    """Rows of random tokens behind the trainer's source protocol."""

    n_examples = N_ROWS
    fingerprint = "random rows"

    def __init__(self, vocab_size: int, context: int) -> None:
        self._rows = np.random.default_rng(0).integers(0, vocab_size, (N_ROWS, context + 1))

    def batch(self, example_ids: np.ndarray) -> TokenBatch:
        rows = self._rows[example_ids]
        return TokenBatch(
            token_ids=rows[:, :-1],
            targets=rows[:, 1:],
            counts=np.ones(rows[:, 1:].shape, dtype=bool),
            mask=None,
            segments=None,
            example_ids=example_ids,
        )


class Turns:
    """Waits for its turn after the first step, and again after every so many."""

    def __init__(self, **facts: Any) -> None:
        self.facts, self.left, self.start = facts, -1, 0.0

    def __call__(self, report: StepReport) -> None:
        self.left -= 1
        if self.left > 0:
            return
        _send(seconds=time.perf_counter() - self.start) if self.start else _send(ready=True, **self.facts)
        self.left = _receive()["units"]
        self.start = time.perf_counter()


def main() -> None:
    """Serve one benchmark on stdin and stdout until stdin ends."""
    job = _receive()
    set_threads(job["n_threads"])
    choice = choose_product()
    spec = decoder_spec(
        vocab_size=job["vocab_size"],
        d_model=job["d_model"],
        n_layers=job["n_layers"],
        n_heads=job["n_heads"],
        max_seq_len=job["context"],
        positions="learned",
        norm="layer",
        activation="gelu_tanh",
        gated=False,
        bias=True,
    )
    net = build(spec, product=choice.name)
    config = TrainConfig(
        n_steps=1_000_000,
        batch_size=job["batch_size"],
        clip_norm=1.0,
        save_every=1_000_000,
        optim=OptimConfig(kind="adamw", learning_rate=3e-4, betas=(0.9, 0.95), weight_decay=0.1),
        schedule=ScheduleConfig(kind="constant"),
    )
    facts = {"parameters": spec.n_parameters(), "product": choice.name, "flops": spec.flops_per_token(job["context"])}
    turns = Turns(**facts)
    with tempfile.TemporaryDirectory() as folder:
        Trainer(net, Causal(), RandomRows(job["vocab_size"], job["context"]), config, Path(folder), on_step=turns).run()


def _receive() -> dict[str, Any]:
    line = sys.stdin.readline()
    if not line:
        raise SystemExit(0)
    message: dict[str, Any] = json.loads(line)
    return message


def _send(**message: Any) -> None:
    os.write(sys.stdout.fileno(), (json.dumps(message) + "\n").encode())


if __name__ == "__main__":
    main()
