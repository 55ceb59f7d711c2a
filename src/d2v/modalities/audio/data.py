"""Sound as spectrograms, for pretraining, classification and probing."""

import functools
from typing import Any

import torch
from torch import Tensor

from d2v.data.data_module import require
from d2v.data.filter_banks import Spectrograms, read_spectrograms, samples_of
from d2v.data.normalisation import ASSET
from d2v.data.sound.audio_reader import SAMPLE_RATE
from d2v.data.sound.sound_module import SoundDataModule
from d2v.data.sound.waveforms import Prepare
from d2v.modalities.audio.front_end import AudioFrontEnd
from d2v.model.encoder import Encoder


class AudioDataModule(SoundDataModule):
    """Log-mel filter banks of clips from folders, manifests, globs, parquet or tars, whichever ``root`` contains.

    Args:
        root: folder, fairseq manifest (.tsv), glob or file of sound; a data set of the hub, hf://OWNER/NAME; tars or
            parquet in a store, s3://BUCKET/FOLDER.
        batch_size: clips of one device and one micro-batch.
        frames: length of each spectrogram, in frames of 10 ms. Longer clips are cropped at random, for validation and
            probes at their beginning; shorter ones are padded with zeros. null: as the encoder was trained, with a new
            one 1024 (10 s).
        min_seconds: shorter clips are not trained on.
        mean: of filter banks, subtracted; null: as the encoder was trained, of a new one AudioSet's.
        std: of filter banks, twice of which they are divided by; null: likewise.
        roll: rotate each training clip by a random time, and scale it by 0.5 to 1.5 (EAT's fine-tuning).
        labels: speaker, folder, label (of an archive), or a .tsv or .csv of files and labels; null: none.
        sound: What every DataModule of sound has; see :class:`SoundDataModule`.
    """

    unit = "clips"

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 12,
        frames: int | None = None,
        min_seconds: float = 0.3,
        mean: float | None = None,
        std: float | None = None,
        roll: bool = False,
        labels: str | None = None,
        **sound: Any,
    ) -> None:
        require(frames is None or frames >= 16, "frames", frames, "be at least 16, which is one patch")
        require(std is None or std > 0, "std", std, "be greater than 0")
        require(labels != "transcript", "labels", labels, "be classes: speaker, folder, label or a table")
        self.frames, self.mean, self.std, self.roll = frames, mean, std, roll
        self._made = self._like(Spectrograms())
        longest = samples_of(self._made.frames) / SAMPLE_RATE
        super().__init__(root, batch_size, min_seconds, longest, longest, labels=labels, **sound)

    def adapt_to(self, encoder: Encoder) -> None:
        """Make spectrograms as the encoder knows them, unless ``data.frames``, ``data.mean`` and ``data.std`` say how;
        it keeps that."""
        known = read_spectrograms(encoder.assets) or Spectrograms()
        self._made, front = self._like(known), encoder.front
        frames = self._made.frames
        if isinstance(front, AudioFrontEnd):  # another part of the program says where it is not
            patch, longest = front.patch_size, front.max_frames
            fits = f"be a multiple of the encoder's patches, {patch} frames, and at most {longest}"
            require(frames % patch == 0 and frames <= longest, "frames", frames, fits)
            self._made = self._made._replace(mel_bins=front.mel_bins)
        encoder.assets[ASSET] = self._made.to_asset()
        self.max_seconds = self.max_eval_seconds = samples_of(frames) / SAMPLE_RATE

    def _like(self, usual: Spectrograms) -> Spectrograms:
        mean = usual.mean if self.mean is None else self.mean
        return usual._replace(mean=mean, std=self.std or usual.std, frames=self.frames or usual.frames)

    def preparation(self, training: bool) -> Prepare:
        return functools.partial(_spectrogram, self._made, training and self.roll)


def _spectrogram(made: Spectrograms, roll: bool, wave: Tensor) -> Tensor:
    if roll:
        loudness = torch.distributions.Beta(10.0, 10.0).sample() + 0.5
        wave = wave.roll(int(torch.randint(len(wave), ()))) * loudness
    return made.of(wave, made.frames)
