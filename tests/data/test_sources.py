"""What files, parquet and tars have in common: one index for each reader, ids, little memory."""

import io
import json
import pickle
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from d2v.data.file_index import PackedStrings
from d2v.data.sources.source import Categories, Files, Medium, Source
from d2v.data.sources.splits import open_everything, open_splits
from d2v.errors import BrokenSample, UserError

LETTERS = Medium("letters", (".a", ".b"), "Image", columns=("label", "text"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def contents(source: Source) -> list[bytes]:
    return [source.read(index) for index in range(len(source))]


def test_each_reader_of_a_tar_has_an_index_of_its_own(tmp_path: Path) -> None:
    """It was kept by the files alone, and the second reader got the first one's members, or a KeyError."""
    members = {"1.a": b"one", "1.cls": b"7", "2.b": b"two", "2.txt": b"a text", "2.cls": b"-1"}
    write_tar(tmp_path / "root/train.tar", members)
    both = open_everything(str(tmp_path / "root"), LETTERS)
    only_b = open_everything(str(tmp_path / "root"), Medium("letters", (".b",), "Image"))
    others = open_everything(str(tmp_path / "root"), Medium("letters", (".a", ".b"), "Image", columns=("speaker",)))
    again = open_everything(str(tmp_path / "root"), LETTERS)
    assert contents(both) == contents(again) == [b"one", b"two"]
    assert contents(only_b) == [b"two"]
    for source in (both, again):
        labels, texts = source.categories("label"), source.texts()
        assert labels is not None
        assert (labels.names[7], labels.ids.tolist()) == ("7", [7, -1])
        assert texts is not None
        assert list(texts) == ["", "a text"]
    assert (only_b.categories("label"), only_b.texts()) == (None, None)
    assert (others.categories("label"), others.categories("speaker"), others.texts()) == (None, None, None)
    assert len(list((tmp_path / "cache/d2v/tar-index").iterdir())) == 3
    assert both.fingerprint() == again.fingerprint()
    assert len({source.fingerprint() for source in (both, only_b, others)}) == 3


def test_the_same_samples_from_files_parquet_and_tars(tmp_path: Path) -> None:
    from datasets import Dataset

    samples = {"x/1.a": b"one", "x/2.b": b"two", "y/3.a": b"three"}
    labels = ["dog", "cat", "dog"]
    for name, data in samples.items():
        (tmp_path / "files" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "files" / name).write_bytes(data)
    beside = {
        f"{name[:-2]}.json": json.dumps({"class": label}).encode() for name, label in zip(samples, labels, strict=True)
    }
    write_tar(tmp_path / "tars/train-0.tar", samples | beside)
    (tmp_path / "parquet").mkdir()
    rows = [{"bytes": data, "path": name} for name, data in samples.items()]
    Dataset.from_dict({"file": rows, "category": labels}).to_parquet(tmp_path / "parquet/train.parquet")
    for kind in ("files", "tars", "parquet"):
        source, val = open_splits(str(tmp_path / kind), LETTERS)
        assert val is None
        for copy in (source, pickle.loads(pickle.dumps(source))):
            assert contents(copy) == list(samples.values())
        assert [Path(name).name for name in source.ids()] == ["1.a", "2.b", "3.a"]
        found = source.categories("folder" if kind == "files" else "label")
        assert found is not None
        assert (found.names, found.ids.tolist()) == {"files": (("x", "y"), [0, 0, 1])}.get(
            kind, (("cat", "dog"), [1, 0, 1])
        )
        assert len(source.archives) == (kind != "files")


def test_splits_of_two_kinds_are_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "one.tar", {"1.a": b"x"})
    (tmp_path / "two").mkdir()
    (tmp_path / "two/2.a").write_bytes(b"y")
    assert contents(open_splits(str(tmp_path), LETTERS, "one", "two")[1]) == [b"y"]  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"data\.root .*one\.tar, two are no files of one kind"):
        open_splits(str(tmp_path), LETTERS, "one,two")


def test_folders_are_joined(tmp_path: Path) -> None:
    for name in ("train-b/x/1.a", "train-a/x/2.a", "train-a/y/3.a"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    source, _ = open_splits(str(tmp_path), LETTERS)
    assert source.ids() == ["train-a/x/2.a", "train-a/y/3.a", "train-b/x/1.a"]
    found = source.categories("folder")
    assert found is not None
    assert (found.names, found.ids.tolist()) == (("x", "y"), [0, 1, 0])


def test_a_cut_tar_is_a_broken_sample(tmp_path: Path) -> None:
    write_tar(tmp_path / "train.tar", {"1.a": b"x" * 5000, "2.a": b"y"})
    source, _ = open_splits(str(tmp_path), LETTERS)
    with (tmp_path / "train.tar").open("r+b") as file:
        file.truncate(3000)
    with pytest.raises(BrokenSample, match="the tar ends in the middle of this file"):
        source.read(0)


def test_categories() -> None:
    found = Categories.of(["b", "", "a", "b"])
    assert found is not None
    assert (found.names, found.ids.tolist(), found.complete) == (("a", "b"), [1, -1, 0, 1], False)
    assert found.numbered_as(("c", "b", "a"), "x").ids.tolist() == [1, -1, 2, 1]
    with pytest.raises(UserError, match="x: the validation split has classes that the training split has not: b"):
        found.numbered_as(("a",), "x")
    numbers = Categories.of_labels(["10", "", "2"])
    assert numbers is not None
    assert (len(numbers.names), numbers.ids.tolist()) == (11, [10, -1, 2])
    assert Categories.of(["", ""]) is None


def test_a_file_costs_its_name_and_a_few_bytes() -> None:
    names = [f"class{number % 1000:04d}/picture{number:08d}.a" for number in range(100_000)]
    tracemalloc.start()
    source = Files(LETTERS, "/data", names)
    folders = source.categories("folder")
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held / len(names) < len(names[0]) + 4 + 4 + 2
    assert folders is not None
    assert folders.ids.dtype == np.int32
    strings = PackedStrings.unpacked(PackedStrings(names).packed("x"), "x")
    assert (len(strings), strings[99_999], next(iter(strings))) == (100_000, names[-1], names[0])


@pytest.mark.parametrize("length", [0, 126, 127, 128, 255, 256, 32_766, 32_767, 32_768, 70_000])
def test_strings_of_any_total_length_are_packed(length: int) -> None:
    strings = ["x" * length, "", "é\udcff", "y"]
    packed = PackedStrings(strings)
    assert list(packed) == list(PackedStrings.unpacked(packed.packed("a"), "a")) == strings
