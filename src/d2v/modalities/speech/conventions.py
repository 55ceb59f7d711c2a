"""What collections of sound have in common: endings, names of speakers, transcripts beside the files, manifests."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from d2v.data.sources.source import Files, Medium
from d2v.errors import UserError

# LibriSpeech and LibriTTS: SPEAKER-CHAPTER-NUMBER, or with underscores.
_SPEAKER = re.compile(r"(\d+)[-_]\d+[-_]\d+")


def speaker_of(file_name: str) -> str:
    """Who speaks, as LibriSpeech names its files; empty if another name does not say."""
    match = _SPEAKER.match(file_name)
    return match[1] if match else ""


def transcripts_beside(files: Files) -> Iterator[str]:
    """From ``*.trans.txt`` (a line a clip: STEM TEXT) in the folder of each clip, else from ``STEM.txt``."""
    folder, texts = "", dict[str, str]()
    for index in range(len(files)):
        parent, base = os.path.split(files.name(index))
        if parent != folder:  # files are sorted, so those of a folder follow each other
            folder, texts = parent, _transcripts_in(parent)
        stem = base.rpartition(".")[0]
        beside = os.path.join(parent, f"{stem}.txt")
        if stem not in texts and os.path.isfile(beside):
            texts[stem] = " ".join(_read_text(beside).split())
        yield texts.get(stem, "")


def read_manifest(path: Path) -> Files:
    """A manifest of fairseq: a folder on the first line, then ``FILE<TAB>SAMPLES``; ``.ltr`` or ``.wrd`` beside it.

    The stated numbers of samples are not used: the files' headers also say at which rate they are.

    Raises:
        UserError: a line is no such entry, or there is not one transcript a line.
    """
    try:
        # Names of files need not be UTF-8.
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot be read as a manifest ({error}).") from error
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
    for beside in (path.with_suffix(".wrd"), path.with_suffix(".ltr")):
        if beside.is_file():
            texts = _transcripts_of_manifest(beside, len(files), path.name)
            return Files(SOUND, folder, files, texts=texts)
    return Files(SOUND, folder, files)


SOUND = Medium(
    "sound",
    # What libsndfile reads.
    (".flac", ".wav", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64"),
    feature="Audio",
    columns=("label", "speaker", "text"),
    manifests={".tsv": read_manifest},
    unpacks_to="LibriSpeech",
    speaker_of=speaker_of,
    texts_beside=transcripts_beside,
    unreadable=(".m4a", ".aac", ".wma", ".mp4", ".webm"),
)


def _transcripts_of_manifest(path: Path, count: int, manifest: str) -> list[str]:
    texts = [text.strip() for text in _read_text(str(path)).splitlines()]
    if len(texts) != count:
        raise UserError(f"{path} has {len(texts)} lines for {count} files in {manifest}; they must correspond.")
    if path.suffix == ".ltr":  # H E L L O | W O R L D |
        return [text.replace(" ", "").replace("|", " ").strip() for text in texts]
    return texts


def _transcripts_in(folder: str) -> dict[str, str]:
    texts: dict[str, str] = {}
    if not os.path.isdir(folder):
        return texts
    for entry in sorted(os.listdir(folder)):
        if entry.endswith(".trans.txt") and not entry.startswith("."):
            for line in _read_text(os.path.join(folder, entry)).splitlines():
                stem, _, text = line.strip().partition(" ")
                texts[stem] = text.strip()
    return texts


def _read_text(path: str) -> str:
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error}).") from error
