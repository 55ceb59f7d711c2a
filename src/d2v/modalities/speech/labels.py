"""What a clip is labelled with: one class, several classes at once, or letters."""

import csv
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from d2v.data.alphabet import Alphabet
from d2v.data.file_index import PackedStrings
from d2v.data.sources.source import Categories
from d2v.errors import UserError
from d2v.modalities.speech.decoding import SAMPLE_RATE
from d2v.modalities.speech.sound_files import Clips

_HEADINGS = ("file", "path", "filename", "file_name", "name")
_MISSING = {
    "speaker": "file names do not begin with SPEAKER-CHAPTER-NUMBER, and no column states speakers",
    "folder": "not every clip lies in one of two or more folders",
    "label": "there is no column, .cls or .json with labels",
}
"""Kinds of classes, and why a clip may have none."""


class Labels(ABC):
    """The label of each clip of a split."""

    names: tuple[str, ...] = ()
    """Classes; empty for letters."""

    @abstractmethod
    def __getitem__(self, index: int) -> int | Tensor:
        """A class, or several float32 [C], or letters int64 [S]."""


class OneClass(Labels):
    """Each clip has one class."""

    def __init__(self, names: tuple[str, ...], ids: np.ndarray) -> None:
        self.names = names
        self.ids = ids

    def __getitem__(self, index: int) -> int:
        return int(self.ids[index])


class SeveralClasses(Labels):
    """Each clip has any number of classes, one or more.

    Args:
        classes: those of the first clip, then those of the second ...
        counts: int [n]: how many each clip has.
    """

    def __init__(self, classes: Categories, counts: np.ndarray) -> None:
        self.names = classes.names
        self._ids = classes.ids
        self._ends = np.concatenate([[0], np.cumsum(counts)])

    def __getitem__(self, index: int) -> Tensor:
        present = torch.zeros(len(self.names))
        present[torch.from_numpy(self._ids[self._ends[index] : self._ends[index + 1]]).long()] = 1
        return present


class Letters(Labels):
    """Each clip has a transcript."""

    def __init__(self, alphabet: Alphabet, texts: Sequence[str]) -> None:
        self._alphabet = alphabet
        self._texts = PackedStrings(texts)

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor(self._alphabet.encode(self.text(index)), dtype=torch.long)

    def text(self, index: int) -> str:
        """As it was given."""
        return self._texts[index]


@dataclass(frozen=True)
class SpeechSplit:
    """Clips and their labels."""

    clips: Clips
    labels: Labels | None
    label_index: np.ndarray
    """int64 [n]: where the label of each clip stands in ``labels``."""

    def label(self, index: int) -> int | Tensor | None:
        """A class, or several float32 [C], or letters int64 [S]."""
        return None if self.labels is None else self.labels[int(self.label_index[index])]

    def transcript(self, index: int) -> str | None:
        """As it was given; None if the labels are none or others."""
        return self.labels.text(int(self.label_index[index])) if isinstance(self.labels, Letters) else None

    def classes(self) -> Categories | None:
        """The class of each clip, where it has one."""
        if not isinstance(self.labels, OneClass):
            return None
        return Categories(self.labels.names, self.labels.ids[self.label_index])

    def select(self, chosen: np.ndarray) -> "SpeechSplit":
        """Some of them: positions, or a mask."""
        return SpeechSplit(self.clips.select(chosen), self.labels, self.label_index[chosen])

    @property
    def hours(self) -> float:
        return float(self.clips.num_samples.sum()) / SAMPLE_RATE / 3600


def labelled(
    name: str, clips: Clips, kind: str | None, train: Labels | None, alphabet: Alphabet | None
) -> tuple[SpeechSplit, int]:
    """Give clips their labels; those without one are left out.

    Args:
        name: of the split, for messages.
        clips: of the split.
        kind: transcript, speaker, folder, label, a table of files, or None: no labels.
        train: of the training split; None: this is the training split.
        alphabet: of the transcripts.

    Returns:
        The split, and how many were left out.

    Raises:
        UserError: nothing states the labels, or this split has classes that the training split has not.
    """
    if kind is None:
        return SpeechSplit(clips, None, np.arange(len(clips))), 0
    if kind == "transcript":
        assert alphabet is not None
        texts = clips.texts()
        kept = np.array([index for index, text in enumerate(texts) if text], dtype=np.int64)
        if len(kept) == 0:
            raise UserError(
                f"data.labels is transcript, but no clip of the {name} split has one (first clip: {clips.name(0)}): "
                "they stand in *.trans.txt or STEM.txt beside the clips, or in .ltr or .wrd beside a manifest."
            )
        present = [text for text in texts if text]
        alphabet.report_unknown(present)
        labels: Labels = Letters(alphabet, present)
    else:
        kept, labels = class_labels(kind, clips, None if train is None else train.names)
    return SpeechSplit(clips.select(kept), labels, np.arange(len(kept))), len(clips) - len(kept)


def class_labels(kind: str, clips: Clips, train_names: tuple[str, ...] | None) -> tuple[np.ndarray, Labels]:
    """Classes of clips by ``speaker``, ``folder`` or ``label`` (of an archive), or from a table of files.

    Args:
        kind: where the classes come from.
        clips: of a split.
        train_names: classes of the training split, which those of this split must be; None: this is the training split.

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
    ids = found.ids[clips.index]
    kept = np.flatnonzero(ids >= 0)
    if train_names is None:
        train_names = tuple(found.names[number] for number in np.unique(ids[kept]))
    here = Categories(found.names, ids[kept]).numbered_as(train_names, f"data.labels {kind}")
    return kept, OneClass(here.names, here.ids)


def _from_table(path: Path, clips: Clips, train_names: tuple[str, ...] | None) -> tuple[np.ndarray, Labels]:
    table = read_table(path)
    kept: list[int] = []
    rows: list[tuple[str, ...]] = []
    for index in range(len(clips)):
        if row := _row_of(table, clips.name(index)):
            kept.append(index)
            rows.append(row)
    if not rows:
        raise UserError(
            f"data.labels {path}: no entry is a clip; first entry {next(iter(table))}, first clip {clips.name(0)}."
        )
    # By the whole table, so that a class without a clip in this subset keeps its place.
    names = tuple(sorted(set(chain.from_iterable(table.values()))))
    found = Categories.of(chain.from_iterable(rows))
    assert found is not None
    ids = found.numbered_as(names if train_names is None else train_names, f"data.labels {path}")
    if max(map(len, table.values())) > 1:
        return np.array(kept), SeveralClasses(ids, np.array([len(row) for row in rows]))
    return np.array(kept), OneClass(ids.names, ids.ids)


def read_table(path: Path) -> dict[str, tuple[str, ...]]:
    """Rows ``FILE<TAB>LABEL[,LABEL...]`` (.tsv) or ``FILE,LABEL[,LABEL...]`` (.csv, with or without quotes).

    Raises:
        UserError: it cannot be read, or a row is no such pair.
    """
    table: dict[str, tuple[str, ...]] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file, delimiter="," if path.suffix.lower() == ".csv" else "\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"data.labels {path}: is neither speaker, folder, label or transcript, nor a readable table ({error})."
        ) from error
    for number, row in enumerate(rows, 1):
        if not any(cell.strip() for cell in row) or (number == 1 and row[0].strip().lower() in _HEADINGS):
            continue
        labels = tuple(name.strip() for cell in row[1:] for name in cell.split(",") if name.strip())
        if not row[0].strip() or not labels:
            raise UserError(f"data.labels {path}, line {number}: expected a file and its labels, found {row!r}.")
        table[row[0].strip()] = labels
    if not table:
        raise UserError(f"data.labels {path}: there is no row with a file and its labels.")
    return table


def _row_of(table: dict[str, tuple[str, ...]], name: str) -> tuple[str, ...] | None:
    """A file is named by its path from any folder above it, with or without its ending."""
    parts = name.split(os.sep)
    for depth in range(1, len(parts) + 1):
        tail = os.sep.join(parts[-depth:])
        row = table.get(tail) or table.get(tail.rpartition(".")[0]) or table.get(os.sep + tail)
        if row:
            return row
    return None
