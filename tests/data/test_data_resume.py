"""A resumed run sees exactly the samples that the uninterrupted one would have seen."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from d2v.data.broken_samples import SkippedSamples
from d2v.data.data_module import PretrainingDataModule, Split
from d2v.data.samples import Sample, SampleDataset
from d2v.types import Batch

NUM_SAMPLES = 21  # global batch 2 * 2 = 4: five steps, ten micro-batches an epoch, and one sample left for the next
MICRO_BATCHES = 10


class Numbers(SampleDataset):
    def load(self, index: int) -> tuple[Tensor, int | None]:
        return torch.rand(1) + index, None


class NumbersData(PretrainingDataModule):
    unit = "numbers"

    def __init__(self, num_workers: int, batch_size: int = 2, num_val: int = 0) -> None:
        super().__init__("nowhere", batch_size, 4, num_workers, seed=3, max_skipped_fraction=0.01)
        self.num_val = num_val

    def train_dataset(self) -> SampleDataset:
        return Numbers(NUM_SAMPLES, self.seed, SkippedSamples(str, NUM_SAMPLES, 0.01))

    def eval_dataset(self, split: Split) -> SampleDataset | None:
        return Numbers(self.num_val, self.seed, SkippedSamples(str, self.num_val, 0.01)) if self.num_val else None

    @property
    def class_names(self) -> tuple[str, ...]:
        return ()

    @staticmethod
    def collate(samples: list[Sample]) -> Batch:
        return Batch(
            torch.stack([sample.inputs for sample in samples]),
            torch.tensor([sample.sample_id for sample in samples]),
            torch.tensor([sample.epoch for sample in samples]),
        )


class Recorder(LightningModule):
    """Keeps what each training batch held."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen: list[list[tuple[int, int, float]]] = []

    def training_step(self, batch: Batch, _: int) -> Tensor:
        rows = zip(batch.epochs.tolist(), batch.sample_ids.tolist(), batch.inputs.flatten().tolist(), strict=True)
        self.seen.append(list(rows))
        return self.layer(batch.inputs).mean()

    def validation_step(self, batch: Batch, _: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        # Recipes ask for the length of the run here, and Lightning then makes the training loader early.
        assert self.trainer.estimated_stepping_batches > 0
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveAt(Callback):
    """Saves a checkpoint in one hook, the first time that so many micro-batches have been trained on."""

    def __init__(self, hook: str, batches: int, path: Path) -> None:
        self.hook, self.batches, self.path = hook, batches, path

    def save(self, hook: str, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, Recorder)
        if hook == self.hook and len(module.seen) == self.batches and not trainer.sanity_checking:
            trainer.save_checkpoint(self.path)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        self.save("train_batch_end", trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.save("train_epoch_end", trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.save("validation_end", trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.save("train_epoch_start", trainer, pl_module)


def fit(data: NumbersData, path: Path, steps: int, callback: Callback | None = None, resume: bool = False) -> Recorder:
    model = Recorder()
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        val_check_interval=5 if data.num_val else 1.0,
        callbacks=[callback] if callback else None,
    )
    trainer.fit(model, data, ckpt_path=path if resume else None, weights_only=True)
    assert trainer.global_step == steps
    return model


@pytest.mark.parametrize(
    ("hook", "batches", "num_val", "num_workers"),
    [
        ("train_batch_end", 6, 0, 0),
        ("train_batch_end", 6, 0, 2),  # the workers have fetched further than what was trained on
        ("train_batch_end", 5, 0, 0),  # in the middle of an accumulation
        ("train_batch_end", MICRO_BATCHES, 0, 0),
        ("train_epoch_end", MICRO_BATCHES, 0, 0),
        ("train_epoch_end", MICRO_BATCHES, 0, 2),
        ("train_epoch_end", 2 * MICRO_BATCHES, 0, 0),
        ("train_epoch_start", MICRO_BATCHES, 0, 0),
        ("train_batch_end", MICRO_BATCHES + 4, 0, 2),
        ("validation_end", 5, 4, 0),
        ("validation_end", MICRO_BATCHES, 4, 0),
        ("train_batch_end", MICRO_BATCHES, 4, 0),
        ("train_epoch_end", MICRO_BATCHES, 4, 0),
    ],
)
def test_resumed_run_sees_what_the_uninterrupted_one_sees(
    tmp_path: Path, hook: str, batches: int, num_val: int, num_workers: int
) -> None:
    path, steps = tmp_path / "run.ckpt", 13
    whole = fit(NumbersData(num_workers, num_val=num_val), path, steps, SaveAt(hook, batches, path))
    assert len(whole.seen) == 2 * steps
    resumed = fit(NumbersData(0, num_val=num_val), path, steps, resume=True)
    assert whole.seen[:batches] + resumed.seen == whole.seen
