"""Updates whose numbers are not finite are skipped, and too many in a row stop the run."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.optim import Optimizer

from d2v.metrics import SKIPPED_UPDATES

MOST_IN_A_ROW = 10


class FiniteUpdates(L.LightningModule):
    """A module whose weights, optimizer, schedules and teacher never meet a loss or a gradient that is not finite.

    Whether an update is skipped is read from the norm of the gradients, which the devices of a run share. The host
    waits for that number once an optimizer step; nothing that is computed changes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.skipped_updates = 0
        self.skipped_in_a_row = 0
        self._last_step = 0
        self._last_loss: Tensor | None = None

    @property
    def updates(self) -> int:
        """Optimizer steps that have moved the weights: the clock of the schedules."""
        return self.trainer.global_step - self.skipped_updates

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        # The factor is exactly 1, or NaN: then the gradients are NaN, and all devices see it.
        super().backward(loss * (1 + 0 * loss.detach()), *args, **kwargs)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradients, or take them away, so that the optimizer leaves weights and moments as they are."""
        gradients = [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if norm.isfinite():
            self.skipped_in_a_row = 0
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        self.skipped_in_a_row += 1
        self.skipped_updates += 1
        step = self.trainer.global_step + 1
        if self.skipped_in_a_row == 1:
            rank_zero_info(
                f"step {step:,}: the loss or a gradient is not finite; this update is skipped "
                f"({self.skipped_updates:,} so far)"
            )
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is None or not getattr(optimizer, "_step_supports_amp_scaling", False):
            for parameter in self.parameters():
                parameter.grad = None
        # else the scaler still has to find out by itself, and the optimizer asks it

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        if self.skipped_in_a_row == 0:
            super().lr_scheduler_step(scheduler, metric)

    def on_train_start(self) -> None:
        self._last_step = self.trainer.global_step

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """After the callbacks, so that the run's checkpoint has been saved.

        Raises:
            FloatingPointError: Too many updates in a row were skipped.
        """
        step = self.trainer.global_step
        if step == self._last_step:
            return  # gradients are still being accumulated
        self._last_step = step
        if self.skipped_updates:
            self.log(SKIPPED_UPDATES, float(self.skipped_updates), rank_zero_only=True)
        if self.skipped_in_a_row == 0:
            self._last_loss = outputs["loss"].detach() * self.trainer.accumulate_grad_batches
        elif self.skipped_in_a_row >= MOST_IN_A_ROW:
            raise FloatingPointError(self._advice(step))

    def require_finite_weights(self) -> None:
        """Before a checkpoint is written.

        Raises:
            FloatingPointError: A weight is not finite.
        """
        largest = torch.nn.utils.get_total_norm(list(self.parameters()), norm_type=float("inf"))
        if not largest.isfinite():
            raise FloatingPointError(
                f"step {self.trainer.global_step:,}: a weight is not finite, so no checkpoint is written; earlier ones "
                f"stay. {self._what_to_try()}"
            )

    def _advice(self, step: int) -> str:
        last = "there was no finite loss"
        if self._last_loss is not None:
            last = f"the last finite loss was {float(self._last_loss):.4g}"
        return (
            f"step {step:,}: the loss or a gradient was not finite {self.skipped_in_a_row} times in a row; {last} at "
            f"step {step - self.skipped_in_a_row:,}, whose weights are in last.ckpt. {self._what_to_try()}"
        )

    def _what_to_try(self) -> str:
        rate = self.trainer.optimizers[0].param_groups[0]["initial_lr"]
        precision = ""
        if str(self.trainer.precision).startswith("16"):
            precision = f"trainer.precision bf16-mixed or 32 (now {self.trainer.precision}), "
        return (
            f"Start again, or from an earlier checkpoint, with a lower model.optimizer.lr (now {rate:g}), {precision}"
            "trainer.gradient_clip_val; and look at the samples for extreme values"
        )
