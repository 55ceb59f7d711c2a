"""How many optimizer steps a run is going to have; its schedules, validations and checkpoints follow from that."""

import math
import time
from datetime import timedelta
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.utilities import rank_zero_info

from d2v.data.batching import TrainingSize
from d2v.data.data_module import PretrainingDataModule
from d2v.data.joint import JointDataModule
from d2v.errors import UserError
from d2v.training.preflight import preflight
from d2v.training.run_length import read_length
from d2v.training.schedules import in_steps, require_share_or_steps

WARM_STEPS, LEAST_MEASURED = 2, 8  # steps that are not representative, and how many more tell the pace
MEASURED_SHARE, MEASURED_SECONDS = 0.05, 60  # of a time that was given: when its steps are settled
UNKNOWN_STEPS = 1_000_000  # while nothing is measured: schedules stand where they start
NEVER = 2**62


class RunPlan(L.Callback):
    """Settles how many steps there are going to be, and says so before the first; every training has one.

    A run whose length is a time gets its number of steps once its pace is known. The number is kept in the checkpoint,
    so that a resumed run has the same schedule.

    Args:
        length: ``auto``, ``100 epochs``, ``20 minutes``, ``5000 steps``; null: trainer.max_steps, max_epochs or
            max_time, whichever ends first.
        validate_every: Between two validations, beside the one at the end: a share of the run below 1, or 1 and more
            optimizer steps; null: as Lightning's trainer does.
    """

    def __init__(self, length: str | int | None = None, validate_every: float | None = None) -> None:
        self.length = None if length is None else read_length(length)
        self.validate_every = validate_every
        if validate_every is not None:
            require_share_or_steps("validate_every", validate_every)
            if validate_every == 0:
                raise UserError("validate_every is 0: it must be above 0; trainer.limit_val_batches 0 never validates")
        self.total_steps = UNKNOWN_STEPS
        self.fixed = False
        self._size: TrainingSize | None = None
        self._seconds: float | None = None
        self._most_steps = NEVER
        self._began = self._train_began = self._warm_since = self._probe_seconds = 0.0
        self._due_since = self._validation_seconds = 0.0
        self._least_between = 1  # two validations, so that they take no more than half of a time
        self._first_step = self._last_step = 0
        self._end_is_told = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Find out how long the run is; after the DataModule's own setup.

        Raises:
            UserError: Nothing ends it, or the size of the data has to be known and is not.
        """
        if stage != "fit":
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, PretrainingDataModule | JointDataModule):
            self._size = data.training_size()
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.length = None
        if self.length is None:
            self._take_limits(trainer)
        else:
            trainer.fit_loop.max_epochs, trainer.fit_loop.epoch_loop.max_steps = -1, -1
            self._seconds = self.length.seconds
            if self._seconds is None:
                self._most_steps = self.length.in_steps(self._known_size(trainer).passes_per_step)
        if self._seconds is None:
            self._fix(trainer, self._most_steps)

    def state_dict(self) -> dict[str, Any]:
        if self._seconds is None or not self.fixed:
            return {}
        return {"seconds": self._seconds, "total_steps": self.total_steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self._seconds is not None:  # given another time, the pace of before still tells the steps
            steps = round(state_dict["total_steps"] * self._seconds / state_dict["seconds"])
            self.total_steps, self.fixed = min(steps, self._most_steps), True

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._began = time.monotonic()
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if self.fixed:
            self._fix(trainer, self.total_steps)
            self._report(pl_module)
        else:
            rank_zero_info(f"plan: {_duration(self._seconds)}; the number of steps follows from the first ones")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._first_step = self._last_step = trainer.global_step
        self._train_began, self._warm_since = time.monotonic(), 0.0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if not self._warm_since:
            self._warm_since = time.monotonic()
            self._probe_seconds = self._warm_since - self._train_began  # those at step 0
        if self._due_since:
            self._validation_seconds = time.monotonic() - self._due_since
            self._warm_since += self._validation_seconds  # the pace is that of steps alone
            self._due_since = 0.0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        ended, self._last_step = step > self._last_step, step
        if ended and not self._end_is_told:
            self._measure(trainer, pl_module)
        if self.validate_every is not None:
            due = ended and (step % self._validates_every(self.total_steps) == 0 or step == self.total_steps)
            trainer.val_check_batch = 1 if due else NEVER
            if due and trainer.enable_validation:
                self._due_since = time.monotonic()

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.fit_loop.max_batches == 0:
            raise UserError("data: the training data give no batch; is the batch larger than the data set?")

    # How long.

    def _take_limits(self, trainer: L.Trainer) -> None:
        """Of the trainer's limits the first to come."""
        if trainer.max_steps != -1:
            self._most_steps = trainer.max_steps
        if trainer.max_epochs not in (None, -1):
            self._most_steps = min(self._most_steps, self._known_size(trainer).steps_per_epoch * trainer.max_epochs)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Timer):
                self._seconds = callback.time_remaining()
                if self._seconds is not None and self._seconds <= 0:
                    raise UserError("trainer.max_time is 0 or less: give a time, such as 00:02:00:00 (2 hours)")
        if self._seconds is None and self._most_steps == NEVER:
            raise UserError("trainer.max_steps is not set, so training would never end: set it, or length: auto")

    def _known_size(self, trainer: L.Trainer) -> TrainingSize:
        """Of data from elsewhere the loader tells; it is made early, and forgets where a resume would go on."""
        if self._size is None:
            trainer.fit_loop.setup_data()
            batches = trainer.num_training_batches
            if batches == math.inf:
                raise UserError("length: the training data have no length; give the steps: --length '5000 steps'")
            steps = math.ceil(batches / trainer.accumulate_grad_batches)
            self._size = TrainingSize(None, steps, 1 / max(steps, 1))
        return self._size

    def _fix(self, trainer: L.Trainer, steps: int) -> None:
        self.total_steps, self.fixed = steps, True
        if steps != NEVER:
            trainer.fit_loop.epoch_loop.max_steps = steps  # also of epochs: a resume at the end of one does not go on
        log_every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        trainer.log_every_n_steps = max(1, min(log_every, steps))  # type: ignore[attr-defined]  # a short run logs, too

    def _report(self, pl_module: L.LightningModule) -> None:
        for line in preflight(pl_module, self.total_steps, self._size):
            rank_zero_info(line)

    # How fast.

    def _measure(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """After a step: find the pace; settle the steps of a time, and say when the end is expected."""
        now, measured = time.monotonic(), self._last_step - self._first_step - WARM_STEPS
        if measured <= 0:
            self._warm_since = now
            return
        pace, passed = (now - self._warm_since) / measured, now - self._began
        enough = measured >= LEAST_MEASURED
        if not self.fixed:
            assert self._seconds is not None
            left = max(self._seconds - passed, 0.0)
            if self.validate_every is not None and self.validate_every < 1:
                self._least_between = math.ceil(self._validation_seconds / pace)
            left = max(left - self._beside_steps(trainer, pace, round(left / pace)), left / 2)
            steps = min(self._last_step + round(left / pace), self._most_steps)
            enough = enough and passed >= min(MEASURED_SHARE * self._seconds, MEASURED_SECONDS)
            # One process decides: the schedules of all must agree.
            self.total_steps, enough = trainer.strategy.broadcast((steps, enough or left == 0))
            if enough:
                self._fix(trainer, self.total_steps)
                rank_zero_info(f"{_duration(self._seconds)} at {pace:.2g} s a step are {self.total_steps:,} steps")
                self._report(pl_module)
        if enough:
            self._end_is_told = True
            steps = self.total_steps - self._last_step
            seconds = steps * pace + self._beside_steps(trainer, pace, steps)
            if seconds >= MEASURED_SECONDS:
                end = time.strftime("%a %H:%M", time.localtime(time.time() + seconds))
                rank_zero_info(f"{pace:.2g} s a step: the end is expected in {_duration(seconds)}, {end}")

    def _validates_every(self, steps: int) -> int:
        assert self.validate_every is not None
        return max(1, self._least_between, in_steps(self.validate_every, steps))

    def _beside_steps(self, trainer: L.Trainer, pace: float, steps: int) -> float:
        """Seconds that validations and probes take beside so many steps, as far as they can be foreseen."""
        seconds = 0.0
        if self.validate_every is not None and trainer.enable_validation:
            batches = sum(number for number in trainer.num_val_batches if number != math.inf)
            forward = pace / trainer.accumulate_grad_batches / 3  # a step goes backward, too, which costs twice as much
            seconds += steps // self._validates_every(steps) * (self._validation_seconds or batches * forward)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if every := getattr(callback, "every_n_steps", None):  # of a probe
                seconds += steps // max(1, in_steps(every, steps)) * self._probe_seconds
        return seconds


def total_steps(trainer: L.Trainer) -> int:
    """Optimizer steps of the whole run, those before a resume included; a guess while a time is being measured."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, RunPlan):
            return callback.total_steps
    return int(trainer.estimated_stepping_batches)


def known_steps(trainer: L.Trainer) -> int | None:
    """The same, where it is known already."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, RunPlan) and not callback.fixed:
            return None
    return total_steps(trainer)


def _duration(seconds: float | None) -> str:
    """In hours, minutes and seconds."""
    return f"{timedelta(seconds=round(seconds or 0))} h"
