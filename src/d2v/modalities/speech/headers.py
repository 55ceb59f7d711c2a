"""How long each clip is: read from all headers once, and kept in the user's cache folder."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from d2v.data.dataset import BrokenSample
from d2v.data.files import cached_arrays
from d2v.modalities.speech.decoding import AudioInfo, Encoded, audio_info, samples_at_16k
from d2v.modalities.speech.sources import AudioSource, Clips

# Opening a file waits for the disk or the network most of the time.
_THREADS = 8
_CLIPS_A_TASK = 64


class Headers(NamedTuple):
    """What the headers of all files of a source say."""

    clips: Clips
    """Those that can be read."""
    broken: dict[int, str]
    """Why each of the others cannot be, by position in the source."""


def read_headers(source: AudioSource) -> Headers:
    """Read all headers, or find them in the cache if no file has changed since."""
    columns = cached_arrays("audio-headers", source.fingerprint(), lambda: _columns(scan(source, audio_info)))
    frames, rates, channels = columns["frames"], columns["rates"], columns["channels"]
    good = np.flatnonzero(frames > 0)
    lengths = np.zeros(len(good), dtype=np.int64)
    for rate in np.unique(rates[good]):
        same = rates[good] == rate
        distinct, inverse = np.unique(frames[good][same], return_inverse=True)
        lengths[same] = np.array([samples_at_16k(int(n), int(rate)) for n in distinct], dtype=np.int64)[inverse]
    reasons = columns["reasons"].tobytes().decode().split("\n")
    broken = dict(zip(np.flatnonzero(frames <= 0).tolist(), reasons, strict=False))
    return Headers(Clips(source, good, lengths, rates[good], channels[good]), broken)


def scan(
    source: AudioSource, look: Callable[[Encoded], AudioInfo], title: str = "reading audio headers"
) -> list[AudioInfo | str]:
    """What ``look`` finds in each clip, in several threads with a progress bar; for a broken one, the reason."""

    def task(start: int) -> list[AudioInfo | str]:
        found: list[AudioInfo | str] = []
        for index in range(start, min(start + _CLIPS_A_TASK, len(source))):
            try:
                found.append(look(source.open(index)))
            except BrokenSample as reason:
                found.append(" ".join(str(reason).split()) or "it cannot be read")
        return found

    results: list[AudioInfo | str] = []
    with ThreadPoolExecutor(_THREADS) as pool, tqdm(total=len(source), desc=title, unit="file", leave=False) as bar:
        for part in pool.map(task, range(0, len(source), _CLIPS_A_TASK)):
            results += part
            bar.update(len(part))
    return results


def _columns(found: list[AudioInfo | str]) -> dict[str, np.ndarray]:
    nothing = AudioInfo(0, 0, 0)
    rows = np.array([nothing if isinstance(item, str) else item for item in found], dtype=np.int64).reshape(-1, 3)
    reasons = "\n".join(item for item in found if isinstance(item, str))
    return {
        "rates": rows[:, 0].astype(np.int32),
        "frames": rows[:, 1].copy(),
        "channels": rows[:, 2].astype(np.int32),
        "reasons": np.frombuffer(reasons.encode(), dtype=np.uint8),
    }
