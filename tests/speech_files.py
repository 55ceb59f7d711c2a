"""Small sound files for tests, made with soundfile."""

import io
from pathlib import Path

import numpy as np
import soundfile
from torch import Tensor

from d2v.data.sound.audio_reader import SAMPLE_RATE, AudioReader
from d2v.data.sources.source import Encoded

FORMATS = {
    ".flac": ("FLAC", "PCM_16"),
    ".wav": ("WAV", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}


def tones(seconds: float, rate: int = 16_000, seed: int = 0) -> np.ndarray:
    """Chirps with a little noise, far below half the lowest rate in use; float32 [samples]."""
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(seed).standard_normal(len(time)) * 0.001
    return (0.4 * np.sin(2 * np.pi * (300 + 40 * seed + 50 * time) * time) + noise).astype(np.float32)


def write_audio(
    path: Path, wave: np.ndarray | None = None, rate: int = 16_000, seconds: float = 1.0, seed: int = 0
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind, subtype = FORMATS[path.suffix]
    soundfile.write(path, tones(seconds, rate, seed) if wave is None else wave, rate, format=kind, subtype=subtype)
    return path


def encoded(suffix: str = ".flac", seconds: float = 1.0, seed: int = 0, rate: int = 16_000) -> bytes:
    buffer = io.BytesIO()
    kind, subtype = FORMATS[suffix]
    soundfile.write(buffer, tones(seconds, rate, seed), rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def write_librispeech(root: Path, subset: str, speakers: dict[int, list[float]], texts: bool = True) -> None:
    """Speakers with the seconds of their clips, one chapter each, and transcripts that name speaker and clip."""
    for speaker, lengths in speakers.items():
        folder = root / subset / str(speaker) / "7"
        lines = []
        for number, seconds in enumerate(lengths):
            stem = f"{speaker}-7-{number:04d}"
            write_audio(folder / f"{stem}.flac", seconds=seconds, seed=speaker + number)
            lines.append(f"{stem} SPEAKER {'ABCDEFGHIJ'[speaker % 10]} CLIP {'KLMNOPQRST'[number % 10]}\n")
        if texts:
            (folder / f"{speaker}-7.trans.txt").write_text("".join(lines))


def read_audio(file: Encoded, start: float = 0.0, duration: float | None = None) -> Tensor:
    """Part of a file in seconds, at 16 kHz; what goes beyond the end is left out."""
    with AudioReader(file) as reader:
        first = round(start * SAMPLE_RATE)
        stop = reader.num_samples if duration is None else first + round(duration * SAMPLE_RATE)
        return reader.read(first, stop)
