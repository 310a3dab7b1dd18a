"""What a run does on schedule, what it leaves behind, and how it ends."""

import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_run import N_STEPS, evaluate, make_config, make_net, make_source, make_trainer, read_lines

from touchstone.errors import ConfigError, RunFolderError
from touchstone.files import load_tensors
from touchstone.text.batch import Plan
from touchstone.train import Causal, OptimConfig, ScheduleConfig, TensorBatch, schedule_factor, weights_sha256

pytestmark = pytest.mark.slow


def test_a_run_ends_finished_with_one_log_line_a_step_and_raw_losses(uninterrupted):
    outcome, folder = uninterrupted
    lines = read_lines(folder / "metrics.jsonl")
    assert (outcome.status, outcome.step, outcome.was_finished) == ("finished", N_STEPS, False)
    assert [line["step"] for line in lines] == list(range(1, N_STEPS + 1))
    assert outcome.n_tokens == sum(line["n_tokens"] for line in lines)
    config = make_config()
    for line in lines:
        factor = schedule_factor(config.schedule, line["step"] - 1, N_STEPS)
        assert line["learning_rate"] == pytest.approx(0.01 * factor)
        assert line["epoch"] == pytest.approx(line["step"] * 5 / 23)


def test_the_logged_loss_is_the_plain_mean_over_all_counted_targets(tmp_path):
    config = make_config(n_steps=1, optim=OptimConfig(), schedule=ScheduleConfig(kind="constant"))
    trainer = make_trainer(tmp_path, net=make_net(dropout=0.0), objective=Causal(label_smoothing=0.1), config=config)
    batch = TensorBatch.of(make_source().batch(Plan(23, 5, 7).example_ids(0)))
    log_p = torch.log_softmax(make_net(dropout=0.0)(batch.token_ids, mask=batch.mask).logits.double(), -1)
    nll = -log_p.gather(-1, batch.targets[..., None])[..., 0][batch.counts].mean().item()
    smooth = 0.9 * nll - 0.1 * log_p.mean(-1)[batch.counts].mean().item()
    trainer.run()
    (line,) = read_lines(tmp_path / "metrics.jsonl")
    assert line["nll"] == pytest.approx(nll, rel=1e-5)
    assert line["loss"] == pytest.approx(smooth, rel=1e-5)
    assert line["n_tokens"] == int(batch.counts.sum())


def test_training_lowers_the_loss_it_is_judged_by(tmp_path):
    outcome = make_trainer(
        tmp_path, net=make_net(dropout=0.0), config=make_config(n_steps=100, micro_batch_size=None, save_every=100, eval_every=None)
    ).run()
    assert outcome.figures["loss"] < evaluate(make_net(dropout=0.0).eval())["loss"] - 0.5


def test_evaluations_and_samples_come_on_schedule_and_after_the_last_step(uninterrupted):
    _, folder = uninterrupted
    assert [line["step"] for line in read_lines(folder / "metrics.jsonl") if "valid_loss" in line] == [4, 8, 12, 16, 18]
    assert [line["step"] for line in read_lines(folder / "samples.jsonl")] == [6, 12, 18]
    assert [line["at"] for line in read_lines(folder / "samples.jsonl")] == [6, 12, 18]


def test_evaluation_and_samples_do_not_disturb_the_training(uninterrupted, tmp_path):
    watched, _ = uninterrupted
    assert make_trainer(tmp_path, evaluate=None, sample=None).run().weights_sha256 == watched.weights_sha256


def test_callbacks_see_the_network_in_eval_mode_without_gradients(tmp_path):
    seen = []

    def look(net):
        seen.append((net.training, torch.is_grad_enabled()))
        return {"loss": 1.0}

    net = make_net().eval()
    make_trainer(tmp_path, net=net, evaluate=look, sample=lambda net, step: [look(net)]).run()
    assert set(seen) == {(False, False)}
    assert not net.training  # as it was before


@pytest.mark.slow
def test_reports_come_every_so_many_steps_and_at_both_ends(tmp_path):
    reports = []
    make_trainer(tmp_path, config=make_config(log_every=5), on_step=reports.append).run()
    assert [report.step for report in reports] == [1, 4, 5, 8, 10, 12, 15, 16, 18]  # evaluated steps too
    assert [report.step for report in reports if report.valid_loss is not None] == [4, 8, 12, 16, 18]
    assert reports[-1].eta_s == 0
    assert all(report.tokens_per_s > 0 and report.parts["nll"] > 0 for report in reports)


def test_the_best_weights_of_an_early_stopped_run_are_its_result(tmp_path):
    losses = iter([3.0, 2.0, 2.5, 2.1, 2.0, 9.0])
    saved = []
    net = make_net()

    def judge(net):
        saved.append(weights_sha256(net))
        return {"loss": next(losses)}

    config = make_config(n_steps=40, eval_every=2, save_every=7, early_stopping_patience=3, keep_checkpoints=1)
    outcome = make_trainer(tmp_path, net=net, config=config, evaluate=judge).run()
    assert (outcome.status, outcome.step, outcome.best_step, outcome.best_loss) == ("early-stopped", 10, 4, 2.0)
    assert outcome.weights_sha256 == saved[1] == weights_sha256(net)
    kept = load_tensors(tmp_path / "checkpoints" / "step-00000004" / "model.safetensors")
    assert all(torch.equal(kept[name], parameter) for name, parameter in net.named_parameters())
    again = make_trainer(tmp_path, config=config, evaluate=judge).run()
    assert (again.status, again.was_finished, again.weights_sha256) == ("early-stopped", True, saved[1])


@pytest.mark.slow
def test_a_best_checkpoint_that_rots_is_said_and_the_last_weights_stand_in(tmp_path):
    losses, warnings = iter([3.0, 1.0, 2.0, 2.0]), []

    def judge(net):
        loss = next(losses)
        if loss == 2.0:
            os.truncate(tmp_path / "checkpoints" / "step-00000004" / "model.safetensors", 100)
        return {"loss": loss}

    config = make_config(n_steps=8, eval_every=2, early_stopping_patience=9)
    outcome = make_trainer(tmp_path, config=config, evaluate=judge, warn=warnings.append).run()
    assert (outcome.status, outcome.best_step) == ("finished", None)
    assert any("step-00000004" in said and "last step" in said for said in warnings)


@pytest.mark.slow
def test_a_run_that_never_loses_patience_still_gives_its_best_weights(tmp_path):
    losses = iter([3.0, 1.0, 2.0, 2.0])
    config = make_config(n_steps=8, eval_every=2, early_stopping_patience=9)
    outcome = make_trainer(tmp_path, config=config, evaluate=lambda net: {"loss": next(losses)}).run()
    assert (outcome.status, outcome.step, outcome.best_step) == ("finished", 8, 4)


@pytest.mark.slow
def test_a_validation_loss_that_is_not_a_number_is_no_improvement(tmp_path):
    losses = iter([math.nan, 3.0, math.nan, math.nan])
    config = make_config(n_steps=20, eval_every=2, early_stopping_patience=2)
    outcome = make_trainer(tmp_path, config=config, evaluate=lambda net: {"loss": next(losses)}).run()
    assert (outcome.status, outcome.step, outcome.best_step) == ("early-stopped", 8, 4)


def test_old_checkpoints_are_rotated_away(uninterrupted):
    _, folder = uninterrupted
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert names == ["FINISHED.json", "RUN.json", "step-00000015", "step-00000018"]


def test_the_final_network_is_written_where_the_run_folder_has_it(tmp_path):
    written = []
    make_trainer(tmp_path, save_model=written.append).run()
    assert written == [tmp_path / "model"]


def test_a_finished_run_says_so_and_redoes_nothing(tmp_path):
    first = make_trainer(tmp_path, save_model=lambda folder: folder.mkdir()).run()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"}
    net = make_net(seed=3)
    again = make_trainer(tmp_path, net=net, save_model=lambda folder: pytest.fail("written twice")).run()
    assert (again.status, again.was_finished, again.step) == ("finished", True, N_STEPS)
    assert again.weights_sha256 == first.weights_sha256 == weights_sha256(net)
    assert again.figures == first.figures
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"} == before


def test_evaluation_without_a_loss_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="accuracy"):
        make_trainer(tmp_path, evaluate=lambda net: {"accuracy": 1.0}).run()
    with pytest.raises(ConfigError, match="validation loss"):
        make_trainer(tmp_path, config=make_config(early_stopping_patience=2), evaluate=None)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"micro_batch_size": 6}, "at most"),
        ({"schedule": ScheduleConfig(warmup_steps=18)}, "shorter"),
        ({"early_stopping_patience": 1, "eval_every": None}, "eval_every"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        make_config(**changes)


@pytest.mark.slow
def test_steps_in_bfloat16_leave_weights_and_state_in_float32(tmp_path):
    net = make_net()
    trainer = make_trainer(tmp_path, net=net, config=make_config(precision="bfloat16"))
    outcome = trainer.run()
    assert outcome.status == "finished"
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}
    assert {tensor.dtype for tensor in trainer._state.optimizer.state().values()} == {torch.float32}
    losses = {
        precision: np.array([line["loss"] for line in read_lines(path / "metrics.jsonl")]) for precision, path in {"bf16": tmp_path}.items()
    }
    assert np.isfinite(losses["bf16"]).all()


def test_a_folder_of_something_else_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"mine": 1}\n')
    with pytest.raises(RunFolderError, match="choose another folder"):
        make_trainer(tmp_path).run()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"mine": 1}\n'


@pytest.mark.prove
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_run_follows_the_plain_one(tmp_path):
    """In processes of their own: the shape checks of this one and torch.compile do not go together."""

    for name in ("plain", "compile"):
        options = ["--simple"] if name == "plain" else ["--simple", "--compile"]
        command = [sys.executable, str(Path(__file__).with_name("tiny_run.py")), str(tmp_path / name), *options]
        subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, check=True)
    plain, compiled = (load_tensors(tmp_path / name / "checkpoints/step-00000018/model.safetensors") for name in ("plain", "compile"))
    for name, tensor in plain.items():
        torch.testing.assert_close(compiled[name], tensor, rtol=0, atol=1e-3)
