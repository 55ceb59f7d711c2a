"""Pools the features of an input over its parts, coarse and fine: a mean of all forgets what came first."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from d2v.features.encode import Row, Skipped

_MOST = 16  # means of the finest parts: a sequence has up to 8 of them, a picture 4 x 4


def levels_of(grid: tuple[int, int] | None) -> list[int]:
    """Into how many parts inputs are cut, the coarsest first: a sequence into stretches, a picture into so many rows
    and columns."""
    return [parts for parts in (1, 2, 4, 8) if size_of(parts, grid) <= _MOST]


def part_means(items: Iterable[Row | Skipped], finest: int, grid: tuple[int, int] | None) -> Iterator[Row | Skipped]:
    """Pool inputs to the means of parts of equal length at all levels up to one, side by side, as adaptive pooling cuts
    them (spatial pyramids, Lazebnik et al. 2006).

    Args:
        items: Features without pooling.
        finest: The last of the levels; 1: the plain mean.
        grid: Rows and columns of the vectors of a picture.

    Yields:
        Features [F], the coarsest level first: those of a coarser ``finest`` are their beginning.
    """
    levels = [parts for parts in levels_of(grid) if parts <= finest]
    sums: list[np.ndarray] = []
    for item in items:
        if isinstance(item, Skipped):
            yield item
            continue
        if item.first_frame == 0:
            sums = [np.zeros((size_of(parts, grid), item.features.shape[-1])) for parts in levels]
        for parts, means in zip(levels, sums, strict=True):
            if grid is not None:
                vectors = item.features.reshape(*grid, -1)
                for number in range(len(means)):
                    row, column = divmod(number, parts)
                    field = vectors[_part(row, parts, grid[0]), _part(column, parts, grid[1])]
                    means[number] = field.mean(axis=(0, 1), dtype=np.float64)
                continue
            for number in range(parts):
                part = _part(number, parts, item.num_frames)
                begin, end = max(0, part.start - item.first_frame), max(0, part.stop - item.first_frame)
                total = item.features[begin:end].sum(axis=0, dtype=np.float64)
                means[number] += total / (part.stop - part.start)
        if item.is_last:
            features = np.concatenate(sums).astype(np.float32).reshape(-1)
            yield replace(item, features=features, first_frame=0, times=None)


def size_of(parts: int, grid: tuple[int, int] | None) -> int:
    """How many means there are of so many parts."""
    return parts if grid is None else parts * parts


def _part(number: int, parts: int, length: int) -> slice:
    """One of ``parts`` stretches of a sequence; of one shorter than that, they overlap."""
    return slice(number * length // parts, -(-(number + 1) * length // parts))
