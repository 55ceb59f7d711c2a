"""Log-mel filter banks and cepstra: against a plain computation from Kaldi's definitions."""

import math

import pytest
import torch
from torch import Tensor

from d2v.data.filter_banks import filter_banks, mfcc, normalised_mfcc, num_frames


def log_mel(wave: Tensor, window: Tensor, mel_bins: int, low: float, high: float) -> Tensor:
    """Kaldi's in double precision, frame by frame."""
    mel = lambda hertz: 1127 * math.log(1 + hertz / 700)  # noqa: E731
    edges = torch.linspace(mel(low), mel(high), mel_bins + 2, dtype=torch.float64)
    bins = torch.tensor([mel(16_000 / 512 * number) for number in range(256)], dtype=torch.float64)
    up = (bins[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    down = (edges[2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    weights = torch.minimum(up, down).clamp(min=0)
    rows = []
    for frame in wave.double().unfold(0, 400, 160):
        frame = frame - frame.mean()
        emphasised = torch.cat([frame[:1] * 0.03, frame[1:] - 0.97 * frame[:-1]])
        power = torch.fft.rfft(emphasised * window, 512).abs().square()[:256]  # without the Nyquist bin
        rows.append((power @ weights).clamp(min=torch.finfo(torch.float32).eps).log())
    return torch.stack(rows)


@pytest.fixture
def wave() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return 0.1 * torch.randn(8_000, generator=generator) + 0.3 * torch.sin(torch.arange(8_000) / 20) + 0.05


@pytest.mark.parametrize("mel_bins", [64, 128])
def test_filter_banks_are_those_of_kaldi(wave: Tensor, mel_bins: int) -> None:
    window = torch.hann_window(400, periodic=False, dtype=torch.float64)
    found = filter_banks(wave, mel_bins)
    assert found.shape == (num_frames(len(wave)), mel_bins) == (48, mel_bins)
    torch.testing.assert_close(found.double(), log_mel(wave, window, mel_bins, 20, 8000), atol=5e-4, rtol=0)
    silence = filter_banks(torch.zeros(400), mel_bins)
    torch.testing.assert_close(silence, torch.full((1, mel_bins), math.log(2**-23)))


def test_cepstra_are_those_of_kaldi(wave: Tensor) -> None:
    window = torch.hann_window(400, periodic=False, dtype=torch.float64) ** 0.85
    logarithms = log_mel(wave * 32768, window, 40, 40, 7800)
    number = torch.arange(40, dtype=torch.float64)
    cosines = torch.cos(math.pi / 40 * (number[:, None] + 0.5) * number) * math.sqrt(2 / 40)
    cosines[:, 0] = math.sqrt(1 / 40)
    lifter = 1 + 11 * torch.sin(math.pi * number / 22)
    torch.testing.assert_close(mfcc(wave).double(), logarithms @ cosines * lifter, atol=2e-3, rtol=1e-5)
    torch.testing.assert_close(mfcc(wave, 13), mfcc(wave)[:, :13])  # fewer are the first of all
    torch.testing.assert_close(normalised_mfcc(wave, 13), normalised_mfcc(wave)[:, :13])


@pytest.mark.parametrize(("samples", "frames"), [(0, 0), (399, 0), (400, 1), (559, 1), (560, 2), (160_000, 998)])
def test_frames_are_whole(samples: int, frames: int) -> None:
    assert num_frames(samples) == frames
