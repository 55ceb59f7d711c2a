"""Logs what a step of training gave."""

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.optim import Optimizer

from d2v import metrics
from d2v.evaluation.effective_rank import effective_rank
from d2v.types import Data2VecOutput, Mask, TokenSequence

RANK_SAMPLES = 1024  # rows that the effective rank is computed from: enough for a trend, cheap for any width


class LogCallback(L.Callback):
    """Logs each step's loss, and every ``trainer.log_every_n_steps`` also gradient norm, rate, spreads and ranks."""

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        if is_logged(trainer, trainer.global_step + 1):
            gradients = [parameter.grad for parameter in pl_module.parameters() if parameter.grad is not None]
            pl_module.log(metrics.GRAD_NORM, torch.nn.utils.get_total_norm(gradients))
            pl_module.log(metrics.LEARNING_RATE, optimizer.param_groups[0]["lr"])

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs["loss"].detach() * trainer.accumulate_grad_batches  # Lightning has divided by it
        pl_module.log(metrics.TRAIN_LOSS, loss, prog_bar=True)
        # The rest costs time, and Lightning writes it for the last micro-batch of such a step only.
        if step_is_logged(trainer, batch_idx):
            for name, output in outputs.get("outputs", {}).items():
                for metric, value in describe(output).items():
                    pl_module.log(metrics.of_encoder(metric, name), value)


def is_logged(trainer: L.Trainer, step: int) -> bool:
    """Whether an optimizer step, counted from 1, is one that is logged."""
    log_every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return step % log_every == 0


def step_is_logged(trainer: L.Trainer, batch_idx: int) -> bool:
    """At the end of a micro-batch: whether it ended an optimizer step that is logged."""
    return is_logged(trainer, trainer.global_step) and (batch_idx + 1) % trainer.accumulate_grad_batches == 0


def describe(output: Data2VecOutput) -> Mapping[str, Tensor]:
    """What is worth logging about a step, by the names of ``metrics.py``."""
    predictions = output.predictions.detach().flatten(0, 1).float()
    targets = output.targets.flatten(0, 1)
    if output.mask.scored is not None:
        scored = output.mask.scored.flatten()
        predictions, targets = predictions[scored], targets[scored]
    values = {
        metrics.REGRESSION_LOSS: output.regression_loss.detach(),
        metrics.TARGET_STD: targets.std(dim=0).mean(),
        metrics.PREDICTION_STD: predictions.std(dim=0).mean(),
        metrics.TARGET_RANK: effective_rank(_sample(targets)),
        metrics.EXTRACTOR_RANK: effective_rank(_sample(_valid_tokens(output.features))),
        metrics.MASKED_FRACTION: _masked_fraction(output.mask),
    }
    if output.cls_loss is not None:
        values[metrics.CLS_LOSS] = output.cls_loss.detach()
    return values


def _valid_tokens(features: TokenSequence) -> Tensor:
    """Vectors [n, D] of all tokens that are no padding."""
    tokens = features.tokens.detach().float()
    if features.padding_mask is None:
        return tokens.flatten(0, 1)
    return tokens[~features.padding_mask]


def _masked_fraction(mask: Mask) -> Tensor:
    """Share of the tokens, padding left out, that are masked."""
    num_tokens = mask.masked.numel() if mask.padding is None else (~mask.padding).sum()
    return mask.masked.sum() / num_tokens


def _sample(x: Tensor) -> Tensor:
    """Evenly spaced rows of [n, D]."""
    return x[:: max(1, len(x) // RANK_SAMPLES)][:RANK_SAMPLES]
