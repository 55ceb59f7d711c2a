"""Pools the features of an input over its parts: a mean of all forgets what came first."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from d2v.features.encode import Row, Skipped


def part_means(items: Iterable[Row | Skipped], parts: int, grid: tuple[int, int] | None) -> Iterator[Row | Skipped]:
    """Pool inputs to the means of parts of equal length, side by side [parts * D], as adaptive pooling cuts them.

    A sequence is cut into ``parts`` stretches, a picture into as many rows and columns [parts * parts * D].

    Args:
        items: Features without pooling.
        parts: 1: the plain mean.
        grid: Rows and columns of the vectors of a picture.
    """
    sums = np.zeros(0)
    for item in items:
        if isinstance(item, Skipped):
            yield item
            continue
        if item.first_frame == 0:
            sums = np.zeros((parts ** (2 if grid else 1), item.features.shape[-1]))
        if grid is not None:
            vectors = item.features.reshape(*grid, -1)
            for number in range(len(sums)):
                row, column = divmod(number, parts)
                field = vectors[_part(row, parts, grid[0]), _part(column, parts, grid[1])]
                sums[number] = field.mean(axis=(0, 1), dtype=np.float64)
        else:
            for number in range(parts):
                part = _part(number, parts, item.num_frames)
                begin, end = max(0, part.start - item.first_frame), max(0, part.stop - item.first_frame)
                total = item.features[begin:end].sum(axis=0, dtype=np.float64)
                sums[number] += total / (part.stop - part.start)
        if item.is_last:
            yield replace(item, features=sums.astype(np.float32).reshape(-1), first_frame=0, times=None)


def _part(number: int, parts: int, length: int) -> slice:
    """One of ``parts`` stretches of a sequence; of one shorter than that, they overlap."""
    return slice(number * length // parts, -(-(number + 1) * length // parts))
