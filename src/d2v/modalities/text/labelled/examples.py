"""Read the labelled texts of a split: in which columns they stand, and which rows cannot be used."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from d2v.data.broken_samples import too_many_broken
from d2v.data.file_index import PackedStrings
from d2v.errors import UserError, some_of
from d2v.modalities.text.records import Records, warn_of_invalid

_NAMED = 5  # rows that a message about many of them names
_MOST_FRACTIONS = 20  # different numbers that are not whole: half stars are classes, a thousand ratings are not
_SCORES = "If they are scores: --data.regression true --model.task regression"


@dataclass(frozen=True)
class Columns:
    """The columns of the one or two texts of a row, and of its label.

    Each is given by the names that it may have; the first one found in a table is taken.
    """

    texts: tuple[tuple[str, ...], ...]
    label: tuple[str, ...]


@dataclass(frozen=True)
class Examples:
    """Texts with their labels, before they are tokens."""

    texts: tuple[PackedStrings, ...]
    """The first texts of all rows, and the second ones where there are two."""
    labels: tuple[str, ...] | None
    """As written in the files; None if they were not asked for."""
    places: PackedStrings
    """FILE:LINE of each."""
    class_names: tuple[str, ...] = ()
    """All labels in their order, where the files state it."""
    left_out: int = 0
    """Rows without a text or a label."""

    def __len__(self) -> int:
        return len(self.places)

    def select(self, kept: np.ndarray) -> "Examples":
        """The examples at these positions; rows left out are not counted again."""
        texts = tuple(column.select(kept) for column in self.texts)
        labels = self.labels
        if labels is not None:
            labels = tuple(map(labels.__getitem__, kept))
        return Examples(texts, labels, self.places.select(kept), self.class_names)


def read_examples(
    tables: Sequence[Records],
    columns: Columns,
    labelled: bool,
    check: Callable[[str], str | None],
    max_skipped_fraction: float,
) -> Examples:
    """Read the rows of a split.

    Args:
        tables: The tables of the split.
        columns: Where the texts and labels stand.
        labelled: Whether labels are read. Rows without a text or a label are then left out; otherwise no row is.
        check: Says what is wrong with a label; None if nothing is.
        max_skipped_fraction: Largest tolerable share of rows that are left out.

    Raises:
        UserError: A column is missing, or too many rows, or all of them, have no text or no label.
    """
    texts: list[list[str]] = [[] for _ in columns.texts]
    labels: list[str] = []
    places: list[str] = []
    broken: list[str] = []
    class_names: tuple[str, ...] = ()
    for table in tables:
        chosen: list[str] = []
        for names in columns.texts:
            chosen.append(_column(table, names, "text"))
        meaning: tuple[str, ...] = ()
        if labelled:
            chosen.append(_column(table, columns.label, "label"))
            meaning = table.class_names(chosen[-1])
            class_names = class_names or meaning
        for place, cells in table.rows(chosen):
            found = [(cell or "").strip() for cell in cells[: len(texts)]]  # as fairseq before its BPE
            if labelled:
                label = _label(cells[-1], meaning)
                problem: str | None = "has no label"
                if not all(found):
                    problem = "has no text"
                elif place in table.too_wide:
                    problem = f"has more than {len(table.columns)} cells (a tab in the text?)"
                elif label is not None:
                    problem = check(label)
                if problem or label is None:
                    broken.append(f"{place} {problem}")
                    continue
                labels.append(label)
            for column, text in zip(texts, found, strict=True):
                column.append(text)
            places.append(place)
        warn_of_invalid(table)
    _report(tables[0].path, len(places), broken, max_skipped_fraction)
    read = Examples(tuple(map(PackedStrings, texts)), None, PackedStrings(places), class_names, len(broken))
    if labelled:
        read = replace(read, labels=tuple(labels))
    return read


def find_column(table: Records, names: Iterable[str]) -> str | None:
    """The column of a table that has the first of these names, in upper or lower case; None if there is none."""
    for name in names:
        for column in table.columns:
            if column.lower() == name.lower():
                return column
    return None


def have_column(tables: Sequence[Records], names: Iterable[str]) -> bool:
    """Whether every table has a column with one of these names."""
    for table in tables:
        if find_column(table, names) is None:
            return False
    return True


def label_order(labels: Iterable[str], class_names: tuple[str, ...]) -> tuple[str, ...]:
    """The classes in the order that the files state, or else sorted: by value if all are whole numbers."""
    if class_names:
        return class_names
    found = set(labels)
    if all(is_number(label, int) for label in found):
        return tuple(sorted(found, key=int))
    return tuple(sorted(found))


def is_number(text: str, kind: type[int] | type[float] = float) -> bool:
    """Whether a label is a (whole) number."""
    try:
        return math.isfinite(kind(text))
    except ValueError:
        return False


def require_classes(labels: Sequence[str]) -> None:
    """Check that labels are not scores: many different numbers, most of which are not whole.

    Raises:
        UserError: They look like scores.
    """
    different = sorted(set(labels))
    fractions = [label for label in different if is_number(label) and not is_number(label, int)]
    if len(fractions) > max(_MOST_FRACTIONS, len(different) // 2):
        raise UserError(
            f"data.label: the labels are {len(different):,} different numbers ({some_of(different, 5)}). {_SCORES}; if "
            "they are classes, give them names that are no numbers"
        )


def require_known(examples: Examples, numbers: Mapping[str, int]) -> None:
    """Check that the training split has all labels of the validation split.

    Raises:
        UserError: It lacks one.
    """
    assert examples.labels is not None
    for position, label in enumerate(examples.labels):
        if label not in numbers:
            hint = ""
            if is_number(label):
                hint = f". {_SCORES}"
            raise UserError(
                f"data.root: {examples.places[position]} (of the validation split) has the label {label!r}, which no "
                f"training text has; those are {some_of(list(numbers), 9)}. Mend it, or set data.val_split or "
                f"data.label{hint}"
            )


def _column(table: Records, names: Sequence[str], key: str) -> str:
    column = find_column(table, names)
    if column is not None:
        return column
    raise UserError(
        f"data.{key}: {table.path} has no column {' or '.join(names)}; its columns are {', '.join(table.columns)}. "
        f"Name the one to read: --data.{key} COLUMN (or its number, from 1, in a file without a line of names)"
    )


def _label(cell: str | None, meaning: tuple[str, ...]) -> str | None:
    """The label in a cell; None for an empty one. Hugging Face's numbers stand for names, and -1 for no label."""
    if cell is None or not cell.strip():
        return None
    cell = cell.strip()
    if not meaning or not is_number(cell, int):
        return cell
    if not 0 <= int(cell) < len(meaning):
        return None
    return meaning[int(cell)]


def _report(path: Path, count: int, broken: Sequence[str], max_fraction: float) -> None:
    shown = "; ".join(broken[:_NAMED])
    if len(broken) > _NAMED:
        shown += "; ..."
    if not count:
        raise UserError(f"data.root {path}: no usable row: {shown or 'it has no rows at all'}")
    if too_many_broken(len(broken), count + len(broken), max_fraction):
        raise UserError(
            f"data.root {path}: {len(broken):,} of {count + len(broken):,} rows cannot be used, more than "
            f"data.max_skipped_fraction = {max_fraction}: {shown}. Mend them, or raise the fraction"
        )
    if broken:
        rank_zero_warn(f"data: left out {len(broken):,} of {count + len(broken):,} rows of {path}: {shown}")
