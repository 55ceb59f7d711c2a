"""The report on a collection of sound, as text with a bar chart and as files."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from d2v.data.file_index import list_files
from d2v.data.sound.audio_reader import SAMPLE_RATE
from d2v.data.sound.sound_files import SOUND, Clips
from d2v.data.sources.source import Files
from d2v.data.sources.splits import ARCHIVES
from d2v.errors import UserError
from d2v.modalities.speech.survey import Survey, describe, hours_text, survey
from d2v.whole_files import sync, write_text

_WRITTEN = ("report.json", "lengths.png", "manifest.tsv")
_DIGEST = "manifest_sha256"
_BAR = 40
_BINS = 24


@dataclass(frozen=True)
class SpeechReport:
    """Result of :func:`prepare_speech`; as a text, the output of `d2v prepare speech`."""

    figures: Survey
    histogram: str
    """Bar chart of the clips' lengths, in text."""
    written: list[Path]

    def __str__(self) -> str:
        lines = [describe(self.figures), self.histogram]
        if self.written:
            lines.append("written: " + ", ".join(map(str, self.written)))
        return "\n".join(lines)


def prepare_speech(
    input: str | Path,
    output: str | Path | None = None,
    decode: bool = False,
    transcripts: str | Path | None = None,
    file_column: str | None = None,
    text_column: str | None = None,
) -> SpeechReport:
    """Look at sound before a training: hours, rates, speakers, lengths, broken files.

    Args:
        input: LibriSpeech or another folder, a manifest (.tsv), a glob or an archive.
        output: Folder for report.json, lengths.png and, for files on a disk, manifest.tsv; None: nothing is written.
        decode: Decode all sound to find truncated, silent and not finite files; otherwise only headers are read.
        transcripts: Table of files and texts, to see which clips have one; None: those beside the clips are counted.
        file_column: Column of the table with the files, by heading or number from 1; None: found.
        text_column: Likewise, with the texts.

    Raises:
        UserError: Nothing there is usable, or the folder cannot be written or holds other files of these names.
    """
    folder = None
    try:
        if output is not None:  # checked now, not after an hour of decoding
            folder = Path(output)
            check_folder(str(input), folder)
            folder.mkdir(parents=True, exist_ok=True)
        try:
            table = None
            if transcripts is not None:
                table = Path(transcripts)
            figures, clips = survey(str(input), decode, table, file_column, text_column)
        except OSError as error:
            raise UserError(f"--input {input}: cannot be read ({error.strerror or error})") from error
        written = []
        if folder is not None:
            written = write_report(figures, clips, folder)
    except OSError as error:
        raise UserError(f"--output {output}: cannot be written ({error.strerror}); give another folder") from error
    return SpeechReport(figures, histogram(clips), written)


def histogram(clips: Clips) -> str:
    """Bar chart of the clips' lengths, in text."""
    counts, edges = np.histogram(clips.num_samples / SAMPLE_RATE, bins=_edges(clips, 10))
    width = max(len(f"{edge:,.1f}") for edge in edges)
    rows = []
    for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
        bar = "#" * round(_BAR * count / counts.max())
        rows.append(f"  {low:>{width},.1f} to {high:>{width},.1f} s  {count:>9,}  {bar}".rstrip())
    return "\n".join(rows)


def check_folder(root: str, folder: Path) -> None:
    """Check, before a report is written, that it would replace nothing but an earlier one.

    Args:
        root: root of the surveyed sound.
        folder: folder for the report.

    Raises:
        UserError: a file there is not from :func:`write_report`, was changed since, is part of the input, or
            transcripts lie beside the manifest.
    """
    report, _, manifest = map(folder.joinpath, _WRITTEN)
    advice = "give another folder, or move it away"
    if _is_read(Path(root).expanduser(), manifest):
        raise UserError(
            f"--output {folder}: {manifest.name} there would be part of --input {root}; give another folder"
        )
    present = list(filter(Path.exists, map(folder.joinpath, _WRITTEN)))
    stored = _stored_report(report)
    if present and stored is None:
        raise UserError(f"--output {folder}: {present[0].name} there is not by d2v prepare speech; {advice}")
    if stored is not None and manifest.exists() and _digest(manifest) != stored[_DIGEST]:
        raise UserError(f"--output {folder}: {manifest.name} there was changed since it was written; {advice}")
    for texts in (manifest.with_suffix(".ltr"), manifest.with_suffix(".wrd")):
        if texts.exists():
            raise UserError(f"--output {folder}: {texts.name} there belongs to another {manifest.name}; {advice}")


def write_report(figures: Survey, clips: Clips, folder: Path) -> list[Path]:
    """Write ``report.json``, ``lengths.png`` and, for files on a disk, ``manifest.tsv`` in fairseq's format.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    report, picture, manifest = map(folder.joinpath, _WRITTEN)
    written, digest = [report, picture], None
    with FileLock(folder / ".lock"):
        part = folder / f".{manifest.name}.part"
        if isinstance(clips.source, Files):
            root = clips.source.folder
            frames = np.rint(clips.num_samples * (clips.sample_rate / SAMPLE_RATE)).astype(np.int64)
            with part.open("w", encoding="utf-8", errors="surrogateescape") as file:
                file.write(f"{root}\n")
                for index in range(len(clips)):
                    file.write(f"{os.path.relpath(clips.name(index), root)}\t{frames[index]}\n")
            digest = _digest(part)
        # The report comes first: it says whose the other files are, whenever this process is killed.
        manifest.unlink(missing_ok=True)
        text = json.dumps({**asdict(figures), _DIGEST: digest}, indent=2, ensure_ascii=False)
        # Names that are not UTF-8 become JSON's own escapes.
        write_text(report, text + "\n", errors="backslashreplace")
        _draw(clips, picture)
        if digest:
            sync(part)
            part.replace(manifest)
            written.append(manifest)
    return written


def _is_read(source: Path, manifest: Path) -> bool:
    """Whether the manifest is the input, or lies in a folder of which only manifests are read."""
    if os.path.isfile(source):  # never raises, unlike pathlib's: reading it will report what is wrong
        return manifest.exists() and source.samefile(manifest)
    if not os.path.isdir(source) or not manifest.resolve().is_relative_to(source.resolve()):
        return False
    return bool(list_files(source, (".tsv",))) and not list_files(source, (*SOUND.suffixes, *ARCHIVES))


def _stored_report(path: Path) -> dict[str, Any] | None:
    """The report of an earlier call; None if there is none of ours."""
    try:
        stored = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(stored, dict) or _DIGEST not in stored:
        return None
    return stored


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _draw(clips: Clips, path: Path) -> None:
    from matplotlib.figure import Figure

    seconds = clips.num_samples / SAMPLE_RATE
    figure = Figure(figsize=(6, 3.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.hist(seconds, bins=_edges(clips, _BINS).tolist(), color="#1f5fa8", edgecolor="white", linewidth=0.5)
    axes.set_title(
        f"{len(clips):,} clips, {hours_text(float(seconds.sum()) / 3600)}", size=10, weight="bold", loc="left"
    )
    axes.set_xlabel("length of a clip / s", size=9)
    axes.set_ylabel("clips", size=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, facecolor="white")


def _edges(clips: Clips, bins: int) -> np.ndarray:
    """Equal steps, or equal ratios where the longest clip is far longer than most."""
    seconds = clips.num_samples / SAMPLE_RATE
    low, high = float(seconds.min()), float(seconds.max())
    if high - low < 0.1:
        return np.array([low, low + 0.1])
    if high > 10 * float(np.median(seconds)):
        return np.geomspace(max(low, 0.01), high, bins + 1)
    return np.linspace(low, high, bins + 1)
