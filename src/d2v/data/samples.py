"""One sample: its randomness, and what happens when it cannot be read."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from itertools import islice
from multiprocessing import get_context
from multiprocessing.context import get_spawning_popen
from struct import pack
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, default_collate

from d2v.errors import BrokenSample, UserError
from d2v.types import Batch

log = logging.getLogger(__name__)

_UNSEEN, _GOOD, _BROKEN = 0, 1, 2
# Below this many broken samples a share says nothing: the first file of a run may be the only bad one.
_TOLERATED = 9
_NAMED = 5
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
        stacked = default_collate(list(inputs))  # inside a worker it stacks into shared memory, without another copy
    else:
        stacked = pad_sequence(list(inputs), batch_first=True, padding_value=padding)
        mask = torch.arange(stacked.shape[1]) >= lengths[:, None]
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


def too_many_broken(count: int, tried: int, max_fraction: float) -> bool:
    """Whether there are more broken samples than ``data.max_skipped_fraction`` allows."""
    return count > max(_TOLERATED, max_fraction * tried)


def broken_error(files: str, first: Iterable[str], why: str) -> UserError:
    """The error for too many broken files.

    Args:
        files: number of broken files and of all files, and what they are.
        first: names of some broken files.
        why: the limit that this exceeds, with the value of ``data.max_skipped_fraction``.
    """
    names = "\n  ".join(islice(first, _NAMED))
    return UserError(
        f"{files} cannot be read: {why}. The first are:\n  {names}\nRestore or remove them, or raise the fraction: "
        "--data.max_skipped_fraction."
    )


class SkippedSamples:
    """Which samples turned out broken, shared with the worker processes of a loader (and counted on this rank).

    Args:
        name: what to call a sample in messages (a path).
        num_samples: size of the data set.
        max_fraction: largest tolerable share of broken samples among the distinct samples tried so far.
    """

    def __init__(self, name: Callable[[int], str], num_samples: int, max_fraction: float) -> None:
        self.name = name
        self._max_fraction = max_fraction
        self._state = torch.zeros(num_samples, dtype=torch.uint8).share_memory_()
        self._numbers = torch.zeros(3, dtype=torch.int64).share_memory_()  # how many samples are in each state
        self._lock = get_context("spawn").Lock()  # of a kind that any way of starting a process can hand on

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if get_spawning_popen() is None:  # a copy that shares nothing
            del state["_lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._lock = get_context("spawn").Lock()
        self.__dict__.update(state)

    @property
    def count(self) -> int:
        """Distinct samples that could not be read so far."""
        return int(self._numbers[_BROKEN])

    def is_broken(self, index: int) -> bool:
        return int(self._state[index]) == _BROKEN

    def mark_good(self, index: int) -> None:
        if int(self._state[index]) == _UNSEEN:
            self._move(index, _GOOD)

    def mark_broken(self, index: int, reason: BrokenSample) -> None:
        """Count the sample, and name it once in the log."""
        if self._move(index, _BROKEN):
            log.warning("data: skipped %s: %s", self.name(index), reason)

    def check(self) -> None:
        """Raise UserError if too many were broken. Call it in the main process, which shows the error unchanged."""
        if too_many_broken(self.count, self._tried, self._max_fraction):
            raise self._error(self._tried, "more than")

    def all_broken(self) -> UserError:
        """The error for a data set without any readable sample."""
        return self._error(len(self._state), "nothing is left to train on,")

    @property
    def _tried(self) -> int:
        return int(self._numbers[_GOOD:].sum())

    def _move(self, index: int, state: int) -> bool:
        """Whether a sample was not yet in this state or a later one; it and the numbers are then moved on."""
        with self._lock:  # two processes may try one sample, in place of a broken one
            before = int(self._state[index])
            if before >= state:
                return False
            self._state[index] = state
            self._numbers[before] -= 1
            self._numbers[state] += 1
            return True

    def _error(self, tried: int, why: str) -> UserError:
        names = map(self.name, (self._state == _BROKEN).nonzero().flatten().tolist())
        limit = f"{why} data.max_skipped_fraction = {self._max_fraction}"
        return broken_error(f"{self.count} of {tried} files tried so far", names, limit)


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
        """The sample, then the ones that replace it if it is broken."""
        return ((index + offset) % self._num_samples for offset in range(self._num_samples))

    def __len__(self) -> int:
        return self._num_samples

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        for candidate in self.candidates(index):
            if self.broken_for_good and self.skipped.is_broken(candidate):
                continue
            try:
                with keyed_randomness(self._seed, epoch, index):
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
