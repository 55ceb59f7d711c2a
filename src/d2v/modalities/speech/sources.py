"""Where sound comes from: what each kind of source offers, and files on a disk."""

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from d2v.data.files import PackedStrings, fingerprint
from d2v.errors import UserError
from d2v.modalities.speech.decoding import Encoded

# LibriSpeech and LibriTTS: SPEAKER-CHAPTER-NUMBER, or with underscores.
_SPEAKER = re.compile(r"(\d+)[-_]\d+[-_]\d+")


@dataclass(frozen=True)
class Categories:
    """A name for each clip, of few different ones."""

    names: tuple[str, ...]
    ids: np.ndarray
    """int32 [n]; -1 where a clip has none."""

    @classmethod
    def of(cls, values: Sequence[str]) -> "Categories | None":
        """An empty text is none; None if all are empty."""
        names = tuple(sorted({value for value in values if value}))
        number = {name: i for i, name in enumerate(names)} | {"": -1}
        return cls(names, np.array([number[value] for value in values], dtype=np.int32)) if names else None


class AudioSource(ABC):
    """Encoded sound with random access, in an order that depends on names alone; cheap to send to a worker process."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of clips."""

    @abstractmethod
    def open(self, index: int) -> Encoded:
        """The encoded clip; raises BrokenSample if it cannot be read."""

    @abstractmethod
    def name(self, index: int) -> str:
        """What to call the clip in messages and results."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Changes when a file does."""

    def archives(self) -> Sequence[str]:
        """Files that hold several clips each."""
        return ()

    @abstractmethod
    def speakers(self) -> Categories | None:
        """Who speaks."""

    @abstractmethod
    def classes(self, kind: str) -> Categories | None:
        """Classes by ``folder`` (the top folder that a clip lies in) or ``label`` (what an archive states)."""

    @abstractmethod
    def texts(self) -> list[str | None]:
        """Transcripts; None where there is none."""


class FileSource(AudioSource):
    """Files on a disk.

    Args:
        folder: that the files' names are relative to.
        files: their names.
        tops: the top folder of each, which can serve as its class; "" for none.
        transcripts: gives them, if they do not lie beside the files (``*.trans.txt`` or ``STEM.txt``).
    """

    def __init__(
        self,
        folder: str | Path,
        files: Sequence[str],
        tops: Sequence[str],
        transcripts: Callable[[], list[str | None]] | None = None,
    ) -> None:
        self._folder = os.path.abspath(folder)
        self._files = PackedStrings(files)
        self._tops = Categories.of(tops)
        self._transcripts = transcripts
        self._texts: PackedStrings | None = None

    @property
    def folder(self) -> str:
        """Absolute path that the files' names are relative to."""
        return self._folder

    @classmethod
    def joined(cls, parts: Sequence["FileSource"]) -> "FileSource":
        """Several as one, in their order."""
        if len(parts) == 1:
            return parts[0]
        folder = os.path.commonpath([part._folder for part in parts])
        files = [os.path.relpath(part.name(i), folder) for part in parts for i in range(len(part))]
        tops = [part._top(i) for part in parts for i in range(len(part))]
        return cls(folder, files, tops, lambda: [text for part in parts for text in part.texts()])

    def __len__(self) -> int:
        return len(self._files)

    def __getstate__(self) -> dict[str, object]:
        # Worker processes get the transcripts with their labels.
        return {**self.__dict__, "_transcripts": None, "_texts": None}

    def open(self, index: int) -> str:
        return self.name(index)

    def name(self, index: int) -> str:
        return os.path.join(self._folder, self._files[index])

    def fingerprint(self) -> str:
        return fingerprint(self.name(index) for index in range(len(self)))

    def speakers(self) -> Categories | None:
        """From file names as LibriSpeech has them."""
        matches = (_SPEAKER.match(os.path.basename(self._files[index])) for index in range(len(self)))
        return Categories.of([match[1] if match else "" for match in matches])

    def classes(self, kind: str) -> Categories | None:
        """The folders, provided that there are two or more and every clip lies in one."""
        if kind != "folder" or self._tops is None or len(self._tops.names) < 2 or (self._tops.ids < 0).any():
            return None
        return self._tops

    def texts(self) -> list[str | None]:
        if self._texts is None:
            texts = self._transcripts() if self._transcripts is not None else _texts_beside(self)
            self._texts = PackedStrings(text or "" for text in texts)
        return [self._texts[index] or None for index in range(len(self))]

    def _top(self, index: int) -> str:
        return "" if self._tops is None or self._tops.ids[index] < 0 else self._tops.names[self._tops.ids[index]]


@dataclass(frozen=True)
class Clips:
    """Readable clips of a source, and what their headers say."""

    source: AudioSource
    index: np.ndarray
    """int64 [n]: positions in the source."""
    num_samples: np.ndarray
    """int64 [n]: length at 16 kHz."""
    sample_rate: np.ndarray
    """int32 [n]: of the file."""
    channels: np.ndarray
    """int32 [n]."""

    def __len__(self) -> int:
        return len(self.index)

    def open(self, index: int) -> Encoded:
        """The encoded clip."""
        return self.source.open(int(self.index[index]))

    def name(self, index: int) -> str:
        """What to call the clip."""
        return self.source.name(int(self.index[index]))

    def select(self, chosen: np.ndarray) -> "Clips":
        """Some of them: positions, or a mask."""
        columns = {name: getattr(self, name)[chosen] for name in ("index", "num_samples", "sample_rate", "channels")}
        return replace(self, **columns)


def read_manifest(path: Path) -> FileSource:
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
    entries = [line.split("\t") for line in lines[1:] if line.strip()]
    if not entries:
        raise UserError(f"{path}: a manifest has a folder on its first line, then FILE<TAB>SAMPLES; here is no entry.")
    for number, entry in enumerate(entries, 2):
        if len(entry) < 2 or not entry[1].strip().isdigit():
            raise UserError(f"{path}, line {number}: expected FILE<TAB>SAMPLES, found {chr(9).join(entry)!r}.")
    folder = Path(lines[0].strip()).expanduser()
    if not folder.is_absolute() and not folder.is_dir():
        folder = path.parent / folder
    if not folder.is_dir():
        raise UserError(f"{path}: its first line names the folder {lines[0].strip()!r}, which does not exist.")
    files = [entry[0] for entry in entries]
    tops = [file.split("/", 1)[0] if "/" in file else "" for file in files]
    beside = next((p for p in (path.with_suffix(".wrd"), path.with_suffix(".ltr")) if p.is_file()), None)
    if beside is None:
        return FileSource(folder, files, tops)
    texts = _read_text(str(beside)).splitlines()
    if len(texts) != len(files):
        raise UserError(f"{beside} has {len(texts)} lines for {len(files)} files in {path.name}; they must correspond.")
    if beside.suffix == ".ltr":  # H E L L O | W O R L D |
        texts = [text.replace(" ", "").replace("|", " ") for text in texts]
    packed = PackedStrings([text.strip() for text in texts])
    return FileSource(folder, files, tops, lambda: [packed[i] or None for i in range(len(packed))])


def _texts_beside(source: FileSource) -> list[str | None]:
    """From ``*.trans.txt`` (a line a clip: STEM TEXT) in the folder of the clip, else from ``STEM.txt``."""
    found: list[str | None] = []
    folder, texts = "", dict[str, str]()
    for index in range(len(source)):
        parent, base = os.path.split(source.name(index))
        if parent != folder:  # files are sorted, so those of a folder follow each other
            folder, texts = parent, _transcripts_in(parent)
        stem = base.rpartition(".")[0]
        if stem not in texts and os.path.isfile(beside := os.path.join(parent, f"{stem}.txt")):
            texts[stem] = " ".join(_read_text(beside).split())
        found.append(texts.get(stem) or None)
    return found


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
