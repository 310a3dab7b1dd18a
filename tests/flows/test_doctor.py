"""The doctor's proofs hold on a sound trainer and fail on a broken one."""

import pytest

from touchstone.flows import doctor
from touchstone.train.step import GradientMaker
from touchstone.train.trainer import Trainer

pytestmark = pytest.mark.slow


@pytest.mark.slow
def test_a_sound_machine_is_told_so(shown):
    terminal, text = shown
    document = doctor.examine(terminal)
    verdicts = {finding["what"]: finding["verdict"] for finding in document["findings"]}
    assert verdicts["resume"] == verdicts["accumulation"] == "ok"
    assert {"python", "torch", "device", "threads", "matmul", "memory", "disk", "cache", "extra_data"} <= set(verdicts)
    assert "the same weights, bit for bit" in text()


def test_a_trainer_that_divides_by_the_micro_batch_is_found_out(tmp_path, monkeypatch):
    plain = GradientMaker.divide

    def wrong(self, gradient, clip_norm):
        plain(self, gradient, clip_norm)
        if self.micro_batch_size == 2:
            for tensor in self.gradients():
                tensor.mul_(1.01)

    monkeypatch.setattr(GradientMaker, "divide", wrong)
    assert doctor.accumulation_error(tmp_path) > 1e-6


def test_a_trainer_that_forgets_its_state_is_found_out(tmp_path, monkeypatch):
    plain = Trainer._begin

    def forgetful(self):
        ended = plain(self)
        if self._resumed_from is not None:
            for parameter in self.net.parameters():
                parameter.data.add_(1e-7)
        return ended

    monkeypatch.setattr(Trainer, "_begin", forgetful)
    assert not doctor.resume_is_exact(tmp_path)


def test_a_proof_that_cannot_run_is_a_problem_not_a_traceback():
    def broken():
        raise OSError("no room")

    finding = doctor._proof("doctor.resume", broken)
    assert (finding.verdict, finding.found) == ("problem", "OSError: no room")
