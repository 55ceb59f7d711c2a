"""The pitch of speech: what tells first that a recording is played too fast or too slowly."""

import torch
from jaxtyping import Float
from torch import Tensor

_SECONDS = 0.064  # a frame: four periods of the deepest voices
_LOWEST, _HIGHEST = 40, 700  # Hz
_MOST_FRAMES = 96
_LEAST_VOICED = 8
_VOICED = 0.6  # correlation of a frame with itself one period later


def median_pitch(waves: Float[Tensor, "b samples"], rate: int) -> Float[Tensor, ""]:
    """Median fundamental frequency in Hz of the loudest frames of some waveforms; NaN where few are voiced, or where
    they are shorter than a frame or have fewer than 2 * 700 samples a second.

    The period is the smallest lag at which the normalised autocorrelation has nearly its largest peak (Boersma 1993
    has it divided by that of the window, as here).

    Args:
        waves: They may end in zeros.
        rate: Samples a second.
    """
    size = round(_SECONDS * rate)
    if waves.shape[1] < size or rate < 2 * _HIGHEST:
        return torch.tensor(torch.nan, device=waves.device)
    frames = waves.float().unfold(1, size, size).reshape(-1, size)
    loud = frames.square().mean(dim=1).argsort(descending=True)[:_MOST_FRAMES]
    window = torch.hann_window(size, device=waves.device)
    frames = frames[loud]
    frames = (frames - frames.mean(dim=1, keepdim=True)) * window
    lags = _autocorrelation(frames) / _autocorrelation(window)  # [F, size]
    lags = lags / lags[:, :1].clamp(min=1e-8)
    first, last = rate // _HIGHEST, rate // _LOWEST
    lags = lags[:, first : last + 1]
    peak = (lags[:, 1:-1] >= lags[:, :-2]) & (lags[:, 1:-1] > lags[:, 2:])
    height = torch.where(peak, lags[:, 1:-1], 0.0)
    best = height.amax(dim=1)
    period = (height >= 0.9 * best[:, None]).int().argmax(dim=1) + first + 1
    pitch = torch.where(best > _VOICED, rate / period, torch.nan)
    enough = (best > _VOICED).sum() >= _LEAST_VOICED
    return torch.where(enough, pitch.nanmedian(), torch.nan)


def _autocorrelation(x: Tensor) -> Tensor:
    size = x.shape[-1]
    power = torch.fft.rfft(x, n=2 * size).abs().square()
    return torch.fft.irfft(power, n=2 * size)[..., :size]
