import errno
import math
import os

import pytest
from tiny_run import read_lines

from touchstone.train.identity import differences
from touchstone.train.journal import Journal


def test_differences_are_named_by_their_place():
    old = {"a": {"b": 1, "c": [1, 2]}, "gone": 3, "same": None}
    new = {"a": {"b": 2, "c": [1, 3]}, "new": 4, "same": None}
    assert differences(old, new) == ["a.b: 1 -> 2", "a.c: [1, 2] -> [1, 3]", "gone: 3 -> absent", "new: absent -> 4"]


def test_what_the_disk_refuses_is_written_in_order_when_there_is_room(tmp_path, monkeypatch):
    warnings = []
    journal = Journal(tmp_path / "log.jsonl", warnings.append)
    journal.write({"step": 1})
    real = os.write

    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", refuse)
    for step in (2, 3):
        journal.write({"step": step, "loss": math.nan})
    assert len(warnings) == 1
    twin = Journal(tmp_path / "log.jsonl", warnings.append)
    monkeypatch.setattr(os, "write", real)
    twin.begin_after(1, journal.waiting())  # as a resume does with what a checkpoint kept
    twin.write({"step": 4})
    assert [line["step"] for line in read_lines(tmp_path / "log.jsonl")] == [1, 2, 3, 4]
    assert math.isnan(read_lines(tmp_path / "log.jsonl")[1]["loss"])


def test_a_resume_drops_the_lines_of_steps_that_come_again(tmp_path):
    journal = Journal(tmp_path / "log.jsonl", pytest.fail)
    for step in range(1, 7):
        journal.write({"step": step})
    journal.begin_after(4, "[]")
    journal.write({"step": 5})
    assert [line["step"] for line in read_lines(tmp_path / "log.jsonl")] == [1, 2, 3, 4, 5]
