"""The run that the proof kills: it says aloud, on standard output, in which phase of which step it is.

    python surviving_run.py FOLDER [--compile]

Each line is `PHASE STEP`: begin, batch (a micro-batch), update, evaluate, sample, save, done; the last is the hash of the weights.
"""

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
import tiny_run

from touchstone.train.resume import Checkpoints

ROWS, STEPS = 60, 35  # of 6 rows in micro-batches of 2: epochs end in steps 10, 20 and 30


def say(phase, step):
    """Say where the run is, before it goes on."""
    print(phase, step, flush=True)


def make_trainer(folder, compiled):
    """The tiny run, three and a half epochs of it, with a voice."""
    config = tiny_run.make_config(n_steps=STEPS, batch_size=6, eval_every=4, sample_every=5, save_every=2, compile=compiled)

    def evaluate(net):
        say("evaluate", trainer._state.progress.position)
        return tiny_run.evaluate(net)

    def sample(net, step):
        say("sample", step)
        return tiny_run.sample(net, step)

    trainer = tiny_run.make_trainer(
        folder,
        config=config,
        source=tiny_run.make_source(n_rows=ROWS),
        evaluate=evaluate,
        sample=sample,
        objective=tiny_run.Causal() if compiled else None,
    )
    return trainer


def give_voice(trainer):
    """Make batches, updates and saves say so."""
    source, optimizer, save = trainer.source, trainer._state.optimizer, Checkpoints.save
    batch, step = source.batch, optimizer.step

    def speaking_batch(example_ids):
        say("batch", trainer._state.progress.position)
        return batch(example_ids)

    def speaking_step(factor):
        say("update", trainer._state.progress.position)
        step(factor)

    def speaking_save(self, at, *rest):
        say("save", at)
        save(self, at, *rest)
        say("saved", at)

    source.batch, optimizer.step, Checkpoints.save = speaking_batch, speaking_step, speaking_save


def main():
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--compile", action="store_true")
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    trainer = make_trainer(wanted.folder, wanted.compile)
    give_voice(trainer)
    say("begin", 0)
    outcome = trainer.run()
    say(outcome.status, outcome.step)
    print(outcome.weights_sha256, flush=True)


if __name__ == "__main__":
    main()
