"""Waveforms: crops of clips, and batches of them."""

import functools
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from d2v.data.broken_samples import SkippedSamples
from d2v.data.samples import SampleDataset
from d2v.data.sound.audio_reader import SAMPLE_RATE, AudioReader
from d2v.data.sound.clip_labels import SoundSplit
from d2v.errors import BrokenSample

Prepare = Callable[[Tensor], Tensor]
"""From a waveform at 16 kHz to what an encoder reads; it draws from torch's global CPU generator where it augments."""

# Decoding and resampling take many times the memory of their result.
_SLICE = 60 * SAMPLE_RATE


class SoundDataset(SampleDataset):
    """Waveforms at 16 kHz, or what is computed from them.

    Args:
        split: clips and labels.
        max_samples: length to which longer clips are cropped; None: never.
        random_crop: crop at a random place instead of the beginning.
        prepare: what makes inputs of crops, such as :func:`unit_variance`; None: they are inputs.
        seed: seed of the crops.
        skipped: where broken clips are counted.
        keep_silent: whether a clip that holds only silence is as good as any other: nothing is to be learned from it,
            but what a model makes of it is a result.
    """

    broken_for_good = False
    stages = {
        "decode": (  # with reading, which libsndfile does by itself
            "d2v.data.sound.audio_reader.AudioReader.__init__",
            "d2v.data.sound.audio_reader.AudioReader.read",
        ),
        "spectrum": ("d2v.data.filter_banks.Spectrograms.of",),
    }

    def __init__(
        self,
        split: SoundSplit,
        max_samples: int | None,
        random_crop: bool,
        prepare: Prepare | None,
        seed: int,
        skipped: SkippedSamples,
        keep_silent: bool = False,
    ) -> None:
        super().__init__(len(split.clips), seed, skipped)
        self._lengths = split.clips.num_samples
        if max_samples is not None:
            self._lengths = np.minimum(self._lengths, max_samples)
        self._split, self._clips = split, split.clips
        self._random_crop = random_crop
        self._prepare = prepare
        self._keep_silent = keep_silent

    @property
    def lengths(self) -> np.ndarray:
        return self._lengths

    def candidates(self, index: int) -> Iterator[int]:
        """A broken clip is replaced by a shorter one, which keeps the batch within its seconds, or else by a longer."""
        yield index
        length, by_length = self._lengths[index], self._by_length
        first, end = (int(np.searchsorted(self._lengths, length, side, by_length)) for side in ("left", "right"))
        rank = first + int(np.searchsorted(by_length[first:end], index))  # equal ones lie in the order of their index
        yield from map(int, by_length[:rank][::-1])
        yield from map(int, by_length[rank + 1 :])

    @functools.cached_property
    def _by_length(self) -> np.ndarray:
        """Made in the loading process that meets the first broken clip; most never do."""
        return np.argsort(self._lengths, kind="stable")

    def load(self, index: int) -> tuple[Tensor, int | Tensor | None]:
        length, whole = int(self.lengths[index]), int(self._clips.num_samples[index])
        start = 0
        if self._random_crop and length < whole:
            start = int(torch.randint(whole - length + 1, ()))
        with AudioReader(self._clips.open(index)) as reader:
            wave = _read(reader, start, length)
            # A pause within a crop is no fault, but a file that holds nothing else is.
            if not self._keep_silent and _is_constant(wave) and (length == whole or _is_silent(reader)):
                raise BrokenSample("it is silent")
        if self._prepare is not None:
            wave = self._prepare(wave)
        return wave, self._split.label(index)


def unit_variance(wave: Tensor) -> Tensor:
    """A crop with zero mean and unit variance."""
    return F.layer_norm(wave, wave.shape)


def _read(reader: AudioReader, start: int, length: int) -> Tensor:
    if length <= _SLICE:
        return _read_slice(reader, start, length)
    wave = torch.empty(length)
    for first in range(0, length, _SLICE):
        part = _read_slice(reader, start + first, min(_SLICE, length - first))
        wave[first : first + len(part)] = part
    return wave


def _read_slice(reader: AudioReader, start: int, length: int) -> Tensor:
    wave = reader.read(start, start + length)
    if len(wave) < length:
        raise BrokenSample("it has become shorter since its header was read; `d2v cache clear` has all read anew")
    return wave


def value_range(reader: AudioReader) -> tuple[float, float]:
    """The smallest and the largest value of a file, read in slices so that a long one does not fill the memory."""
    low, high = math.inf, -math.inf
    for start in range(0, reader.num_samples, _SLICE):
        wave = reader.read(start, start + _SLICE)
        low, high = min(low, float(wave.min())), max(high, float(wave.max()))
    return low, high


def _is_silent(reader: AudioReader) -> bool:
    low, high = value_range(reader)
    return low == high


def _is_constant(wave: Tensor) -> bool:
    first = wave[0].item()  # one other tells it of nearly all waves
    return wave[-1].item() == first and bool(wave.min() == wave.max())
