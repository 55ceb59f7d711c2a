"""Moves the teacher after every optimizer step."""

from typing import Any

import lightning as L

from d2v.metrics import EMA_DECAY
from d2v.model.data2vec import Method
from d2v.training.callbacks.log import step_is_logged
from d2v.training.callbacks.run_plan import total_steps
from d2v.training.finite_updates import step_ended
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

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # A module that is not ours skips no update.
        if not step_ended(trainer) or getattr(pl_module, "skipped_in_a_row", False):  # neither did the student move
            return
        updates = getattr(pl_module, "updates", trainer.global_step)
        decay = self.decay.at(updates, total_steps(trainer))
        self.method.move_teacher(decay)
        if step_is_logged(trainer):  # sending a number to the device waits for it
            pl_module.log(EMA_DECAY, decay, rank_zero_only=True)
