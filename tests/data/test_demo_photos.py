"""The demo data: disjoint splits, the same each time, left alone when finished."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from d2v.demo.photos import choose_boxes, find_photos, prepare_photos
from d2v.errors import UserError
from d2v.modalities.vision.data import ImageNetDataModule


def test_boxes_of_the_splits_never_touch() -> None:
    for path in find_photos().values():
        photo = Image.open(path).convert("RGB")
        owner = np.zeros((photo.height, photo.width), dtype=np.uint8)
        for number, split in enumerate(("train", "val"), start=1):
            for left, top, right, bottom in choose_boxes(photo, split, 200, 48, np.random.default_rng(number)):
                assert 0 <= left < right <= photo.width
                assert 0 <= top < bottom <= photo.height
                assert right - left == bottom - top >= 48
                owner[top:bottom, left:right] |= number
        assert not (owner == 3).any()
        columns = [np.flatnonzero((owner == number).any(axis=0)) for number in (1, 2)]
        assert columns[1].min() - columns[0].max() > 8


def test_tree_is_deterministic_idempotent_and_loads(tmp_path: Path) -> None:
    roots = [tmp_path / "one", tmp_path / "two"]
    for root in roots:
        summary = prepare_photos(root, image_size=32, train_crops=3, val_crops=2)
        assert summary.created
    files = [sorted(path.relative_to(root) for path in root.rglob("*.jpg")) for root in roots]
    assert files[0] == files[1]
    assert all((roots[0] / file).read_bytes() == (roots[1] / file).read_bytes() for file in files[0])
    classes = summary.found["classes"]
    assert len(classes) >= 8
    assert (summary.found["train"], summary.found["val"]) == (3 * len(classes), 2 * len(classes))
    assert len(files[0]) == summary.found["train"] + summary.found["val"]
    assert "CC0" in (roots[0] / "README.md").read_text()
    assert not prepare_photos(roots[0], image_size=32, train_crops=3, val_crops=2).created
    data = ImageNetDataModule(str(roots[0]), batch_size=4, num_workers=0, image_size=32)
    assert data.class_names == tuple(classes)
    assert next(iter(data.train_dataloader())).inputs.shape == (4, 3, 32, 32)


def test_unfinished_or_different_tree_is_made_anew(tmp_path: Path) -> None:
    prepare_photos(tmp_path, image_size=32, train_crops=2, val_crops=1)
    next((tmp_path / "train").rglob("*.jpg")).unlink()
    assert prepare_photos(tmp_path, image_size=32, train_crops=2, val_crops=1).created
    assert prepare_photos(tmp_path, image_size=32, train_crops=1, val_crops=1).created
    assert len(list(tmp_path.rglob("*.jpg"))) == 2 * len(find_photos())
    marker = tmp_path / "demo.json"
    marker.write_text(json.dumps({**json.loads(marker.read_text()), "found": None}))
    assert prepare_photos(tmp_path, image_size=32, train_crops=1, val_crops=1).created


def test_other_peoples_files_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="no demo data"):
        prepare_photos(tmp_path)
    with pytest.raises(UserError, match="too large for the demo photographs"):
        prepare_photos(tmp_path / "new", image_size=400)


@pytest.mark.parametrize(
    "marker", ['{"finished": false}', '{"demo": "speech"}', '{"name": "mine"}', "[]", "mine", "\0"]
)
def test_a_folder_with_another_demo_json_is_not_touched(tmp_path: Path, marker: str) -> None:
    (tmp_path / "demo.json").write_text(marker)
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="no demo data of vision"):
        prepare_photos(tmp_path, image_size=32, train_crops=1, val_crops=1)
    assert (tmp_path / "demo.json").read_text() == marker
    assert (tmp_path / "train" / "thesis.txt").read_text() == "mine"


def test_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "skimage" else find(name))
    with pytest.raises(UserError, match=r"pip install 'scikit-image>="):
        prepare_photos(tmp_path / "new")
