"""Processes that load: they leave signals to the main process, end with it, and name a file that does not answer."""

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import resource_tracker
from typing import Any

from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.data._utils import signal_handling

from d2v.data.sampler import StreamSampler

log = logging.getLogger(__name__)

_SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1")
_LEFT_TO_THE_MAIN_PROCESS = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]  # Windows lacks one

_PATIENCE = 60.0
"""Seconds that a sample may take before it is named, and then twice as many each time."""


class Loader(DataLoader[Any]):
    """A loader whose processes always end; ``worker_init_fn`` must be :func:`begin`."""

    def _get_iterator(self) -> Any:
        with signals_held_back():
            iterator = super()._get_iterator()
        if self.num_workers == 0:
            watch()
        for worker in getattr(iterator, "_workers", ()):
            worker._popen.terminate = partial(_kill, worker._popen, id(iterator))
        return iterator


def _kill(process: Any, iterator: int) -> None:
    """Also one that still waits for a file: they ignore SIGTERM, and would be waited for."""
    with suppress(ValueError):
        signal_handling._remove_worker_pids(iterator)  # type: ignore[attr-defined]  # else torch would take it for an accident
    process.kill()


class StreamLoader(Loader):
    """Epochs of one stream. Processes fetch ahead of the end of an epoch, so that the next one begins without a wait.

    Args:
        dataset: of the samples.
        sampler: their order; the DataModule keeps its position.
        options: of torch's DataLoader.
    """

    def __init__(self, dataset: Dataset[Any], sampler: StreamSampler, **options: Any) -> None:
        super().__init__(dataset, batch_sampler=_Endless(sampler), **options)
        self._stream = sampler
        self._batches: Iterator[Any] = iter(())
        self._next = -1  # position in the stream of what comes of them

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        return self.next_batches(len(self))

    def set_epoch(self, epoch: int) -> None:
        """For who iterates over several streams at once; a trainer sets it at the sampler."""
        self._stream.set_epoch(epoch)

    def next_batches(self, count: int) -> Iterator[Any]:
        """So many batches from where the stream is now, be they more or fewer than an epoch has."""
        if self._next != self._stream.start:  # at first, and where more was fetched than was trained on
            self._batches, self._next = super().__iter__(), self._stream.start
        return self._counted(count)

    def _counted(self, count: int) -> Iterator[Any]:
        for _ in range(count):
            self._next += self._stream.stride
            yield next(self._batches)

    # Lightning looks for these two methods, and would warn.

    def state_dict(self) -> dict[str, int]:
        return {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        pass


class _Endless(Sampler[list[tuple[int, int]]]):
    """A stream without the ends of its epochs. ``sampler`` is where Lightning looks for ``set_epoch``."""

    def __init__(self, sampler: StreamSampler) -> None:
        self.sampler = sampler

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self.sampler.endless()


def begin(worker: int = 0) -> None:
    """In each loading process, once.

    A terminal, `timeout` and queues send their signals to all processes: the last step still needs its batch.
    """
    for number in _LEFT_TO_THE_MAIN_PROCESS:
        signal.signal(number, signal.SIG_IGN)
    sys.excepthook = _tell
    watch()


def _tell(kind: type[BaseException], error: BaseException, traceback: Any) -> None:
    """As Python does, but for a main process that a signal stopped while it took over a batch: that one tells it."""
    if not issubclass(kind, EOFError | ConnectionError):
        sys.__excepthook__(kind, error, traceback)


def watch() -> None:
    """Start the thread of this process that ends it with its main process, and names what it has read for long."""
    if _watching.pid != os.getpid():  # a fork has no threads
        _watching.pid = os.getpid()
        threading.Thread(target=_watch, daemon=True).start()


@contextmanager
def reading(name: Callable[[int], str], index: int) -> Iterator[None]:
    """Inside, a sample is read, which has this name for messages."""
    _watching.sample = (name, index, time.monotonic())
    try:
        yield
    finally:
        _watching.sample = None


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Processes that start inside never hear of a signal for the main process.

    Until one gets to :func:`begin` it would act as the main process does, and end; torch then raises an error in the
    main process at whatever it is doing.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, _LEFT_TO_THE_MAIN_PROCESS)
    try:
        resource_tracker.ensure_running()  # its start lets signals through again
        signal.pthread_sigmask(signal.SIG_BLOCK, _LEFT_TO_THE_MAIN_PROCESS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


class _Watching:
    pid = 0
    sample: tuple[Callable[[int], str], int, float] | None = None


_watching = _Watching()


def _watch() -> None:
    parent = multiprocessing.parent_process()
    told, patience = None, _PATIENCE
    while True:
        if parent is None:
            time.sleep(_PATIENCE / 4)
        else:
            parent.join(_PATIENCE / 4)
            if not parent.is_alive():
                os._exit(1)
        sample = _watching.sample
        if sample is None:
            continue
        if sample is not told:
            patience = _PATIENCE
        seconds = time.monotonic() - sample[2]
        if seconds >= patience:
            told, patience = sample, 2 * seconds
            log.warning(
                "data: still waiting for %s after %.0f s: its disk or network drive does not answer",
                sample[0](sample[1]),
                seconds,
            )
