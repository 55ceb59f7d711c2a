"""Loading processes that leave signals to the main process."""

import signal
from multiprocessing import resource_tracker
from typing import Any

from torch.utils.data import DataLoader

_LEFT_TO_THE_MAIN_PROCESS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGUSR1")
    if hasattr(signal, name)  # Windows has not all
]


def leave_signals_to_the_main_process(worker: int) -> None:
    """A terminal, `timeout` and queues send their signals to all processes: the last step still needs its batch.

    A worker whose main process is gone ends by itself.
    """
    for number in _LEFT_TO_THE_MAIN_PROCESS:
        signal.signal(number, signal.SIG_IGN)


class Loader(DataLoader[Any]):
    """Its processes never hear of a signal to all processes, from their first moment on.

    One that is just starting would still act as the main process does, and end; torch then raises an error in the main
    process at whatever it is doing.
    """

    def _get_iterator(self) -> Any:
        if not hasattr(signal, "pthread_sigmask"):  # Windows
            return super()._get_iterator()
        previous = signal.pthread_sigmask(signal.SIG_BLOCK, _LEFT_TO_THE_MAIN_PROCESS)
        try:
            resource_tracker.ensure_running()  # its start allows signals again, and it is for all processes to come
            signal.pthread_sigmask(signal.SIG_BLOCK, _LEFT_TO_THE_MAIN_PROCESS)
            return super()._get_iterator()  # processes inherit what is blocked
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)


class ResumableLoader(Loader):
    """Tells Lightning, which looks for these two methods, not to warn: the DataModule keeps the position."""

    def state_dict(self) -> dict[str, int]:
        return {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        pass
