"""The metrics log: raw values, torn lines, cutting on resume, and readers beside a writer."""

import json
import math
import os

import numpy as np
import pytest
import torch

from touchstone.errors import DataError, RunFolderError
from touchstone.report.log import MetricsLog, read_log


def test_records_come_back_in_order_with_raw_losses(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append({"step": 1, "loss": 2.5, "text": "一行\nand\u2028more"})
    log.append({"step": 2, "loss": math.nan})
    log.append({"step": 3, "loss": math.inf})
    found = read_log(tmp_path / "metrics.jsonl")
    assert found[0] == {"step": 1, "loss": 2.5, "text": "一行\nand\u2028more"}
    assert math.isnan(found[1]["loss"])
    assert found[2]["loss"] == math.inf
    assert found.torn is None
    assert len((tmp_path / "metrics.jsonl").read_bytes().split(b"\n")) == 4  # three lines and what follows the last line end


def test_each_record_is_one_write(tmp_path, monkeypatch):
    real, sizes = os.write, []
    monkeypatch.setattr(os, "write", lambda descriptor, data: sizes.append(len(data)) or real(descriptor, data))
    log = MetricsLog(tmp_path / "a")
    log.append({"x": "y" * 100_000})
    log.append({"x": 1})
    assert sizes == [len('{"x": ""}\n') + 100_000, len('{"x": 1}\n')]


def test_numpy_and_torch_scalars_are_numbers_and_arrays_are_refused(tmp_path):
    log = MetricsLog(tmp_path / "a")
    log.append({"a": np.float32(0.5), "b": np.int64(3), "c": torch.tensor(1.25)})
    assert read_log(tmp_path / "a") == [{"a": 0.5, "b": 3, "c": 1.25}]
    with pytest.raises(DataError, match="not a ndarray"):
        log.append({"a": np.ones(2)})


def test_a_torn_last_line_is_dropped_and_reported_and_the_next_writer_removes_it(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b'{"step": 1}\n{"step": 2, "lo')
    found = read_log(path)
    assert found == [{"step": 1}]
    assert found.torn == '{"step": 2, "lo'
    MetricsLog(path).append({"step": 2})
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'


def test_a_line_that_the_disk_took_half_of_is_an_error_and_does_not_spoil_the_next(tmp_path, monkeypatch):
    log = MetricsLog(tmp_path / "a")
    log.append({"step": 1})
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:4]))
        with pytest.raises(OSError, match="only part of a line"):
            log.append({"step": 2})
    assert read_log(tmp_path / "a").torn == '{"st'
    log.append({"step": 3})
    assert read_log(tmp_path / "a") == [{"step": 1}, {"step": 3}]


def test_cutting_drops_what_a_resume_writes_again(tmp_path):
    log = MetricsLog(tmp_path / "a")
    assert log.cut_after(5) == 0
    for step in (1, 2, 3):
        log.append({"step": step})
    log.append({"event": "a note without a step"})
    with (tmp_path / "a").open("ab") as file:
        file.write(b'{"step": 4, "torn')
    assert log.cut_after(2) == 1
    assert read_log(tmp_path / "a") == [{"step": 1}, {"step": 2}, {"event": "a note without a step"}]
    log.append({"step": 3})
    assert read_log(tmp_path / "a")[-1] == {"step": 3}


def test_a_crash_while_cutting_leaves_the_log_cut_or_not(tmp_path, every_crash):
    whole = b"".join(json.dumps({"step": step}).encode() + b"\n" for step in (1, 2, 3))

    def cut(k):
        (tmp_path / str(k)).write_bytes(whole)
        MetricsLog(tmp_path / str(k)).cut_after(1)

    for k, crashed in every_crash(cut, torn=True):
        found = [record["step"] for record in read_log(tmp_path / str(k))]
        assert found in ([1, 2, 3], [1])
        assert crashed or found == [1]


@pytest.mark.parametrize(
    ("content", "says"), [(b'{"a": 1}\nnonsense\n{"a": 2}\n', ":2: not a line of JSON"), (b"[1]\n", ":1: a record is a mapping")]
)
def test_a_damaged_line_in_the_middle_is_named(tmp_path, content, says):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(RunFolderError, match=f"a{says}"):
        read_log(tmp_path / "a")


def test_a_log_that_is_not_there_is_named(tmp_path):
    with pytest.raises(RunFolderError, match="none: cannot be read"):
        read_log(tmp_path / "none")
