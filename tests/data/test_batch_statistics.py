"""What is told of a batch of sound, for the monitor."""

import math

import torch

from d2v import metrics
from d2v.data.sound.pitch import median_pitch

RATE = 16_000


def voice(pitch: float, seconds: float, rate: int = RATE) -> torch.Tensor:
    """Ten harmonics."""
    times = torch.arange(round(seconds * rate)) / rate
    waves = torch.zeros(2, len(times))
    for number in range(1, 11):
        waves += torch.sin(2 * math.pi * pitch * number * times) / number
    return waves


def test_the_pitch_of_a_voice_and_of_one_that_is_played_too_fast() -> None:
    assert abs(median_pitch(voice(120, 1.0), RATE).item() - 120) < 2
    assert abs(median_pitch(voice(240, 1.0), RATE).item() - 240) < 4


def test_what_is_too_short_or_of_too_low_a_rate_has_no_pitch() -> None:
    assert median_pitch(voice(120, 0.01), RATE).isnan()
    assert median_pitch(voice(120, 2.0, rate=400), 400).isnan()
    assert median_pitch(torch.zeros(2, RATE), RATE).isnan()


def test_any_length_of_waveforms_is_told_of() -> None:
    from d2v.data.batch_statistics import _of_waveforms

    assert _of_waveforms(voice(120, 0.01), RATE) == {}
    told = _of_waveforms(voice(120, 0.05), RATE)
    assert told[metrics.PITCH].isnan()
    assert told[metrics.LEVELS] > 100
