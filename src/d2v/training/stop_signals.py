"""SIGINT, SIGTERM and SIGUSR1 are wishes to stop, which are granted as soon as the run can be saved."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

from lightning.pytorch.utilities import rank_zero_info

from d2v.errors import Interrupted

REQUEUE = getattr(signal, "SIGUSR1", None)  # Windows has none
Result = TypeVar("Result")
_SIGNALS = tuple(filter(None, (signal.SIGINT, signal.SIGTERM, REQUEUE)))


class _Abandoned(BaseException):
    """Raised by a signal inside of :meth:`StopSignals.unless_stopped`."""


class StopSignals:
    """What a process does when it is told to stop; there is one, as signals belong to the process.

    Queues, terminals and container runtimes send signals to all processes of a job, and often twice. The first one
    counts. A second Ctrl-C stops at once.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        """The signal that came, if one did."""
        self.at_once = True
        """Whether nothing is under way that would have to be finished: then a signal raises :class:`Interrupted`."""
        self._abandons = False
        self._previous: dict[int, Any] = {}

    def listen(self) -> None:
        """From now on a signal is a wish."""
        self.number, self.at_once, self._abandons = None, True, False
        if threading.current_thread() is not threading.main_thread():
            return  # Python allows handlers nowhere else
        for number in _SIGNALS:
            previous = signal.signal(number, self._receive)
            self._previous.setdefault(number, previous)

    def restore(self) -> None:
        """Let signals do what they did before."""
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._previous.items():
                signal.signal(number, handler)
            self._previous = {}

    def unless_stopped(self, function: Callable[[], Result]) -> Result | None:
        """What a function returns; None if a signal came, also while it was being computed: then it is given up."""
        if self.number is not None:
            return None
        try:
            self._abandons = True
            try:
                return function()
            finally:
                self._abandons = False
        except _Abandoned:
            return None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.number == signal.SIGINT:
            self.restore()
            raise KeyboardInterrupt
        first, self.number = self.number is None, self.number or number
        if not first:
            return
        if self.at_once:
            raise Interrupted("stopped", number)
        print("\nd2v: stopping after this step; a second Ctrl-C stops at once", file=sys.stderr, flush=True)
        if self._abandons:
            raise _Abandoned


STOP = StopSignals()


def requeue_job() -> None:
    """Ask SLURM to start this job once more, where it runs under SLURM."""
    job = os.environ.get("SLURM_JOB_ID", "")
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ.get('SLURM_ARRAY_TASK_ID', '')}"
    if not re.fullmatch(r"\d+(_\d+)?", job):
        return
    try:
        subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60, check=True)
        rank_zero_info(f"SLURM: job {job} is requeued, and goes on from this checkpoint")
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or error
        rank_zero_info(f"SLURM: job {job} could not be requeued ({str(reason).strip()}); submit it again")
