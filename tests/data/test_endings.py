"""Files are read by their endings, and those that are left out are said in one line."""

import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from d2v.data.sound.sound_files import SOUND
from d2v.data.sources.splits import open_everything, open_splits
from d2v.errors import UserError
from d2v.modalities.vision.decoding import IMAGES, decode_image

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 48, 3), dtype=np.uint8))


@pytest.mark.parametrize("name", ["jfif", "jpe", "avif", "jp2", "tga", "pcx", "qoi", "ico", "pbm", "dds"])
def test_pictures_that_pillow_decodes_are_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "A").mkdir()
    PICTURE.save(tmp_path / "A" / f"a.{name.upper()}", format={"jfif": "JPEG", "jpe": "JPEG"}.get(name))
    source = open_everything(str(tmp_path), IMAGES)
    assert len(source) == 1
    assert decode_image(source.read(0)).mode == "RGB"


@pytest.mark.parametrize("name", ["sph", "nist", "rf64", "voc", "wave"])
def test_sound_that_libsndfile_decodes_is_read(tmp_path: Path, name: str) -> None:
    kind = {"sph": "NIST", "wave": "WAV"}.get(name, name.upper())
    soundfile.write(tmp_path / f"a.{name}", np.zeros(800), 8_000, format=kind, subtype="PCM_16")
    assert len(open_everything(str(tmp_path), SOUND)) == 1


def write(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_what_is_left_out_is_said_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, "train/a.wav", "train/b.M4A", "train/b.txt", "train/.DS_Store", "train/x/c.flac", "train/x/d.aac")
    write(tmp_path, "val/a.wav", "val/b.m4a", "val/labels.csv", "val/LICENSE", "val/speech")
    open_splits(str(tmp_path), SOUND)
    assert caplog.messages == [
        f"data: {tmp_path}: reading 2 .wav, 1 .flac; left out: 2 .m4a, 1 .aac, 1 without an ending. To use them, "
        'in their folder: for f in *.M4A *.aac *.m4a; do ffmpeg -i "$f" -ac 1 -ar 16000 "${f%.*}.flac"; done'
    ]
    caplog.clear()
    open_everything(str(tmp_path / "**" / "*"), SOUND, "--input")
    assert "left out: 2 .m4a, 1 .aac, 1 without" in caplog.messages[0]


@pytest.mark.parametrize("deep", ["val", "deep/val"])
def test_a_validation_split_within_the_training_files_is_counted_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, deep: str
) -> None:
    write(tmp_path, "a.png", "b.heic", f"{deep}/a.png", f"{deep}/c.heic")
    open_splits(str(tmp_path), IMAGES, None, deep)
    assert "left out: 2 .heic. To use pictures in them, convert them" in caplog.messages[0]


def test_nothing_is_said_of_lists_and_texts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    write(tmp_path, "a.wav", "a.txt", "a.TextGrid", "table.csv", "README", "Thumbs.db", ".hidden")
    open_everything(str(tmp_path), SOUND)
    assert caplog.messages == []


def test_a_root_without_samples_says_what_is_there(tmp_path: Path) -> None:
    write(tmp_path, "a.heic", "b.heic", "c.txt", "d.zip")
    message = r"no images \(.jpg, .*\) in .*There are: 2 .heic, 1 .txt, 1 .zip. To use pictures .*png \*.heic"
    with pytest.raises(UserError, match=message):
        open_splits(str(tmp_path), IMAGES)
    with pytest.raises(UserError, match=r"--input .*a.heic is a file of no known kind.* convert them to .png"):
        open_everything(str(tmp_path / "a.heic"), IMAGES, "--input")
    with pytest.raises(UserError, match=r"1 .zip. Rename those that are sound: .flac, .wav, .*") as refusal:
        open_splits(str(tmp_path), SOUND)
    assert "ffmpeg" not in str(refusal.value)
