"""Batches of clips of about the same length, stated in units of length and not in clips."""

from collections.abc import Sequence

import numpy as np
import torch

from d2v.data.samples import stable_seed

# A bucket's longest sample is at most so much longer than its shortest: about half of that is padding on average ...
_WIDEST = 1.02
# ... unless the bucket would then hold fewer batches than this, which would have much the same members in each epoch.
_FEWEST_BATCHES = 8


class LengthBuckets:
    """Divides samples into batches whose padded size (longest x samples) stays within a limit.

    The samples are sorted by length and cut into buckets once. Each data epoch shuffles every bucket and cuts it into
    batches of equal numbers of samples (or one less). So every data epoch has the same number of batches and holds
    every sample exactly once, and batch b of epoch e is a function of (seed, e, b). The order of batches is the
    sampler's business.

    Args:
        lengths: of each sample, above 0, in any unit.
        limit: padded size of a batch in the same unit, at least the largest length.
        seed: of the shuffles.

    Raises:
        ValueError: a length is above the limit, or there is no sample.
    """

    def __init__(self, lengths: np.ndarray, limit: float, seed: int) -> None:
        if len(lengths) == 0:
            raise ValueError("there is no sample to make batches of")
        if lengths.max() > limit:
            raise ValueError(f"a sample of length {lengths.max()} is above the limit of {limit}")
        self._seed = seed
        self._by_length = np.argsort(lengths, kind="stable")
        self._buckets = _cut(lengths[self._by_length], limit)
        self._num_batches = sum(batches for _, _, batches in self._buckets)
        self._epoch = -1
        self._order = self._by_length
        self._starts = np.zeros(1, dtype=np.int64)
        self._sizes = np.zeros(0, dtype=np.int64)

    def __len__(self) -> int:
        """Batches of a data epoch."""
        return self._num_batches

    def batch(self, epoch: int, number: int) -> list[int]:
        """Samples of one batch."""
        if epoch != self._epoch:
            self._shuffle(epoch)
        start = self._starts[number]
        return self._order[start : start + self._sizes[number]].tolist()

    def _shuffle(self, epoch: int) -> None:
        keys = torch.rand(len(self._by_length), generator=torch.Generator().manual_seed(stable_seed(self._seed, epoch)))
        order, starts, sizes = self._by_length.copy(), [], []
        for start, stop, batches in self._buckets:
            members = order[start:stop]
            order[start:stop] = members[np.argsort(keys[start:stop].numpy(), kind="stable")]
            bounds = start + np.arange(batches + 1) * (stop - start) // batches
            starts.append(bounds[:-1])
            sizes.append(np.diff(bounds))
        self._order, self._starts, self._sizes = order, np.concatenate(starts), np.concatenate(sizes)
        self._epoch = epoch


def consecutive_batches(lengths: Sequence[int] | np.ndarray, limit: float) -> list[range]:
    """Cut samples in their order into batches whose padded size stays within a limit; a longer sample stands alone."""
    batches, start, longest = [], 0, 0
    for index, length in enumerate(lengths):
        grown = max(longest, int(length))
        if index > start and grown * (index + 1 - start) > limit:
            batches.append(range(start, index))
            start, grown = index, int(length)
        longest = grown
    if len(lengths):
        batches.append(range(start, len(lengths)))
    return batches


def _cut(ascending: np.ndarray, limit: float) -> list[tuple[int, int, int]]:
    """Buckets of ascending lengths as (start, stop, batches)."""
    buckets = []
    stop = len(ascending)
    while stop > 0:  # from the longest, which tells how many fit into a batch
        longest = float(ascending[stop - 1])
        fit = int(limit / longest)
        narrow = int(np.searchsorted(ascending, longest / _WIDEST))
        start = max(0, min(narrow, stop - _FEWEST_BATCHES * fit))
        buckets.append((start, stop, -(-(stop - start) // fit)))
        stop = start
    return buckets[::-1]
