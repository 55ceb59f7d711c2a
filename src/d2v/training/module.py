"""The one LightningModule of pretraining: the method, its optimizer and what is logged about it."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer

from d2v import __version__
from d2v.errors import UserError
from d2v.evaluation.effective_rank import effective_rank
from d2v.model.data2vec import Data2Vec
from d2v.model.encoder import Encoder
from d2v.model.heads import Head
from d2v.model.losses import ClsLoss, RegressionLoss
from d2v.model.masking import Masking
from d2v.model.randomness import combine_keys
from d2v.model.targets import TopKTargets
from d2v.model.teacher import Part
from d2v.training.callbacks.ema_teacher import EMATeacherCallback
from d2v.training.callbacks.throughput import ThroughputCallback
from d2v.training.optimizer import build_optimizer, let_config_win, parameter_groups
from d2v.training.schedules import EMADecay, LRSchedule
from d2v.types import Batch, Data2VecOutput, Mask, TokenSequence

RANK_SAMPLES = 1024  # rows that the effective rank is computed from: enough for a trend, cheap for any width


class Data2VecModule(L.LightningModule):
    """Pretrains a student and its teacher.

    Args:
        student: The encoder.
        masking: Which tokens are masked.
        targets: What is predicted.
        head: How, built for the student's width.
        loss: Distance of predictions and targets.
        ema: Decay of the teacher.
        optimizer: Built from the parameter groups; its ``lr`` is the peak.
        schedule: Of the learning rate.
        cls_loss: What CLS must predict; null: nothing.
        num_masks: M, masks a sample.
        shared_with_teacher: Parts of the student that the teacher borrows instead of averaging.
        init_from: Checkpoint (ours or imported) whose weights to start from; null: random.
        seed: Of masks and of everything random in a step; the command line sets it from ``seed_everything``.
    """

    def __init__(
        self,
        student: Encoder,
        masking: Masking,
        targets: TopKTargets,
        head: Callable[[int], Head],
        loss: RegressionLoss,
        ema: EMADecay,
        optimizer: Callable[[Iterable], Optimizer],
        schedule: LRSchedule,
        cls_loss: ClsLoss | None = None,
        num_masks: int = 1,
        shared_with_teacher: Sequence[Part] = (),
        init_from: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.method = Data2Vec(student, masking, targets, head, loss, cls_loss, num_masks, shared_with_teacher, seed)
        self.ema = ema
        self.optimizer = optimizer
        self.schedule = schedule
        self.seed = seed
        if init_from is not None:
            from d2v.checkpoints.load import init_weights

            for note in init_weights(self.method, init_from):
                rank_zero_info(f"init_from: {note}")

    @property
    def student(self) -> Encoder:
        """The encoder that is trained."""
        return self.method.student

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self._seed_step(batch_idx)
        output = self.method(batch)
        self._log_step(output, batch_idx)
        return output.loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("val/loss", self.method(batch).loss, batch_size=len(batch.inputs), sync_dist=True, prog_bar=True)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("test/loss", self.method(batch).loss, batch_size=len(batch.inputs), sync_dist=True)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Features of a batch [B, D]: the mean over tokens of the student's last layer."""
        return self.student.embed(batch.inputs, padding_mask=batch.padding_mask)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        if self._logs_this_step():
            gradients = [p.grad for p in self.parameters() if p.grad is not None]
            self.log("train/grad_norm", torch.nn.utils.get_total_norm(gradients))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return build_optimizer(self, parameter_groups(self), self.optimizer, self.schedule)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The config given wins over the checkpoint's: a changed learning rate, decay or beta holds from here on.

        Raises:
            UserError: The data have another tokenizer, or pixels, than those that the checkpoint was trained on.
        """
        assets = checkpoint.get("d2v", {}).get("assets") or {}
        changed = [name for name, text in assets.items() if self.student.assets.get(name, text) != text]
        if changed:
            raise UserError(
                f"--resume: {changed[0]} of the data is not the one that the checkpoint was trained with, so that "
                "inputs mean something else now. Give the data as they were (data.root, data.tokenizer, data.mean), or "
                "start a new run with model.init_from"
            )
        let_config_win(checkpoint, parameter_groups(self), self.optimizer)

    def configure_callbacks(self) -> list[L.Callback]:
        """What the method needs whatever list of callbacks a config holds."""
        return [EMATeacherCallback(self.method, self.ema), ThroughputCallback()]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # Plain values only: a checkpoint of ours loads with weights_only=True and names no code but our own classes.
        checkpoint["d2v"] = {
            "version": __version__,
            "student": self.student.recipe,
            "assets": self.student.assets,
            "licence": self.student.licence,
        }

    def _seed_step(self, batch_idx: int) -> None:
        # Dropout, stochastic depth and the decoder's noise are a function of (seed, step, micro-batch, rank). So a
        # resumed run repeats an uninterrupted one on any number of devices, and no generator state has to be saved.
        key = combine_keys(self.seed, self.trainer.global_step, batch_idx, self.global_rank)
        torch.manual_seed(int(key) & (2**63 - 1))

    def _logs_this_step(self) -> bool:
        log_every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return (self.trainer.global_step + 1) % log_every == 0

    def _log_step(self, output: Data2VecOutput, batch_idx: int) -> None:
        self.log("train/loss", output.loss.detach(), prog_bar=True)
        if not self._logs_this_step() or (batch_idx + 1) % self.trainer.accumulate_grad_batches:
            return  # the rest costs time, and Lightning writes it for the last micro-batch of such a step only
        predictions = output.predictions.detach().flatten(0, 1).float()
        targets = output.targets.flatten(0, 1)
        if output.mask.scored is not None:
            scored = output.mask.scored.flatten()
            predictions, targets = predictions[scored], targets[scored]
        values = {
            "train/regression_loss": output.regression_loss.detach(),
            "train/target_std": targets.std(dim=0).mean(),
            "train/prediction_std": predictions.std(dim=0).mean(),
            "train/target_effective_rank": effective_rank(_sample(targets)),
            "train/extractor_effective_rank": effective_rank(_sample(_frames(output.features))),
            "train/masked_fraction": _masked_fraction(output.mask),
            "train/lr": self.trainer.optimizers[0].param_groups[0]["lr"],
        }
        if output.cls_loss is not None:
            values["train/cls_loss"] = output.cls_loss.detach()
        self.log_dict(values)


def _frames(features: TokenSequence) -> Tensor:
    """Vectors [n, D] of all tokens that are no padding."""
    tokens = features.tokens.detach().float()
    return tokens.flatten(0, 1) if features.padding_mask is None else tokens[~features.padding_mask]


def _masked_fraction(mask: Mask) -> Tensor:
    """Share of the tokens, padding left out, that are masked."""
    num_tokens = mask.masked.numel() if mask.padding is None else (~mask.padding).sum()
    return mask.masked.sum() / num_tokens


def _sample(x: Tensor) -> Tensor:
    """Evenly spaced rows of [n, D]."""
    return x[:: max(1, len(x) // RANK_SAMPLES)][:RANK_SAMPLES]
