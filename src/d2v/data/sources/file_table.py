"""Tables that say something about files: the label of each, for one."""

import csv
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from d2v.data.sources.source import COLUMNS, Part
from d2v.errors import UserError, some_of

FILE_COLUMNS = (
    "file", "file_name", "filename", "path", "file_path", "filepath", "audio_filepath", "audio_file", "image_path",
    "image", "image_id", "img", "audio", "clip", "name", "id", "key",
)  # fmt: skip
"""Usual names, in lower case, of the column that names the files; the first one found is taken."""


def read_file_table(path: Path, column: str, key: str) -> dict[str, str]:
    """What a table says about each file: .tsv, .csv (also with semicolons), or JSON lines (.jsonl, .json).

    Columns are found by their names in the first line. Without such a line the first one names the files, and what is
    said about them is all others, joined by commas.

    Args:
        path: the table.
        column: what is wanted, a key of :data:`~d2v.data.sources.source.COLUMNS`.
        key: the option that gives the path, for messages.

    Raises:
        UserError: it cannot be read, lacks a column, or a row lacks a value.
    """
    where = f"{key} {path}"
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        if path.suffix.lower() in (".json", ".jsonl"):
            rows = _json_rows(lines)
        else:
            rows = list(csv.reader(lines, delimiter=_delimiter(path, lines)))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{where}: cannot be read as a table ({error}); give a .tsv, .csv or .jsonl file") from error
    place, value = 0, None
    header = [cell.strip().lower() for cell in chain.from_iterable(rows[:1])]
    if set(header).intersection(FILE_COLUMNS):
        place, value = _columns(header, column, where)
    table: dict[str, str] = {}
    for number, row in enumerate(rows, 1):
        if (number == 1 and value is not None) or not any(map(str.strip, row)):
            continue
        if len(row) <= max(place, value or 1) or not row[place].strip():
            raise UserError(f"{where}, line {number}: expected a file and its {column}, found {row!r}")
        said = row[place + 1 :]
        if value is not None:
            said = row[value : value + 1]
        if text := ",".join(filter(None, map(str.strip, said))):  # else nothing is known about this file
            table[os.path.normpath(row[place].strip().replace("\\", "/"))] = text
    if not table:
        raise UserError(f"{where}: there is no row with a file and its {column}")
    return table


class TableLabels(NamedTuple):
    """Labels of samples by a table."""

    kept: np.ndarray
    """int64 [n]: positions of the samples that have labels."""
    rows: list[tuple[str, ...]]
    """The labels of each of these."""
    names: tuple[str, ...]
    """All labels of the table, also those of other files."""
    several: bool
    """Whether some file of the table has several."""


def labels_in_table(path: Path, part: Part) -> TableLabels:
    """Labels of samples, from the table of ``data.labels``.

    A file is named by its path from any folder above it, with or without its ending.

    Raises:
        UserError: it cannot be read, or names none of the samples.
    """
    table = read_file_table(path, "label", "data.labels")
    names = list(map(part.name, range(len(part))))
    if part.source.archives:
        ids = part.source.ids()
        names = [ids[index] for index in part.index]
    kept: list[int] = []
    found: list[str] = []
    for position, name in enumerate(names):
        if entry := _entry(table, name):
            kept.append(position)
            found.append(entry)
    first = next(iter(table))
    if not kept:
        raise UserError(
            f"data.labels {path}: no row names one of the samples; the first row is of {first}, the first sample is "
            f"{names[0]}"
        )
    if first not in found and not Path(first).suffix:
        del table[first]  # names of columns that nobody knows
    everything = list(map(_split, table.values()))
    names_of_labels = tuple(sorted(set(chain.from_iterable(everything))))
    rows = [_split(table[entry]) for entry in found]
    return TableLabels(np.array(kept), rows, names_of_labels, max(map(len, everything)) > 1)


def _split(labels: str) -> tuple[str, ...]:
    return tuple(filter(None, map(str.strip, labels.split(","))))


def _entry(table: Mapping[str, str], name: str) -> str | None:
    """The name under which a table has a file."""
    parts = name.split(os.sep)
    for depth in range(1, len(parts) + 1):
        tail = os.sep.join(parts[-depth:])
        for entry in (tail, os.path.splitext(tail)[0], os.sep + tail):
            if entry in table:
                return entry
    return None


def _columns(header: Sequence[str], column: str, where: str) -> tuple[int, int]:
    """Which column names the files, and which says what is wanted about them."""
    place = header.index(next(name for name in FILE_COLUMNS if name in header))
    for name in COLUMNS[column]:
        if name in header:
            return place, header.index(name)
    if len(header) == 2:
        return place, 1 - place
    raise UserError(f"{where}: none of its columns ({some_of(header, 12)}) is called {' or '.join(COLUMNS[column])}")


def _delimiter(path: Path, lines: Sequence[str]) -> str:
    if path.suffix.lower() != ".csv":
        return "\t"
    if lines and ";" in lines[0] and "," not in lines[0]:
        return ";"
    return ","


def _json_rows(lines: Iterable[str]) -> list[list[str]]:
    """The names of the entries of the first line, then the values of each line."""
    rows: list[list[str]] = []
    for line in filter(str.strip, lines):
        entry = json.loads(line)
        if not isinstance(entry, dict):
            raise ValueError(f"expected an object a line, found {line[:60]}")
        if not rows:
            rows.append(list(entry))
        values = [entry.get(name) for name in rows[0]]
        rows.append(["" if value is None else _plain(value) for value in values])
    return rows


def _plain(value: object) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value)
