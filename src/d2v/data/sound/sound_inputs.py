"""Sound to compute features of: a folder, a file, a glob, a manifest or archives."""

from jaxtyping import Float
from torch import Tensor

from d2v.data.encoder_inputs import Inputs
from d2v.data.sound.audio_reader import SAMPLE_RATE, AudioReader
from d2v.data.sound.sound_files import Headers
from d2v.errors import BrokenSample


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
        self._reader: AudioReader | None = None
        self._opened = -1

    def fingerprint(self) -> str:
        return self._clips.source.fingerprint()

    def num_samples(self, index: int) -> int:
        return int(self._clips.num_samples[index])

    def wave(self, index: int, start: int, stop: int) -> Float[Tensor, "samples"]:
        """Samples of a clip as they are in the file."""
        wave = self._open(index).read(start, stop)
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
