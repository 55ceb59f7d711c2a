"""Sound in the items of a data set of the user's own."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from d2v.data.sources.own_datasets import entry
from d2v.data.sources.source import Encoded
from d2v.errors import BrokenSample

_NAMES = ("audio", "wave", "waveform", "array", "speech", "sound", "input_values", "inputs", "x", "path", "file")
_RATES = ("sampling_rate", "sample_rate", "rate", "sr")
_USUAL_RATE = 16_000
_LEAST_RATE = 4_000  # a smaller number beside a waveform is a label
_MOST_CHANNELS = 32


def sound_in(item: Any) -> Encoded:
    """The sound of an item, as a file: an array or tensor [L], [C, L] or [L, C] of values from -1 to 1, or integers.

    The item is the sound, a tuple that begins with it and perhaps the sample rate (as torchaudio's data sets), or a
    dict with it, and perhaps the sample rate. Without one it is 16 kHz.

    Raises:
        BrokenSample: there is no sound.
    """
    import soundfile

    rate = _USUAL_RATE
    while isinstance(item, Mapping):  # Hugging Face's decoded audio is a dict in a dict
        rate = int(entry(item, _RATES) or rate)
        item = entry(item, _NAMES)
    if isinstance(item, tuple | list) and item:
        if len(item) > 1 and isinstance(item[1], int | np.integer) and item[1] >= _LEAST_RATE:
            rate = int(item[1])
        item = item[0]
    if isinstance(item, bytes):
        return item
    if isinstance(item, str | Path):
        return str(item)
    try:
        wave = np.asarray(item)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BrokenSample(f"its sound is no array: {error}") from error
    if wave.dtype.kind not in "fiu" or wave.ndim not in (1, 2) or not wave.size:
        raise BrokenSample(
            f"it holds no sound but {type(item).__name__} {list(wave.shape)}; return an array or tensor of samples or "
            f"the path of a file, alone, in a tuple (samples, sample rate), or in a dict as {' or '.join(_NAMES[:3])}"
        )
    if wave.ndim == 2 and wave.shape[0] <= _MOST_CHANNELS < wave.shape[1]:
        wave = wave.T
    if wave.dtype.kind == "i":
        wave = wave / np.float32(-float(np.iinfo(wave.dtype).min))
    with np.errstate(over="ignore"):  # who reads it will say so
        wave = wave.astype(np.float32)
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format="WAV", subtype="FLOAT")
    return file.getvalue()
