"""Log-mel filter banks and cepstra of sound as Kaldi computes them: a frame of 25 ms every 10 ms, whole frames only."""

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from d2v.data.normalisation import ASSET

SHIFT, WINDOW = 160, 400
"""Samples at 16 kHz from one frame to the next, and those that a frame is computed from."""
CEPSTRA = 40
"""Most coefficients of a frame of cepstra."""
_KALDI: dict[str, Any] = {"sample_frequency": 16_000, "dither": 0.0, "use_energy": False}


def filter_banks(wave: Float[Tensor, "samples"], mel_bins: int = 128) -> Float[Tensor, "frames mel"]:
    """Logarithms of the energies in mel filters from 20 Hz to 8 kHz (AST's and EAT's, ``kaldi.fbank``).

    Args:
        wave: Sound at 16 kHz from -1 to 1, at least 25 ms.
        mel_bins: Number of filters.
    """
    from torchaudio.compliance import kaldi

    wave = wave - wave.mean()
    return kaldi.fbank(wave[None], num_mel_bins=mel_bins, window_type="hanning", htk_compat=True, **_KALDI)


def mfcc(wave: Float[Tensor, "samples"], count: int = CEPSTRA) -> Float[Tensor, "frames count"]:
    """Cepstral coefficients of forty mel filters from 40 Hz to 7.8 kHz, the first one included (TeleSpeech's
    ``mfcc_hires.conf``), without dither.

    Args:
        wave: Sound at 16 kHz from -1 to 1, at least 25 ms; Kaldi reads it as 16-bit numbers.
        count: Coefficients, at most forty; the last ones tell the voice more than what is said.
    """
    from torchaudio.compliance import kaldi

    bands = {"num_mel_bins": CEPSTRA, "low_freq": 40.0, "high_freq": -200.0}
    return kaldi.mfcc(wave[None] * 2**15, num_ceps=count, **bands, **_KALDI)


def normalised_mfcc(wave: Float[Tensor, "samples"], count: int = CEPSTRA) -> Float[Tensor, "frames count"]:
    """The first coefficients, each with zero mean and unit variance over the clip (TeleSpeech's ``normalize``)."""
    rows = mfcc(wave, count)
    return (rows - rows.mean(dim=0)) / (rows.std(dim=0) + 1e-5)


class Spectrograms(NamedTuple):
    """How an encoder's spectrograms are made of sound; the defaults are EAT's and AST's for AudioSet."""

    mean: float = -4.268
    std: float = 4.569
    """Of filter banks; they are scaled to ``(x - mean) / (2 std)``."""
    mel_bins: int = 128
    frames: int = 1024
    """Length in training."""

    def of(self, wave: Float[Tensor, "samples"], frames: int) -> Float[Tensor, "1 frames mel"]:
        """The spectrogram of a clip of at least 25 ms, cut to a length, or padded with zeros after the logarithm, which
        is the power of one."""
        rows = filter_banks(wave, self.mel_bins)[:frames]
        rows = F.pad(rows, (0, 0, 0, frames - len(rows)))
        return ((rows - self.mean) / (2 * self.std))[None]

    def to_asset(self) -> str:
        """As Hugging Face's ASTFeatureExtractor reads it."""
        content = {
            "feature_extractor_type": "ASTFeatureExtractor",
            "sampling_rate": _KALDI["sample_frequency"],
            "num_mel_bins": self.mel_bins,
            "max_length": self.frames,
            "mean": self.mean,
            "std": self.std,
        }
        return json.dumps(content, indent=2) + "\n"


def read_spectrograms(assets: Mapping[str, str]) -> Spectrograms | None:
    """How spectrograms are made, from the assets of an encoder; None if they do not say, or make no sense."""
    try:
        found = json.loads(assets[ASSET])
        made = Spectrograms(
            float(found["mean"]), float(found["std"]), int(found["num_mel_bins"]), int(found["max_length"])
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    sensible = math.isfinite(made.mean) and math.isfinite(made.std) and min(made.std, made.mel_bins, made.frames) > 0
    return made if sensible else None


def levels(spectra: Float[Tensor, "b *c f t"]) -> Float[Tensor, "b *c f t"]:
    """Logarithmic spectra as levels from 0 to 1: of each clip from its 5th percentile to its largest value."""
    flat = spectra.flatten(1)
    shape = (-1, *[1] * (spectra.ndim - 1))
    low, high = flat.float().kthvalue(1 + flat.shape[1] // 20, dim=1).values.view(shape), flat.amax(dim=1).view(shape)
    return ((spectra - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)


def samples_of(frames: int) -> int:
    """Samples at 16 kHz that so many frames are computed from."""
    return WINDOW + (frames - 1) * SHIFT


def num_frames(num_samples: int) -> int:
    """Frames of a clip of so many samples at 16 kHz."""
    return max(0, 1 + (num_samples - WINDOW) // SHIFT)
