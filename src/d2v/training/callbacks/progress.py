"""What a user sees of a run: what is going to run, and one progress bar for all of it, in optimizer steps."""

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_info

from d2v.configs import read_config
from d2v.progress_bar import Progress
from d2v.training.callbacks.run_plan import known_steps


class Announcement(L.Callback):
    """Says what is going to run, once it is known that it can, and hands the config to Weights & Biases."""

    def __init__(self, run_dir: Path, checkpoint: str | None, media: str) -> None:
        self.run_dir = run_dir
        self.checkpoint = checkpoint
        self.media = media

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainable = sum(p.numel() for p in pl_module.parameters() if p.requires_grad)
        media = ", ".join(filter(None, getattr(pl_module, "encoders", ())))
        named = f"{type(pl_module).__name__} of {media}" if media else type(pl_module).__name__
        rank_zero_info(f"{named}: {trainable / 1e6:,.2f} million trainable parameters")
        if self.media:
            rank_zero_info(self.media)
        if self.checkpoint is not None:
            rank_zero_info(f"continuing from {self.checkpoint}")
        rank_zero_info(f"run folder: {self.run_dir}")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger) and trainer.is_global_zero:
                logger.log_hyperparams(read_config(self.run_dir / "config.yaml"))


class RunProgressBar(ProgressBar):
    """Shows steps done, time left, the loss and the speed; validation has a bar of its own that goes away."""

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._bar: Progress | None = None
        self._val_bar: Progress | None = None

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._bar = Progress(
            total=known_steps(trainer),
            initial=trainer.global_step,
            desc="fit",
            unit="step",
            disable=not self._enabled,
            dynamic_ncols=True,
        )

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._bar is not None and trainer.global_step > self._bar.n:
            if trainer.global_step % self.refresh_rate(trainer) == 0:  # reading a metric waits for the device
                self._bar.set_postfix_str(self._describe(trainer), refresh=False)
            self._bar.total = known_steps(trainer)  # of a run by time it is known after some steps
            self._bar.update(trainer.global_step - self._bar.n)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(self._describe(trainer))
            self._bar.close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        for bar in (self._val_bar, self._bar):  # what is said next has a line of its own
            if bar is not None:
                bar.close()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        batches = sum(int(n) for n in trainer.num_val_batches if n != float("inf"))
        self._val_bar = Progress(
            total=batches, desc="validate", leave=False, disable=not self._enabled, dynamic_ncols=True
        )

    def on_validation_batch_end(self, *args: Any) -> None:
        if self._val_bar is not None:
            self._val_bar.update()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._val_bar is not None:
            self._val_bar.close()

    @staticmethod
    def refresh_rate(trainer: L.Trainer) -> int:
        """Steps between two readings of the metrics."""
        return max(1, min(trainer.log_every_n_steps, 20))  # type: ignore[attr-defined]

    @staticmethod
    def _describe(trainer: L.Trainer) -> str:
        shown = {}
        for name, value in trainer.progress_bar_metrics.items():
            group, _, rest = name.partition("/")
            metric, _, encoder = (rest or name).partition("/")
            short = f"{encoder} {metric}".strip().replace("_per_second", "/s")
            if group == "val":
                short = f"val {short}"
            shown[short] = f"{short} {float(value):.4g}"
        return ", ".join(shown.values())
