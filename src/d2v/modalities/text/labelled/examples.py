"""Labelled texts of a split: which columns they stand in, and what is wrong with some of them."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from d2v.data.file_index import PackedStrings
from d2v.data.samples import too_many_broken
from d2v.errors import UserError
from d2v.modalities.text.records import Records, warn_of_invalid

_NAMED = 5  # rows that a message about many of them names


@dataclass(frozen=True)
class Columns:
    """Where the texts of a row stand, one or two, and its label.

    For each the names that it may have, of which the first that a table has is taken.
    """

    texts: tuple[tuple[str, ...], ...]
    label: tuple[str, ...]


@dataclass(frozen=True)
class Examples:
    """Texts with their labels, before they are tokens."""

    texts: tuple[PackedStrings, ...]
    """The first texts of all rows, and the second ones where there are two."""
    labels: tuple[str, ...] | None
    """As they are written; None where they are not asked for."""
    places: PackedStrings
    """FILE:LINE of each."""
    class_names: tuple[str, ...] = ()
    """All labels in their order, where the files state it."""
    left_out: int = 0
    """Rows without a text or a label."""

    def __len__(self) -> int:
        return len(self.places)

    def select(self, kept: np.ndarray) -> "Examples":
        """Those at these positions; what was left out is not counted again."""
        return Examples(
            tuple(PackedStrings(column[i] for i in kept) for column in self.texts),
            None if self.labels is None else tuple(self.labels[i] for i in kept),
            PackedStrings(self.places[i] for i in kept),
            self.class_names,
        )


def read_examples(
    tables: Sequence[Records],
    columns: Columns,
    labelled: bool,
    check: Callable[[str], str | None] = lambda label: None,
    max_skipped_fraction: float = 0.0,
) -> Examples:
    """Read the rows of a split. Those without a text or a label are left out; without ``labelled``, none is.

    Args:
        tables: Of the split.
        columns: Where to look.
        labelled: Whether labels are read.
        check: What is wrong with a label; None: nothing.
        max_skipped_fraction: Largest tolerable share of rows that are left out.

    Raises:
        UserError: A column is missing, too many rows have no text or no label, or none has.
    """
    texts: list[list[str]] = [[] for _ in columns.texts]
    labels: list[str] = []
    places: list[str] = []
    broken: list[str] = []
    class_names: tuple[str, ...] = ()
    for table in tables:
        chosen = [_column(table, names, "text") for names in columns.texts]
        meaning: tuple[str, ...] = ()
        if labelled:
            chosen.append(_column(table, columns.label, "label"))
            meaning = table.class_names(chosen[-1])
            class_names = class_names or meaning
        for place, cells in table.rows(chosen):
            found = [cell or "" for cell in cells[: len(texts)]]
            if labelled:
                label = _named(cells[-1], meaning)
                problem = None if all(text.strip() for text in found) else "has no text"
                problem = problem or ("has no label" if label is None else check(label))
                if problem or label is None:
                    broken.append(f"{place} {problem}")
                    continue
                labels.append(label)
            for column, text in zip(texts, found, strict=True):
                column.append(text)
            places.append(place)
        warn_of_invalid(table)
    _report(tables[0].path, len(places), broken, max_skipped_fraction)
    packed = tuple(PackedStrings(column) for column in texts)
    return Examples(packed, tuple(labels) if labelled else None, PackedStrings(places), class_names, len(broken))


def find_column(table: Records, names: Iterable[str]) -> str | None:
    """The first of these names that a table has, as it writes it; upper and lower case are the same."""
    by_name = {column.lower(): column for column in reversed(table.columns)}
    for name in names:
        if name.lower() in by_name:
            return by_name[name.lower()]
    return None


def have_column(tables: Sequence[Records], names: Iterable[str]) -> bool:
    """Whether every table has a column of one of these names."""
    return all(find_column(table, names) is not None for table in tables)


def label_order(labels: Iterable[str], class_names: tuple[str, ...]) -> tuple[str, ...]:
    """The classes in their order: that of the files, else of their numbers, else of the alphabet."""
    if class_names:
        return class_names
    found = set(labels)
    return tuple(sorted(found, key=int) if all(is_number(label, int) for label in found) else sorted(found))


def is_number(text: str, kind: type[int] | type[float] = float) -> bool:
    """Whether a label is a (whole) number."""
    try:
        return math.isfinite(kind(text))
    except ValueError:
        return False


def require_known(examples: Examples, numbers: Mapping[str, int]) -> None:
    """Compare the labels of the validation split with those of the training split.

    Raises:
        UserError: One is not among them.
    """
    assert examples.labels is not None
    for position, label in enumerate(examples.labels):
        if label not in numbers:
            raise UserError(
                f"data.root: {examples.places[position]} (of the validation split) has the label {label!r}, which no "
                f"training text has; those are {', '.join(numbers)}. Mend it, or set data.val_split or data.label"
            )


def _column(table: Records, names: Sequence[str], key: str) -> str:
    column = find_column(table, names)
    if column is not None:
        return column
    raise UserError(
        f"data.{key}: {table.path} has no column {' or '.join(names)}; its columns are {', '.join(table.columns)}. "
        f"Name the one to read: --data.{key} COLUMN (or its number, from 1, in a file without a line of names)"
    )


def _named(cell: str | None, meaning: tuple[str, ...]) -> str | None:
    """The label of a cell; Hugging Face numbers classes, and -1 is none."""
    if cell is None or not cell.strip():
        return None
    cell = cell.strip()
    if not meaning or not is_number(cell, int):
        return cell
    return meaning[int(cell)] if 0 <= int(cell) < len(meaning) else None


def _report(path: Path, count: int, broken: Sequence[str], max_fraction: float) -> None:
    shown = "; ".join(broken[:_NAMED]) + ("; ..." if len(broken) > _NAMED else "")
    if not count:
        raise UserError(f"data.root {path}: no usable row" + (f": {shown}" if broken else "; it has no rows at all"))
    if too_many_broken(len(broken), count + len(broken), max_fraction):
        raise UserError(
            f"data.root {path}: {len(broken):,} of {count + len(broken):,} rows cannot be used, more than "
            f"data.max_skipped_fraction = {max_fraction}: {shown}. Mend them, or raise the fraction"
        )
    if broken:
        rank_zero_warn(f"data: left out {len(broken):,} of {count + len(broken):,} rows of {path}: {shown}")
