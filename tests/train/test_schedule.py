import math

import pytest

from touchstone.errors import ConfigError
from touchstone.train.schedule import ScheduleConfig, resolve_steps, schedule_factor


def factors(config, n_steps):
    return [schedule_factor(config, step, n_steps) for step in range(n_steps)]


def test_warm_up_rises_in_equal_parts_and_reaches_the_peak_with_its_last_step():
    assert factors(ScheduleConfig(kind="constant", warmup_steps=4), 7) == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1])


def test_cosine_follows_its_closed_form_between_warm_up_and_end():
    got = factors(ScheduleConfig(kind="cosine", warmup_steps=3, final_fraction=0.1), 13)
    for step in range(3, 13):
        assert got[step] == pytest.approx(0.1 + 0.9 * math.cos(math.pi / 2 * (step - 3) / 10) ** 2)


def test_linear_falls_on_the_straight_line_that_meets_the_final_fraction_after_the_last_step():
    config = ScheduleConfig(kind="linear", warmup_steps=2, final_fraction=0.25)
    assert factors(config, 8)[2:] == pytest.approx([1 - 0.75 * k / 6 for k in range(6)])
    assert schedule_factor(config, 8, 8) == pytest.approx(0.25)


def test_wsd_is_flat_until_its_last_fraction_then_linear():
    got = factors(ScheduleConfig(kind="wsd", warmup_steps=2, decay_fraction=0.4), 10)
    assert got == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25])


def test_wsd_whose_warm_up_meets_its_decay_still_ends_at_the_final_fraction():
    got = factors(ScheduleConfig(kind="wsd", warmup_steps=6, decay_fraction=1.0), 10)
    assert got[6:] == pytest.approx([1.0, 0.75, 0.5, 0.25])


def test_warm_up_given_as_a_fraction_is_rounded_to_steps():
    assert ScheduleConfig(warmup_fraction=0.1).n_warmup(26) == 3
    assert ScheduleConfig().n_warmup(26) == 0


def test_both_kinds_of_warm_up_together_are_refused():
    with pytest.raises(ConfigError, match="not both"):
        ScheduleConfig(warmup_steps=3, warmup_fraction=0.1)


@pytest.mark.parametrize(
    ("seconds", "minutes", "reserved", "steps"), [(0.05, 3.0, 0.0, 3600), (0.05, 3.0, 30.0, 3000), (90.0, 1.0, 0.0, 1)]
)
def test_minutes_become_steps_with_what_is_reserved_taken_off(seconds, minutes, reserved, steps):
    assert resolve_steps(seconds, minutes, reserved_s=reserved) == steps


@pytest.mark.parametrize(("seconds", "minutes"), [(0.0, 3.0), (math.nan, 3.0), (0.1, -1.0), (0.1, math.inf)])
def test_senseless_times_are_refused(seconds, minutes):
    with pytest.raises(ConfigError, match="positive number"):
        resolve_steps(seconds, minutes)
