"""What `d2v test` and `d2v predict` write into the run's folder."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, TextIO

import lightning as L
import torch
from jsonargparse import Namespace
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info

from d2v.commands.arguments import parameters_of
from d2v.data.broken_samples import SkippedSamples
from d2v.errors import BrokenSample
from d2v.metrics import of_encoder
from d2v.progress_bar import Progress
from d2v.types import Batch, Rows, by_encoder
from d2v.whole_files import sync, whole_file

log = logging.getLogger(__name__)

_OF_ANOTHER_ROOT = {
    "labels": None, "train_split": None, "val_split": None, "val_fraction": 0.0, "hold_out": "clips", "max_hours": None,
    "min_seconds": 0.0, "max_eval_seconds": None, "label_fraction": 1.0, "max_samples": None,
    "subset": None, "transcripts": None,
}  # fmt: skip
"""Arguments of DataModules that select from a root and split it, and their values for another root."""
_SPLITS = ("train_split", "val_split", "val_fraction")


def read_another_root(data: Namespace, words: Sequence[str]) -> None:
    """For `d2v predict --data.root ROOT`: read all of it, without the splits and labels of the config's own root.

    A DataModule with ``has_fixed_splits`` finds the same ones in any root, so it reads what the config says.

    Args:
        data: Section of the config; changed in place.
        words: The command line; what it states stays.
    """
    stated = set()
    for word in words:
        if word.startswith("--data."):
            option = word.partition("=")[0]
            stated.add(option.removeprefix("--data.").removeprefix("init_args."))
    if "root" not in stated:
        return
    module, _, class_name = data.class_path.rpartition(".")
    data_module = getattr(import_module(module), class_name)
    if getattr(data_module, "has_fixed_splits", False):
        return
    parameters = parameters_of(data_module)
    values = {**_OF_ANOTHER_ROOT, "predict_on": "all"}
    if stated.intersection(_SPLITS):
        values["predict_on"] = "val"
    for name, value in values.items():
        if name in parameters and name not in stated:
            data.init_args[name] = parameters[name].default if value is None else value


class Table(Callback):
    """Writes the rows of a module as they come: tab-separated, one line a sample, beginning with the sample's name.

    Several processes write a file each. Until all rows are written, a file has the suffix ``.part``. A sample that
    cannot be read has a row, too: without a result, and with the reason in the last column, ``note``.

    Args:
        path: The file; if there are several processes, each adds its rank to the name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stem = path.stem
        self.count = 0
        self._file: TextIO | None = None
        self._bar: Progress | None = None
        self._reasons = Counter[str]()
        self._columns = 0
        self._samples: SkippedSamples | None = None
        self._dataset: Any = None

    @property
    def part(self) -> Path:
        """The unfinished file."""
        return self.path.with_name(f"{self.path.name}.part")

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        # Processes that Lightning did not start have each made a folder of their own; all use that of rank zero.
        if trainer.world_size > 1:
            folder = Path(trainer.strategy.broadcast(str(self.path.parent)))
            self.path = self._of_rank(folder, trainer.global_rank)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._open(trainer, trainer.test_dataloaders, sum(int(n) for n in trainer.num_test_batches))

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._open(trainer, trainer.predict_dataloaders, sum(int(n) for n in trainer.num_predict_batches))

    def on_test_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *args: Any) -> None:
        self._write(outputs["rows"])

    def on_predict_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *args: Any) -> None:
        self._write(outputs["rows"])

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._finish(pl_module)

    on_predict_end = on_test_end

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if self._close():
            log.warning("unfinished: %s, %s rows", self.part, f"{self.count:,}")

    def _of_rank(self, folder: Path, rank: int) -> Path:
        return folder / f"{self._stem}-rank{rank}{self.path.suffix}"

    def _open(self, trainer: L.Trainer, loader: Any, batches: int) -> None:
        self._samples, self._dataset = loader.dataset.skipped, loader.dataset
        shown = trainer.progress_bar_callback is not None and trainer.is_global_zero
        self._bar = Progress(total=batches, desc=self.path.stem, unit="batch", disable=not shown, dynamic_ncols=True)

    def _write(self, rows: Rows) -> None:
        assert self._samples is not None
        if self._file is None:
            self._file = self.part.open("w", encoding="utf-8", errors="backslashreplace")
            self._line("file", *rows.columns, "note")
            self._columns = len(rows.columns)
        notes = rows.notes or [""] * len(rows.values)
        for sample_id, values, note in zip(rows.sample_ids.tolist(), rows.values, notes, strict=True):
            if self._samples.is_broken(sample_id):  # the batch has another sample in its place
                self._mark(self._samples.name(sample_id), self._reason(sample_id))
            else:
                self._line(self._samples.name(sample_id), *values, note)
                self.count += 1
        self._file.flush()
        if self._bar is not None:
            self._bar.update()

    def _reason(self, sample_id: int) -> str:
        """Why a sample cannot be read: it is tried again, since a loading process cannot tell."""
        try:
            self._dataset.load(sample_id)
        except BrokenSample as reason:
            return str(reason)
        return "it could not be read at first"

    def _mark(self, name: str, reason: str) -> None:
        """A row without a result."""
        self._line(name, *[""] * self._columns, reason)
        self._reasons[reason] += 1

    def _line(self, *values: str) -> None:
        assert self._file is not None
        self._file.write("\t".join(" ".join(value.split()) for value in values) + "\n")

    def _close(self) -> bool:
        """Close the file; False if there was none."""
        if self._bar is not None:
            self._bar.close()
        if self._file is None:
            return False
        self._file.close()
        self._file = None
        return True

    def _finish(self, pl_module: L.LightningModule) -> None:
        datamodule: Any = pl_module.trainer.datamodule  # type: ignore[attr-defined]
        left_out: Mapping[str, str] = getattr(datamodule, "left_out", dict)()
        if self._file is not None and pl_module.global_rank == 0:
            for name, reason in left_out.items():
                self._mark(name, reason)
        if self._close():
            sync(self.part)
            self.part.replace(self.path)
            sync(self.path.parent)
        world_size = pl_module.trainer.world_size
        counts = pl_module.all_gather(torch.tensor([self.count, self._reasons.total()], device=pl_module.device))
        assert isinstance(counts, torch.Tensor)
        for rank, (count, without) in enumerate(counts.view(world_size, 2).tolist()):
            path = self.path if world_size == 1 else self._of_rank(self.path.parent, rank)
            rank_zero_info(f"{self._stem}: {path}, {count + without:,} rows")
            if without:
                total = f"{without:,} of {count + without:,} samples have no result and enter no figure"
                reasons = ", ".join(f"{reason} ({number:,})" for reason, number in self._reasons.most_common(4))
                rank_zero_info(f"{self._stem}: {total}: {reasons or 'see there'}; column note says which")


class FeatureFile(Callback):
    """Collects the features that each encoder gives, on the CPU."""

    def __init__(self) -> None:
        self.arrays: dict[str, list[torch.Tensor]] = {}

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch | Mapping[str, Batch],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        features = {"": outputs} if isinstance(batch, Batch) else outputs
        for name, part in by_encoder(batch).items():
            self.arrays.setdefault(of_encoder("features", name), []).append(features[name].float().cpu())
            self.arrays.setdefault(of_encoder("sample_ids", name), []).append(part.sample_ids.cpu())

    def save(self, trainer: L.Trainer, run_dir: Path) -> None:
        """Write features and sample ids to ``features.npz``; each process writes a file of its own."""
        import numpy as np

        name = "features.npz"
        if trainer.world_size > 1:
            name = f"features-rank{trainer.global_rank}.npz"
        path = Path(trainer.strategy.broadcast(str(run_dir))) / name
        arrays: dict[str, Any] = {name: torch.cat(values).numpy() for name, values in self.arrays.items()}
        with whole_file(path) as file:
            np.savez(file, **arrays)
        rank_zero_info(f"features: {path}")


def metrics_line(metrics: dict[str, Any], kind: Literal["val", "test"]) -> str:
    """Metrics of a split in one line; rates in percent."""
    found = []
    for metric, value in metrics.items():
        if metric.startswith(kind):
            name = metric.removeprefix(f"{kind}/")
            found.append(f"{name} {value:.4f}" if name.startswith("loss") else f"{name} {value:.2%}")
    return ", ".join(found)
