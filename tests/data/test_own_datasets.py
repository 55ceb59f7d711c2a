"""Data sets of the user's own: torch's, Hugging Face's, tables of paths; and transforms of the user's own."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset
from torchvision.transforms import v2

from d2v.data.normalisation import normalised
from d2v.errors import UserError
from d2v.modalities.speech.data import LibriSpeechDataModule
from d2v.modalities.vision.data import ImageNetDataModule


def pixels(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (20, 24, 3), dtype=np.uint8)


def picture(index: int) -> Image.Image:
    return Image.fromarray(pixels(index))


def noise(index: int, length: int = 8000) -> np.ndarray:
    return 0.1 * np.random.default_rng(index).standard_normal(length).astype(np.float32)


class Own(Dataset):
    def __init__(self, make: Callable[[int], Any], count: int = 8) -> None:
        self.make, self.count = make, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return self.make(index)


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[Image.Image]:
        return map(picture, range(8))


class Named(Own):
    targets = [0, 1] * 4
    classes = ("cat", "dog")


def pictures(dataset: Any = None, root: Path | None = None, **changes: Any) -> ImageNetDataModule:
    if root is not None:
        changes["root"] = str(root)
    data = ImageNetDataModule(dataset=dataset, batch_size=4, image_size=16, num_workers=0, **changes)
    data.setup("fit")
    return data


@pytest.mark.parametrize(
    ("make", "labels"),
    [
        (picture, ()),
        (pixels, ()),
        (lambda index: (picture(index).convert("RGBA"), index % 3), ("0", "1", "2")),
        (lambda index: {"label": "ab"[index % 2], "image": pixels(index)[:, :, 0]}, ("a", "b")),
        (lambda index: (torch.from_numpy(pixels(index)).permute(2, 0, 1), torch.tensor(index % 2)), ("0", "1")),
        (lambda index: torch.from_numpy(pixels(index) / 255).permute(2, 0, 1), ()),
        (lambda index: pixels(index).astype(float), ()),
        (lambda index: (pixels(index)[:, :, 0].astype(np.uint16) * 257,), ()),
    ],
)
def test_pictures_of_any_type(make: Callable[[int], Any], labels: tuple[str, ...]) -> None:
    data = pictures(Own(make))
    assert data.class_names == labels
    batch = next(iter(data.train_dataloader()))
    assert batch.inputs.shape == (4, 3, 16, 16)
    assert abs(normalised(batch.inputs, {}).mean()) < 0.5
    assert 0.6 < normalised(batch.inputs, {}).std() < 1.4
    assert sorted(torch.cat([each.sample_ids for each in data.train_dataloader()]).tolist()) == list(range(8))


def test_normalised_tensors_are_used_as_they_are() -> None:
    made = torch.randn(8, 3, 16, 16)
    batch = next(iter(pictures(Own(lambda index: made[index])).train_dataloader()))
    assert torch.equal(batch.inputs, made[batch.sample_ids])
    with pytest.raises(UserError, match=r"normalised already, \[3, 20, 20\], and data.image_size is \(16, 16\)"):
        pictures(Own(lambda index: torch.randn(3, 20, 20)))


@pytest.mark.parametrize("value", [3e38, 1e300, -1e30, float("nan"), float("inf")])
def test_pictures_with_values_that_are_no_colours_are_broken(value: float) -> None:
    bad = torch.randn(3, 16, 16, dtype=torch.float64)
    bad[1, 2, 3] = value
    with pytest.raises(UserError, match=r"item 0 of Own is unusable: its picture holds values from "):
        pictures(Own(lambda index: bad))


def test_torchvisions_names_of_classes_and_a_validation_split() -> None:
    data = pictures(Named(picture), val_dataset=Named(picture))
    assert data.class_names == ("cat", "dog")
    _, val = data.probe_dataloaders()
    assert [label for batch in val for label in batch.labels.tolist()] == [0, 1] * 4
    assert len(pictures(Own(picture), val_fraction=0.25).splits["val"]) == 2


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (Own(lambda index: "nothing.png"), "item 0 of Own is unusable: nothing.png: No such file"),
        (Own(lambda index: 1 / 0), "item 0 of Own is unusable: ZeroDivisionError"),
        (Own(lambda index: {"a": 1}), "holds no picture but NoneType; return a PIL picture"),
        (Own(lambda index: torch.zeros(5, 8, 8)), r"the shape \[5, 8, 8\]; expected"),
        (Own(picture, 0), "Own has no items"),
        (Stream(), "Stream is no map-style data set"),
    ],
)
def test_what_is_no_data_set_of_pictures_says_so(dataset: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        pictures(dataset)


def test_a_data_set_stands_in_for_the_root() -> None:
    with pytest.raises(UserError, match=r"data.root is not set: give --data.root DIR, or --data.dataset CLASS"):
        ImageNetDataModule()
    assert len(pictures(Own(picture), root=Path("that/of/the/recipe")).splits["train"]) == 8


def test_an_item_that_fails_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    data = pictures(Own(lambda index: picture(1 // (index != 5))))
    assert sum(len(batch.inputs) for batch in data.train_dataloader()) == 8
    assert "skipped Own: item 5: ZeroDivisionError" in caplog.text


TENSOR = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]


@pytest.mark.parametrize(
    "transform",
    [v2.RandomResizedCrop(16), [v2.RandomCrop(16), v2.ToImage()], v2.Compose([v2.Resize((16, 16)), *TENSOR])],
)
def test_a_transform_of_torchvision(transform: Any) -> None:
    data = pictures(Own(picture), transform=transform)
    batch, again = next(iter(data.train_dataloader())), next(iter(data.train_dataloader()))
    assert torch.equal(batch.inputs, again.inputs), "random, and the same for the same sample and epoch"
    assert abs(normalised(batch.inputs, {}).mean()) < 0.5
    assert 0.5 < normalised(batch.inputs, {}).std() < 1.5


def test_a_transform_that_normalises() -> None:
    with pytest.warns(UserWarning, match="set data.mean and data.std"):
        data = pictures(Own(picture), transform=[v2.CenterCrop(16), *TENSOR, v2.Normalize([0.5] * 3, [0.5] * 3)])
    inputs = next(iter(data.train_dataloader())).inputs
    assert -1 <= inputs.min() < -0.9
    assert 0.9 < inputs.max() <= 1


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (v2.RandomHorizontalFlip(), r"makes pixels \[3, 32, 32\] of a picture; they must be \[3, 16, 16\]"),
        (v2.Normalize([0.5], [0.5]), "it fails with an RGB picture"),
        (lambda image: np.zeros(3), "it returns numpy.ndarray and no picture or tensor"),
    ],
)
def test_a_transform_that_does_not_fit(transform: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        pictures(Own(picture), transform=transform)


@pytest.mark.parametrize(
    ("make", "labels", "samples"),
    [
        (noise, None, 8000),
        (lambda index: (torch.from_numpy(noise(index))[None], 8000, "ab"[index % 2], 3), "label", 16000),
        (lambda index: {"audio": {"array": noise(index), "sampling_rate": 32_000}, "label": index % 2}, "label", 4000),
        (lambda index: np.stack([noise(index)] * 2, axis=1), None, 8000),
        (lambda index: (noise(index) * 10_000).astype(np.int16), None, 8000),
    ],
)
def test_sound_of_any_type(make: Callable[[int], Any], labels: str | None, samples: int) -> None:
    data = LibriSpeechDataModule(
        dataset=Own(make), batch_size=2, min_seconds=0.1, max_seconds=2, labels=labels, num_workers=0
    )
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch.inputs.shape[1] == samples
    assert len(data.class_names) == (2 if labels else 0)


def test_what_datasets_saves(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_dict({"image": [picture(n) for n in range(8)], "label": [0, 1] * 4})
    datasets.DatasetDict(train=rows, test=rows.select(range(2)), other=rows).save_to_disk(tmp_path / "all")
    data = pictures(root=tmp_path / "all")
    assert (len(data.splits["train"]), len(data.splits["val"]), data.class_names) == (8, 2, ("0", "1"))
    assert len(pictures(root=tmp_path / "all/other").splits["train"]) == 8
    assert len(pictures(rows.with_format("torch")).splits["train"]) == 8
    datasets.DatasetDict(mine=rows).save_to_disk(tmp_path / "named")
    assert len(pictures(root=tmp_path / "named", train_split="mine").splits["train"]) == 8
    with pytest.raises(UserError, match=r"data sets that `datasets` has saved: mine; name one in data.train_split"):
        pictures(root=tmp_path / "named")


def test_a_data_set_of_the_hub_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = datasets.Dataset.from_dict({"image": [picture(n) for n in range(4)], "label": [0, 1] * 2})
    hub = {"owner/name": datasets.DatasetDict(train=rows, validation=rows.select([0])), "odd/one": {"all": rows}}
    monkeypatch.setattr(datasets, "load_dataset", hub.__getitem__)
    assert sorted(ImageNetDataModule("hf://owner/name", image_size=16).splits) == ["train", "val"]
    assert len(ImageNetDataModule("hf://odd/one", train_split="all", image_size=16).splits["train"]) == 4
    with pytest.raises(UserError, match=r"data.train_split null: hf://odd/one has the splits all; name one of them"):
        _ = ImageNetDataModule("hf://odd/one", image_size=16).splits
    with pytest.raises(UserError, match=r"data.root hf://gone/set: the library `datasets` cannot load it"):
        _ = ImageNetDataModule("hf://gone/set", image_size=16).splits


def test_tables_of_paths_and_of_bytes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "img").mkdir()
    names = [f"img/{number}.png" for number in range(8)]
    for number, name in enumerate(names):
        picture(number).save(tmp_path / name)
    encoded = [(tmp_path / name).read_bytes() for name in names]
    columns: dict[str, list[Any]] = {
        "text": names,
        "absolute": [str(tmp_path / name) for name in names],
        "bytes": encoded,
        "struct": [{"bytes": None, "path": name} for name in names],
        "missing": [None, "", "img/gone.png", "https://a.b/c.png", *names[4:]],
    }
    for name, column in columns.items():
        (tmp_path / name).mkdir()
        table = pa.table({"photo": column, "caption": ["words"] * 8, "label": [0, 1] * 4})
        pq.write_table(table, tmp_path / name / "train.parquet")
        data = pictures(root=tmp_path / name)
        assert sum(len(batch.inputs) for batch in data.train_dataloader()) == 8
        assert data.skipped == (4 if name == "missing" else 0)
    for reason in ("the row holds no images", "no file img/gone.png", "address https://a.b/c.png"):
        assert reason in caplog.text
    (tmp_path / "urls").mkdir()
    pq.write_table(pa.table({"url": ["https://a.b/c.jpg?x=1"] * 8}), tmp_path / "urls/train.parquet")
    with pytest.raises(UserError, match=r"column 'url' holds addresses of images .*Download them"):
        pictures(root=tmp_path / "urls")
    (tmp_path / "none").mkdir()
    pq.write_table(pa.table({"words": ["a"] * 8, "n": [1] * 8}), tmp_path / "none/train.parquet")
    with pytest.raises(UserError, match=r"expected one column of images .* found none among words, n"):
        pictures(root=tmp_path / "none")
    soundfile.write(tmp_path / "a.wav", noise(0), 16_000)
    (tmp_path / "sound").mkdir()
    pq.write_table(pa.table({"audio": ["a.wav"] * 3}), tmp_path / "sound/train.parquet")
    speech = LibriSpeechDataModule(str(tmp_path / "sound"), batch_size=2, min_seconds=0.1, max_seconds=2, num_workers=0)
    assert len(speech.splits["train"].clips) == 3
