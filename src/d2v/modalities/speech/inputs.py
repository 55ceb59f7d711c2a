"""Sound to compute features of: a folder, a file, a glob, a manifest or archives."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from d2v.data.filter_banks import normalised_mfcc
from d2v.data.sound.sound_files import SOUND, Headers, read_headers
from d2v.data.sound.sound_inputs import SoundInputs
from d2v.data.sound.waveforms import unit_variance
from d2v.data.sources.source import Listed
from d2v.data.sources.splits import open_everything
from d2v.model.encoder import Encoder

LABELLED = {
    "class_path": "d2v.modalities.speech.data.LibriSpeechDataModule",
    "init_args": {"labels": "folder", "min_seconds": 0.0, "batch_size": 120.0, "max_eval_seconds": 30.0},
}
"""How labelled samples are read where no config says otherwise."""


def open_inputs(root: str | Listed, encoder: Encoder) -> "SpeechInputs":
    """Find all sound, and read the headers.

    Raises:
        UserError: there is no sound.
    """
    headers = read_headers(open_everything(root, SOUND, "--input"))
    channels = getattr(encoder.front, "in_channels", 1)
    if channels > 1:
        return CepstraInputs(headers, channels)
    return SpeechInputs(headers)


class SpeechInputs(SoundInputs):
    """Waveforms at 16 kHz; each part that is read has zero mean and unit variance, like crops in training."""

    def read(self, index: int, start: int, stop: int | None) -> Float[Tensor, "samples"]:
        return unit_variance(self.wave(index, start, self.num_samples(index) if stop is None else stop))


class CepstraInputs(SpeechInputs):
    """Mel-frequency cepstra of the waveforms, whose samples still count; each part is normalised by itself."""

    def __init__(self, headers: Headers, count: int) -> None:
        super().__init__(headers)
        self._count = count

    def frame_of(self, encoder: Encoder) -> tuple[int, int]:
        front: Any = encoder.front
        return front.stride, front.receptive_field

    def read(self, index: int, start: int, stop: int | None) -> Float[Tensor, "frames coefficients"]:
        return normalised_mfcc(self.wave(index, start, self.num_samples(index) if stop is None else stop), self._count)
