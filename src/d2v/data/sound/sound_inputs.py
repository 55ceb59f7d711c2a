"""Sound to compute features of: a folder, a file, a glob, a manifest or archives."""

from contextlib import suppress

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from d2v.data.encoder_inputs import Inputs
from d2v.data.sound.audio_reader import SAMPLE_RATE, AudioReader
from d2v.data.sound.sound_files import Headers
from d2v.errors import BrokenSample
from d2v.progress_bar import Progress

_WINDOW = SAMPLE_RATE // 100
_QUIET = 1e-3  # of the loudest window: 30 dB
_LEAST = SAMPLE_RATE // 5  # is left
_LONGEST = 60 * SAMPLE_RATE  # of longer clips the ends hardly count


class SoundInputs(Inputs):
    """Clips at 16 kHz, read in parts; a modality makes inputs of the waveforms of parts.

    Args:
        headers: of all files.
    """

    sample_rate = SAMPLE_RATE

    def __init__(self, headers: Headers) -> None:
        self._clips, broken = headers
        ids = self._clips.source.ids()
        reasons = {ids[position]: reason for position, reason in broken.items()}
        super().__init__([ids[position] for position in self._clips.index], reasons)
        self.archives = self._clips.source.archives
        self._lengths = np.array(self._clips.num_samples, np.int64)
        self._starts = np.zeros_like(self._lengths)
        self._reader: AudioReader | None = None
        self._opened = -1

    def fingerprint(self) -> str:
        return self._clips.source.fingerprint()

    def num_samples(self, index: int) -> int:
        return int(self._lengths[index])

    def cut_silence(self) -> None:
        """Leave out what is 30 dB quieter than the loudest 10 ms, at both ends of clips of up to a minute."""
        clips = Progress(range(len(self)), desc="looking for silence", unit="clip", leave=False)
        for index in clips:
            length = int(self._clips.num_samples[index])
            if length > _LONGEST:
                continue
            with suppress(BrokenSample):  # whoever reads it says so
                start, stop = sounding(self._open(index).read(0, length))
                self._starts[index], self._lengths[index] = start, stop - start

    def wave(self, index: int, start: int, stop: int) -> Float[Tensor, "samples"]:
        """Samples of a clip as they are in the file."""
        first = int(self._starts[index])
        wave = self._open(index).read(first + start, first + stop)
        if len(wave) < stop - start:
            raise BrokenSample("it has become shorter since its header was read")
        return wave

    def _open(self, index: int) -> AudioReader:
        """The open file, which stays open because parts of a long file are read one after the other."""
        if self._reader is None or self._opened != index:
            if self._reader is not None:
                self._reader.close()
            self._reader = None
            self._reader = AudioReader(self._clips.open(index))
            self._opened = index
        return self._reader

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_reader": None}  # an open file stays in its process


def sounding(wave: Float[Tensor, "samples"]) -> tuple[int, int]:
    """Between which samples of a clip there is more than silence; all of a silent clip, and at least 0.2 s."""
    energy = wave[: len(wave) // _WINDOW * _WINDOW].unflatten(0, (-1, _WINDOW)).square().mean(dim=1)
    loud = torch.nonzero(energy > _QUIET * energy.max()) if len(energy) else energy
    if not len(loud):
        return 0, len(wave)
    start, stop = int(loud[0]) * _WINDOW, (int(loud[-1]) + 1) * _WINDOW
    missing = max(0, _LEAST - (stop - start))
    start = max(0, start - missing // 2)
    return start, min(len(wave), max(stop, start + _LEAST))
