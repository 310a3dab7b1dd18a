"""A run that keeps to its time: where steps turn out slower than measured at the start, the rest of it is shortened.

The look at the clock is at the scheduled saves alone, and what it decides is in the checkpoint of that step. So a decision is made once:
whatever comes after it stands on a checkpoint that holds it, and a run that is stopped and resumed takes the same steps at the same
rates. The schedule is followed to its end, in longer strides: the rate has no jump and still comes down to its last value.
"""

from touchstone.train.settings import TrainConfig
from touchstone.train.state import Progress

__all__ = ["keep_to_time", "last_step", "schedule_place"]

_TOLERANCE = 1.05  # of the time that is left: a smaller excess is the noise of a measured pace


def last_step(progress: Progress, config: TrainConfig) -> int:
    """The number of steps the run will have taken, as it stands."""
    return config.n_steps if progress.shortened_to is None else progress.shortened_to


def schedule_place(progress: Progress, config: TrainConfig) -> float:
    """The place in the schedule of n_steps that the next step has; its own number in a run that was not shortened."""
    if progress.shortened_to is None:
        return progress.position
    return progress.turned_place + (progress.position - progress.turned_at) * _stride(progress, config)


def keep_to_time(progress: Progress, config: TrainConfig) -> bool:
    """Shorten the run if the pace since the last look would overrun max_seconds; whether it did. At least one step is left."""
    n_steps, seconds = progress.position - progress.looked_at, progress.seconds - progress.looked_seconds
    progress.looked_at, progress.looked_seconds = progress.position, progress.seconds
    n_left = last_step(progress, config) - progress.position
    if config.max_seconds is None or n_steps == 0 or n_left <= 1:
        return False
    left, pace = config.max_seconds - progress.seconds, seconds / n_steps
    if n_left * pace <= _TOLERANCE * left:
        return False
    place = schedule_place(progress, config)
    progress.turned_at, progress.turned_place = progress.position, place
    progress.shortened_to = progress.position + min(n_left, max(1, int(left / pace)))
    return True


def _stride(progress: Progress, config: TrainConfig) -> float:
    assert progress.shortened_to is not None
    return (config.n_steps - progress.turned_place) / (progress.shortened_to - progress.turned_at)
