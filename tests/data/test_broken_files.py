"""Whatever lies in a file, or stands in a file's place, is a broken sample with its reason, the same in each medium."""

import io
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from d2v.data.broken_samples import SkippedSamples
from d2v.data.samples import SampleDataset
from d2v.data.sound.audio_reader import AudioReader
from d2v.data.sound.sound_files import SOUND
from d2v.data.sources.source import Files
from d2v.errors import BrokenSample, UserError
from d2v.modalities.vision.decoding import IMAGES, Picture, decode_image
from d2v.modalities.vision.transforms import EvalTransform, TrainTransform

PICTURE, SOUNDS = [".jpg", ".png"], [".wav", ".flac", ".mp3", ".ogg"]


def good(ending: str) -> bytes:
    """A picture, or a second of noise."""
    file, generator = io.BytesIO(), np.random.default_rng(0)
    if ending in PICTURE:
        pixels = generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file, {".jpg": "JPEG", ".png": "PNG"}[ending])
    else:
        soundfile.write(file, generator.standard_normal(16_000) * 0.1, 16_000, format=ending[1:].upper())
    return file.getvalue()


def read(path: Path) -> None:
    """As a data set of the medium does."""
    if path.suffix in PICTURE:
        decode_image(Files(IMAGES, path.parent, [path.name]).read(0))
        return
    with AudioReader(Files(SOUND, path.parent, [path.name]).open(0)) as reader:
        reader.read(0, reader.num_samples)


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        before = os.getcwd()
        os.chdir(path.parent)  # names of sockets are short
        listener.bind(path.name)
        os.chdir(before)


IN_PLACE_OF_A_FILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "No such file or directory"),
    "dangling link": (lambda path: path.symlink_to("nowhere"), "No such file or directory"),
    "link to itself": (lambda path: path.symlink_to(path.name), "Too many levels of symbolic links"),
    "folder": (lambda path: path.mkdir(), "it is a folder and no file"),
    "pipe": (os.mkfifo, "it is a pipe and no file"),
    "socket": (listening, "it is a socket and no file"),
    "endless device": (lambda path: path.symlink_to("/dev/zero"), "it is a device and no file"),
}


@pytest.mark.parametrize("ending", [*PICTURE, *SOUNDS])
@pytest.mark.parametrize("kind", IN_PLACE_OF_A_FILE)
def test_what_is_no_file_is_neither_waited_for_nor_read(tmp_path: Path, kind: str, ending: str) -> None:
    make, reason = IN_PLACE_OF_A_FILE[kind]
    path = tmp_path / f"a{ending}"
    make(path)
    with pytest.raises(BrokenSample) as raised:
        read(path)
    assert str(raised.value) == reason


@pytest.mark.parametrize("ending", [*PICTURE, *SOUNDS])
def test_other_content_says_what_it_is_not(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a\n{ending}"
    other = "it is no picture" if ending in PICTURE else "it is no sound file"
    page = b"<!DOCTYPE html><html><body>404</body></html>"
    noise = np.random.default_rng(1).bytes(3000)
    for data in (b"", page, b"hello\n" * 50, bytes(len(good(ending))), b"\0", noise):
        path.write_bytes(data)
        with pytest.raises(BrokenSample) as raised:
            read(path)
        assert str(raised.value) == (other if data else "the file is empty")


@pytest.mark.parametrize("ending", [*PICTURE, *SOUNDS])
@pytest.mark.parametrize("share", [0.35, 0.6])
def test_a_cut_file_is_truncated(tmp_path: Path, ending: str, share: float) -> None:
    path, data = tmp_path / f"a{ending}", good(ending)
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(BrokenSample, match=r"it is truncated|it is damaged|recording was cut off"):
        read(path)
    path.write_bytes(data)
    read(path)


@pytest.mark.parametrize(("stated", "reason"), [(64_000, "2.00 s"), (0xFFFFFFFF, None), (0x7FFFF000, None)])
def test_a_streamed_wave_need_not_know_its_length(tmp_path: Path, stated: int, reason: str | None) -> None:
    data = bytearray(good(".wav"))
    data[40:44] = struct.pack("<I", stated)
    path = tmp_path / "a.wav"
    path.write_bytes(data)
    if reason is None:
        read(path)
        return
    with pytest.raises(BrokenSample, match=f"it ends after 1.00 s, and its header says {reason}"):
        read(path)


@pytest.mark.parametrize("rate", [1, 7, 50, 2_000_000_000])
def test_a_rate_that_is_no_sounds_is_refused(tmp_path: Path, rate: int) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(16_000), rate)
    with pytest.raises(BrokenSample, match=f"its header states {rate:,} samples a second"):
        read(tmp_path / "a.wav")


@pytest.mark.parametrize("size", [(1, 1), (20_000, 1), (1, 20_000)])
def test_pictures_of_any_shape_take_little_memory(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    resize = Image.Image.resize

    def noted(image: Image.Image, size: tuple[int, int], *args: object, **options: object) -> Image.Image:
        sizes.append(size[0] * size[1])
        return resize(image, size, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Image.Image, "resize", noted)
    for transform in (EvalTransform((224, 224)), TrainTransform((224, 224), 0.2, 0.5, 0.4)):
        assert transform(Picture(Image.new("RGB", size))).shape == (3, 224, 224)
    assert max(sizes) < 1e6  # resized whole, a picture of 20,000 x 1 has 1.3 billion pixels


class Broken(SampleDataset):
    """Samples of which some are broken; counts how many were tried."""

    def __init__(self, num_samples: int, broken: range, max_fraction: float) -> None:
        super().__init__(num_samples, 0, SkippedSamples(lambda index: f"file\n{index}", num_samples, max_fraction))
        self.broken, self.tried = broken, 0

    def load(self, index: int) -> tuple[torch.Tensor, int | None]:
        self.tried += 1
        if index in self.broken:
            raise BrokenSample("it is truncated")
        return torch.zeros(1), None


def read_all(data: Broken, indices: range) -> None:
    for index in indices:
        data[(0, index)]
        data.skipped.check()


def test_the_stated_share_is_of_all_samples_wherever_the_broken_ones_lie(caplog: pytest.LogCaptureFixture) -> None:
    at_once = Broken(2_000, range(20), 0.01)  # a folder in which all are broken, met first
    for _ in range(2):
        read_all(at_once, range(2_000))
    assert at_once.skipped.count == 20
    named = [record.getMessage() for record in caplog.records]
    assert sorted(named) == sorted(f"data: skipped file\\n{index}: it is truncated" for index in range(20))
    one_more = Broken(2_000, range(0, 2_000, 95), 0.01)
    with pytest.raises(UserError, match=r"21 of .* files tried so far cannot be read"):
        read_all(one_more, range(2_000))


@pytest.mark.parametrize("gone_from", [0, 5_000])
def test_a_folder_that_is_gone_is_not_searched_to_its_end(gone_from: int) -> None:
    data = Broken(1_000_000, range(0), 0.01)
    read_all(data, range(gone_from))
    data.broken = range(1_000_000)
    data.tried = 0
    with pytest.raises(UserError, match=r"50 of (50|5050) files tried so far cannot be read(.|\n)*Restore"):
        read_all(data, range(gone_from, 1_000_000))
    assert data.tried == 50
