"""Data that d2v knows nothing of: plain DataLoaders and DataModules of other people."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from encoders import speech_encoder, text_encoder
from tiny_runs import make_module, make_trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from d2v.errors import UserError
from d2v.training.plain_batches import as_batch
from d2v.types import Batch

PIXELS = torch.randn(12, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Dicts(Dataset):
    """As Hugging Face's collators give them, in numpy's usual precision."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"labels": index % 3, "pixel_values": PIXELS[index].double()}


class Seen(L.Callback):
    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append(batch)


@pytest.mark.parametrize("data", [PIXELS, TensorDataset(PIXELS), TensorDataset(PIXELS, torch.arange(12)), Dicts()])
def test_a_plain_loader_trains(tmp_path: Path, data: Any) -> None:
    seen = Seen()
    trainer = make_trainer(tmp_path, max_steps=4, callbacks=[seen], log_every_n_steps=1, limit_val_batches=1)
    trainer.fit(make_module(), DataLoader(data, 4), DataLoader(data, 4))
    assert torch.cat([batch.sample_ids for batch in seen.batches]).tolist() == [*range(12), *range(4)]
    assert [int(batch.epochs[0]) for batch in seen.batches] == [0, 0, 0, 1]
    assert seen.batches[0].inputs.dtype == torch.float32
    assert {"train/loss", "val/loss", "throughput/samples_per_second"} <= set(trainer.callback_metrics)
    assert trainer.predict(trainer.lightning_module, DataLoader(data, 4))[0].shape == (4, 16)  # type: ignore[index]


def test_a_data_module_from_elsewhere_trains(tmp_path: Path) -> None:
    class Own(L.LightningDataModule):
        parts = (1, 2)  # not d2v's

        def train_dataloader(self) -> DataLoader[Any]:
            return DataLoader(PIXELS, 4, shuffle=True)  # type: ignore[arg-type]

    trainer = make_trainer(tmp_path, max_steps=3, log_every_n_steps=1)
    trainer.fit(make_module(), Own())
    assert trainer.global_step == 3


def test_other_kinds_of_input() -> None:
    waves = speech_encoder(width=16, depth=1, num_heads=2)
    assert as_batch(torch.randn(2, 1, 4000), waves).inputs.shape == (2, 4000)
    mask = torch.ones(2, 4000)
    mask[1, 3000:] = 0
    padded = as_batch({"input_values": torch.randn(2, 4000), "attention_mask": mask}, waves)
    assert padded.padding_mask is not None
    assert padded.padding_mask.sum(dim=1).tolist() == [0, 1000]
    ids = text_encoder(width=16, depth=1, num_heads=2)
    assert as_batch((torch.ones(2, 9, dtype=torch.int32), ["a", "b"]), ids).inputs.dtype == torch.int64


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (
            torch.zeros(2, 3, 16, 16, dtype=torch.uint8),
            r"gives uint8 \[2, 3, 16, 16\], and the encoder reads `x`: float32",
        ),
        (torch.zeros(2, 1, 16, 16), r"gives float32 \[2, 1, 16, 16\], and the encoder reads"),
        (torch.zeros(2, 16, 16, 3), r"gives float32 \[2, 16, 16, 3\]"),
        ({"picture": torch.zeros(2, 3, 16, 16)}, "batches of type dict with picture; give a tensor"),
        (["a", "b"], "batches of type list; give a tensor"),
        ((), "batches of type tuple"),
    ],
)
def test_what_is_no_batch_says_so(batch: Tensor | dict | list, message: str) -> None:
    with pytest.raises(UserError, match=message):
        as_batch(batch, make_module().encoders[""])
