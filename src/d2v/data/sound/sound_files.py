"""Sound files: their speakers, transcripts and manifests, and the headers of all clips."""

import functools
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from lightning.pytorch.utilities import rank_zero_info

from d2v.data.broken_samples import broken_error, too_many_broken
from d2v.data.sound.audio_reader import (
    NOT_READ,
    SAMPLE_RATE,
    SUFFIXES,
    AudioInfo,
    audio_info,
    samples_at_16k,
)
from d2v.data.sound.sound_items import sound_in
from d2v.data.sound.transcripts import transcripts_beside, transcripts_of_manifest
from d2v.data.sources.source import Categories, Encoded, Files, Medium, Part, Source, printable
from d2v.data.user_cache import cached_arrays
from d2v.errors import BrokenSample, UserError
from d2v.progress_bar import Progress

LEAST_SAMPLES = 1_360
"""Samples at 16 kHz (85 ms) that four frames of the published feature extractor are computed from. Fewer frames can
neither be masked nor have their targets normalised over time, so shorter clips are not used for training or validation.
"""

# Opening a file waits for the disk or the network most of the time.
_THREADS = 8
_CLIPS_A_TASK = 64
# LibriSpeech and LibriTTS: SPEAKER-CHAPTER-NUMBER, or with underscores.
_SPEAKER = re.compile(r"(\d+)[-_]\d+[-_]\d+")


@dataclass(frozen=True)
class Clips(Part):
    """Readable clips of a source, with the values of their headers."""

    num_samples: np.ndarray
    """int64 [n]: length at 16 kHz."""
    sample_rate: np.ndarray
    """int32 [n]: of the file."""
    channels: np.ndarray
    """int32 [n]."""

    def open(self, index: int) -> Encoded:
        """The encoded clip."""
        return self.source.open(int(self.index[index]))

    def categories(self, column: str) -> Categories | None:
        """Speaker, label or folder of each clip; None if they are not known."""
        found = self.source.categories(column)
        return found and found[self.index]

    def texts(self) -> list[str]:
        """Transcript of each clip, empty where there is none."""
        texts = self.source.texts()
        if texts is None:
            return [""] * len(self)
        return [texts[index] for index in self.index]


class Headers(NamedTuple):
    """The headers of all files of a source."""

    clips: Clips
    """The readable ones."""
    broken: dict[int, str]
    """Why each of the others cannot be read, by position in the source."""


def speaker_of(path: str) -> str:
    """The speaker in a file's name as LibriSpeech writes it; empty for other names."""
    if match := _SPEAKER.match(os.path.basename(path)):
        return match[1]
    return ""


def read_manifest(path: Path) -> Files:
    """A manifest of fairseq: a folder on the first line, then ``FILE<TAB>SAMPLES``; perhaps with transcripts beside it.

    The stated numbers of samples are not used: the files' headers also state the sample rate.

    Raises:
        UserError: a line is no such entry, or a file of transcripts has not one line for each entry.
    """
    try:
        # Names of files need not be UTF-8.
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise UserError(f"{path}: cannot be read as a manifest ({error}).") from error
    lines = text.removeprefix("\ufeff").splitlines()
    if lines and "\t" in lines[0]:
        raise UserError(
            f"{path}: a manifest has a folder on its first line, and here is {lines[0][:60]!r}. If this is a table of "
            "transcripts, give the folder of the sound to data.root, and the table to data.transcripts."
        )
    files = []
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        file, _, samples = line.partition("\t")
        if not samples.partition("\t")[0].strip().isdigit():
            raise UserError(f"{path}, line {number}: expected FILE<TAB>SAMPLES, found {line!r}.")
        files.append(file)
    if not files:
        raise UserError(f"{path}: a manifest has a folder on its first line, then FILE<TAB>SAMPLES; here is no entry.")
    folder = Path(lines[0].strip()).expanduser()
    if not folder.is_absolute() and not folder.is_dir():
        folder = path.parent / folder
    if not folder.is_dir():
        raise UserError(f"{path}: its first line names the folder {lines[0].strip()!r}, which does not exist.")
    return Files(SOUND, folder, files, texts=transcripts_of_manifest(path, len(files)))


SOUND = Medium(
    "sound",
    SUFFIXES,
    feature="Audio",
    columns=("label", "speaker", "text"),
    manifests={".tsv": read_manifest},
    unpacks_to="LibriSpeech",
    speaker_of=speaker_of,
    texts_beside=transcripts_beside,
    from_item=sound_in,
    unreadable=NOT_READ,
    conversion='To use them, in their folder: for f in {}; do ffmpeg -i "$f" -ac 1 -ar 16000 "${{f%.*}}.flac"; done',
)


def read_headers(source: Source, retry: bool = True) -> Headers:
    """Read all headers, or find them in the cache if no file has changed since.

    Args:
        source: source of the clips.
        retry: read broken files again, because permissions and network drives can be repaired without a trace in the
            file. The processes of one run must agree, so only one of them may retry.
    """
    import soundfile

    fingerprint = source.fingerprint()
    key = f"{fingerprint}-{soundfile.__libsndfile_version__}"  # another version may read more
    renew = None
    if retry:
        renew = functools.partial(_retried, source)
    if fingerprint:
        columns = cached_arrays("sound-headers", key, lambda: _columns(scan(source, audio_info)), renew, source.folder)
    else:
        columns = _columns(scan(source, audio_info))
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


def report_headers(name: str, headers: Headers, max_fraction: float) -> None:
    """Report broken files and conversions in the log.

    Args:
        name: what the files are called: the training split.
        headers: headers of all files.
        max_fraction: largest tolerable share of broken files.

    Raises:
        UserError: more files are broken, or all of them.
    """
    clips, broken = headers
    if too_many_broken(len(broken), len(clips.source), max_fraction) or not len(clips):
        files = f"data: {len(broken):,} of {len(clips.source):,} files of {name}"
        first = (f"{clips.source.name(index)}: {reason}" for index, reason in broken.items())
        raise broken_error(files, first, f"more than data.max_skipped_fraction = {max_fraction}")
    for index, reason in broken.items():
        rank_zero_info(f"data: skipped {printable(clips.source.name(index))}: {reason}")

    def say(what: str, which: np.ndarray) -> None:
        if len(which):
            first_name = clips.name(int(which[0]))
            rank_zero_info(f"data: {what} {len(which):,} of {len(clips):,} clips (first: {first_name})")

    for rate in np.unique(clips.sample_rate[clips.sample_rate != SAMPLE_RATE]):
        say(f"resampling {rate:,} Hz to {SAMPLE_RATE:,} Hz:", np.flatnonzero(clips.sample_rate == rate))
    say("averaging the channels of", np.flatnonzero(clips.channels > 1))


def scan(
    source: Source,
    look: Callable[[Encoded], AudioInfo],
    title: str = "reading audio headers",
    positions: Sequence[int] | None = None,
) -> list[AudioInfo | str]:
    """Results of ``look`` for each clip, in several threads with a progress bar; for a broken clip, the reason.

    Args:
        source: source of the clips.
        look: reads one clip.
        title: title of the progress bar.
        positions: positions of the clips; None: all.
    """
    chosen = positions
    if chosen is None:
        chosen = range(len(source))

    def task(start: int) -> list[AudioInfo | str]:
        found: list[AudioInfo | str] = []
        for index in chosen[start : start + _CLIPS_A_TASK]:
            try:
                found.append(look(source.open(index)))
            except BrokenSample as reason:
                found.append(" ".join(str(reason).split()) or "it cannot be read")
        return found

    results: list[AudioInfo | str] = []
    with ThreadPoolExecutor(_THREADS) as pool, Progress(total=len(chosen), desc=title, unit="file", leave=False) as bar:
        for part in pool.map(task, range(0, len(chosen), _CLIPS_A_TASK)):
            results += part
            bar.update(len(part))
    return results


def _retried(source: Source, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The columns after reading broken clips again; the same object if nothing has changed."""
    broken = np.flatnonzero(columns["frames"] <= 0)
    if not len(broken):
        return columns
    now = _columns(scan(source, audio_info, "reading broken audio headers again", broken.tolist()))
    if np.array_equal(now["reasons"], columns["reasons"]):
        return columns
    renewed = {"reasons": now["reasons"]}
    for name in ("rates", "frames", "channels"):
        renewed[name] = columns[name].copy()
        renewed[name][broken] = now[name]
    return renewed


def _columns(found: list[AudioInfo | str]) -> dict[str, np.ndarray]:
    """Results of :func:`scan` as arrays; a broken clip has 0 frames, and each reason is one line of ``reasons``."""
    rows = np.zeros((len(found), 3), dtype=np.int64)
    reasons = []
    for number, item in enumerate(found):
        if isinstance(item, str):
            reasons.append(item)
        else:
            rows[number] = item
    return {
        "rates": rows[:, 0].astype(np.int32),
        "frames": rows[:, 1].copy(),
        "channels": rows[:, 2].astype(np.int32),
        "reasons": np.frombuffer("\n".join(reasons).encode(errors="backslashreplace"), dtype=np.uint8),
    }
