"""How fast training goes, in the units of the data."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import lightning as L
from torch import Tensor

from d2v import metrics
from d2v.training.callbacks.log import step_is_logged
from d2v.types import Batch, by_encoder

_OTHER_DATA = SimpleNamespace(unit="samples", pads=False, skipped=0, count_units=lambda batch: len(batch.inputs))


class ThroughputCallback(L.Callback):
    """Logs ``throughput/<unit>_per_second`` of all devices together, and shows it in the progress bar.

    The unit is the DataModule's (images, audio_seconds, tokens), of data from elsewhere samples. Waiting for data
    counts; validation and probes do not.
    Where batches are padded, ``throughput/padding_fraction`` is the share of padding in what was computed.
    """

    def __init__(self) -> None:
        self._last_end: float | None = None
        self._seconds = 0.0
        self._counts: dict[str, _Counts] = {}

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
        if self._last_end is None:  # else the wait for this batch counts, from the end of the last step
            self._last_end = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        counted = self._last_end is not None
        if self._last_end is not None:
            self._seconds += now - self._last_end
            self._last_end = now
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it on the instance
        parts = getattr(data, "parts", None)
        if not isinstance(parts, Mapping) or not all(hasattr(part, "count_units") for part in parts.values()):
            parts = dict.fromkeys(by_encoder(batch), _OTHER_DATA)
        for name, part in by_encoder(batch).items():
            self._count(self._counts.setdefault(name, _Counts()), parts[name], part, trainer.world_size, counted)
        if step_is_logged(trainer):
            for name, counts in self._counts.items():
                self._log(pl_module, name, parts[name], counts)
            self._reset()

    @staticmethod
    def _count(counts: "_Counts", data: Any, batch: Batch, world_size: int, counted: bool) -> None:
        if data.pads:
            counts.positions += batch.inputs.numel()
            if batch.padding_mask is not None:
                counts.padding = counts.padding + batch.padding_mask.sum()
        if counted:
            counts.units = counts.units + data.count_units(batch) * world_size

    def _log(self, pl_module: L.LightningModule, name: str, data: Any, counts: "_Counts") -> None:
        def log(metric: str, value: Any, prog_bar: bool = False) -> None:
            pl_module.log(metrics.of_encoder(metric, name), value, prog_bar=prog_bar, rank_zero_only=True)

        if self._seconds > 0:
            log(metrics.per_second(data.unit), counts.units / self._seconds, prog_bar=True)
        if data.pads and counts.positions:
            log(metrics.PADDING_FRACTION, counts.padding / counts.positions)
        log(metrics.SKIPPED, float(data.skipped))

    def _reset(self) -> None:
        self._seconds = 0.0
        self._counts = {}


@dataclass
class _Counts:
    """Of the batches of one encoder since the last log."""

    # Those of padded batches are tensors on their device: reading them for each batch would wait for it.
    units: float | Tensor = 0.0
    positions: int = 0
    padding: float | Tensor = 0.0
