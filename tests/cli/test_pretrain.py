"""d2v.pretrain: the same checks and messages as the command, and nothing that ends the interpreter."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

import d2v as package
from d2v.checkpoints.load import load
from d2v.commands.arguments import parameters_of
from d2v.errors import UserError
from d2v.modalities.speech.data import LibriSpeechDataModule

RECIPE = "learn/vision_cifar10.yaml"


class Own(Dataset):
    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.new("RGB", (24, 20), (20 * index, 0, 0)), index % 3


class OwnLoaders(L.LightningDataModule):
    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(torch.randn(8, 3, 16, 16), 4)  # type: ignore[arg-type]


@pytest.fixture
def values(d2v: Callable, tiny: list[str]) -> dict[str, str]:
    """The options of the tiny recipe as overrides, in an empty working folder."""
    options = dict(zip(tiny[::2], tiny[1::2], strict=True))
    skipped = ("--config", "--data.root")
    return {name.removeprefix("--"): value for name, value in options.items() if name not in skipped}


def test_a_path(tree: Path, values: dict[str, str]) -> None:
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    encoder = package.pretrain(tree, "runs/mine", RECIPE, num_workers=0, model__optimizer__lr=1e-3, **values)
    assert encoder(torch.randn(1, 3, 16, 16)).tokens.shape == (1, 16, 16)
    assert not encoder.training
    again = load("runs/mine")
    assert torch.equal(next(encoder.parameters()), next(again.parameters()))
    assert "lr: 0.001" in Path("runs/mine/config.yaml").read_text()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert "D2V_RUN_DIR" not in os.environ
    with pytest.raises(UserError, match=r"out runs/mine: there is a run in it; .*resume=True"):
        package.pretrain(tree, "runs/mine", RECIPE, **values)
    package.pretrain(tree, "runs/mine", RECIPE, resume=True, **{**values, "max_steps": 4})


def test_objects_also_from_a_thread(values: dict[str, str]) -> None:
    crop = v2.RandomResizedCrop(16)
    made: list[Any] = []

    def run() -> None:
        made.append(package.pretrain(Own(), "a", RECIPE, val_data=Own(), transform=crop, num_workers=0, **values))

    thread = threading.Thread(target=run)  # where no handler of a signal can be set
    thread.start()
    thread.join()
    made.append(package.pretrain(OwnLoaders(), "b", RECIPE, **values))
    made.append(package.pretrain({"train": Own(), "test": Own()}, "c", RECIPE, num_workers=0, **values))
    assert [type(each).__name__ for each in made] == ["Encoder"] * 3
    assert "val/loss" in Path("a/metrics.csv").read_text()
    assert "val/loss" in Path("c/metrics.csv").read_text()


@pytest.mark.parametrize(
    ("data", "changes", "message"),
    [
        ("./nowhere", {}, r"data.root ./nowhere does not exist"),
        (Own(), {"bach_size": 3}, r"data.bach_size: .* no such key; did you mean batch_size"),
        (Own(), {"max_stepz": 3}, r"no such key; did you mean .*\? Or max_steps\?"),
        (
            Own(),
            {"lr": 3},
            r"data.lr: .* no such key; .*\. Keys of the model are in full, such as model__optimizer__lr",
        ),
        (Own(), {"model.optimizer.lr": "high"}, r"model.optimizer.lr: expected a number, not high"),
        (Own(), {"model.head": Own()}, r"model.head: Own cannot be written into a config"),
        (Own(), {"collate": Own()}, r"data.collate: ImageNetDataModule of this recipe takes no object of Python there"),
        ([], {}, r"data.dataset: list has no items"),
        ({"a": Own()}, {}, r"there is no split train among a; give data\[NAME\]"),
    ],
)
def test_bad_input_is_a_user_error(values: dict[str, str], data: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        package.pretrain(data, "runs/mine", RECIPE, **{**values, **changes})
    assert not Path("runs/mine").exists()


def test_the_module_of_a_recipe_trains_with_a_plain_loader(values: dict[str, str]) -> None:
    of_model = {name: value for name, value in values.items() if name.startswith("model")}
    module = package.from_recipe(RECIPE, **of_model)
    trainer = L.Trainer(
        max_steps=2, accelerator="cpu", default_root_dir="own", logger=CSVLogger("own"), enable_progress_bar=False
    )
    trainer.fit(module, DataLoader(torch.randn(8, 3, 16, 16), 4))  # type: ignore[arg-type]
    assert trainer.global_step == 2
    assert not Path("runs").exists()
    assert package.load("own").embed(torch.randn(1, 3, 16, 16)).shape[0] == 1  # below its lightning_logs


def test_arguments_that_a_datamodule_hands_to_its_base_are_known() -> None:
    arguments = parameters_of(LibriSpeechDataModule)
    assert {"root", "dataset", "val_fraction"} <= arguments.keys()
    assert arguments["hold_out"].default == "clips"
