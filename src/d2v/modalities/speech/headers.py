"""How long each clip is: read from all headers once, and kept in the user's cache folder."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from d2v.data.dataset import BrokenSample
from d2v.data.files import cached_arrays
from d2v.modalities.speech.decoding import AudioInfo, Encoded, audio_info, samples_at_16k
from d2v.modalities.speech.sources import AudioSource, Clips

LEAST_SAMPLES = 1_360
"""At 16 kHz, 85 ms: what four frames of the published feature extractor are computed from. Fewer frames can neither be
masked nor have their targets normalised over time, and so a shorter clip is neither trained nor validated on."""

# Opening a file waits for the disk or the network most of the time.
_THREADS = 8
_CLIPS_A_TASK = 64


class Headers(NamedTuple):
    """What the headers of all files of a source say."""

    clips: Clips
    """Those that can be read."""
    broken: dict[int, str]
    """Why each of the others cannot be, by position in the source."""


def read_headers(source: AudioSource, retry: bool = True) -> Headers:
    """Read all headers, or find them in the cache if no file has changed since.

    Args:
        source: whose clips.
        retry: read those again that were broken. Permissions and network drives are mended without a trace in the
            file; but the processes of one run must agree, so only one of them may retry.
    """
    import soundfile

    key = f"{source.fingerprint()}-{soundfile.__libsndfile_version__}"  # another version may read more
    columns = cached_arrays(
        "audio-headers",
        key,
        lambda: _columns(scan(source, audio_info)),
        (lambda stored: _retried(source, stored)) if retry else None,
    )
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
    source: AudioSource,
    look: Callable[[Encoded], AudioInfo],
    title: str = "reading audio headers",
    positions: Sequence[int] | None = None,
) -> list[AudioInfo | str]:
    """What ``look`` finds in each clip, in several threads with a progress bar; for a broken one, the reason.

    Args:
        source: whose clips.
        look: at one.
        title: of the bar.
        positions: of the clips; None: all.
    """
    chosen = range(len(source)) if positions is None else positions

    def task(start: int) -> list[AudioInfo | str]:
        found: list[AudioInfo | str] = []
        for index in chosen[start : start + _CLIPS_A_TASK]:
            try:
                found.append(look(source.open(index)))
            except BrokenSample as reason:
                found.append(" ".join(str(reason).split()) or "it cannot be read")
        return found

    results: list[AudioInfo | str] = []
    with ThreadPoolExecutor(_THREADS) as pool, tqdm(total=len(chosen), desc=title, unit="file", leave=False) as bar:
        for part in pool.map(task, range(0, len(chosen), _CLIPS_A_TASK)):
            results += part
            bar.update(len(part))
    return results


def _retried(source: AudioSource, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """With what is now known about the clips that were broken; the same object if that is nothing new."""
    broken = np.flatnonzero(columns["frames"] <= 0)
    if not len(broken):
        return columns
    now = _columns(scan(source, audio_info, "reading broken audio headers again", broken.tolist()))
    if np.array_equal(now["reasons"], columns["reasons"]):
        return columns
    renewed = {name: columns[name].copy() for name in ("rates", "frames", "channels")}
    for name, column in renewed.items():
        column[broken] = now[name]
    return {**renewed, "reasons": now["reasons"]}


def _columns(found: list[AudioInfo | str]) -> dict[str, np.ndarray]:
    nothing = AudioInfo(0, 0, 0)
    rows = np.array([nothing if isinstance(item, str) else item for item in found], dtype=np.int64).reshape(-1, 3)
    reasons = "\n".join(item for item in found if isinstance(item, str))
    return {
        "rates": rows[:, 0].astype(np.int32),
        "frames": rows[:, 1].copy(),
        "channels": rows[:, 2].astype(np.int32),
        "reasons": np.frombuffer(reasons.encode(errors="backslashreplace"), dtype=np.uint8),
    }
