"""Checkpoints of a run."""

from datetime import timedelta
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint


class RunCheckpoint(ModelCheckpoint):
    """Saves ``checkpoints/last.ckpt`` regularly and at the end, and keeps older ones on request.

    Args:
        every_n_train_steps: Optimizer steps between two checkpoints.
        train_time_interval: Instead, the time between two checkpoints.
        keep: How many of the regular checkpoints stay beside ``last.ckpt``; -1: all.
        dirpath: Folder; the command line puts it into the run's folder.
    """

    def __init__(
        self,
        every_n_train_steps: int | None = 5000,
        train_time_interval: timedelta | None = None,
        keep: int = 1,
        dirpath: str | None = None,
    ) -> None:
        super().__init__(
            dirpath=dirpath,
            filename="step-{step}",
            auto_insert_metric_name=False,
            every_n_train_steps=None if train_time_interval else every_n_train_steps,
            train_time_interval=train_time_interval,
            save_last="link",
            save_top_k=keep,
            monitor="step",
            mode="max",
            enable_version_counter=False,
        )

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        if self._last_global_step_saved != trainer.global_step and not trainer.fast_dev_run:
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    @property
    def folder(self) -> Path | None:
        """Where the checkpoints are, once the run has begun."""
        return Path(self.dirpath) if self.dirpath else None
