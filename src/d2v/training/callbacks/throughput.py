"""How fast training goes, in the units of the data."""

import time
from typing import Any

import lightning as L
from torch import Tensor


class ThroughputCallback(L.Callback):
    """Logs ``throughput/<unit>_per_second`` of all devices together, and shows it in the progress bar.

    The unit is the DataModule's (images, audio_seconds, tokens). Waiting for data counts; validation and probes do not.
    Where batches are padded, ``throughput/padding_fraction`` is the share of padding in what was computed.
    """

    def __init__(self) -> None:
        self._last_end: float | None = None
        self._seconds = 0.0
        self._positions = 0
        # Counts of padded batches are tensors on their device: reading them for each batch would wait for it.
        self._units: float | Tensor = 0.0
        self._padding: float | Tensor = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._last_end = None
        self._reset()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.pause()

    def pause(self) -> None:
        """Leave out the step that is under way: something else is done beside it."""
        self._last_end = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if (
            self._last_end is None
        ):  # else the time since the last step's end was spent waiting for this batch: it counts
            self._last_end = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it on the instance
        if data.pads:
            self._positions += batch.inputs.numel()
            if batch.padding_mask is not None:
                self._padding = self._padding + batch.padding_mask.sum()
        if self._last_end is not None:
            self._seconds += now - self._last_end
            self._last_end = now
            self._units += data.count_units(batch) * trainer.world_size
        log_every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if trainer.global_step % log_every == 0 and (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            name = f"throughput/{data.unit}_per_second"
            if self._seconds > 0:
                pl_module.log(name, self._units / self._seconds, prog_bar=True, rank_zero_only=True)
            if data.pads and self._positions:
                pl_module.log("throughput/padding_fraction", self._padding / self._positions, rank_zero_only=True)
            pl_module.log("data/skipped", float(data.skipped), rank_zero_only=True)
            self._reset()

    def _reset(self) -> None:
        self._seconds = 0.0
        self._positions = 0
        self._units = 0.0
        self._padding = 0.0
