"""The display of a training, on a screen and in a pipe."""

import io
import itertools
import math
from dataclasses import dataclass

import pytest
from rich.console import Console

from touchstone.report.training import TrainingDisplay, sparkline
from touchstone.report.words import words


@dataclass
class Report:
    step: int
    n_steps: int
    loss: float
    tokens_per_s: float | None = None


def shown(reports, *, lang="en", is_screen=False, seconds=1.0):
    """All that is written while the reports come in, so many seconds apart."""
    stream, now = io.StringIO(), [0.0]
    console = Console(file=stream, force_terminal=is_screen, width=80, color_system=None)
    with TrainingDisplay(words(lang), console, clock=lambda: now[0]) as display:
        for report in reports:
            display.update(report)
            now[0] += seconds
    return stream.getvalue()


def test_in_a_pipe_a_line_comes_every_five_seconds_and_at_the_end():
    lines = shown({"step": step, "n_steps": 12, "loss": 3.0 - step / 10} for step in range(1, 13)).splitlines()
    assert [line.split(" of")[0] for line in lines] == ["step 1", "step 6", "step 11", "step 12"]
    assert lines[1] == "step 6 of 12 · loss 2.4000 · 6 s left"  # five steps in five seconds, six to go


def test_a_line_says_everything_that_was_seen():
    report = {
        **{"step": 1200, "n_steps": 9000, "loss": 2.34567, "bits_per_byte": 1.4567, "tokens_per_s": 9412.4, "peak_fraction": 0.614},
        **{"eta_s": 161.2, "skipped": 2, "learning_rate": 0.02, "gradient_norm": 0.75, "valid_bits_per_byte": 1.5, "unknown": "ignored"},
    }
    (line,) = shown([report]).splitlines()
    assert line == (
        "step 1,200 of 9,000 · loss 2.3457 · 1.457 bits per byte · validation 1.500 bits per byte · 9,412 tokens/s · "
        "61 % of matmul peak · learning rate 2.00e-02 · gradient norm 0.75 · 2 steps skipped · 2 min 41 s left"
    )
    (line,) = shown([report], lang="zh").splitlines()
    assert line.startswith("第 1,200 步，共 9,000 步 · 损失 2.3457 · 每字节 1.457 比特")


def test_a_validation_is_shown_at_once_and_stays():
    lines = shown([{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}, {"valid_loss": 2.5}, {"step": 3, "loss": 1.0}]).splitlines()
    assert lines[1] == "step 2 · loss 2.0000 · validation loss 2.5000"
    assert lines[-1] == "step 3 · loss 1.0000 · validation loss 2.5000"


def test_a_report_may_be_a_dataclass_and_what_it_leaves_out_stays_hidden():
    assert shown([Report(step=1, n_steps=4, loss=2.0)]).splitlines() == ["step 1 of 4 · loss 2.0000"]


def test_a_loss_that_is_not_finite_is_shown_as_it_is():
    (line,) = shown([{"step": 1, "loss": math.nan, "eta_s": math.inf}]).splitlines()
    assert line == "step 1 · loss nan"


def test_a_screen_gets_a_panel_with_a_curve_that_stays():
    text = shown(({"step": step, "n_steps": 40, "loss": 4.0 / step, "skipped": 0} for step in range(1, 41)), is_screen=True)
    assert "Training" in text
    assert "step 40 of 40" in text
    assert "█" in text
    assert "▁" in text
    assert "skipped" not in text


def test_nothing_is_written_for_a_training_that_never_reports():
    assert shown([]) == ""


@pytest.mark.parametrize(
    ("values", "width", "text"),
    [
        ([], 5, ""),
        ([1.0], 5, ""),
        ([0.0, 7.0], 5, "▁█"),
        ([0, 1, 2, 3, 4, 5, 6, 7], 8, "▁▂▃▄▅▆▇█"),
        ([0, 0, 8, 8], 2, "▁█"),
        ([2.0, 2.0, 2.0], 3, "▁▁▁"),
    ],
)
def test_a_sparkline_has_the_least_lowest_and_the_greatest_highest(values, width, text):
    assert sparkline(values, width) == text


def test_the_curve_of_a_long_training_keeps_a_bounded_number_of_points():
    display = TrainingDisplay(words("en"), Console(file=io.StringIO()), silent=True)
    for step in range(1, 30_001):
        display.update({"step": step, "loss": float(step)})
    assert 2000 <= len(display._curve) < 4096
    assert display._curve == sorted(display._curve)
    gaps = {b - a for a, b in itertools.pairwise(display._curve)}
    assert len(gaps) == 1  # evenly spaced over the whole
