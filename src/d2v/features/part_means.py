"""Pools the features of an input over its parts: a mean of all forgets what came first."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from d2v.features.encode import Row, Skipped


def part_means(
    items: Iterable[Row | Skipped], parts: Sequence[int], grid: tuple[int, int] | None
) -> Iterator[Row | Skipped]:
    """Pool inputs to the means of parts of equal length, side by side, as adaptive pooling cuts them.

    A sequence is cut into as many stretches, a picture into as many rows and columns.

    Args:
        items: Features without pooling.
        parts: 1: the plain mean. Several: the features of each, one after the other.
        grid: Rows and columns of the vectors of a picture.

    Yields:
        Features [n D] for each number of parts; [n n D] of pictures.
    """
    sums: list[np.ndarray] = []
    for item in items:
        if isinstance(item, Skipped):
            yield item
            continue
        if item.first_frame == 0:
            sums = [np.zeros((size_of(count, grid), item.features.shape[-1])) for count in parts]
        for count, means in zip(parts, sums, strict=True):
            if grid is not None:
                vectors = item.features.reshape(*grid, -1)
                for number in range(len(means)):
                    row, column = divmod(number, count)
                    field = vectors[_part(row, count, grid[0]), _part(column, count, grid[1])]
                    means[number] = field.mean(axis=(0, 1), dtype=np.float64)
                continue
            for number in range(count):
                part = _part(number, count, item.num_frames)
                begin, end = max(0, part.start - item.first_frame), max(0, part.stop - item.first_frame)
                total = item.features[begin:end].sum(axis=0, dtype=np.float64)
                means[number] += total / (part.stop - part.start)
        if item.is_last:
            features = np.concatenate(sums).astype(np.float32).reshape(-1)
            yield replace(item, features=features, first_frame=0, times=None)


def size_of(parts: int, grid: tuple[int, int] | None) -> int:
    """How many means there are."""
    return parts if grid is None else parts * parts


def _part(number: int, parts: int, length: int) -> slice:
    """One of ``parts`` stretches of a sequence; of one shorter than that, they overlap."""
    return slice(number * length // parts, -(-(number + 1) * length // parts))
