"""The speech demo: a LibriSpeech tree of synthetic voices, the same each time, left alone when finished."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from d2v.cli import main
from d2v.demo.demo_folder import DemoSummary
from d2v.demo.espeak import Utterance, synthesise
from d2v.demo.sentences import DIGITS, vocabulary, write_sentences
from d2v.demo.voices import HELD_OUT_VOICES, VOICES, prepare_voices
from d2v.errors import UserError


def tiny(root: Path, **changes: int) -> DemoSummary:
    counts = {"train_sentences": 2, "val_sentences": 1, "train_digits": 1, "val_digits": 1}
    return prepare_voices(root, **{**counts, **changes})


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DemoSummary]:
    root = tmp_path_factory.mktemp("demo") / "speech"
    return root, tiny(root)


def test_sentences_are_different_short_and_of_one_vocabulary() -> None:
    sentences = write_sentences(1_120, seed=0)
    assert len(set(sentences)) == len(sentences) == 1_120
    assert sentences == write_sentences(1_120, seed=0) != write_sentences(1_120, seed=1)
    assert {len(sentence.split()) for sentence in sentences} <= set(range(4, 9))
    assert {word for sentence in sentences for word in sentence.split()} == vocabulary()
    assert 60 <= len(vocabulary()) <= 100
    assert set(DIGITS) < vocabulary()
    assert all(word.isalpha() and word.isupper() for word in vocabulary())
    with pytest.raises(UserError, match="ask for fewer"):
        write_sentences(20_001, seed=0)


def test_it_is_a_tree_as_librispeech_has_it(tree: tuple[Path, DemoSummary]) -> None:
    root, summary = tree
    assert summary.created
    assert summary.found["sentences"] == {"train": 32, "val": 16}
    assert summary.found["digits"] == {"train": 160, "val": 40}
    texts = {}
    for split in ("train", "val"):
        transcripts = sorted((root / split).glob("*/*/*.trans.txt"))
        assert len(transcripts) == len(VOICES)
        for file in transcripts:
            assert file.name == f"{file.parent.parent.name}-{file.parent.name}.trans.txt"
            rows = dict(line.split(" ", 1) for line in file.read_text().splitlines())
            assert sorted(rows) == sorted(path.stem for path in file.parent.glob("*.flac"))
            texts |= rows
    assert len(texts) == len(set(texts.values())) == 48  # no sentence twice
    speakers = [{path.name for path in (root / split).iterdir()} for split in ("train", "val")]
    assert speakers[0] == speakers[1]
    voices = {}
    for split in ("train", "val"):
        folders = sorted((root / "digits" / split).iterdir())
        assert sorted(folder.name for folder in folders) == sorted(DIGITS)
        voices[split] = {file.name.split("-")[0] for folder in folders for file in folder.glob("*.flac")}
        for folder in folders:  # their transcripts, for recognition
            rows = dict(line.split(" ", 1) for line in (folder / f"{folder.name}.trans.txt").read_text().splitlines())
            assert sorted(rows) == sorted(path.stem for path in folder.glob("*.flac"))
            assert set(rows.values()) == {folder.name}
    assert voices["train"] == speakers[0]
    assert len(voices["val"]) == len(HELD_OUT_VOICES)
    assert not voices["val"] & voices["train"]


def test_it_sounds(tree: tuple[Path, DemoSummary]) -> None:
    root, summary = tree
    seconds = 0.0
    for file in sorted(root.rglob("*.flac")):
        samples, rate = soundfile.read(file, dtype="float32")
        assert (rate, samples.ndim) == (16_000, 1)
        duration = len(samples) / rate
        assert 0.3 < duration < 1.5 if "digits" in file.parts else 1.0 < duration < 4.5
        assert 0.2 < np.abs(samples).max() < 0.9
        assert samples.std() > 0.01
        seconds += duration
    assert summary.found["hours"] == pytest.approx(seconds / 3600)


def test_it_says_what_it_is(tree: tuple[Path, DemoSummary]) -> None:
    root, _ = tree
    readme = (root / "README.txt").read_text()
    assert readme.startswith("SYNTHETIC SPEECH")
    assert "GPL" in readme
    assert (root / "SPEAKERS.TXT").read_text().count("(synthetic)") == len(VOICES) + len(HELD_OUT_VOICES)


def test_it_is_the_same_each_time_and_left_alone_when_finished(tree: tuple[Path, DemoSummary], tmp_path: Path) -> None:
    root, summary = tree
    again = tiny(root)
    assert not again.created
    assert again.found == summary.found
    tiny(tmp_path / "two")
    files = [sorted(path.relative_to(one) for path in one.rglob("*.*")) for one in (root, tmp_path / "two")]
    assert files[0] == files[1]
    assert all((root / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in files[0])
    next((tmp_path / "two" / "val").rglob("*.flac")).unlink()
    assert tiny(tmp_path / "two").created  # unfinished


def test_a_different_or_damaged_tree_is_made_anew(tmp_path: Path) -> None:
    tiny(tmp_path)
    marker = tmp_path / "demo.json"
    stored = json.loads(marker.read_text())
    assert stored["demo"] == "speech"
    marker.write_text(json.dumps({**stored, "found": None}))
    (tmp_path / "train" / "old.flac").write_text("of an earlier call")
    assert tiny(tmp_path, train_sentences=1).created
    assert not (tmp_path / "train" / "old.flac").exists()
    assert len(list((tmp_path / "train").rglob("*.flac"))) == len(VOICES)


def test_other_peoples_files_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="no demo data"):
        prepare_voices(tmp_path)
    with pytest.raises(UserError, match="val_digits 0: all must be above 0"):
        tiny(tmp_path / "new", val_digits=0)


def test_the_demo_of_another_kind_is_not_touched(tmp_path: Path) -> None:
    from d2v.demo.photos import prepare_photos

    prepare_photos(tmp_path, image_size=32, train_crops=1, val_crops=1)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    with pytest.raises(UserError, match="no demo data of speech"):
        tiny(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == files


def test_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "espeakng_loader" else find(name))
    assert main(["prepare", "demo", "speech", "--output", str(tmp_path / "new")]) == 2
    assert "pip install 'espeakng-loader>=" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_voice_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match="it has no voice martian"):
        list(synthesise([Utterance("one", "en", 160, 50), Utterance("two", "martian", 160, 50)]))
