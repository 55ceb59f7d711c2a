"""Sound of every kind becomes 16 kHz mono; any part of it equals that part of the whole."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from speech_files import FORMATS, encoded, read_audio, tones, write_audio
from torchaudio.transforms import Resample

from d2v.data.sound.audio_reader import AudioReader, audio_info, resample, samples_at_16k
from d2v.data.sound.sound_items import sound_in
from d2v.errors import BrokenSample


@pytest.mark.parametrize("suffix", FORMATS)
def test_formats_come_back_as_they_were_written(tmp_path: Path, suffix: str) -> None:
    wave = tones(3)
    path = write_audio(tmp_path / f"a{suffix}", wave)
    assert audio_info(path) == (16_000, 48_000, 1)
    assert audio_info(path).duration == 3
    read = read_audio(path)
    assert read.shape == (48_000,)
    assert read.dtype == torch.float32
    lossless = suffix in (".flac", ".wav")
    tolerance = 1 / 32_768 if lossless else 0.05
    inside = slice(0, None) if lossless else slice(2_000, -2_000)
    assert np.abs(read.numpy() - wave)[inside].max() < tolerance
    assert torch.equal(read_audio(path.read_bytes()), read)
    with path.open("rb") as file:
        assert torch.equal(read_audio(file), read)


NOT_IN_OPUS = (22_050, 44_100)
KINDS = [
    (s, r) for s in FORMATS for r in (8_000, 16_000, *NOT_IN_OPUS, 48_000) if (s, r in NOT_IN_OPUS) != (".opus", True)
]


@pytest.mark.parametrize(("suffix", "rate"), KINDS)
def test_a_part_equals_that_part_of_the_whole(
    tmp_path: Path, suffix: str, rate: int, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_audio(tmp_path / f"a{suffix}", rate=rate, seconds=4)
    with AudioReader(path) as reader:
        assert reader.num_samples == 64_000
        whole = reader.read(0, 64_000)
        for start, stop in ((0, 1), (1, 900), (12_345, 23_456), (40_001, 64_000), (63_999, 70_000)):
            part = reader.read(start, stop)
            assert part.shape == (min(stop, 64_000) - start,)
            # Opus decodes a little differently after a seek; everything else is exact but for rounding.
            assert (part - whole[start:stop]).abs().max() < (5e-3 if suffix == ".opus" else 1e-5)
    assert capfd.readouterr().err == ""  # libmpg123 would complain after each seek


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 22_051, 44_100, 48_000, 96_000])
def test_resampling_keeps_the_pitch_and_the_length(tmp_path: Path, rate: int) -> None:
    time = np.arange(rate * 2) / rate
    path = write_audio(tmp_path / "a.wav", (0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32), rate)
    read = read_audio(path)
    assert len(read) == samples_at_16k(rate * 2, rate)
    assert abs(len(read) - 32_000) <= 1
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(len(read)) / 16_000)
    assert np.abs(read.numpy() - expected)[400:-400].max() < 0.01


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100])
@pytest.mark.parametrize("num_samples", [1, 100, 7_999, 44_100, 50_001])
def test_resampling_is_torchaudios(rate: int, num_samples: int) -> None:
    wave = torch.randn(num_samples)
    torch.testing.assert_close(resample(wave, rate), Resample(rate, 16_000)(wave))


def test_stereo_is_averaged(tmp_path: Path) -> None:
    left, right = tones(1), tones(1, seed=3)
    read = read_audio(write_audio(tmp_path / "a.flac", np.stack([left, right], axis=1)))
    assert np.abs(read.numpy() - (left + right) / 2).max() < 1 / 32_768
    assert audio_info(write_audio(tmp_path / "b.mp3", np.stack([left, left], axis=1))).channels == 2


def test_start_and_duration_are_seconds(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.flac", seconds=2)
    whole = read_audio(path)
    assert torch.equal(read_audio(path, 0.5, 1.0), whole[8_000:24_000])
    assert torch.equal(read_audio(path, 1.5), whole[24_000:])
    assert len(read_audio(path, 5.0)) == 0


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"hello " * 100, "no sound file"),
        (b"fLaC" + bytes(60), "it is damaged"),
        (encoded(".wav", 0), "holds no sound"),
        (encoded(".wav", 1)[:9_000], r"it is truncated: it ends after 0\.28 s, and its header says 1\.00 s"),
        (encoded(".flac", 3)[:12_000], "it is truncated or damaged after"),
        (encoded(".mp3", 3)[:4_000], "truncated"),
        (encoded(".flac")[:30], "it is damaged"),
    ],
)
def test_broken_files_say_why(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "a.flac").write_bytes(data)
    for file in (tmp_path / "a.flac", data):
        with pytest.raises(BrokenSample, match=reason):
            read_audio(file)


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    for value in (np.nan, np.inf):
        wave = tones(1)
        wave[700] = value
        soundfile.write(tmp_path / "a.wav", wave, 16_000, subtype="FLOAT")
        with pytest.raises(BrokenSample, match="not finite"):
            read_audio(tmp_path / "a.wav")


@pytest.mark.parametrize("value", [3e38, -3e38, 1e30, 1e13])
def test_values_that_would_overflow_are_refused(tmp_path: Path, value: float) -> None:
    """Where a waveform is normalised; also at another rate, and in channels whose mean is small."""
    for rate in (16_000, 44_100):
        wave = np.stack([tones(1, rate), tones(1, rate)], axis=1)
        wave[700] = value, -value
        soundfile.write(tmp_path / "a.wav", wave, rate, subtype="FLOAT")
        with pytest.raises(BrokenSample, match=r"it holds values up to [13]e\+\d\d, and full scale is 1"):
            read_audio(tmp_path / "a.wav")
    file = sound_in(tones(1).astype(np.float64) * 1e300)
    with pytest.raises(BrokenSample, match="not finite"):
        read_audio(file)


def test_integers_that_were_written_as_they_are_stay(tmp_path: Path) -> None:
    """Of 32 bits and of an hour: full scale for what reads them."""
    soundfile.write(tmp_path / "a.wav", tones(1) * 2.0**31, 16_000, subtype="FLOAT")
    wave = read_audio(tmp_path / "a.wav")
    assert torch.nn.functional.layer_norm(wave, wave.shape).isfinite().all()


def test_a_name_that_is_not_utf_8_is_read(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.wav")
    path.write_bytes(encoded(".wav"))
    for file in (path, str(path)):
        assert audio_info(file).num_samples == 16_000
        assert len(read_audio(file)) == 16_000


def test_missing_file_and_folder_are_broken(tmp_path: Path) -> None:
    with pytest.raises(BrokenSample, match="No such file"):
        audio_info(tmp_path / "none.flac")
    with pytest.raises(BrokenSample):
        audio_info(tmp_path)


class _Counting(io.BytesIO):
    """Counts the bytes that are read."""

    total = 0

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = super().readinto(buffer)
        self.total += count
        return count

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.total += len(data)
        return data


def test_a_crop_of_a_two_hour_file_reads_little_of_it() -> None:
    buffer = io.BytesIO()
    minute = (tones(60, 8_000) * 32_767).astype(np.int16)
    with soundfile.SoundFile(buffer, "w", 8_000, 1, format="FLAC", subtype="PCM_16") as file:
        for _ in range(120):
            file.write(minute)
    size = len(buffer.getvalue())
    counting = _Counting(buffer.getvalue())
    assert audio_info(counting).duration == 7_200
    assert counting.total < size // 100
    counting.total = 0
    counting.seek(0)
    assert len(read_audio(counting, 5_000, 10)) == 160_000
    assert counting.total < size // 20
