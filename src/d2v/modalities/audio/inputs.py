"""Sound to compute features of its spectrogram: a folder, a file, a glob, a manifest or archives."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from d2v.data.filter_banks import SHIFT, WINDOW, Spectrograms, num_frames, read_spectrograms, samples_of
from d2v.data.sound.sound_files import SOUND, Headers, read_headers
from d2v.data.sound.sound_inputs import SoundInputs
from d2v.data.sources.source import Listed
from d2v.data.sources.splits import open_everything
from d2v.modalities.audio.front_end import AudioFrontEnd
from d2v.model.encoder import Encoder

LABELLED = {
    "class_path": "d2v.modalities.audio.data.AudioDataModule",
    "init_args": {"labels": "folder", "min_seconds": 0.0, "batch_size": 16},
}
"""How labelled samples are read where no config says otherwise."""


def open_inputs(root: str | Listed, encoder: Encoder) -> "AudioInputs":
    """Find all sound, and read the headers.

    Raises:
        UserError: there is no sound.
    """
    return AudioInputs(read_headers(open_everything(root, SOUND, "--input")), encoder)


class AudioInputs(SoundInputs):
    """Spectrograms, of clips that are longer than those of the training in parts; the last patches are padded.

    Args:
        headers: of all files.
        encoder: of spectrograms.
    """

    pads = False
    part = "patch"

    def __init__(self, headers: Headers, encoder: Encoder) -> None:
        super().__init__(headers)
        front = encoder.front
        assert isinstance(front, AudioFrontEnd)
        known = read_spectrograms(encoder.assets) or Spectrograms()
        self._made = known._replace(mel_bins=front.mel_bins)
        self._patch = front.patch_size
        self.longest = samples_of(max(front.patch_size, min(known.frames, front.max_frames)))
        self.vectors_per_frame = front.mel_bins // front.patch_size

    def frame_of(self, encoder: Encoder) -> tuple[int, int]:
        return self._patch * SHIFT, samples_of(self._patch)

    def num_samples(self, index: int) -> int:
        """Filled up to whole patches."""
        patches = -(-max(1, num_frames(super().num_samples(index))) // self._patch)
        return samples_of(patches * self._patch)

    def seconds(self, index: int) -> float:
        return super().num_samples(index) / self.sample_rate

    def read(self, index: int, start: int, stop: int | None) -> Float[Tensor, "1 frames mel"]:
        end, length = self.num_samples(index) if stop is None else stop, super().num_samples(index)
        wave = self.wave(index, start, min(end, length))
        wave = F.pad(wave, (0, max(0, WINDOW - len(wave))))
        return self._made.of(wave, num_frames(end - start))
