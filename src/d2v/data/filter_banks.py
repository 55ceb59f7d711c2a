"""Log-mel filter banks and cepstra of sound as Kaldi computes them: a frame of 25 ms every 10 ms, whole frames only."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

SHIFT, WINDOW = 160, 400
"""Samples at 16 kHz from one frame to the next, and those that a frame is computed from."""
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


def mfcc(wave: Float[Tensor, "samples"]) -> Float[Tensor, "frames 40"]:
    """Forty cepstral coefficients of forty mel filters from 40 Hz to 7.8 kHz, the first one included (TeleSpeech's
    ``mfcc_hires.conf``), without dither.

    Args:
        wave: Sound at 16 kHz from -1 to 1, at least 25 ms; Kaldi reads it as 16-bit numbers.
    """
    from torchaudio.compliance import kaldi

    bands = {"num_mel_bins": 40, "low_freq": 40.0, "high_freq": -200.0}
    return kaldi.mfcc(wave[None] * 2**15, num_ceps=40, **bands, **_KALDI)


def num_frames(num_samples: int) -> int:
    """Frames of a clip of so many samples at 16 kHz."""
    return max(0, 1 + (num_samples - WINDOW) // SHIFT)
