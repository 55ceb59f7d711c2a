"""Batches of clips of about the same length, stated in units of length and not in clips."""

from collections.abc import Sequence

import numpy as np

from d2v.data.permutation import permuted

# A bucket's longest sample is at most so much longer than its shortest: about half of that is padding on average ...
_WIDEST = 1.02
# ... unless the bucket would then hold fewer batches than this, which would have much the same members in each epoch.
_FEWEST_BATCHES = 8


class LengthBuckets:
    """Divides samples into batches whose padded size (longest x samples) stays within a limit.

    The samples are sorted by length and cut into buckets once. In each data epoch every bucket is in another order, and
    is cut into batches of equal numbers of samples (or one less). So every data epoch has the same number of batches
    and holds every sample exactly once, and batch b of epoch e is a function of (seed, e, b), computed from nothing but
    the bucket's own bounds. The order of batches is the sampler's business.

    Args:
        lengths: int [n], of each sample, above 0, in any unit.
        limit: padded size of a batch in the same unit, at least the largest length.
        seed: of the orders.

    Raises:
        ValueError: a length is above the limit, or there is no sample.
    """

    def __init__(self, lengths: np.ndarray, limit: float, seed: int) -> None:
        if len(lengths) == 0:
            raise ValueError("there is no sample to make batches of")
        if lengths.max() > limit:
            raise ValueError(f"a sample of length {lengths.max()} is above the limit of {limit}")
        self.num_samples = len(lengths)
        self._seed = seed
        self._by_length = np.argsort(lengths, kind="stable").astype(np.min_scalar_type(-len(lengths)))
        self._bounds, self._first = _cut(lengths, self._by_length, limit)

    def __len__(self) -> int:
        """Batches of a data epoch."""
        return int(self._first[-1])

    def batches(self, epochs: np.ndarray, numbers: np.ndarray) -> list[np.ndarray]:
        """Samples of several batches in one go, which is hardly more work than a single one.

        Args:
            epochs: int64 [b], the data epoch of each.
            numbers: int64 [b], their numbers in it.
        """
        buckets = np.searchsorted(self._first, numbers, "right") - 1
        start, first = self._bounds[buckets], self._first[buckets]
        size, parts, part = self._bounds[buckets + 1] - start, self._first[buckets + 1] - first, numbers - first
        begin, end = part * size // parts, (part + 1) * size // parts
        ends = (end - begin).cumsum()
        batch = np.repeat(np.arange(len(numbers)), end - begin)  # of each sample
        places = np.arange(len(batch)) + (end - ends)[batch]
        entries = permuted(places, size[batch], self._seed, epochs[batch], buckets[batch])
        return np.split(self._by_length[start[batch] + entries], ends[:-1])


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


def _cut(lengths: np.ndarray, by_length: np.ndarray, limit: float) -> tuple[np.ndarray, np.ndarray]:
    """Where the buckets begin and end in ``by_length`` [b + 1], and the number of each one's first batch [b + 1]."""
    bounds, batches = [len(lengths)], []
    while bounds[-1] > 0:  # from the longest, which tells how many fit into a batch
        stop = bounds[-1]
        longest = float(lengths[by_length[stop - 1]])
        fit = int(limit / longest)
        # A whole number, for which numpy need not make floats of all lengths.
        narrow = int(np.searchsorted(lengths, lengths.dtype.type(np.ceil(longest / _WIDEST)), sorter=by_length))
        bounds.append(max(0, min(narrow, stop - _FEWEST_BATCHES * fit)))
        batches.append(-(-(stop - bounds[-1]) // fit))
    return np.array(bounds[::-1]), np.cumsum([0, *batches[::-1]])
