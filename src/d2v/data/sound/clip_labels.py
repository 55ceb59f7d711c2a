"""Labels of clips: one class, several classes at once, or letters."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from d2v.data.alphabet import Alphabet
from d2v.data.file_index import PackedStrings
from d2v.data.sound.audio_reader import NOT_READ, SAMPLE_RATE, SUFFIXES
from d2v.data.sound.sound_files import Clips
from d2v.data.sound.transcripts import FORMATS
from d2v.data.sources.label_table import read_labels
from d2v.data.sources.source import COLUMNS, Categories
from d2v.errors import UserError

_LEAST_WRITTEN = 0.5  # of the characters of transcripts, by an alphabet that is of any use
_MISSING = {
    "speaker": "file names do not begin with SPEAKER-CHAPTER-NUMBER, and no column states speakers",
    "folder": "not every clip lies in one of two or more folders",
    "label": "there is no column, .cls or .json with labels",
}
"""Kinds of classes, and why a clip may have none."""


@dataclass(frozen=True)
class SeveralClasses:
    """One or more classes for each clip."""

    names: tuple[str, ...]
    """Names of all classes."""
    ids: np.ndarray
    """int32: the classes of all clips, clip by clip."""
    starts: np.ndarray
    """int64 [n]: where the classes of each clip begin in ``ids``."""
    counts: np.ndarray
    """int64 [n]: how many classes each clip has."""

    def label(self, index: int) -> Tensor:
        """float32 [C]: 1 for each class of a clip."""
        start = self.starts[index]
        present = torch.zeros(len(self.names))
        present[self.ids[start : start + self.counts[index]]] = 1
        return present

    def __getitem__(self, chosen: np.ndarray) -> "SeveralClasses":
        return replace(self, starts=self.starts[chosen], counts=self.counts[chosen])


@dataclass(frozen=True)
class Letters:
    """One transcript for each clip."""

    alphabet: Alphabet
    texts: PackedStrings
    index: np.ndarray
    """int64 [n]: where the transcript of each clip stands in ``texts``."""
    names: tuple[str, ...] = ()

    def label(self, index: int) -> Tensor:
        """int64 [S]."""
        return torch.tensor(self.alphabet.encode(self.text(index)), dtype=torch.long)

    def text(self, index: int) -> str:
        """The transcript as it was given."""
        return self.texts[self.index[index]]

    def __getitem__(self, chosen: np.ndarray) -> "Letters":
        return replace(self, index=self.index[chosen])


Labels = Categories | SeveralClasses | Letters
"""One class, several classes at once, or letters for each clip of a split; ``names`` name the classes."""


@dataclass(frozen=True)
class SoundSplit:
    """Clips and their labels."""

    clips: Clips
    labels: Labels | None

    def label(self, index: int) -> int | Tensor | None:
        """A class, or several float32 [C], or letters int64 [S]."""
        if self.labels is None:
            return None
        return self.labels.label(index)

    def transcript(self, index: int) -> str | None:
        """The transcript as it was given; None if labels are not transcripts."""
        if not isinstance(self.labels, Letters):
            return None
        return self.labels.text(index)

    def select(self, chosen: np.ndarray) -> "SoundSplit":
        """Some of the clips, given by positions or a mask."""
        return SoundSplit(self.clips.select(chosen), self.labels and self.labels[chosen])

    @property
    def hours(self) -> float:
        return float(self.clips.num_samples.sum()) / SAMPLE_RATE / 3600


def labelled(
    name: str,
    clips: Clips,
    kind: str | None,
    train: Labels | None,
    alphabet: Alphabet | None = None,
    texts: Sequence[str] = (),
) -> tuple[SoundSplit, int]:
    """Give clips their labels; clips without a label are left out.

    Args:
        name: name of the split, for messages.
        clips: clips of the split.
        kind: transcript, speaker, folder, label, a table of files, or None: no labels.
        train: labels of the training split; None: this is the training split.
        alphabet: alphabet of the transcripts.
        texts: transcript of each clip, empty where there is none.

    Returns:
        The split, and the number of clips left out.

    Raises:
        UserError: nothing states the labels, or this split has classes that the training split has not.
    """
    if kind is None:
        return SoundSplit(clips, None), 0
    if kind == "transcript":
        assert alphabet is not None
        require_transcripts(name, clips, texts)
        kept = np.array([index for index, text in enumerate(texts) if text], dtype=np.int64)
        alphabet.report_unknown(texts, _LEAST_WRITTEN)
        labels: Labels = Letters(alphabet, PackedStrings(texts), kept)
    else:
        train_names = None
        if train is not None:
            train_names = train.names
        kept, labels = class_labels(kind, clips, train_names)
    return SoundSplit(clips.select(kept), labels), len(clips) - len(kept)


def require_transcripts(name: str, clips: Clips, texts: Sequence[str]) -> None:
    """Check that a split has a transcript.

    Raises:
        UserError: it has none; the message names all places where transcripts may stand.
    """
    if not any(texts):
        raise UserError(
            f"data.labels is transcript, but no clip of the {name} split has one (first clip: {clips.name(0)}). "
            f"Transcripts are read from {FORMATS}."
        )


def class_labels(kind: str, clips: Clips, train_names: tuple[str, ...] | None) -> tuple[np.ndarray, Labels]:
    """Classes of clips by ``speaker``, ``folder`` or ``label`` (of an archive), or from a table of files.

    Args:
        kind: where the classes come from.
        clips: of a split.
        train_names: classes of the training split, to which this split is limited; None: this is the training split.

    Returns:
        Positions of the clips that have a class, and their labels.

    Raises:
        UserError: nothing states the classes, or this split has others than the training split.
    """
    if kind not in _MISSING:
        return _from_table(Path(kind).expanduser(), clips, train_names)
    found = clips.source.categories(kind)
    if found is None or (kind == "folder" and not found.complete):
        raise UserError(f"data.labels is {kind}, but {_MISSING[kind]} (first clip: {clips.name(0)}).")
    found = found[clips.index]
    kept = np.flatnonzero(found.ids >= 0)
    if train_names is None:
        train_names = tuple(found.names[number] for number in found.used())
    return kept, found[kept].numbered_as(train_names, f"data.labels {kind}")


def speakers_of(clips: Clips, kind: str | None) -> np.ndarray | None:
    """int32 [n]: the speaker of each clip, -1 where that is not known; None if nothing states them.

    Args:
        clips: of all splits.
        kind: of their labels; a table may have a column of speakers, too.
    """
    found = clips.categories("speaker")
    if found is None and kind is not None and kind not in _MISSING and Path(kind).expanduser().is_file():
        table, _ = read_labels(Path(kind).expanduser(), (*SUFFIXES, *NOT_READ))
        column = table.column(None, COLUMNS["speaker"], "data.labels")
        if column is not None:
            speakers = []
            for row in table.files([clips.name(index) for index in range(len(clips))], "data.labels")[1]:
                speakers.append(table.cell(row, column) if row >= 0 else "")
            found = Categories.of(speakers)
    if found is None:
        return None
    return found.ids


def _from_table(path: Path, clips: Clips, train_names: tuple[str, ...] | None) -> tuple[np.ndarray, Labels]:
    if not path.is_file():
        raise UserError(
            f"data.labels {path}: is neither speaker, folder, label or transcript, nor the file of a table."
        )
    table, labels = read_labels(path, (*SUFFIXES, *NOT_READ))
    _, found = table.files([clips.name(index) for index in range(len(clips))], "data.labels")
    kept = np.flatnonzero(np.array(found) >= 0)
    rows = [labels[found[index]] for index in kept]
    if not rows:
        what, advice = "a clip", ""
        if train_names is not None:
            what = "a clip of the validation split"
            advice = " Add rows for it, or give the training folder alone as data.root: a share of it is then held out."
        raise UserError(
            f"data.labels {path}: no entry is {what}; first entry {table.cell(0, 0)}, first clip {clips.name(0)}."
            + advice
        )
    if train_names is None:
        # By the whole table, so that a class without a clip in this subset keeps its place.
        train_names = tuple(sorted(set(chain.from_iterable(labels))))
    named = Categories.of(chain.from_iterable(rows))
    assert named is not None
    classes = named.numbered_as(train_names, f"data.labels {path}")
    if max(map(len, labels)) == 1:
        return kept, classes
    counts = np.array(list(map(len, rows)))
    return kept, SeveralClasses(classes.names, classes.ids, np.cumsum(counts) - counts, counts)
