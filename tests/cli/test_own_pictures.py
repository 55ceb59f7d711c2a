"""Own pictures on the command line: labels that block nothing, tables of labels, odd kinds of files."""

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from d2v.errors import UserError
from d2v.modalities.vision.data import ImageNetDataModule


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def parquet(root: Path, labels: list, **more: list) -> Path:
    root.mkdir()
    pictures = [{"bytes": png(number), "path": f"{number}.png"} for number in range(len(labels))]
    pq.write_table(pa.table({"image": pictures, "label": labels, **more}), root / "train-00000-of-00001.parquet")
    return root


def module(root: Path, **changes: object) -> ImageNetDataModule:
    return ImageNetDataModule(str(root), batch_size=4, num_workers=0, image_size=16, **changes)  # type: ignore[arg-type]


def test_labels_of_a_validation_split_block_no_pretraining(
    d2v: Callable, tiny: list[str], tree: Path, tmp_path: Path
) -> None:
    root = tmp_path / "tree"
    shutil.copytree(tree, root)
    (root / "val/b").rename(root / "val/zebra")
    finetune = ["fit", "--config", "finetune/imagenet_v2.yaml", "--data.root", str(root), "--data.image_size", "16"]
    code, _, _ = d2v("fit", *tiny, "--data.root", str(root), "--run_name", "r")
    assert code == 0
    code, _, err = d2v(*finetune, "--model.checkpoint", "runs/r")
    assert code == 2
    assert "the validation split has classes that the training split has not: zebra" in err


@pytest.mark.parametrize("labels", [["cat", "dog"] * 4, [None, *[1] * 7], [-1, *[1] * 7], [[0, 1]] * 8, [None] * 8])
def test_labels_of_any_kind_block_no_pretraining(tmp_path: Path, labels: list) -> None:
    data = module(parquet(tmp_path / "p", labels))
    data.reads_labels = False  # as of a pretraining
    data.setup("fit")
    assert [len(batch.inputs) for batch in data.train_dataloader()] == [4, 4]
    assert next(iter(data.train_dataloader())).labels is None
    if isinstance(labels[0], list):
        with pytest.raises(UserError, match="a label is one number or text a row"):
            data.probe_dataloaders()
    elif set(labels) == {None}:
        with pytest.raises(UserError, match="no labels"):
            data.probe_dataloaders()


def test_rows_without_a_class_are_left_out_of_a_probe_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = parquet(tmp_path / "p", [None, 0, 1, 0, 1, 1, -1, 0])
    caplog.set_level("INFO")
    train, val = module(root, val_fraction=0.25).probe_dataloaders()
    labels = [label for loader in (train, val) for batch in loader for label in batch.labels.tolist()]
    assert sorted(labels) == [0, 0, 0, 1, 1, 1]
    assert "images, which have no class" in caplog.text


def test_a_table_gives_pictures_their_classes(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for number in range(6):
        (tmp_path / f"deep/{number}.png").write_bytes(png(number))
    rows = list(enumerate(["cat", "dog", "cat"]))
    texts = {
        "plain.csv": "deep/0.png,cat\n1.png,dog\n2,cat\nelsewhere/9.png,cow\n",
        "excel.csv": "Image;Label\n0.png;cat\n1.png;dog\n2.png;cat\n9.png;cow\n",
        "metadata.jsonl": "".join(
            f'{{"file_name": "{n}.png", "about": "a, b", "label": "{name}"}}\n' for n, name in rows
        ),
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        data = module(tmp_path, labels=str(tmp_path / name))
        pictures = data.labelled["train"]
        assert pictures.classes is not None
        assert [data.class_names[number] for number in pictures.classes.ids] == ["cat", "dog", "cat"], name
        assert len(data.splits["train"]) == 6, "those without a class are pretrained on"
    (tmp_path / "several.csv").write_text("0.png,cat\n1.png,cat,dog\n")
    with pytest.raises(UserError, match=r"line 2: a picture has one class, and here are cat, dog"):
        _ = module(tmp_path, labels=str(tmp_path / "several.csv")).labelled
    with pytest.raises(UserError, match=r"data.labels .*gone.csv"):
        _ = module(tmp_path, labels=str(tmp_path / "gone.csv")).labelled


def test_odd_files_are_read_or_left_out_and_never_waited_for(tmp_path: Path) -> None:
    good = {
        "wide.png": Image.new("RGB", (5000, 1)),
        "grey16.tif": Image.fromarray(np.full((20, 24), 40_000, dtype=np.uint16)),
        "alpha.png": Image.new("RGBA", (24, 20)),
        "line\nbreak.png": Image.new("P", (24, 20)),
    }
    for name, image in good.items():
        image.save(tmp_path / name)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "dangling.png").symlink_to("gone.png")
    (tmp_path / "again").symlink_to(tmp_path)
    data = module(tmp_path, max_skipped_fraction=1.0)
    for dataset in (data.train_dataset(), data.eval_dataset("train")):
        assert dataset is not None
        assert [dataset[0, index].inputs.shape for index in range(len(dataset))] == [(3, 16, 16)] * 6
    assert data.skipped == 2


def test_a_data_set_goes_before_the_root_of_a_recipe(d2v: Callable, tiny: list[str], tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(
        "data:\n  class_path: d2v.modalities.vision.data.ImageNetDataModule\n  init_args:\n"
        "    dataset: {class_path: torchvision.datasets.FakeData, init_args: {size: 8, image_size: [3, 20, 20]}}\n"
        "    transform:\n"
        "    - {class_path: torchvision.transforms.v2.RandomResizedCrop, init_args: {size: 16}}\n"
        "    - {class_path: torchvision.transforms.v2.RandomHorizontalFlip}\n"
    )
    without_root = tiny[: tiny.index("--data.root")]
    code, _, err = d2v("fit", *without_root, "--config", "own.yaml", "--run_name", "r")
    assert (code, "done: runs/r" in err) == (0, True), err
