"""What a data test sees of a run: each batch, and a checkpoint in the middle."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from d2v.types import Batch


class Recorder(LightningModule):
    """Keeps what each training batch held."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen: list[Batch] = []

    def training_step(self, batch: Batch, _: int) -> Tensor:
        self.seen.append(batch._replace(step=None))  # which has tests of its own
        return self.layer(batch.inputs.float().mean().reshape(1)).mean()

    def validation_step(self, batch: Batch, _: int) -> None:
        pass

    def predict_step(self, batch: Batch, _: int) -> Tensor:
        return batch.sample_ids

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveAfter(Callback):
    """Saves a checkpoint after so many micro-batches."""

    def __init__(self, path: Path, count: int) -> None:
        self.path, self.count = path, count

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: object) -> None:
        assert isinstance(module, Recorder)
        if len(module.seen) == self.count:
            trainer.save_checkpoint(self.path)


def trainer(**values: Any) -> Trainer:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(accelerator="cpu", num_sanity_val_steps=0, **{**quiet, **values})
