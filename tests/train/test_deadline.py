"""A run that is too slow is shortened at a checkpoint, once and for all."""

import itertools

import pytest
from tiny_run import make_config, make_trainer, read_lines

from touchstone.train.deadline import keep_to_time, last_step, schedule_place
from touchstone.train.schedule import schedule_factor
from touchstone.train.state import Progress

CONFIG = make_config(n_steps=100, save_every=10, max_seconds=50.0)


def at(position, seconds, **more):
    return Progress(position=position, seconds=seconds, **more)


def test_a_run_within_its_time_keeps_its_length():
    progress = at(10, 5.2)
    assert not keep_to_time(progress, CONFIG)
    assert last_step(progress, CONFIG) == 100
    assert [schedule_place(at(step, 0.0), CONFIG) for step in (0, 37, 99)] == [0, 37, 99]


def test_without_a_limit_nothing_is_shortened():
    assert not keep_to_time(at(10, 1e6), CONFIG.replace(max_seconds=None))


def test_a_slow_run_gets_as_many_steps_as_fit_at_the_pace_since_the_last_look():
    progress = at(40, 20.0 + 30 * 0.5, looked_at=10, looked_seconds=5.0)  # 35 s spent, of which the last 30 steps took 1 s each
    assert keep_to_time(progress, CONFIG)
    assert last_step(progress, CONFIG) == 40 + 15


def test_the_schedule_has_no_jump_and_ends_where_it_would_have():
    progress = at(40, 35.0, looked_at=10, looked_seconds=5.0)
    keep_to_time(progress, CONFIG)
    places = []
    for position in range(40, last_step(progress, CONFIG) + 1):
        progress.position = position
        places.append(schedule_place(progress, CONFIG))
    assert places == pytest.approx([40 + 4 * k for k in range(16)])  # 60 places in 15 strides
    factors = [schedule_factor(CONFIG.schedule, place, 100) for place in places]
    assert factors[0] == schedule_factor(CONFIG.schedule, 40, 100)
    assert factors[-1] == pytest.approx(CONFIG.schedule.final_fraction)


def test_a_run_may_be_shortened_again_and_one_step_is_always_left():
    progress = at(40, 35.0, looked_at=10, looked_seconds=5.0)
    keep_to_time(progress, CONFIG)
    progress.position, progress.seconds = 50, 65.0  # 3 s a step, and past the limit
    before = schedule_place(progress, CONFIG)
    assert keep_to_time(progress, CONFIG)
    assert last_step(progress, CONFIG) == 51
    assert schedule_place(progress, CONFIG) == pytest.approx(before)
    assert not keep_to_time(progress, CONFIG)


class Clock:
    """Stands for the `time` module; every second call, the end of a step, comes `step_s` after the one before."""

    def __init__(self, *step_s):
        self.now, self._more = 0.0, itertools.chain.from_iterable((0.0, s) for s in itertools.chain(step_s, itertools.repeat(step_s[-1])))

    def perf_counter(self):
        self.now += next(self._more)
        return self.now


@pytest.mark.slow
def test_a_resumed_run_keeps_the_decision_whatever_the_clock_says_now(tmp_path, monkeypatch):
    config = make_config(n_steps=18, save_every=3, max_seconds=18.0)
    told = []

    def run(folder, clock, **more):
        monkeypatch.setattr("touchstone.train.trainer.time", clock)
        return make_trainer(folder, config=config, warn=told.append, **more).run()

    slow = [1.0] * 6 + [2.0]  # twice as slow from the seventh step on: at step 9, 6 seconds are left, and 9 steps
    whole = run(tmp_path / "whole", Clock(*slow))
    assert (whole.status, whole.step, whole.n_steps) == ("finished", 12, 12)
    assert "ends after 12 of 18" in told[0]
    assert len(read_lines(tmp_path / "whole" / "metrics.jsonl")) == 12

    class Dies(RuntimeError):
        pass

    def die(report):
        if report.step == 11:
            raise Dies

    with pytest.raises(Dies):
        run(tmp_path / "cut", Clock(*slow), on_step=die)
    resumed = run(tmp_path / "cut", Clock(0.001))
    assert (resumed.resumed_from, resumed.step) == (9, 12)
    assert resumed.weights_sha256 == whole.weights_sha256
