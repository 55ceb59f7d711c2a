"""Roots in object stores: the samples, their order, and what is broken are those of a local folder."""

import importlib.util
import io
import os
import pickle
import shutil
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest
import torch
import yaml
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem
from PIL import Image

from d2v.commands.early_checks import require_roots
from d2v.commands.stacked_configs import require_stores_given
from d2v.configs import find_config, read_config
from d2v.data.sources import stores
from d2v.data.sources.source import Medium
from d2v.data.sources.splits import open_everything, open_splits
from d2v.errors import UserError
from d2v.evaluation.labelled_data import build_data
from d2v.modalities.vision.data import ImageNetDataModule

LETTERS = Medium("letters", (".a",), "Image", columns=("label",))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr(stores, "_WAITS", (0.0, 0.0, 0.0))


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def picture(number: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 255, (20, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def fetched(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache/d2v/store-shards").glob("*/*"))


def uploaded(folder: Path, address: str) -> str:
    system, top = fsspec.core.url_to_fs(address)
    system.put(str(folder), top, recursive=True)
    return address


def write_set(folder: Path) -> None:
    for shard in range(4):
        members = {f"{shard}-broken.png": b"no picture"}
        for number in range(shard * 5, shard * 5 + 5):
            members |= {f"{number}.png": picture(number), f"{number}.cls": str(number % 3).encode()}
        write_tar(folder / f"train/{shard}.tar", members)


def batches(root: str, num_workers: int, position: int = 0) -> list[torch.Tensor]:
    """Inputs and numbers of two epochs from a position in the stream on."""
    data = ImageNetDataModule(
        root, image_size=16, batch_size=4, global_batch_size=4, num_workers=num_workers, max_skipped_fraction=0.5
    )
    data.setup("fit")
    data.load_state_dict({"num_samples": 20, "seed": data.seed, "position": position, "batches": position // 4})
    loader, seen = data.train_dataloader(), []
    for _ in range(2):
        for batch in loader:
            seen += [batch.inputs, batch.sample_ids]
        loader._stream.set_epoch(1)  # type: ignore[attr-defined]
    return seen


def test_batches_are_those_of_a_local_folder_also_of_a_resume_and_of_a_small_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set(tmp_path / "set")
    local, address = batches(str(tmp_path / "set"), 0), f"file://{tmp_path}/set"
    assert len(local) == 20
    assert all(map(torch.equal, local, batches(address, 0)))
    assert fetched(tmp_path) == ["0.tar", "1.tar", "2.tar", "3.tar"]
    shutil.rmtree(tmp_path / "cache/d2v/store-shards")
    resumed = batches(address, 2, position=8)  # the index is kept; loading processes fetch what they need
    assert all(map(torch.equal, local[4:10], resumed))
    largest = max(path.stat().st_size for path in (tmp_path / "set/train").iterdir())
    monkeypatch.setenv("D2V_CACHE_GB", str(2.5 * largest / 1e9))
    shutil.rmtree(tmp_path / "cache")
    assert all(map(torch.equal, local, batches(address, 0)))
    assert 1 <= len(fetched(tmp_path)) <= 2


def test_rows_and_splits_are_those_of_a_local_folder(tmp_path: Path) -> None:
    from datasets import Dataset

    for name, letters in (("train-0", "ab"), ("train-1", "c"), ("val", "d")):
        rows = [{"bytes": letter.encode(), "path": f"{letter}.a"} for letter in letters]
        (tmp_path / "set/data").mkdir(parents=True, exist_ok=True)
        table = Dataset.from_dict({"file": rows, "label": [*range(len(rows))]})
        table.to_parquet(tmp_path / f"set/data/{name}.parquet")
    (tmp_path / "set/README.md").write_text("about")
    address = uploaded(tmp_path / "set", "memory://rows")
    for _ in range(2):
        train, val = open_splits(f"{address}/", LETTERS)
        assert [train.read(index) for index in range(3)] == [b"a", b"b", b"c"]
        assert val is not None
        assert (val.read(0), val.name(0)) == (b"d", "memory://rows/data/val.parquet: row 0 (d.a)")
    assert len(list((tmp_path / "hf/parquet").iterdir())) == 2  # not converted again
    with pytest.raises(UserError, match=r"there is no folder x .* in memory://rows; there are: data"):
        open_splits(f"{address}", LETTERS, "x")
    assert len(open_everything(f"{address}/data/val.parquet", LETTERS)) == 1


def test_several_processes_fetch_a_shard_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads stand for them: a lock does not know whose it is."""
    calls = []
    get_file = MemoryFileSystem.get_file

    def slow(self: MemoryFileSystem, path: str, *rest: str) -> None:
        calls.append(path)
        if len(calls) == 1:
            raise ConnectionError("gone")
        time.sleep(0.1)
        get_file(self, path, *rest)

    monkeypatch.setattr(MemoryFileSystem, "get_file", slow)
    write_tar(tmp_path / "set/train.tar", {"1.a": b"one"})
    folder = stores.list_store(uploaded(tmp_path / "set", "memory://once"), LETTERS)
    with ThreadPoolExecutor(4) as pool:
        handles = list(pool.map(stores.open_shard, [str(path) for path in folder.rglob("*.tar")] * 4))
    assert len(calls) == 2  # one that failed, and the next try
    for handle in handles:
        os.close(handle)


def test_the_next_shards_are_fetched_while_one_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(6):
        write_tar(tmp_path / f"set/{number}.tar", {f"{number}.a": b"one"})
    folder = stores.list_store(uploaded(tmp_path / "set", "memory://ahead"), LETTERS)
    files, threads = sorted(folder.rglob("*.tar")), set()
    download = stores._download

    def noted(*shard: object) -> None:
        threads.add(threading.current_thread())
        download(*shard)  # type: ignore[arg-type]

    monkeypatch.setattr(stores, "_download", noted)
    seen = []
    for file in stores.fetched_ahead(files):
        seen.append(file)
        if len(seen) == 1:
            deadline = time.monotonic() + 20
            while not {"1.tar", "2.tar"} <= set(fetched(tmp_path)) and time.monotonic() < deadline:
                time.sleep(0.01)
            assert {"1.tar", "2.tar"} <= set(fetched(tmp_path))
        if len(seen) == 3:
            break  # as a reader that fails
    assert seen == files[:3]
    assert threading.current_thread() not in threads
    size = files[0].stat().st_size + (tmp_path / "set/0.tar").stat().st_size
    monkeypatch.setenv("D2V_CACHE_GB", str(size / 1e9))
    threads.clear()
    shutil.rmtree(tmp_path / "cache/d2v/store-shards", ignore_errors=True)
    assert list(stores.fetched_ahead(files)) == files
    assert not threads, "there is no room: each is fetched by who reads it"


def test_a_shard_that_cannot_be_fetched_ahead_is_named_at_its_turn(tmp_path: Path) -> None:
    for number in range(3):
        write_tar(tmp_path / f"set/{number}.tar", {f"{number}.a": b"one"})
    folder = stores.list_store(uploaded(tmp_path / "set", "memory://gone"), LETTERS)
    MemoryFileSystem().rm("memory://gone/1.tar")
    files = stores.fetched_ahead(sorted(folder.rglob("*.tar")))
    assert next(files).name == "0.tar"
    with pytest.raises(UserError, match=r"memory://gone/1\.tar: cannot be fetched"):
        next(files)


@pytest.mark.parametrize("config", ["text.yaml", "finetune/text.yaml"])
def test_text_is_not_read_from_a_store(config: str) -> None:
    with pytest.raises(UserError, match=r"data\.root.* s3://bucket/x: text is not read from an object store"):
        build_data(read_config(find_config(config))["data"], {"root": "s3://bucket/x"}).setup("fit")


def test_a_shard_that_changes_is_another(tmp_path: Path) -> None:
    for content in (b"one", b"two"):
        write_tar(tmp_path / "set/train.tar", {"1.a": content})
        source, _ = open_splits(f"file://{tmp_path}/set", LETTERS)
        assert source.read(0) == content
    write_tar(tmp_path / "set/train.tar", {"1.a": b"x" * 20_000})
    shutil.rmtree(tmp_path / "cache/d2v/store-shards")
    with pytest.raises(RuntimeError, match=r"file://.*/train.tar: cannot be fetched \(ValueError: it has 30720 bytes"):
        pickle.loads(pickle.dumps(source)).read(0)


def test_what_cannot_be_read_is_said_with_the_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loose").mkdir()
    (tmp_path / "loose/1.a").write_bytes(b"x")
    loose = uploaded(tmp_path / "loose", "memory://pictures")
    with pytest.raises(UserError, match=r"memory://pictures: it holds 1\.a, and only tars .* pack the letters"):
        open_splits(loose, LETTERS)
    with pytest.raises(UserError, match="memory://nothing: there is nothing"):
        open_splits("memory://nothing", LETTERS)
    if importlib.util.find_spec("s3fs") is None:
        with pytest.raises(UserError, match=r"data.root s3://bucket/x: s3:// needs another package: pip install s3fs"):
            open_splits("s3://bucket/x", LETTERS)
    with pytest.raises(UserError, match=r"data.root nosuch://x: cannot be opened \(ValueError: Protocol not known"):
        open_splits("nosuch://x", LETTERS)
    MemoryFileSystem.store["/out/../../x.tar"] = MemoryFile()
    with pytest.raises(UserError, match="leads out of it"):
        open_splits("memory://out", LETTERS)

    write_tar(tmp_path / "set/train.tar", {"1.a": b"one"})
    address = uploaded(tmp_path / "set", "memory://full")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(UserError, match=r"0\.0 GB are to be fetched to .*store-shards, and its disk has 0\.0 GB left"):
        open_splits(address, LETTERS)


def test_nothing_is_fetched_because_a_config_says_so() -> None:
    config = {"data": {"class_path": "X", "init_args": {"root": "s3://bucket/set"}}, "logger": {"root": None}}
    with pytest.raises(UserError, match=r"data.root is s3://bucket/set: nothing is fetched because a config says so"):
        require_stores_given(config, ["--config", "a.yaml", "--data.num_workers=2"])
    require_stores_given(config, ["--config", "a.yaml", "--data.root", "s3://bucket/set"])
    section = {"class_path": "d2v.modalities.vision.data.ImageNetDataModule", "init_args": {"root": "gs://b/set"}}
    joint = {"data": {"class_path": "d2v.data.joint.JointDataModule", "init_args": {"parts": {"vision": section}}}}
    text = yaml.safe_dump(joint)  # as the words of a joint run hold what all of its configs say
    with pytest.raises(UserError, match=r"data\.parts\.vision\.root is gs://b/set: nothing is fetched"):
        require_stores_given(joint, ["--config", text])
    require_stores_given(joint, ["--config", text, "--data.parts.vision.root=gs://b/set"])
    require_roots({text: joint}, [])  # of a run that goes on: whether a store is there, is seen when it is listed
    with pytest.raises(UserError, match=r"data.root is gs://b/set: nothing is fetched"):
        build_data(section, {"num_workers": 0})
    assert build_data(section, {"root": "gs://b/set"}).root == "gs://b/set"
    addresses = ["hf://datasets/owner/name", "memory://x", "hf://owner/name", "/a/b", "C://x", "zip://a::s3://b/c"]
    assert [*map(stores.is_store, addresses)] == [True, True, False, False, False, False]
