"""What `d2v test` and `d2v predict` write into the run's folder."""

import inspect
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, TextIO

import lightning as L
import torch
from jsonargparse import Namespace
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from d2v.data.module import PretrainingDataModule, Split
from d2v.data.sampler import OrderedSampler
from d2v.errors import UserError
from d2v.finetuning.rows import Rows
from d2v.types import Batch

_CHOICE_OF_SAMPLES = ("labels", "train_split", "val_split", "val_fraction", "hold_out", "max_hours")
"""Arguments of DataModules that name or divide what one root holds, and another does not."""


def read_another_root(data: Namespace, words: Sequence[str]) -> None:
    """For `d2v predict --data.root ROOT`: forget the splits and labels of the config's own root.

    Args:
        data: Section of the config; changed in place.
        words: The command line; what it states stays.
    """
    options = [word.partition("=")[0] for word in words if word.startswith("--data.")]
    stated = {option.removeprefix("--data.").removeprefix("init_args.") for option in options}
    if "root" not in stated:
        return
    module, _, class_name = data.class_path.rpartition(".")
    for name, parameter in inspect.signature(getattr(import_module(module), class_name)).parameters.items():
        if name in _CHOICE_OF_SAMPLES and name not in stated:
            data.init_args[name] = parameter.default


class PredictionData:
    """Chooses what `d2v predict` reads: the validation split, and where there is none, everything.

    Args:
        datamodule: Its loader for predictions is set here.
    """

    def __init__(self, datamodule: PretrainingDataModule) -> None:
        self.split: Split = "val"
        self._datamodule = datamodule
        datamodule.predict_dataloader = self._loader  # type: ignore[method-assign]

    def _loader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        data = self._datamodule
        if data.eval_dataset("val") is not None:
            return data.val_dataloader()
        self.split = "train"
        dataset = data.eval_dataset("train")
        assert dataset is not None
        return data.eval_loader(dataset, OrderedSampler(range(len(dataset)), data.rank, data.world_size))


class Table(Callback):
    """Writes the rows of a module as they come, with the samples' names: tab-separated, one line a sample.

    Several processes write a file each. Files that cannot be read are left out.

    Args:
        path: Of the file of a single process.
        data: What is read.
        datamodule: Knows the names.
    """

    def __init__(self, path: Path, datamodule: PretrainingDataModule, data: PredictionData | None = None) -> None:
        self.path = path
        self._datamodule = datamodule
        self._data = data
        self._file: TextIO | None = None
        self._bar: tqdm | None = None
        self._left_out = 0
        self.count = 0

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._open(trainer, sum(int(n) for n in trainer.num_test_batches))

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._open(trainer, sum(int(n) for n in trainer.num_predict_batches))

    def on_test_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *args: Any) -> None:
        self._write(outputs["rows"])

    def on_predict_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *args: Any) -> None:
        self._write(outputs["rows"])

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._close()

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._close()

    def _open(self, trainer: L.Trainer, batches: int) -> None:
        if trainer.world_size > 1:
            # Processes that Lightning did not start itself have found a folder of their own: rank zero's counts.
            folder = Path(trainer.strategy.broadcast(str(self.path.parent)))
            self.path = folder / f"{self.path.stem}-rank{trainer.global_rank}{self.path.suffix}"
        shown = trainer.progress_bar_callback is not None and trainer.is_global_zero
        self._bar = tqdm(total=batches, desc=self.path.stem, unit="batch", disable=not shown, dynamic_ncols=True)

    def _write(self, rows: Rows) -> None:
        if self._file is None:
            self._file = self.path.open("w", encoding="utf-8")
            self._line("file", *rows.columns)
        split: Split = "val" if self._data is None else self._data.split
        known = self._datamodule.skipped_samples(split, str, 0)  # made when the data set was
        for sample_id, values in zip(rows.sample_ids.tolist(), rows.values, strict=True):
            if known.is_broken(sample_id):  # another sample stands in its place
                self._left_out += 1
            else:
                self._line(known._name(sample_id), *values)
                self.count += 1
        self._file.flush()
        if self._bar is not None:
            self._bar.update()

    def _line(self, *values: str) -> None:
        assert self._file is not None
        self._file.write("\t".join(" ".join(value.split()) for value in values) + "\n")

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._file is None:
            return
        self._file.close()
        self._file = None
        left_out = f" ({self._left_out} files could not be read and are left out)" if self._left_out else ""
        rank_zero_info(f"{self.path.stem}: {self.path}, {self.count:,} rows{left_out}")


class Features(Callback):
    """Collects features on the CPU."""

    def __init__(self) -> None:
        self.values: list[torch.Tensor] = []
        self.sample_ids: list[torch.Tensor] = []

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.values.append(outputs.float().cpu())
        self.sample_ids.append(batch.sample_ids.cpu())

    def save(self, trainer: L.Trainer, run_dir: Path) -> None:
        """Write them, with the samples' ids, to ``features.npz``; each process its own.

        Raises:
            UserError: There were none.
        """
        import numpy as np

        if not self.values:
            raise UserError("data.root: there is no validation split, and that is what `d2v predict` reads")
        rank = f"-rank{trainer.global_rank}" if trainer.world_size > 1 else ""
        path = Path(trainer.strategy.broadcast(str(run_dir))) / f"features{rank}.npz"
        np.savez(path, features=torch.cat(self.values).numpy(), sample_ids=torch.cat(self.sample_ids).numpy())
        rank_zero_info(f"features: {path}")


def metrics_line(metrics: dict[str, Any], kind: Literal["val", "test"]) -> str:
    """Metrics of a split in one line; rates in percent."""
    found = {name.removeprefix(f"{kind}/"): float(value) for name, value in metrics.items() if name.startswith(kind)}
    return ", ".join(
        f"{name} {value:.4f}" if name == "loss" else f"{name} {value:.2%}" for name, value in found.items()
    )
