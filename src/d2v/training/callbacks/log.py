"""Logs what a step of training gave."""

from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.optim import Optimizer

from d2v import metrics
from d2v.training.finite_updates import FiniteUpdates, step_ended
from d2v.types import by_encoder


class LogCallback(L.Callback):
    """Logs the loss of each micro-batch, and every ``trainer.log_every_n_steps`` that of the whole update (the mean
    over its micro-batches and devices), the norm of its gradients before clipping, and its rate."""

    def __init__(self) -> None:
        self._losses: list[Tensor] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._losses = []

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        if is_logged(trainer, trainer.global_step + 1):
            pl_module.log(metrics.LEARNING_RATE, optimizer.param_groups[0]["lr"])

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs["loss"].detach() * trainer.accumulate_grad_batches  # Lightning has divided by it
        if in_logged_step(trainer):
            self._losses.append(loss)
            if step_is_logged(trainer):
                count = len(self._losses)
                # Weighted: few of them, where an epoch ends, weigh more.
                if any(part.step is not None for part in by_encoder(batch).values()):
                    count = trainer.accumulate_grad_batches
                loss = trainer.strategy.reduce(torch.stack(self._losses).sum() / count, reduce_op="mean")
                self._losses = []
                if isinstance(pl_module, FiniteUpdates):
                    assert pl_module.grad_norm is not None
                    pl_module.log(metrics.GRAD_NORM, pl_module.grad_norm)
                if scaler := getattr(trainer.precision_plugin, "scaler", None):
                    pl_module.log(metrics.LOSS_SCALE, scaler.get_scale())
        pl_module.log(metrics.TRAIN_LOSS, loss, prog_bar=True)


def is_logged(trainer: L.Trainer, step: int) -> bool:
    """Whether an optimizer step, counted from 1, is one that is logged."""
    log_every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return step % log_every == 0


def in_logged_step(trainer: L.Trainer) -> bool:
    """At the end of a micro-batch: whether it belongs to an optimizer step that is logged. All devices agree."""
    return is_logged(trainer, trainer.global_step + (not step_ended(trainer)))


def step_is_logged(trainer: L.Trainer) -> bool:
    """At the end of a micro-batch: whether it ended an optimizer step that is logged. All devices agree."""
    return step_ended(trainer) and is_logged(trainer, trainer.global_step)
