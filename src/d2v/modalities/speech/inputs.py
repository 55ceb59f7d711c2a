"""Sound that features are wanted of: a folder, a file, a glob, a manifest or archives."""

import os

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from d2v.data.dataset import BrokenSample
from d2v.data.inputs import Inputs
from d2v.errors import UserError
from d2v.modalities.speech.decoding import SAMPLE_RATE, AudioReader
from d2v.modalities.speech.headers import read_headers
from d2v.modalities.speech.layout import open_everything
from d2v.modalities.speech.sources import AudioSource, FileSource
from d2v.model.encoder import Encoder


def open_inputs(root: str, encoder: Encoder) -> "SpeechInputs":
    """Find all sound, and read the headers; every encoder of speech takes the same.

    Raises:
        UserError: there is none.
    """
    try:
        source = open_everything(root)
    except UserError as error:
        raise UserError(str(error).replace("data.root", "--input")) from error
    headers = read_headers(source)
    positions = headers.clips.index
    names = [_id(source, int(position)) for position in positions]
    broken = {_id(source, position): reason for position, reason in headers.broken.items()}
    return SpeechInputs(source, np.asarray(positions), headers.clips.num_samples, names, broken)


class SpeechInputs(Inputs):
    """Waveforms at 16 kHz; each part that is read has zero mean and unit variance, as crops in training have."""

    sample_rate = SAMPLE_RATE

    def __init__(
        self,
        source: AudioSource,
        positions: np.ndarray,
        num_samples: np.ndarray,
        names: list[str],
        broken: dict[str, str],
    ) -> None:
        super().__init__(names, broken)
        self.archives = source.archives()
        self._source, self._positions, self._num_samples = source, positions, num_samples
        self._reader: AudioReader | None = None
        self._opened = -1

    def fingerprint(self) -> str:
        return self._source.fingerprint()

    def num_samples(self, index: int) -> int:
        return int(self._num_samples[index])

    def read(self, index: int, start: int, stop: int | None) -> Float[Tensor, "samples"]:
        reader = self._open(index)
        stop = self.num_samples(index) if stop is None else stop
        wave = reader.read(start, stop)
        if len(wave) < stop - start:
            raise BrokenSample("it has become shorter since its header was read")
        return F.layer_norm(wave, wave.shape)

    def _open(self, index: int) -> AudioReader:
        """The parts of a long file come one after the other: it stays open between them."""
        if self._reader is None or self._opened != index:
            if self._reader is not None:
                self._reader.close()
            self._reader = None
            self._reader = AudioReader(self._source.open(int(self._positions[index])))
            self._opened = index
        return self._reader

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_reader": None}  # an open file stays in its process


def _id(source: AudioSource, position: int) -> str:
    """Path relative to the input; what an archive calls it. Bytes that are not UTF-8 are escaped: \\udcff."""
    name = source.name(position)
    if isinstance(source, FileSource):
        name = os.path.relpath(name, source.folder)
    return name.encode(errors="backslashreplace").decode()
