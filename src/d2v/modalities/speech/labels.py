"""What a clip is labelled with: one class, several classes at once, or letters."""

import csv
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from d2v.data.alphabet import Alphabet
from d2v.data.files import PackedStrings
from d2v.errors import UserError
from d2v.modalities.speech.sources import Categories, Clips

_HEADINGS = ("file", "path", "filename", "file_name", "name")


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
        self._ids = ids

    def __getitem__(self, index: int) -> int:
        return int(self._ids[index])


class SeveralClasses(Labels):
    """Each clip has any number of classes, one or more."""

    def __init__(self, names: tuple[str, ...], ids: Sequence[Sequence[int]]) -> None:
        self.names = names
        self._ids = np.array([i for clip in ids for i in clip], dtype=np.int32)
        self._ends = np.cumsum([0, *(len(clip) for clip in ids)], dtype=np.int64)

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


def class_labels(kind: str, clips: Clips, train_names: tuple[str, ...] | None) -> tuple[np.ndarray, Labels]:
    """Classes of clips by ``speaker``, ``folder`` or ``label`` (of an archive), or from a table of files.

    Args:
        kind: where the classes come from.
        clips: of a split.
        train_names: classes of the training split, to which those of this split must belong; None: this is it.

    Returns:
        Positions of the clips that have a class, and their labels.

    Raises:
        UserError: nothing states the classes, or this split has others than the training split.
    """
    if kind not in ("speaker", "folder", "label"):
        return _from_table(Path(kind).expanduser(), clips, train_names)
    found = clips.source.speakers() if kind == "speaker" else clips.source.classes(kind)
    if found is None:
        why = {
            "speaker": "file names do not begin with SPEAKER-CHAPTER-NUMBER, and no column states speakers",
            "folder": "not every clip lies in one of two or more folders",
            "label": "there is no column, .cls or .json with labels",
        }[kind]
        raise UserError(f"data.labels is {kind}, but {why} (first clip: {clips.name(0)}).")
    ids = found.ids[clips.index]
    kept = np.flatnonzero(ids >= 0)
    used = np.unique(ids[kept])
    names = tuple(found.names[i] for i in used) if train_names is None else train_names
    _check_known({found.names[i] for i in used}, names, kind)
    number = {name: i for i, name in enumerate(names)}
    translated = np.array([number.get(name, -1) for name in found.names], dtype=np.int32)
    return kept, OneClass(names, translated[ids[kept]])


def speakers_of(clips: Clips) -> Categories | None:
    """Who speaks in each clip."""
    found = clips.source.speakers()
    return None if found is None else Categories(found.names, found.ids[clips.index])


def texts_of(clips: Clips) -> list[str | None]:
    """Transcript of each clip; None where there is none."""
    texts = clips.source.texts()
    return [texts[i] for i in clips.index]


def _from_table(path: Path, clips: Clips, train_names: tuple[str, ...] | None) -> tuple[np.ndarray, Labels]:
    table = read_table(path)
    rows = [_row_of(table, clips.name(index)) for index in range(len(clips))]
    kept = np.array([index for index, row in enumerate(rows) if row], dtype=np.int64)
    present = [row for row in rows if row]
    if not present:
        raise UserError(
            f"data.labels {path}: no entry is a clip; first entry {next(iter(table))}, first clip {clips.name(0)}."
        )
    used = {name for row in present for name in row}
    # By the whole table, so that a class without a clip in this subset keeps its place.
    names = tuple(sorted({name for row in table.values() for name in row})) if train_names is None else train_names
    _check_known(used, names, str(path))
    number = {name: i for i, name in enumerate(names)}
    ids = [[number[name] for name in row] for row in present]
    if any(len(row) > 1 for row in table.values()):
        return kept, SeveralClasses(names, ids)
    return kept, OneClass(names, np.array([row[0] for row in ids], dtype=np.int32))


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


def _check_known(used: set[str], names: tuple[str, ...], kind: str) -> None:
    unknown = sorted(used - set(names))
    if unknown:
        shown = ", ".join(unknown[:5]) + (" ..." if len(unknown) > 5 else "")
        raise UserError(
            f"data.labels {kind}: the validation split has classes that the training split has not: {shown}. Choose "
            "another data.val_split, or hold out part of the training clips: data.val_fraction 0.05."
        )
