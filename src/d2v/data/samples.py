"""One sample: its randomness, and what happens when it cannot be read."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from math import gcd
from struct import pack
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, default_collate

from d2v.data.broken_samples import SkippedSamples
from d2v.data.loading_processes import reading
from d2v.errors import BrokenSample
from d2v.types import Batch

_MOST_IN_A_ROW = 50
_IGNORED_LETTER = -100  # Hugging Face's convention


def stable_seed(*key: int) -> int:
    """Hash integers (each within 64 signed bits) into a seed of 63 bits; equal on every machine and Python."""
    return int.from_bytes(blake2b(pack(f"<{len(key)}q", *key), digest_size=8).digest(), "little") >> 1


@contextmanager
def keyed_randomness(*key: int) -> Iterator[None]:
    """Inside, torch's global CPU generator starts from ``stable_seed(*key)``; outside, nothing has moved.

    ``torch.manual_seed`` would also reseed the GPU, whose dropout would then repeat itself whenever samples are loaded
    in the main process; so only the CPU generator is touched.
    """
    generator = torch.default_generator
    state = generator.get_state()
    generator.manual_seed(stable_seed(*key))
    try:
        yield
    finally:
        generator.set_state(state)


class Sample(NamedTuple):
    """What a data set returns; :func:`collate_samples` makes a batch of a list of them."""

    inputs: Tensor
    sample_id: int
    epoch: int
    label: int | Tensor | None
    """A class, or what a modality makes of its labels: letters int64 [S], several classes at once float32 [C]."""


def collate_samples(samples: list[Sample], padding: float = 0) -> Batch:
    """Make a batch: inputs stacked, or padded at their end with a mask where they are not equally long.

    Args:
        samples: of the batch.
        padding: value to pad with.

    Returns:
        Batch with labels int64 [B], float32 [B, C] or, padded with -100, letters int64 [B, S]; None without any.
    """
    inputs, sample_ids, epochs, labels = zip(*samples, strict=True)
    rest = [each.shape[1:] for each in inputs]
    if rest.count(rest[0]) < len(rest):
        shapes = ", ".join(str(list(each.shape)) for each in inputs[:4])
        raise ValueError(f"samples of a batch have shapes that differ beyond their length: {shapes}; cut them alike")
    lengths = torch.tensor(list(map(len, inputs)))
    mask = None
    if len(inputs) == 1:
        stacked = inputs[0][None]  # a recording may last for hours: no copy of it
    elif bool((lengths == lengths[0]).all()):
        # Inside a worker it stacks into shared memory, without another copy.
        if inputs[0].dim() == 3 and inputs[0].stride(0) == 1:  # a picture whose colours lie side by side
            stacked = default_collate([each.permute(1, 2, 0) for each in inputs]).permute(0, 3, 1, 2)
        else:
            stacked = default_collate(list(inputs))
    else:
        stacked = pad_sequence(list(inputs), batch_first=True, padding_value=padding)
        mask = torch.zeros(stacked.shape[:2], dtype=torch.bool)
        for row, length in zip(mask, lengths.tolist(), strict=True):
            row[length:] = True
    return Batch(stacked, torch.tensor(sample_ids), torch.tensor(epochs), _collate_labels(labels), mask)


def _collate_labels(labels: Sequence[int | Tensor | None]) -> Tensor | None:
    tensors = [label for label in labels if isinstance(label, Tensor)]
    if tensors and not tensors[0].is_floating_point() and tensors[0].dim() > 0:
        return pad_sequence(tensors, batch_first=True, padding_value=_IGNORED_LETTER)
    if tensors:
        return torch.stack(tensors)
    if labels[0] is None:
        return None
    return torch.tensor(labels)


class SampleDataset(Dataset[Sample], ABC):
    """A data set indexed by (data epoch, index), whose randomness is keyed by (seed, epoch, index) alone.

    A broken sample is never fatal: the next readable one takes its place in the batch, under the id and with the
    randomness of the sample that it replaces, so that it differs from its own regular appearance.

    Args:
        num_samples: size of the data set.
        seed: of all randomness of the samples.
        skipped: where broken samples are counted; may be shared by data sets over the same files.
    """

    broken_for_good: ClassVar[bool] = True
    """Whether a broken sample stays broken. It need not where only a random part of it is read: then it is tried again
    each time, so that no sample depends on what was read before."""

    stages: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Methods by their full names that read or decode, whose time `d2v bench data` tells apart."""

    def __init__(self, num_samples: int, seed: int, skipped: SkippedSamples) -> None:
        self._num_samples = num_samples
        self._seed = seed
        self.skipped = skipped

    @abstractmethod
    def load(self, index: int) -> tuple[Tensor, int | Tensor | None]:
        """Inputs and label of a sample; random numbers come from torch's global CPU generator.

        Raises:
            BrokenSample: if it cannot be read.
        """

    @property
    def lengths(self) -> np.ndarray:
        """int64 [n]: values of each sample, for a DataModule that has ``values_per_unit``."""
        raise NotImplementedError

    def lengths_of(self, indices: Sequence[int]) -> np.ndarray:
        """int64 [s]: those of some samples."""
        return self.lengths[indices]

    def candidates(self, index: int) -> Iterator[int]:
        """The sample, then the ones that replace it if it is broken: no neighbours, which are often broken too."""
        step = round(0.618 * self._num_samples) or 1
        while gcd(step, self._num_samples) > 1:
            step += 1
        return ((index + number * step) % self._num_samples for number in range(self._num_samples))

    def __len__(self) -> int:
        return self._num_samples

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        for number, candidate in enumerate(self.candidates(index)):
            if number == _MOST_IN_A_ROW:
                self.skipped.require_lenience(number)
            if self.broken_for_good and self.skipped.is_broken(candidate):
                continue
            try:
                with reading(self.skipped.name, candidate), keyed_randomness(self._seed, epoch, index):
                    loaded = self.load(candidate)
            except BrokenSample as reason:
                self.skipped.mark_broken(candidate, reason)
                continue
            except Exception as error:
                error.add_note(f"while reading {self.skipped.name(candidate)}")
                raise
            if not isinstance(loaded, tuple) or len(loaded) != 2:
                raise TypeError(f"{type(self).__name__}.load must return two things, a tensor and a label (or None)")
            self.skipped.mark_good(candidate)
            return Sample(loaded[0], index, epoch, loaded[1])
        raise self.skipped.all_broken()
