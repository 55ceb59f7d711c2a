"""Sound to compute features of: a folder, a file, a glob, a manifest or archives."""

from jaxtyping import Float
from torch import Tensor

from d2v.data.sound.sound_files import SOUND, read_headers
from d2v.data.sound.sound_inputs import SoundInputs
from d2v.data.sound.waveforms import unit_variance
from d2v.data.sources.splits import open_everything
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


class SpeechInputs(SoundInputs):
    """Waveforms at 16 kHz; each part that is read has zero mean and unit variance, like crops in training."""

    def read(self, index: int, start: int, stop: int | None) -> Float[Tensor, "samples"]:
        return unit_variance(self.wave(index, start, self.num_samples(index) if stop is None else stop))
