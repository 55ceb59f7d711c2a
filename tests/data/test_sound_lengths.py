"""A sound file is read to its end or refused with the reason, whatever its header says about its length."""

import io
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from speech_files import read_audio, tones

from d2v.data.sound.audio_reader import AudioReader, audio_info
from d2v.data.sound.mpeg_frames import frame_at, with_true_length
from d2v.errors import BrokenSample

SECONDS = 4


def bursts(rate: int) -> np.ndarray:
    """Noise and silence by turns, of which LAME makes frames of very different sizes."""
    time = np.arange(SECONDS * rate) / rate
    noise = np.random.default_rng(0).standard_normal(len(time))
    return np.where(np.sin(2 * np.pi * 0.8 * time) > 0, 0.1 * noise, 0.0)


def sound(kind: str, subtype: str, rate: int = 16_000, channels: int = 1) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.stack([bursts(rate)] * channels, axis=1), rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def mp3(rate: int = 16_000, channels: int = 1) -> bytes:
    return sound("MP3", "MPEG_LAYER_III", rate, channels)


def without_length(data: bytes) -> bytes:
    """An MP3 file without the frame that states its length."""
    frame = frame_at(data, 0)
    assert frame is not None
    assert data[frame.header_at : frame.header_at + 4] in (b"Xing", b"Info")
    return data[frame.size :]


def tag(size: int) -> bytes:
    """ID3v2 with a cover of so many bytes, some of which look like the beginning of a frame."""
    digits = bytes(size >> shift & 127 for shift in (21, 14, 7, 0))
    return b"ID3\4\0\0" + digits + (b"\xff\xfb\x90\x64" * size)[:size]


def wav_of_size(size: int) -> bytes:
    data = sound("WAV", "PCM_16")
    at = data.index(b"data") + 4
    return data[:at] + struct.pack("<I", size) + data[at + 4 :]


def flac_without_total() -> bytes:
    data = bytearray(sound("FLAC", "PCM_16"))
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    return bytes(data)


WHOLE = {
    "vbr 44100.mp3": without_length(mp3(44_100)),
    "vbr 48000 stereo.mp3": without_length(mp3(48_000, 2)),
    "vbr 22050.mp3": without_length(mp3(22_050)),
    "vbr 16000.mp3": without_length(mp3()),
    "vbr 11025.mp3": without_length(mp3(11_025)),
    "vbr named otherwise.wav": tag(10) + without_length(mp3()),
    "vbr and cover.mp3": tag(3_000_000) + without_length(mp3(44_100)),
    "cover.mp3": tag(3_000_000) + mp3(44_100),
    "tag at the end.mp3": mp3() + b"TAG".ljust(128),
    "garbage.mp3": b"\x12\xff\xfb\0" * 300 + mp3(),
    "two tags.mp3": tag(500) + tag(500) + mp3(),
    "streamed.wav": wav_of_size(0xFFFFFFFF),
    "a.rf64": sound("RF64", "PCM_16"),
    "a.w64": sound("W64", "PCM_16"),
    "8 bit.wav": sound("WAV", "PCM_U8"),
    "24 bit.wav": sound("WAV", "PCM_24"),
    "float.wav": sound("WAV", "FLOAT"),
    "96 kHz, 6 channels.flac": sound("FLAC", "PCM_24", 96_000, 6),
    "a.sph": sound("NIST", "PCM_16"),
    "ulaw.au": sound("AU", "ULAW"),
}
TWICE = {
    "joined.mp3": mp3(44_100) * 2,
    "joined, with tags.mp3": (tag(900) + mp3()) * 2,
    "joined vbr.mp3": without_length(mp3(22_050)) * 2,
}
REFUSED = {
    "joined.ogg": (sound("OGG", "VORBIS") * 2, "several Ogg streams.*ffmpeg"),
    "joined.opus": (sound("OGG", "OPUS") * 2, "several Ogg streams.*ffmpeg"),
    "cut.mp3": (mp3()[: len(mp3()) // 2], r"truncated: it ends after \d\.\d+ s, and its header says 4\.\d+ s"),
    "cut.ogg": (sound("OGG", "VORBIS")[:4_000], "holds no sound, or the recording was cut off"),
    "unfinished.wav": (wav_of_size(0), "holds no sound, or the recording was cut off"),
    "streamed.flac": (flac_without_total(), "does not state its length"),
}


@pytest.mark.parametrize("name", [*WHOLE, *TWICE])
def test_all_of_it_is_read(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    data = WHOLE.get(name) or TWICE[name]
    expected = SECONDS * (1 + (name in TWICE))
    (tmp_path / name).write_bytes(data)
    for file in (tmp_path / name, data):
        if isinstance(file, bytes) and name in ("garbage.mp3", "two tags.mp3"):
            continue  # libsndfile knows these by their names only
        assert abs(audio_info(file).duration - expected) < 0.3
        wave = read_audio(file)
        assert abs(len(wave) - expected * 16_000) < 0.3 * 16_000
        if not isinstance(file, bytes):
            assert "Warning" not in capfd.readouterr().err  # of libmpg123
        assert float(wave[-16_000:].std()) > 0.005  # the last second is no padding
        with AudioReader(file) as reader:
            part = reader.read(37_000, 50_000)
        assert np.abs((part - wave[37_000:50_000]).numpy()).max() < 1e-5


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_to_its_end_is_refused(tmp_path: Path, name: str) -> None:
    data, reason = REFUSED[name]
    (tmp_path / name).write_bytes(data)
    for file in (tmp_path / name, str(tmp_path / name), data):
        with pytest.raises(BrokenSample, match=reason):
            audio_info(file)


def test_a_file_whose_header_is_right_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    soundfile.write(path, tones(600, 8_000), 8_000)
    taken = 0
    with path.open("rb") as file:
        seek, read = file.seek, file.read

        def counted(size: int = -1) -> bytes:
            nonlocal taken
            data = read(size)
            taken += len(data)
            return data

        content = SimpleNamespace(seek=seek, read=counted)
        assert with_true_length(content) is None  # type: ignore[arg-type]
    assert 0 < taken < path.stat().st_size / 5
