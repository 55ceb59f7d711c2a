"""Logs what the inputs look like."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L

from d2v import metrics
from d2v.data.batch_statistics import batch_statistics
from d2v.data.data_module import PretrainingDataModule
from d2v.data.joint import parts_of
from d2v.data.normalisation import IMAGENET, read_normalisation
from d2v.model.data2vec import Method
from d2v.training.callbacks.log import step_is_logged
from d2v.types import Batch, by_encoder

FILES_UNTIL = 200  # steps: what is wrong with files is wrong from the beginning
_PART = 4096  # bytes at two places tell files of equal size apart


class InputLog(L.Callback):
    """Of the last micro-batch of a step that is logged, on the first device; in other steps it does nothing.

    Args:
        method: Before data change how its encoders take pixels to be normalised: that of a checkpoint is what counts.
    """

    def __init__(self, method: Method) -> None:
        self.method = method
        self._normalisation = {}
        for name, encoder in method.encoders.items():
            self._normalisation[name] = read_normalisation(encoder.assets)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not step_is_logged(trainer) or not trainer.is_global_zero:
            return
        parts = parts_of(trainer.datamodule)  # type: ignore[attr-defined]
        for name, one in by_encoder(batch).items():
            part, rate = parts.get(name), None
            if part is not None and part.unit == "audio_seconds":
                rate = part.values_per_unit
            expected = self._normalisation.get(name) or read_normalisation(self.method.encoders[name].assets)
            values: dict[str, Any] = batch_statistics(one, expected or IMAGENET, rate)
            values[metrics.SAMPLES] = float(len(one.inputs) * trainer.world_size * trainer.accumulate_grad_batches)
            if part is not None and trainer.global_step <= FILES_UNTIL:
                share = duplicate_files(_paths(part, one))
                if share is not None:
                    values[metrics.DUPLICATE_FILES] = share
            for metric, value in values.items():
                pl_module.log(metrics.of_encoder(metric, name), value, rank_zero_only=True)


def _paths(part: PretrainingDataModule, batch: Batch) -> list[Path]:
    """Files of the samples, where samples are files below the root."""
    paths = []
    for sample_id in dict.fromkeys(batch.sample_ids.tolist()):
        name = part.training_sample(sample_id)
        for path in (Path(name), Path(part.root) / name):
            if path.is_file():
                paths.append(path)
                break
    return paths


def duplicate_files(paths: Iterable[Path]) -> float | None:
    """Share of files whose content is that of another one before them; None of fewer than two."""
    by_size: dict[int, list[Path]] = {}
    for path in paths:
        by_size.setdefault(path.stat().st_size, []).append(path)
    count = sum(map(len, by_size.values()))
    if count < 2:
        return None
    different = 0
    for size, same in by_size.items():
        if len(same) > 1:
            same = list({_digest(path, size): path for path in same}.values())
        different += len(same)
    return 1 - different / count


def _digest(path: Path, size: int) -> bytes:
    digest = hashlib.blake2b()
    with path.open("rb") as file:
        for place in (size // 3, size * 2 // 3):
            file.seek(place)
            digest.update(file.read(_PART))
    return digest.digest()
