"""The names of splits mean the same for pictures, sound and labelled text, in folders, archives and tables."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from speech_files import encoded

from d2v.data.sources.source import Categories
from d2v.data.sources.splits import ARCHIVES, TRAIN_NAMES, VAL_NAMES, find_split, find_splits, open_splits
from d2v.errors import UserError
from d2v.modalities.speech.data import LibriSpeechDataModule
from d2v.modalities.text.labelled.data import LabelledTextDataModule
from d2v.modalities.vision.data import ImageNetDataModule
from d2v.modalities.vision.decoding import IMAGES

MANIFESTS = (".tsv",)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def picture(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (8, 8), number).save(buffer, "PNG")
    return buffer.getvalue()


def write_files(root: Path, name: str, files: dict[str, bytes]) -> None:
    (root / name).mkdir(parents=True)
    for file, data in files.items():
        (root / name / file).write_bytes(data)


def write_tar(root: Path, name: str, files: dict[str, bytes]) -> None:
    with tarfile.open(root / f"{name}-000.tar", "w") as tar:
        for file, data in files.items():
            info = tarfile.TarInfo(file)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def write_pictures(root: Path, name: str, count: int) -> None:
    write_files(root, name, {f"{i}.png": picture(i) for i in range(count)})


def write_picture_tar(root: Path, name: str, count: int) -> None:
    write_tar(root, name, {f"{i}.png": picture(i) for i in range(count)})


def write_sound(root: Path, name: str, count: int) -> None:
    write_files(root, name, {f"{i}.wav": encoded(".wav", 0.1, seed=i) for i in range(count)})


def write_sound_tar(root: Path, name: str, count: int) -> None:
    write_tar(root, name, {f"{i}.wav": encoded(".wav", 0.1, seed=i) for i in range(count)})


def write_manifest(root: Path, name: str, count: int) -> None:
    write_sound(root, f"files of {name}", count)
    rows = "".join(f"{i}.wav\t1600\n" for i in range(count))
    (root / f"{name}.tsv").write_text(f"files of {name}\n{rows}")


def write_table(root: Path, name: str, count: int) -> None:
    rows = "".join(f"film {i}\t{'ab'[i % 2]}\n" for i in range(count))
    (root / f"{name}.tsv").write_text(f"text\tlabel\n{rows}")


def pictures(root: Path) -> tuple[int, int]:
    splits = ImageNetDataModule(str(root)).splits
    return len(splits["train"]), len(splits.get("val", ()))


def sound(root: Path) -> tuple[int, int]:
    splits = LibriSpeechDataModule(str(root), min_seconds=0).splits
    return tuple(len(splits[name].clips) if name in splits else 0 for name in ("train", "val"))  # type: ignore[return-value]


def texts(root: Path) -> tuple[int, int]:
    splits = LabelledTextDataModule(str(root)).splits
    return len(splits["train"]), len(splits.get("val", ()))  # type: ignore[arg-type]


Write = Callable[[Path, str, int], None]
Counts = Callable[[Path], tuple[int, int]]
MEDIA = {
    "pictures in folders": (write_pictures, pictures),
    "pictures in tars": (write_picture_tar, pictures),
    "sound in folders": (write_sound, sound),
    "sound in tars": (write_sound_tar, sound),
    "sound in manifests": (write_manifest, sound),
    "text in tables": (write_table, texts),
}


@pytest.mark.parametrize("medium", MEDIA)
def test_every_medium_knows_the_same_names(tmp_path: Path, medium: str) -> None:
    write, counts = MEDIA[medium]
    for train_name in TRAIN_NAMES:
        for val_name in VAL_NAMES:
            root = tmp_path / train_name / val_name
            root.mkdir(parents=True)
            write(root, train_name, 4)
            write(root, val_name, 2)
            assert counts(root) == (4, 2), f"{train_name} and {val_name}"


@pytest.mark.parametrize("medium", MEDIA)
def test_the_first_name_is_taken(tmp_path: Path, medium: str) -> None:
    write, counts = MEDIA[medium]
    names = [name for name in VAL_NAMES if "-" not in name]  # a file "dev-clean-2-000.tar" is one of dev-clean, too
    for number, name in enumerate(reversed(names)):
        write(tmp_path, name, number + 2)
    write(tmp_path, "training", 3)
    write(tmp_path, "train", 4)
    assert counts(tmp_path) == (4, len(names) + 1)


def test_forms_are_not_mixed_unless_a_name_says_so(tmp_path: Path) -> None:
    """The archive of the validation pictures was not extracted yet."""
    for folder in ("train", "test"):
        (tmp_path / folder).mkdir()
    archive = tmp_path / "ILSVRC2012_img_val.tar"
    archive.touch()
    assert find_splits(tmp_path, MANIFESTS, None, None) == ([tmp_path / "train"], [tmp_path / "test"])
    assert find_splits(tmp_path, MANIFESTS, None, "val")[1] == [archive]


def test_folders_that_begin_with_train_are_one_split(tmp_path: Path) -> None:
    for name in ("train-b", "train-a", "dev-other", "Test"):
        (tmp_path / name).mkdir()
    (tmp_path / "train-a.tar").touch()
    splits = find_splits(tmp_path, MANIFESTS, None, None)
    assert splits == ([tmp_path / "train-a", tmp_path / "train-b"], [tmp_path / "dev-other"])
    splits = find_splits(tmp_path, MANIFESTS, "train-b", "test")
    assert splits == ([tmp_path / "train-b"], [tmp_path / "Test"])


def test_a_name_is_a_whole_word(tmp_path: Path) -> None:
    for name in ("constrained.tar", "imagenet_train_000.tar", "imagenet_train_001.tar", "train_labels.tsv"):
        (tmp_path / name).touch()
    train = [tmp_path / "imagenet_train_000.tar", tmp_path / "imagenet_train_001.tar"]
    assert find_split(tmp_path, "train", ARCHIVES) == train
    assert find_splits(tmp_path, MANIFESTS, None, None)[0] == train, "a table of labels is no manifest"
    with pytest.raises(UserError, match=r"data\.val_split: there is no folder dev and no .*there are: constrained"):
        find_splits(tmp_path, MANIFESTS, None, "dev")
    with pytest.raises(UserError, match=r"data\.train_split is ' , ': it names no split"):
        find_splits(tmp_path, MANIFESTS, " , ", None)


@pytest.mark.parametrize("val_split", ["valA,valB", "sub/val"])
def test_no_sample_is_in_both_splits(tmp_path: Path, val_split: str) -> None:
    """Also where the whole root is for training, and the validation split lies anywhere in it."""
    for name in ("one", "valA", "valB", "sub/val", "sub/more"):
        write_pictures(tmp_path, name, 2)
    train, val = open_splits(str(tmp_path), IMAGES, None, val_split)
    assert val is not None
    names = [{source.name(index) for index in range(len(source))} for source in (train, val)]
    assert not names[0] & names[1]
    assert len(names[0] | names[1]) == 10


def test_numbers_that_count_no_classes() -> None:
    dates = Categories.of_labels(["20230115", "3000000000", "20230115"])
    assert dates is not None
    assert dates.names == ("20230115", "3000000000")
    numbers = Categories.of_labels(["2", "0"])
    assert numbers is not None
    assert numbers.names == ("0", "1", "2")
