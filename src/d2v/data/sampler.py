"""The order of samples: one endless stream, of which every rank takes its share."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, count, islice, repeat

import numpy as np
from torch.utils.data import Sampler

from d2v.data.permutation import permuted

Unpack = Callable[[np.ndarray, np.ndarray], Sequence[np.ndarray]]
_TOGETHER = 256  # positions whose entries are computed in one go


class StreamSampler(Sampler[list[tuple[int, int]]]):
    """Batch sampler that yields micro-batches of (data epoch, index), in an order that depends on the seed alone.

    The stream has no end: its position p is sample ``permuted(p % n, n, seed, p // n)`` of data epoch ``p // n``.
    With B samples a micro-batch and W ranks, micro-batch b of rank r is positions ``[(b*W + r)*B, (b*W + r + 1)*B)``.
    A Lightning epoch is the whole optimizer steps that fit into one pass, ``L = max(1, n // G) * G`` positions with
    G = B * W * accumulation, and the next one goes on where it ended: no step is partial, no sample is left out for
    ever, and a data set smaller than G works.

    Args:
        num_samples: n, the size of the data set.
        batch_size: B, samples of one micro-batch on one rank.
        seed: of the permutations.
        rank: this process.
        world_size: W.
        accumulation: micro-batches of one optimizer step on one rank.
        consumed: how many micro-batches this rank has trained on, since the first epoch of the run. Each epoch starts
            there, because workers fetch ahead, epochs can be cut short (``limit_train_batches``), and Lightning counts
            an epoch too many after a resume from the end of one. None: epoch e starts at ``e * L``.
        unpack: indices that entries of data epochs stand for, given (epochs, entries), where the stream is one of
            groups (of similar length) and n counts those. None: each entry is an index.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        accumulation: int = 1,
        consumed: Callable[[], int] | None = None,
        unpack: Unpack | None = None,
    ) -> None:
        self.num_samples = num_samples
        self.seed = seed
        self._batch_size = batch_size
        self._rank = rank
        self.stride = batch_size * world_size
        """Positions from a micro-batch of a rank to its next one."""
        self._consumed = consumed
        self._unpack = unpack
        self._samples_per_epoch = max(1, num_samples // (self.stride * accumulation)) * self.stride * accumulation
        self._origin = 0  # where the run would have started, had it always had today's sizes
        self.start = 0
        """Position of the next epoch, all ranks together."""
        self.set_epoch(0)

    def __len__(self) -> int:
        """Micro-batches of one rank in a whole epoch (also in one that is resumed: Lightning adds those done)."""
        return self._samples_per_epoch // self.stride

    @property
    def passes(self) -> float:
        """Passes over the data set in an epoch: below 1 where whole steps leave a rest, above 1 of a small data set."""
        return self._samples_per_epoch / self.num_samples

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration be this epoch. An iteration that has begun is not moved."""
        done = epoch * self._samples_per_epoch
        if self._consumed is not None:
            done = self._consumed() * self.stride
        self.start = self._origin + done

    def position(self, batches: int) -> int:
        """Position in the stream, all ranks together, after ``batches`` micro-batches of each rank."""
        return self._origin + batches * self.stride

    def seek(self, position: int, batches: int) -> None:
        """Resume: the next iteration starts at ``position``, and ``batches`` micro-batches have been consumed.

        With another batch size or number of ranks, the same number of batches would have led elsewhere; the origin
        moves so that no sample is skipped or repeated.
        """
        self._origin = position - batches * self.stride
        self.start = position

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        # Not itself a generator: where to start is decided now, and not when the first batch is drawn.
        return islice(self.endless(), len(self))

    def endless(self) -> Iterator[list[tuple[int, int]]]:
        """The micro-batches of the next epoch and of all that follow it."""
        return self._batches(self.start + self._rank * self._batch_size)

    def at(self, positions: range | np.ndarray) -> Iterator[list[tuple[int, int]]]:
        """What these positions of the stream hold, whatever rank they are for: (data epoch, index) of each sample."""
        epochs, offsets = np.divmod(positions, self.num_samples)
        entries = permuted(offsets, self.num_samples, self.seed, epochs)
        groups: Sequence[np.ndarray] = entries[:, None]  # type: ignore[assignment]
        if self._unpack is not None:
            groups = self._unpack(epochs, entries)
        for epoch, group in zip(epochs.tolist(), groups, strict=True):
            yield [(epoch, index) for index in group.tolist()]

    def _batches(self, start: int) -> Iterator[list[tuple[int, int]]]:
        together = -(-_TOGETHER // self._batch_size)
        for first in count(start, together * self.stride):
            firsts = range(first, first + together * self.stride, self.stride)
            positions = np.add.outer(firsts, range(self._batch_size))
            entries = self.at(positions.ravel())
            for _ in positions:
                yield list(chain.from_iterable(islice(entries, self._batch_size)))


class OrderedSampler(Sampler[tuple[int, int]]):
    """For evaluation: the chosen indices in their order, as (0, index); every rank takes each W-th of them."""

    def __init__(self, indices: range | list[int], rank: int = 0, world_size: int = 1) -> None:
        self.indices = indices[rank::world_size]

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(repeat(0), self.indices)


class OrderedBatches(Sampler[list[tuple[int, int]]]):
    """For evaluation: batches of the given indices, as (0, index)."""

    def __init__(self, batches: Sequence[Sequence[int]]) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in self._batches:
            yield list(zip(repeat(0), batch))
