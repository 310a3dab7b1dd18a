"""A run that was stopped and started again ends with the bits of one that was not."""

import json
import os
import random
import signal

import numpy as np
import pytest
import torch
from tiny_run import N_STEPS, evaluate, make_config, make_net, make_source, make_trainer, read_lines, sample

from touchstone.errors import RunFolderError
from touchstone.train import Causal, OptimConfig, weights_sha256
from touchstone.train.resume import Checkpoints
from touchstone.train.state import RandomState

pytestmark = pytest.mark.slow


def send(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


def stop_at(*steps):
    """A display that asks the run to stop when it is told of one of these steps."""
    return lambda report: send() if report.step in steps else None


def same_logs(folder, reference):
    """Both logs, without the seconds, which no run repeats."""
    for name in ("metrics.jsonl", "samples.jsonl"):
        ours, theirs = ([{k: v for k, v in line.items() if k != "seconds"} for line in read_lines(f / name)] for f in (folder, reference))
        assert ours == theirs


@pytest.mark.parametrize("step", [7, *(pytest.param(step, marks=pytest.mark.slow) for step in (1, 3, 5, 10, 12, 14, 17))])
def test_resume_after_sigterm_equals_the_uninterrupted_run(uninterrupted, tmp_path, step):
    """In epochs 1, 2, 3 and 4; steps 5, 10 and 14 are the last of their epochs."""
    reference, folder = uninterrupted
    first = make_trainer(tmp_path, on_step=stop_at(step)).run()
    assert (first.status, first.step) == ("interrupted", step)
    second = make_trainer(tmp_path, net=make_net(seed=8)).run()
    assert (second.status, second.resumed_from) == ("finished", step)
    assert second.weights_sha256 == reference.weights_sha256
    same_logs(tmp_path, folder)


@pytest.mark.slow
def test_stopping_twice_in_one_epoch_and_again_later_changes_nothing(uninterrupted, tmp_path):
    reference, folder = uninterrupted
    for step in (6, 8, 9, 16):
        assert make_trainer(tmp_path, on_step=stop_at(step)).run().step == step
    assert make_trainer(tmp_path).run().weights_sha256 == reference.weights_sha256
    same_logs(tmp_path, folder)


def test_a_signal_amid_the_micro_batches_drops_the_step_and_its_random_numbers(uninterrupted, tmp_path):
    reference, folder = uninterrupted
    calls = []

    trainer = make_trainer(tmp_path)
    inner = trainer._gradients.objective

    def stopping(net, batch, noise):
        calls.append(1)
        if len(calls) == 3 * 7 + 2:  # the second of three micro-batches of step 8
            send()
        return inner(net, batch, noise)

    trainer._gradients.objective = stopping
    assert trainer.run().step == 7
    assert make_trainer(tmp_path).run().weights_sha256 == reference.weights_sha256
    same_logs(tmp_path, folder)


@pytest.mark.slow
def test_a_second_signal_leaves_the_forward_pass_and_saves_at_once(tmp_path):
    trainer = make_trainer(tmp_path, config=make_config(micro_batch_size=None))
    inner, calls = trainer._gradients.objective, []

    def stopping(net, batch, noise):
        calls.append(1)
        loss = inner(net, batch, noise)  # draws from torch's generator
        if len(calls) == 7:
            send()
            send(signal.SIGINT)
            pytest.fail("the second signal must have left the pass")
        return loss

    trainer._gradients.objective = stopping
    assert trainer.run().step == 6
    resumed = make_trainer(tmp_path, config=make_config(micro_batch_size=None)).run()
    whole = make_trainer(tmp_path / "whole", config=make_config(micro_batch_size=None)).run()
    assert resumed.weights_sha256 == whole.weights_sha256


@pytest.mark.parametrize("step", [4, *(pytest.param(step, marks=pytest.mark.slow) for step in (8, 18))])
def test_a_signal_in_an_evaluation_leaves_it_at_once_and_it_is_done_on_resume(uninterrupted, tmp_path, step):
    reference, folder = uninterrupted
    done = []

    def stopping(net):
        done.append(1)
        if len(done) * 4 >= step:
            send()
            pytest.fail("the signal must have ended the evaluation")
        return evaluate(net)

    first = make_trainer(tmp_path, evaluate=stopping).run()
    assert (first.status, first.step) == ("interrupted", step)
    assert len(read_lines(tmp_path / "metrics.jsonl")) == step - 1  # the step is not closed: its line waits for the evaluation
    assert make_trainer(tmp_path).run().weights_sha256 == reference.weights_sha256
    same_logs(tmp_path, folder)


@pytest.mark.slow
def test_a_signal_in_a_step_that_is_to_be_evaluated_leaves_the_evaluation_to_the_resume(uninterrupted, tmp_path):
    reference, folder = uninterrupted
    trainer = make_trainer(tmp_path, evaluate=lambda net: pytest.fail("must not begin"))
    divide = trainer._gradients.divide

    def stopping(gradient, clip_norm):
        divide(gradient, clip_norm)
        if trainer._state.progress.position == 3:
            send()

    trainer._gradients.divide = stopping
    assert trainer.run().step == 4
    assert make_trainer(tmp_path).run().weights_sha256 == reference.weights_sha256
    same_logs(tmp_path, folder)


@pytest.mark.slow
def test_a_signal_while_sampling_is_the_same(uninterrupted, tmp_path):
    reference, folder = uninterrupted

    def stopping(net, step):
        if step == 12:
            send()
        return sample(net, step)

    assert make_trainer(tmp_path, sample=stopping).run().step == 12
    assert make_trainer(tmp_path).run().weights_sha256 == reference.weights_sha256
    same_logs(tmp_path, folder)


def test_signals_while_saving_wait_until_the_checkpoint_is_whole(uninterrupted, tmp_path, monkeypatch):
    reference, folder = uninterrupted
    real, sent = Checkpoints.save, []

    def stopping(self, step, *rest):
        if step == 9 and not sent:
            sent.append(1)
            send()
            send()
        real(self, step, *rest)

    monkeypatch.setattr(Checkpoints, "save", stopping)
    assert make_trainer(tmp_path).run().step == 9
    assert make_trainer(tmp_path).run().weights_sha256 == reference.weights_sha256
    same_logs(tmp_path, folder)


@pytest.mark.slow
def test_a_signal_before_the_first_step_stops_a_run_that_then_begins_as_if_nothing_had_been(uninterrupted, tmp_path, monkeypatch):
    reference, folder = uninterrupted
    real = Checkpoints.save
    monkeypatch.setattr(Checkpoints, "save", lambda self, step, *rest: (send(), real(self, step, *rest))[1])
    first = make_trainer(tmp_path).run()
    assert (first.status, first.step) == ("interrupted", 0)
    monkeypatch.setattr(Checkpoints, "save", real)
    assert make_trainer(tmp_path).run().weights_sha256 == reference.weights_sha256
    same_logs(tmp_path, folder)


@pytest.mark.slow
def test_patience_survives_a_stop(tmp_path):
    losses = [5.0, 3.0, 4.0, 3.5, 3.2, 9.0, 9.0]

    def judged(start):
        left = iter(losses[start:])
        return lambda net: {"loss": next(left)}

    config = make_config(n_steps=14, eval_every=2, early_stopping_patience=3)
    whole = make_trainer(tmp_path / "whole", config=config, evaluate=judged(0)).run()
    make_trainer(tmp_path / "cut", config=config, evaluate=judged(0), on_step=stop_at(7)).run()
    resumed = make_trainer(tmp_path / "cut", config=config, evaluate=judged(3)).run()
    assert (resumed.status, resumed.step, resumed.best_step) == (whole.status, whole.step, whole.best_step) == ("early-stopped", 10, 4)
    assert resumed.weights_sha256 == whole.weights_sha256


def test_a_changed_configuration_is_refused_with_every_difference(tmp_path):
    make_trainer(tmp_path, on_step=stop_at(5)).run()
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"}
    changed = make_config(batch_size=4, optim=OptimConfig(kind="muon", learning_rate=0.02))
    with pytest.raises(RunFolderError) as caught:
        make_trainer(tmp_path, config=changed).run()
    for line in ("config.batch_size: 5 -> 4", "config.optim.learning_rate: 0.01 -> 0.02"):
        assert line in str(caught.value)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"} == kept


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (lambda: {"source": make_source(seed=5)}, "data.fingerprint"),
        (lambda: {"objective": Causal(label_smoothing=0.1)}, "objective.label_smoothing: 0.0 -> 0.1"),
        (lambda: {"fingerprint": {"tokenizer": "other"}}, "given.tokenizer: none -> other"),
        (lambda: {"net": make_net().double()}, "network.embed.weight"),
    ],
)
def test_other_data_another_objective_tokenizer_or_network_is_refused(tmp_path, changed, said):
    make_trainer(tmp_path, on_step=stop_at(2)).run()
    with pytest.raises(RunFolderError) as caught:
        make_trainer(tmp_path, **changed()).run()
    assert said in str(caught.value)


@pytest.mark.slow
def test_another_number_of_threads_is_said_to_change_the_last_bits(tmp_path):
    make_trainer(tmp_path, on_step=stop_at(2)).run()
    facts = tmp_path / "checkpoints" / "step-00000002" / "state.json"
    warnings = []
    text = facts.read_text().replace('"n_threads": 1', '"n_threads": 7')
    assert text != facts.read_text()
    facts.write_text(text)
    mark = facts.with_name("COMPLETE.json")
    from touchstone.files import sha256_file, write_json

    record = json.loads(mark.read_text())
    record["files"]["state.json"]["sha256"] = sha256_file(facts)
    write_json(mark, record)
    make_trainer(tmp_path, warn=warnings.append).run()
    assert any("n_threads: 7 -> 1" in said for said in warnings)


def test_random_state_comes_back_through_json():
    random.random(), np.random.rand(), torch.rand(1), random.gauss(), np.random.randn()
    state = RandomState.capture()
    numbers = (random.random(), random.gauss(), np.random.rand(), np.random.randn(), torch.rand(3).tolist())
    RandomState.from_plain(json.loads(json.dumps(state.to_plain()))).restore()
    assert numbers == (random.random(), random.gauss(), np.random.rand(), np.random.randn(), torch.rand(3).tolist())


def test_the_hash_of_weights_sees_names_values_and_types():
    one, other = make_net(), make_net()
    assert weights_sha256(one) == weights_sha256(other)
    with torch.no_grad():
        other.embed.weight[0, 0] += 1e-3
    assert weights_sha256(one) != weights_sha256(other)
    assert weights_sha256(make_net().double()) != weights_sha256(one)


@pytest.mark.slow
def test_the_reference_run_is_no_accident_another_seed_gives_other_weights(uninterrupted, tmp_path):
    reference, _ = uninterrupted
    assert reference.step == N_STEPS
    assert make_trainer(tmp_path, config=make_config(seed=8)).run().weights_sha256 != reference.weights_sha256
