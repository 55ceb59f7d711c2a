"""Sound to compute features of: a folder, a file, a glob, a manifest or archives."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from d2v.data.encoder_inputs import Inputs
from d2v.data.sound.audio_reader import SAMPLE_RATE, AudioReader
from d2v.data.sound.sound_files import SOUND, Headers, read_headers
from d2v.data.sources.splits import open_everything
from d2v.errors import BrokenSample
from d2v.model.encoder import Encoder

LABELLED = {
    "class_path": "d2v.modalities.speech.data.LibriSpeechDataModule",
    "init_args": {"labels": "folder", "min_seconds": 0.0, "batch_size": 120.0, "max_eval_seconds": 30.0},
}
"""How labelled samples are read where no config says otherwise."""


def open_inputs(root: str, encoder: Encoder) -> "SpeechInputs":
    """Find all sound, and read the headers; inputs are the same for every encoder of speech.

    Raises:
        UserError: there is no sound.
    """
    return SpeechInputs(read_headers(open_everything(root, SOUND, "--input")))


class SpeechInputs(Inputs):
    """Waveforms at 16 kHz; each part that is read has zero mean and unit variance, like crops in training."""

    sample_rate = SAMPLE_RATE

    def __init__(self, headers: Headers) -> None:
        self._clips, broken = headers
        ids = self._clips.source.ids()
        reasons = {ids[position]: reason for position, reason in broken.items()}
        super().__init__([ids[position] for position in self._clips.index], reasons)
        self.archives = self._clips.source.archives
        self._reader: AudioReader | None = None
        self._opened = -1

    def fingerprint(self) -> str:
        return self._clips.source.fingerprint()

    def num_samples(self, index: int) -> int:
        return int(self._clips.num_samples[index])

    def read(self, index: int, start: int, stop: int | None) -> Float[Tensor, "samples"]:
        reader = self._open(index)
        if stop is None:
            stop = self.num_samples(index)
        wave = reader.read(start, stop)
        if len(wave) < stop - start:
            raise BrokenSample("it has become shorter since its header was read")
        return F.layer_norm(wave, wave.shape)

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
