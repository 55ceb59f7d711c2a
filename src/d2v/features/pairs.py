"""Tables of pairs: pictures, recordings, texts and more that belong together, and the features of all of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int64

from d2v.data.sources.file_tables import FileTable
from d2v.data.sources.source import Listed, printable
from d2v.data.user_cache import cached_arrays
from d2v.errors import UserError, some_of
from d2v.features.embed import open_pieces
from d2v.features.encode import Skipped, embed_inputs
from d2v.features.feature_settings import SPACE_OPTIONS, encoder_digest, inputs_digest
from d2v.features.part_means import levels_of, part_means, size_of
from d2v.model.encoder import Encoder
from d2v.progress_bar import Progress

HEADINGS: Mapping[str, tuple[str, ...]] = {
    "vision": ("picture", "image"),
    "speech": ("recording",),
    "audio": ("sound",),
    "text": ("caption", "sentence"),
}
"""What the column of a medium may be called, besides the medium's own name."""


@dataclass(frozen=True)
class Pairs:
    """What belongs together; n rows of a table, each with at least two media."""

    where: str
    """The option and the table, for messages."""
    headings: dict[str, str]
    """The column of each medium."""
    items: dict[str, list[str]]
    """The different files or texts of each medium."""
    rows: dict[str, Int64[np.ndarray, "n"]]
    """Which of them a row has; -1: none."""
    labels: list[str] | None
    """Label of each row; None if they were not asked for."""

    def __len__(self) -> int:
        return len(next(iter(self.rows.values())))

    def select(self, chosen: Int64[np.ndarray, "_"]) -> "Pairs":
        """Some of the rows, by their positions."""
        labels = self.labels
        if labels is not None:
            labels = [labels[row] for row in chosen]
        return replace(self, rows={name: rows[chosen] for name, rows in self.rows.items()}, labels=labels)

    def split(self, fraction: float, seed: int) -> tuple["Pairs", "Pairs"]:
        """The rows to train on, and this share of them or less held out: no file or text is on both sides.

        Raises:
            UserError: More rows than that hang together by what they share.
        """
        group = self._groups()
        sizes = np.bincount(group)
        wanted = max(1, round(fraction * len(self)))
        chosen: list[int] = []
        for each in np.random.default_rng(seed).permutation(len(sizes)):
            if sizes[chosen].sum() + sizes[each] <= wanted:
                chosen.append(each)
        if not chosen:
            raise UserError(
                f"{self.where}: {wanted} of its {len(self)} rows cannot be held out, because at least {sizes.min()} "
                "hang together: they share files or texts. Hold out more, or give rows to test with --test TABLE"
            )
        held_out = np.isin(group, chosen)
        return self.select(np.flatnonzero(~held_out)), self.select(np.flatnonzero(held_out))

    def _groups(self) -> Int64[np.ndarray, "n"]:
        """The same number for rows that share an item, or share one with a row that does, and so on."""
        group = np.arange(len(self))
        while True:
            before = group.copy()
            for name, positions in self.rows.items():
                having = positions >= 0
                lowest = np.full(len(self.items[name]), len(self))
                np.minimum.at(lowest, positions[having], group[having])
                group[having] = lowest[positions[having]]
            if np.array_equal(group, before):
                return np.unique(group, return_inverse=True)[1]

    def listed(self, name: str, items: Int64[np.ndarray, "_"], root: str) -> Listed:
        """Some of the items of a medium, whose paths are relative to ``root``."""
        return Listed([self.items[name][item] for item in items], root, f"{self.where}, column {self.headings[name]}")

    def both(self, one: str, other: str) -> Int64[np.ndarray, "_"]:
        """The rows that have these two media."""
        return np.flatnonzero((self.rows[one] >= 0) & (self.rows[other] >= 0))

    def without(self, broken: Mapping[str, Sequence[int]]) -> "Pairs":
        """The same without items that cannot be read, and without rows that have fewer than two media left."""
        rows = {}
        for name, positions in self.rows.items():
            rows[name] = np.where(np.isin(positions, broken.get(name, ())), -1, positions)
        left = sum((positions >= 0).astype(int) for positions in rows.values())
        return replace(self, rows=rows).select(np.flatnonzero(left >= 2))


def read_pairs(path: str | Path, option: str, media: Sequence[str], label: str | None = None) -> Pairs:
    """Read a table with a column for each medium: TSV, CSV, JSON lines or Parquet.

    Args:
        path: Of the table.
        option: That names it, for messages.
        media: Names of the media that may be there; see :data:`HEADINGS`.
        label: The column with a label of each row; None: labels are not read.

    Raises:
        UserError: It cannot be read, has no columns of two media, or no column ``label``.
    """
    names: list[str] = []
    for medium in media:
        names += [medium, *HEADINGS.get(medium, ())]
    where = f"{option} {path}"
    if not Path(path).expanduser().is_file():
        raise UserError(f"{where}: there is no such table")
    table = FileTable(Path(path).expanduser(), option, (), headings=[*names, label or ""])
    columns: dict[str, int] = {}
    for medium in media:
        number = table.column(None, [medium, *HEADINGS.get(medium, ())], option)
        if number is not None:
            columns[medium] = number
    if len(columns) < 2:
        raise UserError(
            f"{where}: needs columns of two media, and of {', '.join(names)} it has "
            f"{some_of([table.columns[number] for number in columns.values()], 3) or 'none'}; its columns are "
            f"{some_of(table.columns, 12)}. Rename them, or give --checkpoint for the other media too"
        )
    of_label = None
    if label is not None:
        of_label = table.column(label, (), "--label")
    items: dict[str, dict[str, int]] = {medium: {} for medium in columns}
    rows: dict[str, list[int]] = {medium: [] for medium in columns}
    labels: list[str] = []
    for number in range(len(table.rows)):
        cells = {medium: _cell(table, number, column) for medium, column in columns.items()}
        if sum(map(bool, cells.values())) < 2:
            continue
        for medium, cell in cells.items():
            position = -1
            if cell:
                position = items[medium].setdefault(cell, len(items[medium]))
            rows[medium].append(position)
        if of_label is not None:
            labels.append(table.cell(number, of_label))
            if not labels[-1]:
                raise UserError(f"{table.line(number)}: has no {label}; fill it in, or leave --label out")
    found = Pairs(
        where,
        {medium: table.columns[number] for medium, number in columns.items()},
        {medium: list(cells) for medium, cells in items.items()},
        {medium: np.array(positions, np.int64) for medium, positions in rows.items()},
        labels if label is not None else None,
    )
    if not len(found):
        raise UserError(f"{where}: not one row has {' and '.join(found.headings.values())}; fill two cells of a row")
    return found


def _cell(table: FileTable, row: int, column: int) -> str:
    """A cell as it is written; a path may have two blanks in a row."""
    cells = table.rows[row][1]
    if len(cells) > len(table.columns):
        return table.cell(row, column)
    return "".join(cells[column : column + 1])


def features_of(
    encoder: Encoder,
    listed: Listed,
    finest: int | None,
    device: torch.device,
    on_skip: Callable[[Skipped], object],
) -> dict[int, Float32[np.ndarray, "n f"]]:
    """Features of all that is listed, by the finest parts that they are pooled over, from the user's cache where they
    were computed before.

    Args:
        encoder: Already on ``device``.
        listed: Files or texts.
        finest: As of :func:`~d2v.features.part_means.part_means`; None: all levels.
        device: Where the encoder is.
        on_skip: Called with what cannot be read, whose features are not finite.

    Raises:
        UserError: A file is not there.
    """
    pieces = open_pieces(encoder, listed, SPACE_OPTIONS, device, cut_silence=True)
    inputs = pieces.inputs
    places = {cell: number for number, cell in enumerate(listed.cells)}
    places |= {printable(cell): number for number, cell in enumerate(listed.cells)}
    levels = [parts for parts in levels_of(inputs.grid) if finest is None or parts <= finest]

    def compute() -> dict[str, np.ndarray]:
        found: np.ndarray | None = None
        with Progress(total=len(inputs), desc=f"embedding {inputs.unit}s", leave=False) as bar:
            for item in part_means(embed_inputs(encoder, pieces, device, SPACE_OPTIONS), levels[-1], inputs.grid):
                bar.update()
                if isinstance(item, Skipped):
                    on_skip(item)
                    continue
                if found is None:
                    found = np.full((len(listed.cells), len(item.features)), np.nan, np.float32)
                found[places[item.name]] = item.features
        if found is None:
            raise UserError(f"{listed.where}: not one of {len(listed.cells)} {inputs.unit}s can be read; see above")
        return {"features": found}

    for name, reason in inputs.broken.items():
        on_skip(Skipped(name, reason))
    key = f"{encoder_digest(encoder)} {inputs_digest(inputs)} {SPACE_OPTIONS} {levels} {device.type}"
    found = cached_arrays("aligned", blake2b(key.encode(), digest_size=12).hexdigest(), compute)["features"]
    ends = np.cumsum([size_of(parts, inputs.grid) for parts in levels])
    width = found.shape[1] // int(ends[-1])
    return {parts: found[:, : end * width] for parts, end in zip(levels, ends.tolist(), strict=True)}
