"""A process that dies at any single write, fsync or rename of a save leaves a run that resumes to the same bits.

Each death is a real one: a forked process ends without any clean-up at its k-th effect on the disk, for every k.
"""

import shutil
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
from tiny_run import make_config, make_trainer, read_lines

from touchstone.train.resume import Checkpoints
from touchstone.train.state import RandomState

CONFIG = make_config(n_steps=6, micro_batch_size=None, eval_every=3, sample_every=3, save_every=2, keep_checkpoints=1)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    return make_trainer(folder, config=CONFIG).run(), folder


class Paused(Exception):
    """Ends a run the moment before it saves."""


def before_the_save_of(step, folder):
    """A run that has done everything up to that save; its trainer, ready to save."""
    real = Checkpoints.save

    def stop(self, at, *rest):
        if at == step:
            raise Paused
        real(self, at, *rest)

    trainer = make_trainer(folder, config=CONFIG)
    Checkpoints.save = stop
    try:
        with pytest.raises(Paused):
            trainer.run()
    finally:
        Checkpoints.save = real
    return trainer


@pytest.mark.slow
def test_dying_anywhere_in_a_save_and_its_rotation_leaves_a_run_that_ends_with_the_same_bits(uninterrupted, tmp_path, dies_at):
    reference, _ = uninterrupted
    trainer = before_the_save_of(4, tmp_path / "run")
    random, seen, k, died = RandomState.capture(), set(), 0, True
    while died:
        here = tmp_path / f"run-{k}"
        shutil.copytree(tmp_path / "run", here)
        trainer._run_folder.folder = here
        trainer._run_folder.checkpoints.folder = here / "checkpoints"
        for journal in (trainer._run_folder.metrics, trainer._run_folder.samples):
            journal.path = here / journal.path.name
        random.restore()  # the runs that resume below draw from the same generators
        died = dies_at(k, lambda: trainer._save(on_schedule=True))
        resumed = make_trainer(here, config=CONFIG, warn=lambda said: pytest.fail(said)).run()
        assert resumed.weights_sha256 == reference.weights_sha256, f"died at effect {k}"
        assert resumed.resumed_from in (2, 4), f"died at effect {k}"
        assert [line["step"] for line in read_lines(here / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]
        assert sorted(path.name for path in (here / "checkpoints").iterdir()) == ["FINISHED.json", "RUN.json", "step-00000006"]
        seen.add(resumed.resumed_from)
        shutil.rmtree(here)
        k += 1
    assert k > 15  # three files written, synced and put in place; folders synced; the mark; the old one put away
    assert seen == {2, 4}  # early deaths lose the new checkpoint, late ones do not


@pytest.mark.slow
def test_dying_anywhere_in_a_whole_run_leaves_a_run_that_ends_with_the_same_bits(uninterrupted, tmp_path, dies_at):
    reference, _ = uninterrupted
    k, died = 0, True
    while died:
        here = tmp_path / f"run-{k}"
        here.mkdir()
        died = dies_at(k, lambda here=here: make_trainer(here, config=CONFIG).run())
        assert make_trainer(here, config=CONFIG).run().weights_sha256 == reference.weights_sha256, f"died at effect {k}"
        assert [line["step"] for line in read_lines(here / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]
        shutil.rmtree(here)
        k += 7  # every effect has its turn in the test above; here the phases between the saves
    assert k > 60
