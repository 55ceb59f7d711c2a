"""Read sound files at 16 kHz mono: any part of a file, without decoding the rest."""

import functools
import io
import math
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from fractions import Fraction
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from d2v.data.sound.mpeg_frames import with_true_length
from d2v.data.sources.source import Encoded
from d2v.errors import BrokenSample
from d2v.regular_files import open_regular

SAMPLE_RATE = 16_000
"""Samples per second of every waveform that enters a model."""

SUFFIXES = (
    ".flac", ".wav", ".mp3", ".ogg", ".oga", ".opus", ".sph", ".nist", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf",
    ".w64", ".rf64", ".bwf", ".wave", ".mp2", ".mpga", ".voc", ".svx", ".8svx", ".avr", ".paf", ".pvf",
)  # fmt: skip
"""Endings of what libsndfile reads."""
NOT_READ = (".m4a", ".m4b", ".aac", ".wma", ".mp4", ".webm", ".amr", ".3gp", ".mkv", ".mov", ".avi", ".ape", ".wv")
"""Endings of sound that must be converted first."""

# A kernel of torchaudio has orig x new taps: little for every usual rate (44,100 Hz is 441:160), but gigabytes for
# 22,051 Hz. The nearest ratio of small numbers is off by at most a few in a million, some samples in a minute.
_LARGEST_FACTOR = 640
# Decoders of these formats give other values right after a seek, unless they have decoded the packets before.
_MP3 = ("MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III")
_MPEG_ENDINGS = (".mp3", ".mp2", ".mpga")
_OGG_BEGIN = b"OggS\0\2"  # of the first page of a stream
_LOSSY = ("OPUS", "VORBIS", *_MP3)
_PREROLL_SECONDS = 0.25
# After a seek into the last page of an Ogg file libvorbis is off by part of a packet. A page has at most 255 packets.
_VORBIS_PAGE_SECONDS = 10
# libsndfile gives the largest integer where a header does not state a length, as a streaming encoder leaves it.
_LONGEST_SECONDS = 1_000 * 3600
# In what libsndfile notes about a header that states more bytes than there are, as streaming encoders leave it, too.
_TRUNCATED = re.compile(r"(?:data|SSND|BODY|Data Size)\s*: (\d+) \(should be ([1-9]\d*)\)")
_UNKNOWN_SIZE = 0x7FF00000
_RATES = (100, 1_000_000)  # Hz; what is to be resampled from others takes gigabytes
_NO_SOUND = "Format not recognised"
# Full scale is 1, or 2**31 of integers that were written as they are. Squares of much more overflow where a waveform is
# normalised: those of this do not in 10,000 hours.
_LOUDEST = 1e12
_STDERR_LOCK = threading.Lock()


class AudioInfo(NamedTuple):
    """The header of a sound file."""

    sample_rate: int
    num_samples: int
    """At the file's own rate."""
    channels: int

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.num_samples / self.sample_rate


def audio_info(file: Encoded) -> AudioInfo:
    """Read the header only.

    Raises:
        BrokenSample: it cannot be read, is no sound file, or holds no sound.
    """
    with AudioReader(file) as reader:
        return reader.info


def samples_at_16k(num_samples: int, sample_rate: int) -> int:
    """How many samples a clip has after resampling."""
    return math.ceil(num_samples / _ratio(sample_rate))


class AudioReader:
    """An open sound file, read in slices of 16 kHz samples: a slice equals that of the whole resampled file.

    Args:
        file: path, content or opened file.

    Raises:
        BrokenSample: it cannot be read, is no sound file, or holds no sound.
    """

    def __init__(self, file: Encoded) -> None:
        self._file, kind = _opened(file)
        info = self._file
        self.info = AudioInfo(info.samplerate, info.frames, info.channels)
        try:
            if info.frames < 1:
                raise BrokenSample("it holds no sound, or the recording was cut off before its header was finished")
            if not _RATES[0] <= info.samplerate <= _RATES[1]:
                raise BrokenSample(f"its header states {info.samplerate:,} samples a second, which is no sound")
            if self.info.duration > _LONGEST_SECONDS:
                raise BrokenSample("its header does not state its length; encode it again")
            if stated := _TRUNCATED.search(info.extra_info):
                size, there = map(int, stated.groups())
                if 1.01 * there < size < _UNKNOWN_SIZE:
                    raise _truncated(self.info.duration, self.info.duration * size / there)
        except BrokenSample:
            self.close()
            raise
        self._ratio = _ratio(info.samplerate)
        self._position, self._preroll, self._last_seek = 0, 0, info.frames
        if kind in _LOSSY:
            self._preroll = round(_PREROLL_SECONDS * info.samplerate)
        if kind == "VORBIS":
            self._last_seek -= _VORBIS_PAGE_SECONDS * info.samplerate
        self._is_whole = kind.startswith("PCM")  # numbers, which are finite and within full scale
        self._complains = kind in _MP3

    @property
    def num_samples(self) -> int:
        """At 16 kHz."""
        return math.ceil(self.info.num_samples / self._ratio)

    def read(self, start: int, stop: int) -> Float[Tensor, "samples"]:
        """Samples ``start`` to ``stop`` at 16 kHz; positions beyond the end are left out.

        Raises:
            BrokenSample: it cannot be decoded, ends before its header says, or holds values that are not finite or far
                beyond full scale.
        """
        start, stop = max(0, start), min(stop, self.num_samples)
        if stop <= start:
            return torch.zeros(0)
        if self._ratio == 1:
            return self._decode(start, stop)
        margin = _resampler(self._ratio)[1]
        old, new = self._ratio.numerator, self._ratio.denominator
        # The kernel repeats after `old` source samples, `new` samples at 16 kHz: decoding must start on such a border.
        borders = max(0, start // new - math.ceil(margin / old))
        last = min(math.ceil(stop * self._ratio) + margin, self.info.num_samples)
        resampled = resample(self._decode(borders * old, last), self.info.sample_rate)
        return resampled[start - borders * new : stop - borders * new].clone()  # not a view that keeps the margins

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "AudioReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _decode(self, start: int, stop: int) -> Float[Tensor, "samples"]:
        """Samples at the file's own rate, its channels averaged."""
        import soundfile

        early = max(0, min(start - self._preroll, self._last_seek))
        try:
            with _silent_stderr() if self._complains and early else nullcontext():
                if early != self._position:
                    self._file.seek(early)
                data = self._file.read(stop - early, dtype="float32", always_2d=True)
                self._position = early + len(data)
        except (soundfile.SoundFileError, RuntimeError, OSError, MemoryError) as error:
            raise BrokenSample(
                f"it is truncated or damaged after {start / self.info.sample_rate:.1f} s ({_why(error)})"
            ) from error
        if len(data) < stop - early:
            raise _truncated((early + len(data)) / self.info.sample_rate, self.info.duration)
        data = data[start - early :]
        largest = 0.0
        if not self._is_whole:  # before channels could cancel each other; NaN where there is one
            largest = float(max(data.max(), -data.min()))
        if not math.isfinite(largest):
            raise BrokenSample("it holds values that are not finite (NaN or infinity)")
        if largest > _LOUDEST:
            raise BrokenSample(f"it holds values up to {largest:.3g}, and full scale is 1")
        mono = data[:, 0]
        if data.shape[1] > 1:
            mono = data.mean(axis=1)
        return torch.from_numpy(np.ascontiguousarray(mono))


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Hide the lines that libmpg123 writes after each seek, about missing bits that the preroll supplies."""
    with _STDERR_LOCK:
        kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(null, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(null)


def _opened(file: Encoded) -> tuple[Any, str]:
    """The open file, with its true length, and the kind of its values."""
    import soundfile

    by_name = isinstance(file, (str, os.PathLike)) and os.fspath(file).lower().endswith(_MPEG_ENDINGS)
    mended = None
    try:
        if by_name:  # libmpg123 would complain of a wrong length
            mended = _with_true_length(file)
        sound = _sound_file(mended or file)
        kind = sound.subtype  # each look takes as long as a tenth of a second takes to decode
        if kind in _MP3 and not by_name:
            mended = _with_true_length(file)
            if mended is not None:
                sound.close()
                sound = _sound_file(mended)
        if kind in _LOSSY and sound.format == "OGG":
            _require_one_stream(file)
        # Else soundfile seeks to where it is after each read, for which a FLAC decoder decodes part of the file again.
        sound.seekable = lambda: False
    except OSError as error:
        raise BrokenSample(error.strerror or str(error)) from error
    except (soundfile.SoundFileError, RuntimeError, TypeError) as error:
        reason = _why(error)
        raise BrokenSample("it is no sound file" if reason == _NO_SOUND else f"it is damaged ({reason})") from error
    return sound, kind


def _truncated(seconds: float, stated: float) -> BrokenSample:
    return BrokenSample(f"it is truncated: it ends after {seconds:.2f} s, and its header says {stated:.2f} s")


def _sound_file(file: Encoded) -> Any:
    import soundfile

    if isinstance(file, (str, os.PathLike)):
        with open_regular(file) as opened:
            if not os.fstat(opened.fileno()).st_size:
                raise BrokenSample("the file is empty")
        # As bytes: soundfile refuses names that are not UTF-8.
        return soundfile.SoundFile(os.fsencode(file))
    if isinstance(file, bytes):
        if not file:
            raise BrokenSample("the file is empty")
        file = io.BytesIO(file)
    return soundfile.SoundFile(file)


def _with_true_length(file: Encoded) -> bytes | None:
    with _bytes_of(file) as content:
        return with_true_length(content)


def _require_one_stream(file: Encoded) -> None:
    """Ogg files may be put one behind the other, and libsndfile would read the first one only."""
    with _bytes_of(file) as content:
        if content.read().find(_OGG_BEGIN, len(_OGG_BEGIN)) >= 0:
            raise BrokenSample(
                "it holds several Ogg streams, of which only the first would be read; make it one file: "
                "ffmpeg -i IN.ogg OUT.flac"
            )


@contextmanager
def _bytes_of(file: Encoded) -> Iterator[BinaryIO]:
    """The file as it is stored, from its beginning; one that is open already keeps its position."""
    if isinstance(file, (str, os.PathLike)):
        with open_regular(file) as opened:
            yield opened
    elif isinstance(file, bytes):
        yield io.BytesIO(file)
    else:
        position = file.tell()
        file.seek(0)
        yield file
        file.seek(position)


def _why(error: BaseException) -> str:
    """The message of libsndfile without the name of the file, which all messages about a sample state anyway."""
    text = getattr(error, "error_string", None) or str(error)
    if text.startswith("File does not exist"):  # which it says of damaged MP3 files that do
        return _NO_SOUND
    return text.strip().rstrip(".") or type(error).__name__


@functools.cache
def _ratio(sample_rate: int) -> Fraction:
    """Source samples per sample at 16 kHz."""
    return Fraction(sample_rate, SAMPLE_RATE).limit_denominator(_LARGEST_FACTOR)


def resample(samples: Float[Tensor, "old"], sample_rate: int) -> Float[Tensor, "new"]:
    """Resample to 16 kHz, band-limited; beyond both ends there is silence."""
    ratio = _ratio(sample_rate)
    # In whole seconds: for each new length oneDNN prepares the convolution again (longer than the convolution takes),
    # and keeps what it prepared.
    padded = F.pad(samples, (0, -len(samples) % sample_rate))
    return _resampler(ratio)[0](padded)[: math.ceil(len(samples) / ratio)]


@functools.lru_cache(maxsize=8)
def _resampler(ratio: Fraction) -> tuple[Callable[[Tensor], Tensor], int]:
    """The resampler and the number of source samples that it needs on either side; computed once per process."""
    from torchaudio.transforms import Resample

    resample = Resample(ratio.numerator, ratio.denominator)
    return resample, int(resample.width) + ratio.numerator
