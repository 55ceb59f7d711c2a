"""How fast training goes, in the units of the data."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import lightning as L
from lightning.pytorch.profilers import PassThroughProfiler
from torch import Tensor

from d2v import metrics
from d2v.model.data2vec import Method
from d2v.training.callbacks.log import step_is_logged
from d2v.training.matrix_ceiling import dtype_of, matrix_ceiling
from d2v.types import Batch, Data2VecOutput, by_encoder

_OTHER_DATA = SimpleNamespace(unit="samples", pads=False, skipped=0, count_units=lambda batch: len(batch.inputs))
_CEILING_AFTER = 120  # seconds of training on a CPU: it takes a tenth of one


class ThroughputCallback(L.Callback):
    """Logs ``throughput/<unit>_per_second`` of all devices together, and shows it in the progress bar.

    The unit is the DataModule's (images, audio_seconds, tokens), of data from elsewhere samples. Waiting for data
    counts; validation and probes do not.
    ``throughput/wait_fraction`` is the share of that time in which the first device waits for a batch; it is not
    measured where a profiler of the user's is at work.
    Where batches are padded, ``throughput/padding_fraction`` is the share of padding in what was computed.
    ``throughput/mfu`` is of the first device: the operations of its steps (``model/flops.py``) over what it reaches in
    products of large matrices. That is measured before the first step of a GPU; of a CPU, which takes longer for it, in
    the third minute of a run, and never in a shorter one.
    """

    def __init__(self) -> None:
        self._last_end: float | None = None
        self._seconds = self._waited = 0.0
        self._waits = _Waits()
        self._flops = 0.0
        self._flops_by_shapes: dict[Any, float] = {}
        self._counts: dict[str, _Counts] = {}
        self._ceiling: float | None = None
        self._seconds_in_all = 0.0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if type(trainer.profiler) is PassThroughProfiler:  # type: ignore[attr-defined]
            trainer.profiler = self._waits  # type: ignore[attr-defined]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._last_end = None
        self._ceiling, self._seconds_in_all = None, 0.0
        self._reset()
        if pl_module.device.type == "cuda":
            self._measure_ceiling(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.pause()

    def pause(self) -> None:
        """Leave out the step that is under way: something else is done beside it."""
        self._last_end = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        waited = self._waits.take()
        if self._last_end is None:
            self._last_end = time.perf_counter()
        else:  # the wait for this batch counts, from the end of the last step
            self._waited += waited

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
            method = getattr(pl_module, "method", None)
            if counted and isinstance(method, Method):
                self._flops += self._flops_of(method, name, part, outputs["outputs"][name])
        if step_is_logged(trainer):
            for name, counts in self._counts.items():
                self._log(pl_module, name, parts[name], counts)
            if self._ceiling is not None and self._flops:
                mfu = self._flops / self._seconds / self._ceiling
                pl_module.log(metrics.MFU, mfu, rank_zero_only=True)
            if self._seconds and trainer.profiler is self._waits:  # type: ignore[attr-defined]
                pl_module.log(metrics.WAIT_FRACTION, self._waited / self._seconds, rank_zero_only=True)
            self._seconds_in_all += self._seconds
            if self._ceiling is None and self._flops and self._seconds_in_all > _CEILING_AFTER:
                self._measure_ceiling(trainer, pl_module)
                self.pause()
            self._reset()

    @staticmethod
    def _count(counts: "_Counts", data: Any, batch: Batch, world_size: int, counted: bool) -> None:
        if data.pads:
            counts.positions += batch.inputs.numel()
            if batch.padding_mask is not None:
                counts.padding = counts.padding + batch.padding_mask.sum()
        if counted:
            counts.units = counts.units + data.count_units(batch) * world_size

    def _flops_of(self, method: Method, name: str, batch: Batch, output: Data2VecOutput) -> float:
        shapes = (name, batch.inputs.shape, output.mask.visible_index.shape)
        if shapes not in self._flops_by_shapes:
            self._flops_by_shapes[shapes] = method.flops(name, batch, output) or 0.0
        return self._flops_by_shapes[shapes]

    def _log(self, pl_module: L.LightningModule, name: str, data: Any, counts: "_Counts") -> None:
        def log(metric: str, value: Any, prog_bar: bool = False) -> None:
            pl_module.log(metrics.of_encoder(metric, name), value, prog_bar=prog_bar, rank_zero_only=True)

        if self._seconds > 0:
            log(metrics.per_second(data.unit), counts.units / self._seconds, prog_bar=True)
        if data.pads and counts.positions:
            log(metrics.PADDING_FRACTION, counts.padding / counts.positions)
        log(metrics.SKIPPED, float(data.skipped))

    def _reset(self) -> None:
        self._seconds = self._waited = self._flops = 0.0
        self._counts = {}

    def _measure_ceiling(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            self._ceiling = matrix_ceiling(pl_module.device, dtype_of(str(trainer.precision)))


class _Waits(PassThroughProfiler):
    """Of all that Lightning announces to a profiler, the time that training spends to get its batches."""

    def __init__(self) -> None:
        super().__init__()
        self._began = self._seconds = 0.0

    def start(self, action_name: str) -> None:
        if action_name.endswith(".train_dataloader_next"):
            self._began = time.perf_counter()

    def stop(self, action_name: str) -> None:
        if action_name.endswith(".train_dataloader_next"):
            self._seconds += time.perf_counter() - self._began

    def take(self) -> float:
        """Seconds since it was last asked."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds


@dataclass
class _Counts:
    """Of the batches of one encoder since the last log."""

    # Those of padded batches are tensors on their device: reading them for each batch would wait for it.
    units: float | Tensor = 0.0
    positions: int = 0
    padding: float | Tensor = 0.0
