"""The order of samples: one endless stream, of which every rank takes its share."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

from d2v.data.randomness import stable_seed


class StreamSampler(Sampler[list[tuple[int, int]]]):
    """Batch sampler that yields micro-batches of (data epoch, index), in an order that depends on the seed alone.

    The stream has no end: its position p is sample ``permutation(seed, p // n)[p % n]`` of data epoch ``p // n``.
    With B samples a micro-batch and W ranks, micro-batch b of rank r is positions ``[(b*W + r)*B, (b*W + r + 1)*B)``
    counted from the start of the Lightning epoch. Such an epoch is the whole optimizer steps that fit into one pass,
    ``L = max(1, n // G) * G`` positions with G = B * W * accumulation, and the next one goes on where it ended: no step
    is partial, no sample is left out for ever, and a data set smaller than G works.

    Args:
        num_samples: n, the size of the data set.
        batch_size: B, samples of one micro-batch on one rank.
        seed: of the permutations.
        rank: this process.
        world_size: W.
        accumulation: micro-batches of one optimizer step on one rank.
    """

    def __init__(
        self, num_samples: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1, accumulation: int = 1
    ) -> None:
        self.num_samples = num_samples
        self.samples_per_batch = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        step = batch_size * world_size * accumulation
        self.samples_per_epoch = max(1, num_samples // step) * step
        self.epoch = 0
        self.start_batch = 0
        self._origin = 0  # position at which Lightning's epoch 0 would have started with today's sizes
        self._permutations: dict[int, Tensor] = {}

    @property
    def sampler(self) -> "StreamSampler":
        """Itself: Lightning calls ``set_epoch`` on ``dataloader.batch_sampler.sampler``."""
        return self

    def __len__(self) -> int:
        """Micro-batches of one rank in a whole epoch (also in one that was resumed: Lightning adds those done)."""
        return self.samples_per_epoch // (self.samples_per_batch * self.world_size)

    def set_epoch(self, epoch: int) -> None:
        """Start the next iteration at ``epoch``; the epoch that was resumed keeps its start in the middle."""
        if epoch != self.epoch:
            self.epoch, self.start_batch = epoch, 0

    def position(self, epoch: int, batch: int) -> int:
        """Position in the stream, all ranks together, of micro-batch ``batch`` of Lightning epoch ``epoch``."""
        return self._origin + epoch * self.samples_per_epoch + batch * self.samples_per_batch * self.world_size

    def seek(self, epoch: int, batch: int, position: int) -> None:
        """Resume: the next iteration starts with micro-batch ``batch`` of ``epoch``, at ``position`` of the stream.

        With another batch size or number of ranks than before, the same (epoch, batch) stands elsewhere in the stream;
        the origin moves so that no sample is skipped or repeated.
        """
        self.epoch, self.start_batch, self._origin = epoch, batch, 0
        self._origin = position - self.position(epoch, batch)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        # Not itself a generator: where to start is decided now, and not when the first batch is drawn.
        return self._batches(self.epoch, self.start_batch)

    def _batches(self, epoch: int, start_batch: int) -> Iterator[list[tuple[int, int]]]:
        for batch in range(start_batch, len(self)):
            first = self.position(epoch, batch) + self.rank * self.samples_per_batch
            yield [self._sample(position) for position in range(first, first + self.samples_per_batch)]

    def _sample(self, position: int) -> tuple[int, int]:
        data_epoch, offset = divmod(position, self.num_samples)
        return data_epoch, int(self._permutation(data_epoch)[offset])

    def _permutation(self, data_epoch: int) -> Tensor:
        if data_epoch not in self._permutations:
            generator = torch.Generator().manual_seed(stable_seed(self.seed, data_epoch))
            # A batch straddles two data epochs at most now and then: the last two are kept.
            kept = {old: order for old, order in self._permutations.items() if old == data_epoch - 1}
            self._permutations = {**kept, data_epoch: torch.randperm(self.num_samples, generator=generator)}
        return self._permutations[data_epoch]


class OrderedSampler(Sampler[tuple[int, int]]):
    """For evaluation: the chosen indices in their order, as (0, index); every rank takes each W-th of them."""

    def __init__(self, indices: range | list[int], rank: int = 0, world_size: int = 1) -> None:
        self.indices = indices[rank::world_size]

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((0, index) for index in self.indices)
