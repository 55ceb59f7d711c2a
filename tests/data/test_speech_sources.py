"""Each layout of a root is recognised, read in a stable order, and explained when it is wrong."""

import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from speech_files import encoded, read_audio, write_audio, write_librispeech

from d2v.data.sound.audio_reader import AudioInfo, audio_info
from d2v.data.sound.clip_labels import class_labels
from d2v.data.sound.sound_files import SOUND, read_headers
from d2v.data.sources.label_table import read_labels
from d2v.data.sources.source import Categories, Encoded, Source
from d2v.data.sources.splits import open_everything, open_splits
from d2v.errors import BrokenSample, UserError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def names(source: Source | None) -> list[str]:
    assert source is not None
    return [Path(source.name(index)).stem for index in range(len(source))]


def texts(source: Source) -> list[str | None]:
    """None where there is none."""
    found = source.texts()
    assert found is not None
    return [text or None for text in found]


def test_librispeech_tree(tmp_path: Path) -> None:
    root = tmp_path / "LibriSpeech"
    write_librispeech(root, "train-clean-100", {3: [0.2, 0.3]})
    write_librispeech(root, "train-other-500", {5: [0.2]})
    write_librispeech(root, "dev-clean", {7: [0.2]})
    write_librispeech(root, "test-clean", {9: [0.2]})
    for place in (tmp_path, root):  # the folder LibriSpeech, and the folder that it was unpacked into
        train, val = open_splits(str(place), SOUND)
        assert names(train) == ["3-7-0000", "3-7-0001", "5-7-0000"]
        assert names(val) == ["7-7-0000"]
    speakers = train.categories("speaker")
    assert speakers is not None
    assert speakers.names == ("3", "5")
    assert speakers.ids.tolist() == [0, 0, 1]
    assert texts(train) == ["SPEAKER D CLIP K", "SPEAKER D CLIP L", "SPEAKER F CLIP K"]
    train, val = open_splits(str(root), SOUND, "train-other-500, train-clean-100", "test-clean")
    assert names(train) == ["5-7-0000", "3-7-0000", "3-7-0001"]
    assert texts(train)[0] == "SPEAKER F CLIP K"
    assert names(val) == ["9-7-0000"]
    subset, no_val = open_splits(str(root / "dev-clean"), SOUND)
    assert names(subset) == ["7-7-0000"]
    assert no_val is None
    assert len(open_everything(str(tmp_path), SOUND)) == 5
    with pytest.raises(
        UserError, match=r"data\.train_split: there is no folder train-clean-360.*train-clean-100"
    ) as error:
        open_splits(str(root), SOUND, "train-clean-360")
    assert "Set data.train_split to what is there, or to null to take train/ or everything" in str(error.value)


def test_folders_globs_and_single_files(tmp_path: Path) -> None:
    for name in ("train/yes/a.wav", "train/no/b.ogg", "train/no/.hidden.wav", "val/no/c.mp3"):
        if "hidden" in name:
            (tmp_path / name).write_bytes(b"")
        else:
            write_audio(tmp_path / name, seconds=0.2)
    (tmp_path / "train/yes/a.txt").write_text("yes  it is\n")
    train, val = open_splits(str(tmp_path), SOUND)
    assert names(train) == ["b", "a"]
    assert names(val) == ["c"]
    assert texts(train) == [None, "yes it is"]
    folders = train.categories("folder")
    assert folders is not None
    assert folders.names == ("no", "yes")
    assert train.categories("speaker") is None
    everything, none = open_splits(f"{tmp_path}/**/*.*", SOUND)
    assert names(everything) == ["b", "a", "c"]
    assert none is None
    single, _ = open_splits(str(tmp_path / "val/no/c.mp3"), SOUND)
    assert names(single) == ["c"]


def test_a_validation_folder_is_never_trained_on(tmp_path: Path) -> None:
    for name in ("one/a.wav", "b.wav", "val/c.wav"):
        write_audio(tmp_path / name, seconds=0.1)
    train, val = open_splits(str(tmp_path), SOUND)
    assert names(train) == ["b", "a"]
    assert names(val) == ["c"]
    folders = train.categories("folder")
    assert folders is not None
    assert not folders.complete  # b lies in none
    with pytest.raises(UserError, match="not every clip lies in one of two or more folders"):
        class_labels("folder", read_headers(train).clips, None)


def test_manifests(tmp_path: Path) -> None:
    for name in "abc":
        write_audio(tmp_path / "sound" / f"{name}.flac", seconds=0.2)
    (tmp_path / "train.tsv").write_text(f"{tmp_path}/sound\nb.flac\t3200\na.flac\t3200\n")
    (tmp_path / "train.ltr").write_text("H I | Y O U |\nN O |\n")
    (tmp_path / "valid.tsv").write_text("sound\nc.flac\t3200\n")  # relative to the manifest
    (tmp_path / "valid.wrd").write_text("YES\n")
    for root in (tmp_path, tmp_path / "train.tsv"):
        train, val = open_splits(str(root), SOUND)
        assert names(train) == ["b", "a"]
        assert texts(train) == ["HI YOU", "NO"]
        assert names(val) == ["c"]
        assert val is not None
        assert texts(val) == ["YES"]
    (tmp_path / "train.ltr").write_text("H I |\n")
    with pytest.raises(UserError, match=r"train\.ltr has 1 lines for 2 files"):
        open_splits(str(tmp_path), SOUND)


def test_a_manifest_of_names_that_are_not_utf_8(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.wav")
    (tmp_path / name).write_bytes(encoded(".wav", 0.1))
    (tmp_path / "train.tsv").write_bytes(os.fsencode(tmp_path) + b"\ncaf\xe9.wav\t1600\n")
    source, _ = open_splits(str(tmp_path / "train.tsv"), SOUND)
    assert read_headers(source).clips.name(0).endswith(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no entry"),
        ("/nowhere\na.flac\t1\n", "does not exist"),
        (".\na.flac\n", "line 2: expected FILE<TAB>SAMPLES"),
        ("client_id\tpath\tsentence\nx\ta.mp3\tHi\n", r"table of transcripts, give .* data\.transcripts"),
    ],
)
def test_wrong_manifests_are_explained(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "train.tsv").write_text(text)
    with pytest.raises(UserError, match=message):
        open_splits(str(tmp_path / "train.tsv"), SOUND)


def test_tars(tmp_path: Path) -> None:
    files = {
        "x/a.flac": encoded(seed=1),
        "x/a.txt": b"HELLO\n",
        "x/b.ogg": encoded(".ogg", seed=2),
        "x/b.json": json.dumps({"transcript": "YOU", "speaker_id": 4, "label": "dog", "rest": [1, 2]}).encode(),
        "x/c.wav": encoded(".wav", seed=3),
        "x/c.cls": b"cat",
    }
    for split, members in (("train", files), ("val", {"z.flac": encoded()})):
        with tarfile.open(tmp_path / f"{split}-000.tar", "w") as tar:
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    for _ in range(2):  # the second time from the cache
        train, val = open_splits(str(tmp_path), SOUND)
        assert [len(train), len(val or [])] == [3, 1]
        assert texts(train) == ["HELLO", "YOU", None]
        labels, speakers = train.categories("label"), train.categories("speaker")
        assert labels is not None
        assert labels.names == ("cat", "dog")
        assert labels.ids.tolist() == [-1, 1, 0]
        assert speakers is not None
        assert speakers.ids.tolist() == [-1, 0, -1]
    assert read_headers(train).clips.num_samples.tolist() == [16_000] * 3
    copy = pickle.loads(pickle.dumps(train))
    assert all((read_audio(copy.open(i)) == read_audio(train.open(i))).all() for i in range(3))


def write_tar(path: Path, *members: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name in members:
            info = tarfile.TarInfo(name)
            info.size = len(data := encoded(".wav", 0.1))
            tar.addfile(info, io.BytesIO(data))


def members(source: Source | None) -> str:
    assert source is not None
    return " ".join(source.name(i).rpartition(": ")[2].removesuffix(".wav") for i in range(len(source)))


@pytest.mark.parametrize("places", [("a-000", "b_clean", "c", "dev-000"), ("a/0", "b_clean/0", "c/0", "dev/0")])
def test_archives_are_chosen_by_the_names_of_splits(tmp_path: Path, places: tuple[str, ...]) -> None:
    for place in places:
        write_tar(tmp_path / f"{place}.tar", f"{place[0]}.wav")

    def opened(train: str | None, val: str | None = None) -> tuple[str, str]:
        sources = open_splits(str(tmp_path), SOUND, train, val)
        return members(sources[0]), members(sources[1])

    assert opened("a") == ("a", "d")
    assert opened("c, a") == ("c a", "d")
    assert opened("b_clean", "a,c") == ("b", "a c")
    for train, val, key in (("nosuch", None, "train"), ("a,nosuch", None, "train"), ("a", "nosuch", "val")):
        with pytest.raises(UserError, match=rf"data\.{key}_split: .* nosuch.*there are: {places[0].split('/')[0]}"):
            opened(train, val)
    if "/" not in places[0]:
        assert opened(None) == ("a b c", "d")  # nothing is called train: everything but what is to validate on
        assert opened(None, "c") == ("a b d", "c")
        write_tar(tmp_path / "train-a-0.tar", "t.wav")
        assert opened(None) == ("t", "d")
        assert opened("train-a") == ("t", "d")
        with pytest.raises(UserError, match=r"data\.val_split: .* nosuch"):
            opened(None, "nosuch")


def test_an_extracted_split_is_taken_and_not_its_archive(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-clean-100.tar", "a.wav")
    write_librispeech(tmp_path, "train-clean-100", {3: [0.2]})
    for train_split in (None, "train-clean-100"):
        assert names(open_splits(str(tmp_path), SOUND, train_split)[0]) == ["3-7-0000"]


def test_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import ClassLabel, Dataset, Features, Value

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    columns = {
        "audio": [{"bytes": encoded(seed=i), "path": f"{i}.flac"} for i in range(2)]
        + [{"bytes": None, "path": "x"}, None],
        "text": ["ONE", None, "THREE", "FOUR"],
        "speaker_id": [10, 12, 10, 10],
        "label": [1, 0, 1, 1],
    }
    sound = {"bytes": Value("binary"), "path": Value("string")}
    features = Features(
        {
            "audio": sound,
            "text": Value("string"),
            "speaker_id": Value("int64"),
            "label": ClassLabel(names=["no", "yes"]),
        }
    )
    Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "train-00000-of-00001.parquet")
    train, val = open_splits(str(tmp_path), SOUND)
    assert val is None
    assert texts(train) == ["ONE", None, "THREE", "FOUR"]
    labels, speakers = train.categories("label"), train.categories("speaker")
    assert labels is not None
    assert labels.ids.tolist() == [1, 0, 1, 1]
    assert speakers is not None
    assert speakers.names == ("10", "12")
    clips, broken = read_headers(train)
    assert clips.num_samples.tolist() == [16_000, 16_000]
    assert broken == {2: "there is no file x, here or beside the table", 3: "the row holds no sound"}
    assert len(read_audio(train.open(1), 0.5)) == 8_000
    with pytest.raises(UserError, match=r"data\.train_split: .* nosuch"):
        open_splits(str(tmp_path), SOUND, "nosuch")
    monkeypatch.setattr(train, "_rows", None)  # a name is given without a look at the sound
    assert train.name(2).endswith("row 2 (x)")
    assert train.name(3).endswith("row 3")


@pytest.mark.parametrize("root", ["nowhere", "empty", "text", "text/a.txt", "nowhere/*.wav"])
def test_roots_without_sound_are_explained(tmp_path: Path, root: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text/a.txt").write_text("")
    (tmp_path / "text/b.m4a").write_text("")
    with pytest.raises(UserError, match=r"data\.root") as error:
        open_splits(str(tmp_path / root), SOUND)
    assert ("1 .m4a. To use them, in their folder: for f in *.m4a; do ffmpeg" in str(error.value)) == (root == "text")


def test_headers_are_read_once_and_again_when_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        write_audio(tmp_path / f"{number}.wav", seconds=0.1 * (number + 1), rate=8_000)
    source, _ = open_splits(str(tmp_path), SOUND)
    first = read_headers(source)
    assert first.clips.num_samples.tolist() == [1_600, 3_200, 4_800]
    assert first.clips.sample_rate.tolist() == [8_000] * 3
    with monkeypatch.context() as patched:
        patched.setattr("d2v.data.sound.sound_files.scan", lambda *_: pytest.fail("was read again"))
        again = read_headers(open_splits(str(tmp_path), SOUND)[0])
    assert np.array_equal(again.clips.num_samples, first.clips.num_samples)
    write_audio(tmp_path / "3.wav", seconds=1)
    assert len(read_headers(open_splits(str(tmp_path), SOUND)[0]).clips) == 4


def test_broken_headers_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        write_audio(tmp_path / f"{number}.wav", seconds=0.1 * (number + 1))
    source, _ = open_splits(str(tmp_path), SOUND)
    denied: set[str] = set()
    looked: list[str] = []

    def look(file: Encoded) -> AudioInfo:
        looked.append(name := Path(str(file)).stem)
        if name in denied:
            raise BrokenSample("Permission denied")
        return audio_info(file)

    monkeypatch.setattr("d2v.data.sound.sound_files.audio_info", look)
    denied |= {"1", "3"}
    assert read_headers(source).broken == {1: "Permission denied", 3: "Permission denied"}
    looked.clear()
    denied -= {"1"}  # which leaves no trace in the file
    assert read_headers(source, retry=False).broken == {1: "Permission denied", 3: "Permission denied"}
    assert looked == []
    mended = read_headers(source)
    assert mended.broken == {3: "Permission denied"}
    assert mended.clips.num_samples.tolist() == [1_600, 3_200, 4_800]
    assert looked == ["1", "3"]
    looked.clear()
    assert len(read_headers(source).clips) == 3
    assert looked == ["3"]  # the other was kept
    with monkeypatch.context() as patched:
        patched.setattr("soundfile.__libsndfile_version__", "9.9")
        assert len(read_headers(source).clips) == 3
    assert len(looked) == 1 + 4


def test_a_table_labels_files_with_one_or_several_classes(tmp_path: Path) -> None:
    for name in ("a/1.wav", "b/1.wav", "b/2.wav"):
        write_audio(tmp_path / name, seconds=0.1)
    clips = read_headers(open_splits(str(tmp_path), SOUND)[0]).clips
    (tmp_path / "one.tsv").write_text("file\tlabel\na/1.wav\tdog\nb/2\tcat\nelsewhere.wav\tcow\n")
    kept, labels = class_labels(str(tmp_path / "one.tsv"), clips, None)
    assert labels.names == ("cat", "cow", "dog")
    assert isinstance(labels, Categories)
    assert list(zip(kept.tolist(), labels.ids.tolist(), strict=True)) == [(0, 2), (2, 0)]
    (tmp_path / "several.csv").write_text('a/1.wav,"dog,cat"\nb/1.wav,cat\n')
    kept, labels = class_labels(str(tmp_path / "several.csv"), clips, None)
    assert [labels.label(n).tolist() for n in range(len(kept))] == [[1, 1], [1, 0]]
    (tmp_path / "none.tsv").write_text("elsewhere.wav\tcow\n")
    with pytest.raises(UserError, match="no entry is a clip"):
        class_labels(str(tmp_path / "none.tsv"), clips, None)
    (tmp_path / "broken.tsv").write_text("a/1.wav\tdog\nb/1.wav\n")
    with pytest.raises(UserError, match="line 2"):
        class_labels(str(tmp_path / "broken.tsv"), clips, None)
    for table in ("a/1.wav\tdog\nb/1.wav\tcat\tcow\n", "file\tlabel\na/1.wav\tdog\tcat\n"):
        (tmp_path / "broken.tsv").write_text(table)
        with pytest.raises(UserError, match="line 2: a tab too many"):
            class_labels(str(tmp_path / "broken.tsv"), clips, None)
    (tmp_path / "trailing.tsv").write_text("a/1.wav\tdog\t\nb/1.wav\tcat\n")
    assert read_labels(tmp_path / "trailing.tsv", SOUND.suffixes)[1] == [("dog",), ("cat",)]
    with pytest.raises(UserError, match="neither speaker"):
        class_labels("speakers", clips, None)
    with pytest.raises(UserError, match="validation split has classes"):
        class_labels("folder", clips, ("a", "c"))
