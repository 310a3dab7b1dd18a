import json
import math

import pytest

from touchstone.train.guard import StepGuard


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (2.0, math.nan), (2.0, math.inf)])
def test_what_is_not_finite_is_bad(loss, norm):
    assert StepGuard(5, None).judge(loss, norm) is not None


def test_bad_steps_are_counted_in_a_row_and_in_all():
    guard = StepGuard(3, None)
    for loss in (1.0, math.nan, math.nan, 1.0, math.nan, math.nan):
        guard.judge(loss, 1.0)
    assert (guard.n_in_a_row, guard.n_bad, guard.exhausted) == (2, 4, False)
    guard.judge(math.nan, 1.0)
    assert guard.exhausted
    guard.forgive()
    assert (guard.n_in_a_row, guard.n_bad) == (0, 5)


def test_a_leap_of_the_gradient_norm_is_bad_once_the_usual_norm_is_known():
    guard = StepGuard(5, spike_factor=100.0)
    assert guard.judge(2.0, 1e9) is None  # nothing is known yet
    for _ in range(40):
        assert guard.judge(2.0, 3.0) is None
    assert guard.judge(2.0, 299.0) is None
    assert "100 times" in guard.judge(2.0, 301.0)


def test_a_run_that_has_little_left_to_learn_may_meet_new_text():
    guard = StepGuard(5, spike_factor=100.0, floor=1.0)
    for _ in range(40):
        guard.judge(0.0, 1e-7)
    assert guard.judge(5.0, 50.0) is None


def test_the_memory_of_a_guard_goes_through_json():
    guard, twin = StepGuard(5, 100.0), StepGuard(5, 100.0)
    for k in range(30):
        guard.judge(1.0, 1.0 + k / 7)
    guard.judge(math.nan, 1.0)
    twin.load_state(json.loads(json.dumps(guard.state())))
    for norm in (400.0, 1.0, 170.0, 500.0):
        assert guard.judge(1.0, norm) == twin.judge(1.0, norm)
        assert guard.state() == twin.state()
