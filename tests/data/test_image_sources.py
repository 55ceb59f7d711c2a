"""Each layout of a root is recognised, read in a stable order, and explained when it is wrong."""

import io
import logging
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from d2v.errors import BrokenSample, UserError
from d2v.modalities.vision.data import ImageNetDataModule
from d2v.modalities.vision.labels import Pictures


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def _own_hf_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")  # importing it takes seconds


def jpeg(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (8, 8), value).save(buffer, "JPEG")
    return buffer.getvalue()


def write(root: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(jpeg(number))


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def write_parquet(path: Path, labels: list[object] | None, names: list[str] | None = None, start: int = 0) -> None:
    from datasets import ClassLabel, Dataset, Features, Image, Value

    kinds = {str: Value("string"), int: Value("int64"), list: [Value("int64")]}

    path.parent.mkdir(parents=True, exist_ok=True)
    count = 3 if labels is None else len(labels)
    columns: dict[str, list] = {"image": [{"bytes": jpeg(start + i), "path": f"{i}.jpg"} for i in range(count)]}
    features: dict[str, object] = {"image": Image()}
    if labels is not None:
        columns["label"] = labels
        features["label"] = ClassLabel(names=names) if names else kinds[type(labels[0])]
    Dataset.from_dict(columns, features=Features(features)).to_parquet(path)


def opened(root: Path, train: str | None = None, val: str | None = None) -> tuple[Pictures, Pictures | None]:
    splits = ImageNetDataModule(str(root), train_split=train, val_split=val).labelled
    return splits["train"], splits.get("val")


def names(pictures: Pictures) -> tuple[str, ...]:
    return () if pictures.classes is None else pictures.classes.names


def labels(pictures: Pictures) -> list[int] | None:
    return None if pictures.classes is None else pictures.classes.ids.tolist()


def read(pictures: Pictures, index: int) -> bytes:
    return pictures.source.read(int(pictures.index[index]))


@pytest.mark.parametrize("val_name", ["val", "validation", "test"])
def test_folders_of_both_splits(tmp_path: Path, val_name: str) -> None:
    write(
        tmp_path, "train/b/2.JPEG", "train/a/1.jpg", "train/a/.hidden.jpg", "train/a/notes.txt", f"{val_name}/b/3.png"
    )
    train, val = opened(tmp_path)
    assert names(train) == ("a", "b")
    assert [Path(train.name(i)).name for i in range(len(train))] == ["1.jpg", "2.JPEG"]
    assert labels(train) == [0, 1]
    assert read(train, 1) == jpeg(0)
    assert val is not None
    assert labels(val) == [1]


def test_one_tree_of_classes_keeps_val_out_of_training(tmp_path: Path) -> None:
    write(tmp_path, "a/1.jpg", "b/x/2.jpg", "val/a/3.jpg")
    train, val = opened(tmp_path)
    assert (names(train), labels(train)) == (("a", "b"), [0, 1])
    assert val is not None
    assert labels(val) == [0]


def test_unlabelled_tree_and_linked_folders(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "root"
    write(root, "1.jpg", "a/2.jpg", "b/deep/3.jpg")
    (root / "b/loop").symlink_to(root)
    train, val = opened(root)
    assert (len(train), names(train), labels(train), val) == (3, (), None, None)
    assert "1 of 3 images have no class" in caplog.text


def test_empty_class_is_named_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, "train/a/1.jpg", "train/c/1.jpg")
    (tmp_path / "train/b").mkdir()
    with caplog.at_level(logging.WARNING):
        assert names(opened(tmp_path)[0]) == ("a", "c")
    assert str(tmp_path / "train/b") in caplog.text


def test_a_vanished_file_is_a_broken_sample(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg")
    train, _ = opened(tmp_path)
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(BrokenSample, match="No such file"):
        read(train, 0)


@pytest.mark.usefixtures("_own_hf_cache")
def test_parquet(tmp_path: Path) -> None:
    for shard in range(2):
        name = f"data/train-{shard:05d}-of-00002.parquet"
        write_parquet(tmp_path / name, [0, 1, shard], ["cat", "dog"], start=3 * shard)
    write_parquet(tmp_path / "data/validation-00000-of-00001.parquet", [1], ["cat", "dog"])
    train, val = opened(tmp_path)
    assert names(train) == ("cat", "dog")
    assert labels(train) == [0, 1, 0, 0, 1, 1]
    assert read(train, 4) == jpeg(4)
    assert val is not None
    assert (names(val), labels(val)) == (names(train), [1])
    assert "row 4" in train.name(4)


@pytest.mark.usefixtures("_own_hf_cache")
def test_parquet_without_labels(tmp_path: Path) -> None:
    write_parquet(tmp_path / "photos.parquet", None)
    train, val = opened(tmp_path)
    assert (len(train), names(train), labels(train), val) == (3, (), None, None)


@pytest.mark.usefixtures("_own_hf_cache")
def test_parquet_with_other_labels(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a/train-0.parquet", ["dog", "cat"])
    train, _ = opened(tmp_path / "a")
    assert (names(train), labels(train)) == (("cat", "dog"), [1, 0])
    write_parquet(tmp_path / "b/train-0.parquet", [0, 1])
    write_parquet(tmp_path / "b/validation-0.parquet", [0, 5])
    with pytest.raises(UserError, match="classes that the training split has not: 5"):
        opened(tmp_path / "b")
    (tmp_path / "c").mkdir()
    (tmp_path / "c/train-0.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match="cannot be read as parquet"):
        opened(tmp_path / "c")
    write_parquet(tmp_path / "d/train-0.parquet", [10, 9, 2])
    assert labels(opened(tmp_path / "d")[0]) == [10, 9, 2], "numbers keep their order, and gaps their place"
    write_parquet(tmp_path / "e/train-0.parquet", [-1, -1])
    assert labels(opened(tmp_path / "e")[0]) is None, "an unlabelled test split"
    write_parquet(tmp_path / "f/train-0.parquet", [[0], [1, 2]])
    with pytest.raises(UserError, match=r"column 'label' is .*, and a label is one number or text a row"):
        opened(tmp_path / "f")


def test_tars(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "set-train-0.tar", {"x/a.jpg": jpeg(1), "x/a.cls": b"1", "x/b.jpg": jpeg(2), "x/b.cls": b"0\n"}
    )
    write_tar(tmp_path / "set-train-1.tar", {"a.json": b'{"label": 2, "k": 1}', "a.jpg": jpeg(3)})
    write_tar(tmp_path / "set-val-0.tar", {"a.jpg": jpeg(4), "a.cls": b"2"})
    for _ in range(2):  # the second time from the cached index
        train, val = opened(tmp_path)
        assert [read(train, index) for index in range(3)] == [jpeg(1), jpeg(2), jpeg(3)]
        assert labels(train) == [1, 0, 2]
        assert names(train) == ("0", "1", "2")
        assert train.name(2).endswith("set-train-1.tar: a.jpg")
        assert val is not None
        assert labels(val) == [2]
    assert len(list((tmp_path / "cache/d2v/tar-index").iterdir())) == 2


def test_tars_in_split_folders_without_labels(tmp_path: Path) -> None:
    write_tar(tmp_path / "train/0.tar", {"a.jpg": jpeg(1)})
    write_tar(tmp_path / "val/0.tar", {"b.jpg": jpeg(2)})
    train, val = opened(tmp_path)
    assert (labels(train), names(train)) == (None, ())
    assert val is not None
    assert (read(val, 0), labels(val)) == (jpeg(2), None)


def test_wrong_tars(tmp_path: Path) -> None:
    write_tar(tmp_path / "a/train.tar", {"a.jpg": jpeg(1), "a.cls": b"cat"})
    assert names(opened(tmp_path / "a")[0]) == ("cat",)
    (tmp_path / "b").mkdir()
    (tmp_path / "b/train.tar").write_bytes(b"x" * 2000)
    with pytest.raises(UserError, match=r"train\.tar cannot be read"):
        opened(tmp_path / "b")
    write_tar(tmp_path / "c/train.tar", {"readme.txt": b"hello"})
    with pytest.raises(UserError, match="no images"):
        opened(tmp_path / "c")


def test_the_tar_that_a_tree_was_extracted_from_is_not_taken(tmp_path: Path) -> None:
    write(tmp_path, "train/a/1.jpg", "train/b/1.jpg")
    write_tar(tmp_path / "ILSVRC2012_img_train.tar", {"n1.tar": b""})
    assert names(opened(tmp_path)[0]) == ("a", "b")


def test_wrong_roots(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.root .*/missing does not exist"):
        opened(tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        opened(tmp_path / "file")
    (tmp_path / "empty/train").mkdir(parents=True)
    with pytest.raises(UserError, match="no images"):
        opened(tmp_path / "empty")
    write(tmp_path / "other", "train/a/1.jpg", "train/b/1.jpg", "val/c/1.jpg")
    with pytest.raises(UserError, match="classes that the training split has not: c"):
        opened(tmp_path / "other")
    write(tmp_path / "half", "train/a/1.jpg")
    (tmp_path / "half/val").mkdir()
    with pytest.raises(UserError, match="no images"):
        opened(tmp_path / "half")
