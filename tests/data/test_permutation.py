"""Permutations that are computed entry by entry: bijections in which nothing is to be seen."""

import numpy as np
import pytest

from d2v.data.permutation import permuted


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 16, 25, 1000, 10**6 + 3])
def test_each_entry_once(size: int) -> None:
    for epoch in (0, 1):
        entries = permuted(np.arange(size), size, 3, epoch)
        assert np.array_equal(np.sort(entries), np.arange(size))


def test_an_entry_depends_on_its_own_position_and_key_alone() -> None:
    size, epochs = 10**8 + 7, np.array([5, -1, 5, 2**62])
    positions = np.array([0, 10**8, 77, 3])
    together = permuted(positions, size, 9, epochs)
    for position, epoch, entry in zip(positions, epochs, together, strict=True):
        assert permuted(np.array([position]), size, 9, int(epoch)).tolist() == [entry]
    pinned = [40553776, 98819789, 63738417, 50220591]  # runs are resumed on other machines
    assert permuted(np.arange(4), 10**8, 1, 2).tolist() == pinned


def surprise(counts: np.ndarray, expected: float) -> float:
    """How many deviations the chi-square statistic of counts lies above what chance gives."""
    free = counts.size - 1
    return float(((counts - expected) ** 2 / expected).sum() - free) / (2 * free) ** 0.5


@pytest.mark.parametrize("size", [2, 3, 4, 5, 6])
def test_all_orders_of_few_are_equally_likely(size: int) -> None:
    draws = 20_000
    keys = np.repeat(np.arange(draws), size)
    orders = permuted(np.tile(np.arange(size), draws), size, keys, 1).reshape(draws, size)
    _, counts = np.unique(orders @ size ** np.arange(size), return_counts=True)
    assert len(counts) == [2, 6, 24, 120, 720][size - 2]
    assert surprise(counts, draws / len(counts)) < 4


@pytest.mark.parametrize("size", [7, 9, 16, 25, 65, 100])
@pytest.mark.parametrize("distance", [1, 3])
def test_all_pairs_of_entries_are_equally_likely(size: int, distance: int) -> None:
    draws = 30_000
    seeds = np.arange(draws)
    first = permuted(np.zeros(draws, dtype=np.int64), size, seeds, 0)
    second = permuted(np.full(draws, distance), size, seeds, 0)
    assert (first != second).all()
    counts = np.bincount(first * size + second, minlength=size * size).reshape(size, size)
    counts = counts[~np.eye(size, dtype=bool)]
    assert surprise(counts, draws / len(counts)) < 4


@pytest.mark.parametrize("size", [1000, 10**6 + 3, 10**8])
def test_neighbours_epochs_seeds_and_buckets_have_nothing_in_common(size: int) -> None:
    positions = np.arange(min(size, 200_000))
    entries = permuted(positions, size, 1, 7)
    shifted = np.concatenate([entries[1:], entries[:1]])
    others = [shifted, *(permuted(positions, size, *key) for key in [(1, 8), (2, 7), (7, 1), (1, 7, 0), (1, 7, 1)])]
    bins, per_bin = 20, len(positions) / 400
    for other in others:
        counts = np.bincount(entries * bins // size * bins + other * bins // size, minlength=bins * bins)
        assert surprise(counts, per_bin) < 4.5
        steps = np.bincount((entries - other) % size * 64 // size, minlength=64)  # no step is more frequent
        assert surprise(steps, len(positions) / 64) < 4.5
        assert (entries == other).sum() < 12  # one on average, as by chance, in 1000 of 1000
