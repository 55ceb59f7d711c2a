"""Samples that cannot be read: each is named once and counted, and too many of them stop the run."""

import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from multiprocessing import get_context
from multiprocessing.context import get_spawning_popen
from typing import Any

import torch

from d2v.data.sources.source import printable
from d2v.errors import BrokenSample, UserError

log = logging.getLogger(__name__)

_UNSEEN, _GOOD, _BROKEN = 0, 1, 2
# Below this many broken samples a share says nothing: the first file of a run may be the only bad one.
_TOLERATED = 9
# Of the samples tried so far chance does not make five times the tolerated share, but for a folder read in its order.
_BY_FAR, _FOLDER = 5, 100
_NAMED = 5


def too_many_broken(count: int, tried: float, max_fraction: float) -> bool:
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
        max_fraction: largest tolerable share of broken samples.
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

    def broken_names(self) -> Iterator[str]:
        """What the broken ones are called."""
        for index in (self._state == _BROKEN).nonzero().flatten().tolist():
            yield printable(self.name(index))

    def is_broken(self, index: int) -> bool:
        return int(self._state[index]) == _BROKEN

    def mark_good(self, index: int) -> None:
        if int(self._state[index]) == _UNSEEN:
            self._move(index, _GOOD)

    def mark_broken(self, index: int, reason: BrokenSample) -> None:
        """Count the sample, and name it once in the log."""
        if self._move(index, _BROKEN):
            log.warning("data: skipped %s: %s", printable(self.name(index)), reason)

    def check(self) -> None:
        """Raise UserError if too many were broken: of all samples, or by far too many of those tried so far."""
        total = min(len(self._state), _FOLDER / max(self._max_fraction, 1e-9) + _BY_FAR * self._tried)
        if too_many_broken(self.count, total, self._max_fraction):
            raise self._error(self._tried, "more than")

    def require_lenience(self, in_a_row: int) -> None:
        """Raise UserError, after so many broken samples in a row, unless most samples may be broken."""
        if self._max_fraction < 0.5:
            raise self._error(self._tried, f"the last {in_a_row} in a row, and")

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
        limit = f"{why} data.max_skipped_fraction = {self._max_fraction}"
        return broken_error(f"{self.count} of {tried} files tried so far", self.broken_names(), limit)
