"""kNN and linear accuracy of the student's features while it is being pretrained."""

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.seed import isolate_rng

from d2v.data.data_module import PretrainingDataModule
from d2v.errors import UserError
from d2v.evaluation.probe_encoder import probe_encoder
from d2v.metrics import KNN_TOP1, LINEAR_TOP1, of_encoder
from d2v.training.callbacks.throughput import ThroughputCallback
from d2v.training.step import TrainingModule

_AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class ProbeCallback(Callback):
    """Probes at step 0, every so many optimizer steps and at the end; training goes on as if it were not there.

    Rank zero computes and the other ranks wait, at most as long as the process group's timeout (30 minutes unless the
    strategy says otherwise), so keep ``max_samples`` moderate on many devices. Random states and the mode of each part
    are restored.

    Args:
        every_n_steps: Optimizer steps between two probes.
        max_samples: At most so many of each split, evenly spaced; null: all.
        k: Neighbours of the kNN classifier.
        linear: Also fit a linear classifier.
    """

    def __init__(self, every_n_steps: int, max_samples: int | None = 10_000, k: int = 20, linear: bool = True) -> None:
        for name, value in (("every_n_steps", every_n_steps), ("max_samples", max_samples), ("k", k)):
            if value is not None and value < 1:
                raise UserError(f"ProbeCallback: {name} is {value}: it must be at least 1.")
        self.every_n_steps = every_n_steps
        self.max_samples = max_samples
        self.k = k
        self.linear = linear
        self._last_step = -1

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Find out at once whether there is something to probe."""
        if stage == "fit":
            for part in _probed_parts(trainer).values():
                part.probe_dataloaders(self.max_samples)  # on every rank

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The untrained encoder is the first point of the curve; a resumed run has it already."""
        if trainer.global_step == 0:
            self._probe(trainer, pl_module)
        self._last_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step % self.every_n_steps == 0 and step != self._last_step:  # micro-batches share a step
            self._probe(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step != self._last_step:
            self._probe(trainer, pl_module)

    def _probe(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._last_step = trainer.global_step
        if trainer.is_global_zero:
            with isolate_rng():
                metrics = self._metrics(trainer, pl_module)
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step=trainer.global_step)
        trainer.strategy.barrier("probe")
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ThroughputCallback):
                callback.pause()

    def _metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, float]:
        assert isinstance(pl_module, TrainingModule)
        metrics = {}
        for name, part in _probed_parts(trainer).items():
            train_loader, val_loader = part.probe_dataloaders(self.max_samples)
            result = probe_encoder(
                pl_module.encoders[name],
                train_loader,
                val_loader,
                pl_module.device,
                k=self.k,
                linear=self.linear,
                autocast=_AUTOCAST.get(str(trainer.precision)),
                progress=False,
            )
            metrics[of_encoder(KNN_TOP1, name)] = result.knn_top1
            if result.linear is not None:
                metrics[of_encoder(LINEAR_TOP1, name)] = result.linear.top1
        return metrics


def _probed_parts(trainer: L.Trainer) -> Mapping[str, PretrainingDataModule]:
    """The data to probe on, by the name of the encoder that reads them: those with labels.

    Raises:
        UserError: The DataModule is none of d2v.
    """
    parts: Mapping[str, PretrainingDataModule] = getattr(getattr(trainer, "datamodule", None), "parts", {})
    if not parts:
        raise UserError("ProbeCallback needs a labelled DataModule of d2v; give one, or take the callback out.")
    labelled = {name: part for name, part in parts.items() if part.class_names}
    return labelled or parts  # without labels each says what it lacks
