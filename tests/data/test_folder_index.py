"""The list of many files is kept, until a folder changes; what changes without a trace is met when it is read."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from d2v.cli import main
from d2v.data import file_index
from d2v.data.file_index import PackedStrings
from d2v.data.sound.sound_files import SOUND
from d2v.data.sources.source import Categories, Files
from d2v.data.sources.splits import open_everything, open_splits
from d2v.modalities.speech.data import LibriSpeechDataModule
from d2v.modalities.vision.decoding import IMAGES

NAMES = ["b/2.png", "b/1.PNG", "a/x/3.jpg", "a/x/4.png", "a/5.heic", "a/notes.txt"]


@pytest.fixture(autouse=True)
def _small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_index, "MANY", 3)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in NAMES:
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_bytes(b"x")
    settle(tmp_path / "root")
    return tmp_path / "root"


def settle(root: Path) -> None:
    """As if all folders had been left alone for long."""
    for folder, _, _ in os.walk(root):
        os.utime(folder, ns=(10**18, 10**18))


def described(source: object) -> list:
    assert isinstance(source, Files)
    folders = source.categories("folder")
    assert folders is not None
    return [source.ids(), folders.names, folders.ids.tolist(), list(source.left_out), source.endings, len(source)]


def test_the_second_opening_lists_no_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_everything(str(root), IMAGES)
    assert first.ids() == ["a/x/3.jpg", "a/x/4.png", "b/1.PNG", "b/2.png"]
    for forbidden in ("walk", "scandir", "listdir"):
        monkeypatch.setattr(os, forbidden, lambda *_, **__: pytest.fail("the files are listed again"))
    second = open_everything(str(root), IMAGES)
    assert described(second) == described(first)
    assert second.fingerprint() == open_everything(str(root), IMAGES).fingerprint()


def test_few_files_are_listed_each_time_and_asked_themselves(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_index, "MANY", 100)
    first = open_everything(str(root), IMAGES).fingerprint()
    (root / "b" / "2.png").write_bytes(b"longer")
    settle(root)
    assert open_everything(str(root), IMAGES).fingerprint() != first
    assert not (root.parent / "cache").exists()


@pytest.mark.parametrize("change", ["made", "removed", "renamed", "deep", "folder", "folder gone"])
@pytest.mark.parametrize("settled", [True, False])
def test_a_change_of_a_folder_is_seen(root: Path, change: str, settled: bool) -> None:
    if not settled:  # the next change of a folder may bear the same time as the last
        (root / "b" / "0.png").touch()
    first = open_everything(str(root), IMAGES)
    before = os.stat(root / "b").st_mtime_ns
    if change == "made":
        (root / "b" / "3.png").touch()
    elif change == "removed":
        (root / "b" / "2.png").unlink()
    elif change == "renamed":
        (root / "b" / "2.png").rename(root / "b" / "9.png")
    elif change == "deep":
        (root / "a" / "x" / "9.png").touch()
    elif change == "folder":
        (root / "c").mkdir()
        (root / "c" / "1.png").touch()
    else:
        (root / "b").rename(root.parent / "elsewhere")
    if not settled and (root / "b").exists():
        os.utime(root / "b", ns=(before, before))
    second = open_everything(str(root), IMAGES)
    expected = []
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in (".png", ".jpg"):
            expected.append(str(path.relative_to(root)))
    assert second.ids() == sorted(expected) != first.ids()
    assert second.fingerprint() != first.fingerprint()


def test_splits_have_lists_of_their_own(root: Path) -> None:
    (root / "b").rename(root / "val")
    settle(root)
    for _ in range(2):
        train, val = open_splits(str(root), IMAGES)
        assert val is not None
        assert (train.ids(), val.ids()) == (["a/x/3.jpg", "a/x/4.png"], ["1.PNG", "2.png"])


def test_joined_splits_know_what_their_parts_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("train-1/7/7-1-1.wav", "train-1/8/8-1-1.wav", "train-1/8/8-1-2.wav", "train-2/5/5-1-1.wav"):
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).touch()
    settle(tmp_path / "root")
    opened = []
    for many in (100, 3, 3):
        monkeypatch.setattr(file_index, "MANY", many)
        source, _ = open_splits(str(tmp_path / "root"), SOUND)
        speakers = source.categories("speaker")
        assert speakers is not None
        assert [speakers.names[number] for number in speakers.ids] == ["7", "8", "8", "5"]
        opened.append(described(source))
    assert opened[0][0] == ["train-1/7/7-1-1.wav", "train-1/8/8-1-1.wav", "train-1/8/8-1-2.wav", "train-2/5/5-1-1.wav"]
    assert opened[0] == opened[1] == opened[2]


def test_a_file_that_changed_without_a_trace_is_a_broken_sample(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root, noise = tmp_path / "root", np.random.default_rng(0).normal(0, 0.1, 16_000)
    root.mkdir()
    for number in range(6):
        soundfile.write(root / f"{number}.wav", noise, 16_000)
    settle(root)

    def clips() -> LibriSpeechDataModule:
        return LibriSpeechDataModule(str(root), 2, min_seconds=0.5, max_seconds=2, num_workers=0, val_split=None)

    assert len(clips().train_dataset()) == 6
    soundfile.write(root / "1.wav", noise[:8000], 16_000)
    (root / "4.wav").unlink()
    settle(root)
    data = clips()
    dataset = data.train_dataset()
    assert dataset.lengths.tolist() == [16_000] * 6
    with caplog.at_level(logging.WARNING):
        assert all(len(dataset[0, index].inputs) == 16_000 for index in range(6))
    assert data.skipped == 2
    assert "1.wav: it has become shorter since its header was read; `d2v cache clear` " in caplog.text
    assert "4.wav: " in caplog.text
    assert main(["cache", "clear"]) == 0  # as the message says
    assert sorted(clips().train_dataset().lengths.tolist()) == [8_000, *[16_000] * 4]


words = st.lists(st.text(max_size=4), max_size=5)


@given(parts=st.lists(st.tuples(st.text(max_size=3), words), min_size=1, max_size=4))
def test_strings_are_joined_with_their_prefixes(parts: list[tuple[str, list[str]]]) -> None:
    packed = PackedStrings.joined([(prefix, PackedStrings(strings)) for prefix, strings in parts])
    assert list(packed) == [prefix + string for prefix, strings in parts for string in strings]


@given(parts=st.lists(st.lists(st.sampled_from(["", "a", "b", "c"]), max_size=5), min_size=1, max_size=4))
def test_categories_are_joined_as_if_they_had_been_one(parts: list[list[str]]) -> None:
    joined = Categories.joined([Categories.of(part) for part in parts], list(map(len, parts)))
    whole = Categories.of([value for part in parts for value in part])
    if whole is None:
        assert joined is None
    else:
        assert joined is not None
        assert (joined.names, joined.ids.tolist()) == (whole.names, whole.ids.tolist())
