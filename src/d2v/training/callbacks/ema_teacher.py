"""Moves the teacher after every optimizer step."""

from typing import Any

import lightning as L

from d2v.metrics import EMA_DECAY
from d2v.model.data2vec import Method
from d2v.training.callbacks.log import is_logged
from d2v.training.callbacks.run_plan import total_steps
from d2v.training.finite_updates import FiniteUpdates
from d2v.training.schedules import EMADecay


class EMATeacherCallback(L.Callback):
    """Keeps the EMA on the clock of the optimizer: neither accumulation nor a resume nor a skipped update moves it.

    Args:
        method: Whose teacher is moved.
        decay: The schedule.
    """

    def __init__(self, method: Method, decay: EMADecay) -> None:
        self.method = method
        self.decay = decay
        self._step = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._step:  # gradients are still being accumulated
            return
        self._step = trainer.global_step
        assert isinstance(pl_module, FiniteUpdates)
        if pl_module.skipped_in_a_row:  # neither did the student move
            return
        decay = self.decay.at(pl_module.updates, total_steps(trainer))
        self.method.move_teacher(decay)
        if is_logged(trainer, self._step):  # sending a number to the device waits for it
            pl_module.log(EMA_DECAY, decay, rank_zero_only=True)
