"""The training loop: steps that are judged before they are taken; a log, evaluations, samples and checkpoints on schedule.

It knows no model family, no data format and no metric. The position in the data is the index of the step in the plan, so nothing is
replayed on resume, and a run that was stopped anywhere - after a step, amid micro-batches, in an evaluation, by kill -9 - ends
with the same bits as one that was not.

Bad steps (guard.py) are skipped but use up their place in the plan. After max_bad_steps in a row the run goes back, once, to the weights
and optimiser of the newest point of return - a checkpoint saved on schedule, outside of a bad stretch - and goes on with the examples
*after* the bad stretch, at that place of the schedule; this is saved at once. A second such stretch ends it with TrainingDiverged.
"""

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from touchstone.errors import ConfigError, RunFolderError, SaveFailed, TrainingDiverged
from touchstone.files import lock_folder
from touchstone.runtime import large_buffers_kept, seed_everything
from touchstone.text.batch import PERMUTATION_VERSION, Plan
from touchstone.train.deadline import keep_to_time, last_step, schedule_place
from touchstone.train.guard import StepGuard
from touchstone.train.objective import Objective
from touchstone.train.optim import build_optimizer
from touchstone.train.pace import Pace
from touchstone.train.resume import NotFinite
from touchstone.train.run_folder import RunFolder
from touchstone.train.schedule import schedule_factor
from touchstone.train.settings import Outcome, Status, StepReport, TrainConfig
from touchstone.train.signals import StopNow, StopSignals
from touchstone.train.state import RandomState, TrainingState, load_net, weights_sha256
from touchstone.train.step import Gradient, GradientMaker, Source

__all__ = ["Trainer"]

_FORMAT = 1  # of a checkpoint; raised whenever an older one could not be continued exactly


class Trainer:
    """Trains a network in a run folder; `run` begins it, resumes it or finds it finished, whichever it is.

    source: examples by number. evaluate: figures of a network, "loss" among them; sample: records for samples.jsonl of a network after
    so many steps; both see it in eval mode, and cannot disturb the training's random numbers. save_model: writes the final network
    into a folder. on_step: told of every log_every-th step. warn: told in a sentence of what went wrong and was survived; None = the
    `logging` module. on_shortened: told the new last step of a run that is too slow for max_seconds; None = `warn` is. fingerprint: plain
    data that must be the same when the run is resumed, such as the hash of the data.
    """

    def __init__(
        self,
        net: nn.Module,
        objective: Objective,
        source: Source,
        config: TrainConfig,
        folder: Path | str,
        *,
        evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None,
        sample: Callable[[nn.Module, int], list[dict[str, Any]]] | None = None,
        save_model: Callable[[Path], None] | None = None,
        on_step: Callable[[StepReport], None] | None = None,
        warn: Callable[[str], None] | None = None,
        on_shortened: Callable[[int], None] | None = None,
        fingerprint: Mapping[str, Any] | None = None,
    ) -> None:
        if config.early_stopping_patience is not None and evaluate is None:
            raise ConfigError("`early_stopping_patience` needs a validation loss: give `evaluate`.")
        self.net, self.objective, self.source, self.config, self.folder = net, objective, source, config, Path(folder)
        self._evaluate, self._sample, self._save_model, self._on_step = evaluate, sample, save_model, on_step
        self._warn = warn or logging.getLogger(__name__).warning
        self._on_shortened = on_shortened or self._warn_of_shortening
        self._fingerprint = dict(fingerprint or {})
        plan = Plan(source.n_examples, config.batch_size, config.seed)
        self._gradients = GradientMaker(net, objective, source, plan, config)
        guard = StepGuard(config.max_bad_steps, config.spike_factor, floor=config.clip_norm or 1.0)
        self._state = TrainingState(net, build_optimizer(net, config.optim, config.precision), guard)
        self._run_folder = RunFolder(self.folder, self._warn, keep=config.keep_checkpoints)
        self._figures: dict[str, float] = {}
        self._resumed_from: int | None = None
        self._is_warm = False
        self._pace = Pace()

    def run(self) -> Outcome:
        """Train to the end, or to a signal; SIGTERM and SIGINT save and return the status "interrupted".

        Raises RunFolderError (the folder is in use, of another run, changed or unreadable), TrainingDiverged, or SaveFailed when
        the end of the training could not be saved.
        """
        was_training = self.net.training
        with lock_folder(self.folder), StopSignals() as self._stop:
            try:
                if (ended := self._begin()) is not None:
                    return self._outcome(ended, was_finished=True)
                self.net.train()
                try:
                    with large_buffers_kept():
                        self._train()
                except StopNow:
                    return self._interrupt()
                return self._finish()
            finally:
                self._state.optimizer.zero_grad()
                self.net.train(was_training)

    # -- beginning and end

    def _begin(self) -> Status | None:
        """Start or resume; the status if the run is over already."""
        newest = self._run_folder.begin(self._identity())
        if newest is None:
            seed_everything(self.config.seed)
            self._save(on_schedule=True)
            return None
        self._state.restore(newest)
        self._resumed_from = newest.step
        ended = self._run_folder.finished(newest.step)
        if ended is not None:
            self._take_best()
            self._figures = self._run_folder.final_figures()
        return ended

    def _identity(self) -> dict[str, Any]:
        """Everything that must not change between starts."""
        return {
            "format": _FORMAT,
            "config": self.config.model_dump(mode="json"),
            "objective": self.objective.settings(),
            "data": {"fingerprint": self.source.fingerprint, "n_examples": self.source.n_examples, "order": PERMUTATION_VERSION},
            "network": {name: f"{tuple(p.shape)} {p.dtype} {p.device.type}" for name, p in self.net.named_parameters()},
            "given": self._fingerprint,
        }

    def _finish(self) -> Outcome:
        """The last checkpoint, the final network, the mark that the run is over."""
        progress = self._state.progress
        if progress.position not in self._run_folder.checkpoints.steps() and not self._save(on_schedule=True):
            raise SaveFailed(self._run_folder.not_saved())
        status: Status = "early-stopped" if progress.has_stopped_early else "finished"
        self._take_best()
        try:
            if self._save_model is not None:
                self._save_model(self.folder / "model")
            self._run_folder.mark_finished(status, progress.position, self._figures)
        except OSError as error:
            raise SaveFailed(self._run_folder.not_saved(error)) from error
        return self._outcome(status)

    def _take_best(self) -> None:
        """With early stopping, the final network is the best one."""
        best = self._state.progress.best_step
        if best is None or best == self._state.progress.position:
            return
        try:
            load_net(self.net, self._run_folder.checkpoints.load(best).model)
        except RunFolderError as error:
            self._warn(f"{error} The final network is that of the last step, not the best one of step {best}.")
            self._state.progress.best_step = None

    def _interrupt(self) -> Outcome:
        """Save the state after the last finished step, unless it is on disk already."""
        progress = self._state.progress
        is_saved = progress.position in self._run_folder.checkpoints.steps() and progress.unclosed is None
        if not is_saved and not self._save(on_schedule=False):
            raise SaveFailed(self._run_folder.not_saved())
        return self._outcome("interrupted")

    def _outcome(self, status: Status, *, was_finished: bool = False) -> Outcome:
        progress, steps = self._state.progress, self._run_folder.checkpoints.steps()
        return Outcome(
            status=status,
            step=progress.position,
            n_steps=last_step(progress, self.config),
            weights_sha256=weights_sha256(self.net),
            checkpoint=self._run_folder.checkpoints.path(steps[-1]) if steps else None,
            was_finished=was_finished,
            resumed_from=self._resumed_from,
            best_step=progress.best_step,
            best_loss=progress.best_loss,
            n_skipped=self._state.guard.n_bad,
            n_rollbacks=progress.n_rollbacks,
            n_failed_saves=self._run_folder.n_failed_saves,
            seconds=progress.seconds,
            n_tokens=progress.n_tokens,
            figures=dict(self._figures),
        )

    # -- the loop

    def _train(self) -> None:
        progress = self._state.progress
        if progress.unclosed is not None:
            self._close(**json.loads(progress.unclosed))
        while progress.position < last_step(progress, self.config) and not progress.has_stopped_early:
            if self._stop.requested:
                raise StopNow
            self._advance()

    def _advance(self) -> None:
        """Take one step of the plan, judge it, and close it."""
        progress, config, state = self._state.progress, self.config, self._state
        start = time.perf_counter()
        gradient = self._compute()
        factor = schedule_factor(config.schedule, schedule_place(progress, config), config.n_steps)
        skipped = state.guard.judge(gradient.loss, gradient.norm)
        if skipped is None:
            self._gradients.divide(gradient, config.clip_norm)
            state.optimizer.step(factor)
        state.optimizer.zero_grad()
        progress.position += 1
        seconds = time.perf_counter() - start
        progress.seconds += seconds
        progress.n_tokens += gradient.count
        self._pace.add(gradient.count, seconds)
        record: dict[str, Any] = {
            "step": progress.position,
            "epoch": progress.position * config.batch_size / self.source.n_examples,
            "loss": gradient.loss,
            **gradient.parts,
            "gradient_norm": gradient.norm,
            "learning_rate": config.optim.learning_rate * factor,
            "n_tokens": gradient.count,
            "seconds": seconds,
        }
        if skipped is not None:
            record["skipped"] = skipped
        if state.guard.exhausted:
            try:
                record["rolled_back_to"] = self._go_back(f"Loss or gradient was not usable for {state.guard.n_in_a_row} steps")
            except TrainingDiverged:
                self._run_folder.metrics.write(record)
                raise
        self._close(record, list(gradient.parts))

    def _compute(self) -> Gradient:
        """The summed gradients of the next step; on StopNow the random generators are as before it."""
        before = RandomState.capture(with_numpy=False)  # no source and no objective may draw from it
        breaks_at = 1 if self.config.compile and not self._is_warm else 2  # compiling is long, and nothing is lost by dropping it
        try:
            with self._stop.breakable(breaks_at):
                gradient = self._gradients.compute(self._state.progress.position, self._stop)
        except StopNow:
            before.restore()
            raise
        self._is_warm = True
        return gradient

    def _go_back(self, reason: str) -> int:
        """Take weights and optimiser from the newest point of return and give its step; the place in the plan stays."""
        progress = self._state.progress
        point = None if progress.n_rollbacks else self._run_folder.checkpoints.newest_rollback_point()
        if point is None:
            again = "again, after going back once" if progress.n_rollbacks else "and there is no checkpoint to go back to"
            raise TrainingDiverged(
                f"{self.folder}: {reason} up to step {progress.position}, {again}. The checkpoints are intact; start in another folder "
                "with a lower learning rate, and look at these steps in metrics.jsonl."
            )
        self._warn(f"{reason} up to step {progress.position}: back to the weights of step {point.step}.")
        self._state.restore_tensors(point)
        self._state.guard.forgive()
        progress.n_rollbacks += 1
        progress.owes_save = True
        return point.step

    def _close(self, record: dict[str, Any], parts: list[str]) -> None:
        """What is due after a step: evaluate, sample, log, report, save. The step is `unclosed` until its line is in the log."""
        progress, folder = self._state.progress, self._run_folder
        valid: dict[str, float] = {}
        samples: list[dict[str, Any]] = []
        if self._is_due(self.config.eval_every) or self._is_due(self.config.sample_every):
            progress.unclosed = json.dumps({"record": record, "parts": parts})
            valid = self._validate() if self._is_due(self.config.eval_every) else {}
            samples = self._draw() if self._is_due(self.config.sample_every) else []
            progress.unclosed = None
        for sample in samples:
            folder.samples.write({"step": progress.position, **sample})
        folder.metrics.write(record | {f"valid_{name}": figure for name, figure in valid.items()})
        best_before = progress.best_loss, progress.best_step
        is_best = bool(valid) and self.config.early_stopping_patience is not None and self._judge(valid["loss"])
        self._report(record, parts, valid)
        is_due = self._is_due(self.config.save_every)
        if is_due and keep_to_time(progress, self.config):
            self._on_shortened(last_step(progress, self.config))
        must_save = is_best or progress.has_stopped_early or progress.owes_save or is_due
        if must_save and not self._save(on_schedule=True) and is_best:
            progress.best_loss, progress.best_step = best_before  # what is not on disk cannot become the final network

    def _warn_of_shortening(self, n_steps: int) -> None:
        config = self.config
        self._warn(f"Steps are slower than at the start: the run ends after {n_steps:,} of {config.n_steps:,}, to end in its time.")

    def _is_due(self, every: int | None) -> bool:
        position = self._state.progress.position
        return position == last_step(self._state.progress, self.config) or (every is not None and position % every == 0)

    def _save(self, *, on_schedule: bool) -> bool:
        """Save, from older weights if these are not finite; False if the disk would not take it."""
        progress = self._state.progress
        progress.owes_save &= not on_schedule
        protected = set() if progress.best_step is None else {progress.best_step}
        try:
            return self._run_folder.save(self._state, on_schedule=on_schedule, protected=protected)
        except NotFinite as error:
            self._go_back(f"The state was not fit to be saved ({error})")
            progress.owes_save = not on_schedule
            return self._run_folder.save(self._state, on_schedule=on_schedule, protected=protected)

    # -- looking at the network

    @contextlib.contextmanager
    def _aside(self) -> Iterator[None]:
        """In eval mode and without gradients; the training's random numbers go on as if nothing had been, and one signal ends it."""
        before = RandomState.capture()
        self.net.eval()
        try:
            with self._stop.breakable(1), torch.no_grad():
                yield
        finally:
            self.net.train()
            before.restore()

    def _validate(self) -> dict[str, float]:
        if self._evaluate is None:
            return {}
        with self._aside():
            figures = dict(self._evaluate(self.net))
        if "loss" not in figures:
            raise ConfigError(f"`evaluate` must return a `loss`; it returned {', '.join(figures) or 'nothing'}.")
        self._figures = figures
        return figures

    def _draw(self) -> list[dict[str, Any]]:
        if self._sample is None:
            return []
        with self._aside():
            return self._sample(self.net, self._state.progress.position)

    def _judge(self, loss: float) -> bool:
        """Whether a validation loss is the best so far; notes when patience is at its end."""
        progress = self._state.progress
        if loss < (float("inf") if progress.best_loss is None else progress.best_loss):
            progress.best_loss, progress.best_step, progress.n_without_gain = loss, progress.position, 0
            return True
        progress.n_without_gain += 1
        progress.has_stopped_early = progress.n_without_gain >= (self.config.early_stopping_patience or 0)
        return False

    def _report(self, record: Mapping[str, Any], parts: list[str], valid: dict[str, float]) -> None:
        step, n_steps = record["step"], last_step(self._state.progress, self.config)
        if self._on_step is None or not (step % self.config.log_every == 0 or step in (1, n_steps) or valid):
            return
        tokens_per_s, seconds_per_step = self._pace.read(record["n_tokens"], record["seconds"])
        self._on_step(
            StepReport(
                n_steps=n_steps,
                parts={name: record[name] for name in parts},
                tokens_per_s=tokens_per_s,
                eta_s=seconds_per_step * (n_steps - step),
                skipped=self._state.guard.n_bad,
                skip_reason=record.get("skipped"),
                valid_loss=valid.get("loss"),
                valid=valid,
                **{name: record[name] for name in ("step", "epoch", "loss", "gradient_norm", "learning_rate", "n_tokens", "seconds")},
            )
        )
