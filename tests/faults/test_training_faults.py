"""What goes wrong while training: numbers that are none, disks that are full, files that rot, folders that are taken."""

import errno
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
from tiny_run import N_STEPS, NoisyCausal, make_config, make_trainer, read_lines

from touchstone.errors import RunFolderError, SaveFailed, TrainingDiverged
from touchstone.files import load_tensors, lock_folder, publish_folder, sha256_file, write_json
from touchstone.train.resume import Checkpoints

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _one_thread_and_no_waiting(quick_disk):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    return make_trainer(folder).run(), folder


def faulty_trainer(folder, faults, **rest):
    """The tiny run whose steps, by index, have a fault: the same at every start, as bad data would be."""
    here = []

    class Faulty(NoisyCausal):
        def __call__(self, net, batch, noise):
            loss = super().__call__(net, batch, noise)
            kind = faults.get(here[0])
            if kind == "gradient":  # the loss is fine, its derivative is 0 * inf
                total = loss.total + (net.embed.weight * 0).sqrt().sum()
            else:
                total = loss.total * {None: 1.0, "nan": math.nan, "inf": math.inf, "spike": 1e9}[kind]
            return type(loss)(total, loss.count, loss.unit, loss.parts)

    trainer = make_trainer(folder, objective=Faulty(), **rest)
    compute = trainer._gradients.compute

    def watched(step, stop):
        here[:] = [step]
        return compute(step, stop)

    trainer._gradients.compute = watched
    return trainer


def tensors_of(trainer):
    return {name: tensor.clone() for name, tensor in (dict(trainer.net.named_parameters()) | trainer._state.optimizer.state()).items()}


# -- not a number


@pytest.mark.parametrize(
    ("kind", "reason"), [("nan", "loss"), pytest.param("inf", "loss", marks=pytest.mark.slow), ("gradient", "gradient")]
)
def test_a_bad_step_touches_no_weight_no_momentum_and_no_counter(tmp_path, kind, reason):
    states = {}
    trainer = faulty_trainer(tmp_path, {6: kind}, on_step=lambda report: states.update({report.step: (report, tensors_of(trainer))}))
    outcome = trainer.run()
    (report, after), (_, before) = states[7], states[6]
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not torch.equal(states[8][1]["embed.weight"], after["embed.weight"])
    assert (report.skipped, states[8][0].skipped, outcome.n_skipped) == (1, 1, 1)
    assert reason in report.skip_reason
    line = read_lines(tmp_path / "metrics.jsonl")[6]
    assert reason in line["skipped"]
    assert math.isfinite(line["loss"]) == (kind == "gradient")  # raw: what was not finite is logged as it was
    assert outcome.status == "finished"


@pytest.mark.slow
def test_a_spike_is_skipped_like_what_is_not_finite(tmp_path):
    config = make_config(n_steps=30)
    outcome = faulty_trainer(tmp_path, {25: "spike"}, config=config).run()
    line = read_lines(tmp_path / "metrics.jsonl")[25]
    assert outcome.n_skipped == 1
    assert "1000 times" in line["skipped"]
    assert line["gradient_norm"] > 1e6


@pytest.mark.slow
def test_four_bad_steps_in_a_row_are_only_skipped(tmp_path):
    outcome = faulty_trainer(tmp_path, dict.fromkeys((4, 5, 6, 7), "nan")).run()
    assert (outcome.n_skipped, outcome.n_rollbacks) == (4, 0)


STRETCH = dict.fromkeys((6, 7, 8, 9, 10), "nan")  # steps 7 to 11 by number; saves on schedule after 6 and 9


def test_the_fifth_goes_back_to_before_the_stretch_and_on_behind_it(tmp_path):
    states, saved = {}, []

    def follow(report):
        states[report.step] = tensors_of(trainer)
        if report.step == 12:
            saved.extend(sorted(path.name for path in (tmp_path / "checkpoints").glob("step-*")))

    trainer = faulty_trainer(tmp_path, STRETCH, on_step=follow)
    outcome = trainer.run()
    assert (outcome.status, outcome.n_skipped, outcome.n_rollbacks) == ("finished", 5, 1)
    assert all(torch.equal(states[11][name], states[6][name]) for name in states[6])
    lines = read_lines(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, N_STEPS + 1))
    assert lines[10]["rolled_back_to"] == 6
    assert "step-00000011" in saved  # at once, though it is not on schedule
    assert "skipped" not in lines[11]


def test_going_back_undoes_what_led_into_the_stretch(tmp_path):
    faults = dict.fromkeys((7, 8, 9, 10, 11), "nan")  # step 7 is good and came after the save of step 6
    states = {}
    trainer = faulty_trainer(tmp_path, faults, on_step=lambda report: states.update({report.step: tensors_of(trainer)}))
    trainer.run()
    assert not torch.equal(states[7]["embed.weight"], states[6]["embed.weight"])
    assert all(torch.equal(states[12][name], states[6][name]) for name in states[6])


@pytest.mark.parametrize("stop", [8, *(pytest.param(step, marks=pytest.mark.slow) for step in (5, 6, 10, 11, 13))])
def test_a_run_stopped_around_a_bad_stretch_resumes_to_the_same_bits(tmp_path, stop):
    whole = faulty_trainer(tmp_path / "whole", STRETCH).run()

    def send(report):
        if report.step == stop:
            os.kill(os.getpid(), signal.SIGTERM)

    assert faulty_trainer(tmp_path / "cut", STRETCH, on_step=send).run().step == stop
    resumed = faulty_trainer(tmp_path / "cut", STRETCH).run()
    assert resumed.weights_sha256 == whole.weights_sha256
    assert (resumed.n_skipped, resumed.n_rollbacks) == (5, 1)
    for ours, theirs in zip(*(read_lines(tmp_path / name / "metrics.jsonl") for name in ("cut", "whole")), strict=True):
        assert {k: str(v) for k, v in ours.items() if k != "seconds"} == {k: str(v) for k, v in theirs.items() if k != "seconds"}


@pytest.mark.slow
def test_a_second_stretch_ends_the_run_with_exit_code_3_and_keeps_its_checkpoints(tmp_path):
    faults = STRETCH | dict.fromkeys(range(13, 18), "inf")
    with pytest.raises(TrainingDiverged, match="step 18, again, after going back once") as caught:
        faulty_trainer(tmp_path, faults).run()
    assert caught.value.exit_code == 3
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == list(range(1, 19))
    with pytest.raises(TrainingDiverged):  # the same command again: from the checkpoint into the same stretch
        faulty_trainer(tmp_path, faults).run()
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == list(range(1, 19))
    for path in (tmp_path / "checkpoints").glob("step-*/*.safetensors"):
        assert all(torch.isfinite(tensor).all() for tensor in load_tensors(path).values())


@pytest.mark.slow
def test_nothing_but_bad_steps_ends_the_run_after_going_back_to_its_first_weights(tmp_path):
    with pytest.raises(TrainingDiverged):
        faulty_trainer(tmp_path, dict.fromkeys(range(N_STEPS), "nan")).run()
    assert len(read_lines(tmp_path / "metrics.jsonl")) == 10


@pytest.mark.slow
def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    warnings = []

    def poison(report):
        if report.step == 9:
            with torch.no_grad():
                trainer.net.embed.weight[3, 2] = math.inf

    trainer = make_trainer(tmp_path, on_step=poison, warn=warnings.append)
    outcome = trainer.run()
    assert outcome.n_rollbacks == 1
    assert any("embed.weight" in said and "step 6" in said for said in warnings)
    for path in (tmp_path / "checkpoints").glob("step-*/*.safetensors"):
        assert all(torch.isfinite(tensor).all() for tensor in load_tensors(path).values())
    assert all(torch.isfinite(parameter).all() for parameter in trainer.net.parameters())


# -- disks


def full_disk(monkeypatch, is_full):
    """os.write fails, after half its bytes, while `is_full()`; as a full disk does."""
    real = os.write

    def write(descriptor, data):
        if is_full():
            real(descriptor, bytes(data)[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", write)


def test_a_full_disk_in_the_middle_warns_and_changes_nothing(uninterrupted, tmp_path, monkeypatch):
    reference, _ = uninterrupted
    step, warnings, newest = [0], [], []
    full_disk(monkeypatch, lambda: 8 <= step[0] < 14)

    def follow(report):
        step[0] = report.step
        newest.append(max(path.name for path in (tmp_path / "checkpoints").glob("step-*")))

    outcome = make_trainer(tmp_path, on_step=follow, warn=warnings.append).run()
    assert (outcome.status, outcome.weights_sha256) == ("finished", reference.weights_sha256)
    assert outcome.n_failed_saves == 2  # after steps 9 and 12
    assert newest[8:14] == ["step-00000006"] * 6
    assert sum("NOT SAVED" in said for said in warnings) == 2
    assert all("step-00000006" in said for said in warnings if "NOT SAVED" in said)
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == list(range(1, N_STEPS + 1))
    assert [line["step"] for line in read_lines(tmp_path / "samples.jsonl")] == [6, 12, 18]
    assert not list((tmp_path / "checkpoints").glob(".*"))


@pytest.mark.slow
def test_a_run_stopped_while_its_log_waited_for_room_has_every_line_after_the_resume(uninterrupted, tmp_path, monkeypatch):
    reference, _ = uninterrupted
    where = [""]
    real = os.open

    def watched(path, *rest, **named):
        where[0] = str(path)
        return real(path, *rest, **named)

    step = [0]
    monkeypatch.setattr(os, "open", watched)
    full_disk(monkeypatch, lambda: step[0] >= 4 and where[0].endswith("metrics.jsonl"))

    def follow(report):
        step[0] = report.step
        if report.step == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    assert make_trainer(tmp_path, on_step=follow, warn=lambda said: None).run().step == 8
    step[0] = 0
    assert make_trainer(tmp_path).run().weights_sha256 == reference.weights_sha256
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == list(range(1, N_STEPS + 1))


def test_an_end_that_cannot_be_saved_has_exit_code_4_and_is_saved_by_the_next_start(uninterrupted, tmp_path, monkeypatch):
    reference, _ = uninterrupted
    step = [0]
    with monkeypatch.context() as patch:
        full_disk(patch, lambda: step[0] >= 13)
        with pytest.raises(SaveFailed, match="step-00000012") as caught:
            make_trainer(tmp_path, on_step=lambda report: step.__setitem__(0, report.step), warn=lambda said: None).run()
    assert caught.value.exit_code == 4
    again = make_trainer(tmp_path).run()
    assert (again.resumed_from, again.weights_sha256) == (12, reference.weights_sha256)


def test_a_final_network_that_cannot_be_written_has_exit_code_4_and_is_written_by_the_next_start(tmp_path):
    def refuse(folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(SaveFailed):
        make_trainer(tmp_path, save_model=refuse).run()
    written = []
    again = make_trainer(tmp_path, save_model=written.append).run()
    assert (again.status, again.was_finished, again.resumed_from) == ("finished", False, N_STEPS)
    assert written == [tmp_path / "model"]


@pytest.mark.slow
def test_a_stop_that_cannot_be_saved_has_exit_code_4(tmp_path, monkeypatch):
    step = [0]

    def follow(report):
        step[0] = report.step
        if report.step == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        full_disk(patch, lambda: step[0] >= 7)
        with pytest.raises(SaveFailed, match="step-00000006"):
            make_trainer(tmp_path, on_step=follow, warn=lambda said: None).run()


@pytest.mark.slow
def test_too_little_room_is_seen_before_a_byte_is_written(tmp_path, monkeypatch):
    step, warnings = [0], []
    monkeypatch.setattr("touchstone.train.resume.free_bytes", lambda folder: 1000 if 8 <= step[0] < 14 else 1 << 40)

    def publish(*rest):
        assert not 8 <= step[0] < 14, "must not even be tried"
        publish_folder(*rest)

    monkeypatch.setattr("touchstone.train.resume.publish_folder", publish)
    outcome = make_trainer(tmp_path, on_step=lambda report: step.__setitem__(0, report.step), warn=warnings.append).run()
    assert outcome.n_failed_saves == 2
    assert all("MiB" in said for said in warnings)


@pytest.mark.slow
def test_old_checkpoints_that_cannot_be_removed_do_not_stop_the_run(tmp_path, monkeypatch):
    warnings = []

    def refuse(self, keep, protected):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Checkpoints, "rotate", refuse)
    outcome = make_trainer(tmp_path, warn=warnings.append).run()
    assert (outcome.status, outcome.n_failed_saves) == ("finished", 0)
    assert warnings
    assert all("could not be removed" in said for said in warnings)


def test_a_run_folder_that_cannot_be_written_is_one_clear_line_before_anything_is_trained(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot be written"):
        make_trainer(tmp_path / "file" / "run").run()


# -- files that rot, and files of others


def stopped_at_eleven(folder):
    """Checkpoints of steps 9 and 11 (and 6, the newest but one on schedule, rotated away)."""
    make_trainer(folder, on_step=lambda report: os.kill(os.getpid(), signal.SIGTERM) if report.step == 11 else None).run()
    return folder / "checkpoints" / "step-00000011"


FILES, DAMAGES = ("model.safetensors", "optimizer.safetensors", "state.json", "COMPLETE.json"), ("flipped", "cut", "gone", "empty")
QUICK = {("model.safetensors", "flipped"), ("state.json", "gone")}


@pytest.mark.parametrize(
    ("name", "damage"),
    [pytest.param(n, d, marks=() if (n, d) in QUICK else pytest.mark.slow) for n in FILES for d in DAMAGES],
)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(uninterrupted, tmp_path, name, damage):
    reference, _ = uninterrupted
    path, warnings = stopped_at_eleven(tmp_path) / name, []
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 0x55
    path.write_bytes({"flipped": data, "cut": data[: len(data) // 2], "gone": b"", "empty": b""}[damage])
    if damage == "gone":
        path.unlink()
    outcome = make_trainer(tmp_path, warn=warnings.append).run()
    assert (outcome.resumed_from, outcome.weights_sha256) == (9, reference.weights_sha256)
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == list(range(1, N_STEPS + 1))
    if (name, damage) != ("COMPLETE.json", "gone"):  # without its mark it is what a crash leaves, and nothing to speak of
        assert any("step-00000011" in said for said in warnings)


@pytest.mark.slow
def test_when_every_checkpoint_is_damaged_nothing_is_overwritten(tmp_path):
    stopped_at_eleven(tmp_path)
    for path in (tmp_path / "checkpoints").glob("step-*/model.safetensors"):
        os.truncate(path, 100)
    before = {path: sha256_file(path) for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"}
    with pytest.raises(RunFolderError, match="no checkpoint is whole"):
        make_trainer(tmp_path, warn=lambda said: None).run()
    assert {path: sha256_file(path) for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"} == before


def test_a_checkpoint_of_another_run_is_refused_however_high_its_number(uninterrupted, tmp_path):
    _, other = uninterrupted
    stopped_at_eleven(tmp_path)
    (other / "checkpoints" / "step-00000018").rename(tmp_path / "checkpoints" / "step-00000018")
    try:
        with pytest.raises(RunFolderError, match=r"step-00000018: written by another run .* move it out"):
            make_trainer(tmp_path).run()
    finally:
        (tmp_path / "checkpoints" / "step-00000018").rename(other / "checkpoints" / "step-00000018")


@pytest.mark.slow
def test_checkpoints_without_the_record_of_their_run_are_refused(tmp_path):
    stopped_at_eleven(tmp_path)
    (tmp_path / "checkpoints" / "RUN.json").unlink()
    with pytest.raises(RunFolderError, match="not a run to go on with"):
        make_trainer(tmp_path).run()


@pytest.mark.parametrize(
    "text", ["[]", *(pytest.param(text, marks=pytest.mark.slow) for text in ("", "{}", '{"run_id": 3, "identity": {}}'))]
)
def test_a_damaged_record_of_the_run_is_one_clear_line(tmp_path, text):
    stopped_at_eleven(tmp_path)
    path = tmp_path / "checkpoints" / "RUN.json"
    path.write_text(text)
    with pytest.raises(RunFolderError, match=r"RUN\.json"):
        make_trainer(tmp_path).run()


@pytest.mark.slow
def test_the_mark_of_another_runs_end_is_refused(tmp_path):
    stopped_at_eleven(tmp_path)
    write_json(tmp_path / "checkpoints" / "FINISHED.json", {"run_id": "other", "status": "finished", "step": 11, "figures": "{}"})
    with pytest.raises(RunFolderError, match="another run"):
        make_trainer(tmp_path).run()


@pytest.mark.slow
def test_what_dead_processes_left_among_the_checkpoints_is_cleared(uninterrupted, tmp_path):
    reference, _ = uninterrupted
    stopped_at_eleven(tmp_path)
    inside = tmp_path / "checkpoints"
    for name in (".step-00000012.tmp-99", ".step-00000003.gone", "step-00000012"):
        (inside / name).mkdir()
        for file in ("model.safetensors", "PENDING.json"):
            (inside / name / file).write_bytes(b"half")
    assert make_trainer(tmp_path).run().weights_sha256 == reference.weights_sha256
    assert sorted(path.name for path in inside.iterdir()) == ["FINISHED.json", "RUN.json", "step-00000015", "step-00000018"]


# -- two at once


def test_a_second_process_on_the_same_run_folder_is_refused_and_the_first_goes_on(uninterrupted, tmp_path):
    reference, _ = uninterrupted
    refused, second = [], make_trainer(tmp_path)

    def intrude(report):
        if report.step == 5:
            with pytest.raises(RunFolderError, match=f"process {os.getpid()}") as caught:
                second.run()
            refused.append(caught.value)

    assert make_trainer(tmp_path, on_step=intrude).run().weights_sha256 == reference.weights_sha256
    assert len(refused) == 1


@pytest.mark.slow
def test_the_lock_is_free_after_a_run_and_after_an_error(tmp_path):
    with pytest.raises(TrainingDiverged):
        faulty_trainer(tmp_path, dict.fromkeys(range(N_STEPS), "nan")).run()
    with lock_folder(tmp_path):
        pass


def test_the_handlers_of_signals_are_back_after_a_run_and_after_an_error(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(ZeroDivisionError):
        make_trainer(tmp_path, on_step=lambda report: 1 // 0).run()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


# -- processes that are killed


PROGRAM = [sys.executable, str(Path(__file__).parents[1] / "train" / "tiny_run.py")]


def start(folder):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*PROGRAM, str(folder), "--obey"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def lead(process, n_steps):
    """Let the program take steps, one word each; it then waits in the display of the last."""
    for _ in range(n_steps):
        assert process.stdout.readline()
        process.stdin.write("\n")
        process.stdin.flush()


@pytest.mark.slow
def test_a_run_that_was_killed_and_one_that_was_terminated_end_with_the_same_bits(uninterrupted, tmp_path):
    reference, folder = uninterrupted
    with start(tmp_path) as process:
        lead(process, 7)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    with start(tmp_path) as process:  # from the checkpoint of step 6
        lead(process, 4)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate("\n" * 99)
    assert process.returncode == 0
    assert '"interrupted"' in output
    with start(tmp_path) as process:
        output, _ = process.communicate("\n" * 99)
    assert reference.weights_sha256 in output
    ours, theirs = ([line["loss"] for line in read_lines(f / "metrics.jsonl")] for f in (tmp_path, folder))
    assert np.array_equal(ours, theirs)
