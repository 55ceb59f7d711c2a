"""Survey a collection of sound before a training: its figures, and its broken files."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from d2v.data.sound.audio_reader import SAMPLE_RATE, AudioInfo, AudioReader
from d2v.data.sound.sound_files import LEAST_SAMPLES, SOUND, Clips, read_headers, scan
from d2v.data.sound.transcripts import read_transcripts
from d2v.data.sound.waveforms import value_range
from d2v.data.sources.source import Encoded
from d2v.data.sources.splits import open_everything
from d2v.errors import BrokenSample, UserError

# Defaults of data.min_seconds and data.max_seconds.
_USUAL_SECONDS = (2.0, 20.0)
_SHOWN = 10


@dataclass(frozen=True)
class Survey:
    """The figures; lengths in seconds."""

    input: str
    files: int
    usable: int
    hours: float
    shortest: float
    median: float
    mean: float
    longest: float
    under_4_frames: int
    """Clips shorter than 85 ms, which are never trained on."""
    under_2_s: int
    over_20_s: int
    sample_rates: dict[str, int]
    """Clips by Hz."""
    channels: dict[str, int]
    """Clips by number of channels."""
    speakers: int
    """0: speakers are not known."""
    folders: dict[str, dict[str, float]]
    """Clips and hours by top folder."""
    with_transcript: int
    letters: str
    """Characters of the transcripts, sorted."""
    decoded: bool
    """Whether files were decoded to their end, or only their headers read."""
    broken: dict[str, str]
    """Why a file is unusable, by its name."""


def survey(
    root: str,
    decode: bool = False,
    transcripts: Path | None = None,
    file_column: str | None = None,
    text_column: str | None = None,
) -> tuple[Survey, Clips]:
    """Read all headers, and with ``decode`` all sound.

    Args:
        root: folder, manifest, glob, archive or file of sound.
        decode: find also truncated, silent and not finite sound.
        transcripts: table of them; None: they lie beside the clips.
        file_column, text_column: of that table; None: found.

    Raises:
        UserError: nothing there is usable, or the table cannot be read or names none of the clips.
    """
    source = open_everything(root, SOUND, "--input")
    clips, broken = read_headers(source)
    if decode:
        for index, found in enumerate(scan(source, _decode_all, "decoding")):
            if isinstance(found, str):
                broken[index] = found
        clips = clips.select(~np.isin(clips.index, list(broken)))
    reasons = {source.name(index): reason for index, reason in sorted(broken.items())}
    if not len(clips):
        raise UserError(f"--input {root}: none of {len(source):,} files is usable. The first are:\n{_first(reasons)}")
    texts = clips.texts()
    if transcripts is not None:
        names = [clips.name(index) for index in range(len(clips))]
        texts = read_transcripts(transcripts, names, file_column, text_column)
    return _figures(root, clips, reasons, decode, texts), clips


def describe(figures: Survey) -> str:
    """The figures as text."""
    checked = "by their headers; --decode reads all sound"
    if figures.decoded:
        checked = "decoded to their end"
    broken, speakers, letters = "none broken", "unknown (file names do not say)", " (a table: --transcripts FILE)"
    if figures.broken:
        broken = f"{len(figures.broken):,} broken"
    if figures.speakers:
        speakers = f"{figures.speakers:,}"
    if figures.letters:
        letters = f", {len(figures.letters)} different characters"
    rows = [
        ("files", f"{figures.usable:,} usable, {broken} ({checked})"),
        ("sound", hours_text(figures.hours)),
        (
            "lengths",
            f"{figures.shortest:.2f} to {figures.longest:,.2f} s, median {figures.median:.2f}, mean {figures.mean:.2f}",
        ),
        ("rates", _counts(figures.sample_rates, " Hz")),
        ("channels", _counts(figures.channels, "")),
        ("speakers", speakers),
        ("transcripts", f"{figures.with_transcript:,} of {figures.usable:,} clips{letters}"),
    ]
    if len(figures.folders) > 1:
        folders = [f"{name}: {row['clips']:,.0f} clips, {row['hours']:.2f} h" for name, row in figures.folders.items()]
        rows.append(("folders", "\n               ".join(_shortened(folders))))
    rows += [("note", note) for note in _notes(figures)]
    lines = [figures.input]
    lines += [f"  {label:<13}{text}" for label, text in rows]
    if figures.broken:
        lines += ["broken:", _first(figures.broken)]
    return "\n".join(lines)


def hours_text(hours: float) -> str:
    """A duration as text, in minutes if it is below an hour."""
    if hours < 1:
        return f"{hours * 60:.1f} min"
    return f"{hours:,.2f} h"


def _figures(root: str, clips: Clips, reasons: dict[str, str], decoded: bool, texts: list[str]) -> Survey:
    seconds = clips.num_samples / SAMPLE_RATE
    speakers = clips.categories("speaker")
    present = list(filter(None, texts))
    shortest, longest = _USUAL_SECONDS
    return Survey(
        input=root,
        files=len(clips.source),
        usable=len(clips),
        hours=float(seconds.sum()) / 3600,
        shortest=float(seconds.min()),
        median=float(np.median(seconds)),
        mean=float(seconds.mean()),
        longest=float(seconds.max()),
        under_4_frames=int((clips.num_samples < LEAST_SAMPLES).sum()),
        under_2_s=int((seconds < shortest).sum()),
        over_20_s=int((seconds > longest).sum()),
        sample_rates=dict(Counter(map(str, clips.sample_rate)).most_common()),
        channels=dict(Counter(map(str, clips.channels)).most_common()),
        speakers=0 if speakers is None else len(speakers.used()),
        folders=_folders(clips, seconds),
        with_transcript=len(present),
        letters="".join(sorted(set().union(*present))),
        decoded=decoded,
        broken=reasons,
    )


def _folders(clips: Clips, seconds: np.ndarray) -> dict[str, dict[str, float]]:
    found = clips.source.categories("folder")
    if found is None or not found.complete:
        return {}
    ids = found.ids[clips.index]
    number = np.bincount(ids, minlength=len(found.names))
    total = np.bincount(ids, seconds, minlength=len(found.names))
    rows: dict[str, dict[str, float]] = {}
    for name, count, length in zip(found.names, number.tolist(), total.tolist(), strict=True):
        rows[name] = {"clips": count, "hours": length / 3600}
    return rows


def _decode_all(file: Encoded) -> AudioInfo:
    with AudioReader(file) as reader:
        low, high = value_range(reader)
        if low == high:
            raise BrokenSample("it is silent")
        return reader.info


def _notes(figures: Survey) -> Iterator[str]:
    if figures.under_4_frames:
        least = f"{LEAST_SAMPLES / SAMPLE_RATE * 1000:.0f} ms"
        yield f"{figures.under_4_frames:,} clips under {least} are too short to train on"
    if figures.under_2_s:
        yield f"{figures.under_2_s:,} clips under 2 s are trained on only with a lower data.min_seconds"
    if figures.over_20_s:
        yield (
            f"{figures.over_20_s:,} clips over 20 s are cropped at random (with transcripts: left out), unless "
            "data.max_seconds is higher"
        )
    if set(figures.sample_rates) != {str(SAMPLE_RATE)}:
        yield f"all is resampled to {SAMPLE_RATE:,} Hz while it is read; once and for all is faster"


def _counts(counts: dict[str, int], unit: str) -> str:
    """The only value, or each with its number of clips."""
    if len(counts) == 1:
        return f"{int(next(iter(counts))):,}{unit}"
    return ", ".join(_shortened([f"{int(value):,}{unit}: {count:,} clips" for value, count in counts.items()]))


def _first(reasons: dict[str, str]) -> str:
    return "\n".join(_shortened([f"  {name}: {reason}" for name, reason in reasons.items()]))


def _shortened(rows: list[str]) -> list[str]:
    if len(rows) > _SHOWN:
        rows[_SHOWN:] = [f"... and {len(rows) - _SHOWN:,} more"]
    return rows
