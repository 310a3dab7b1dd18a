"""The same command finds its run; another one is told every difference."""

import errno

import pytest

from touchstone.errors import RunFolderError, SaveFailed
from touchstone.files import lock_folder
from touchstone.flows.run_record import Chosen, RunRecord
from touchstone.train.recipes import recipe

CONFIG = recipe("gpt-small").config


@pytest.fixture
def record(tmp_path):
    return RunRecord(tmp_path / "run")


def begun(record, chosen, explicit=()):
    record.begin(chosen.apply(CONFIG, but=explicit), chosen, ["/usr/bin/touchstone", "train", "gpt-small", "--data", "my texts"])
    return record


def test_an_empty_folder_holds_no_run(record):
    assert record.settled(CONFIG, minutes=None, explicit=()) is None


def test_what_a_run_begins_with_is_written_down(record):
    begun(record, Chosen(minutes=2.0, settings={"train.n_steps": 77}, product="onednn", reasons={"n_steps": "because"}))
    assert record.command.read_text() == "touchstone train gpt-small --data 'my texts'\n"
    found, chosen = record.settled(CONFIG, minutes=2.0, explicit=())
    assert found.train.n_steps == 77
    assert chosen == Chosen(2.0, {"train.n_steps": 77}, "onednn", {"n_steps": "because"})


def test_what_was_measured_is_no_difference_but_another_length_is(record):
    begun(record, Chosen(minutes=2.0, settings={"train.n_steps": 77}))
    with pytest.raises(RunFolderError, match=r"--minutes: 2 -> 5"):
        record.settled(CONFIG, minutes=5.0, explicit=())
    with pytest.raises(RunFolderError, match=r"--minutes: 2 -> not given"):
        record.settled(CONFIG, minutes=None, explicit=())


def test_every_changed_setting_is_named(record):
    begun(record, Chosen())
    changed = CONFIG.replace(context=99, train=CONFIG.train.replace(seed=7))
    with pytest.raises(RunFolderError, match=r"context: 256 -> 99; train\.seed: 0 -> 7.*--out"):
        record.settled(changed, minutes=None, explicit=())


def test_an_explicit_setting_is_compared_even_if_it_was_measured_before(record):
    begun(record, Chosen(settings={"train.precision": "bfloat16"}))
    assert record.settled(CONFIG, minutes=None, explicit=()) is not None
    with pytest.raises(RunFolderError, match=r"train\.precision: bfloat16 -> float32"):
        record.settled(CONFIG, minutes=None, explicit={"train.precision"})


def test_the_runs_own_configuration_is_the_same_run(record):
    chosen = Chosen(minutes=2.0, settings={"train.n_steps": 77})
    begun(record, chosen)
    assert record.settled(chosen.apply(CONFIG), minutes=None, explicit=()) is not None


def test_a_folder_that_another_process_holds_is_refused(record):
    with lock_folder(record.folder), pytest.raises(RunFolderError, match="in use by process"):
        record.check()
    record.check()


def test_a_full_disk_at_the_end_says_that_the_training_is_safe(record):
    with pytest.raises(SaveFailed, match=r"No space left.*nothing is trained again") as caught, record.saving():
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.exit_code == 4


def test_a_damaged_record_is_named(record):
    begun(record, Chosen())
    record.environment.write_text("{}")
    with pytest.raises(RunFolderError, match=r"environment\.json: damaged"):
        record.settled(CONFIG, minutes=None, explicit=())
