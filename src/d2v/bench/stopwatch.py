"""Where time goes: of parts within each other the innermost counts, so that they add up to what has passed."""

import functools
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch


class Clock:
    """Moments, and the seconds between them. On a GPU they are events: nothing waits for them.

    Args:
        device: Whose time it is.
        timer: Gives seconds, where that is no GPU; None: those that pass.
    """

    def __init__(self, device: torch.device, timer: Callable[[], float] | None = None) -> None:
        self.device, self._timer = device, timer or time.perf_counter

    def now(self) -> Any:
        if self.device.type != "cuda":
            return self._timer()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    @staticmethod
    def seconds(start: Any, end: Any) -> float:
        if not isinstance(start, torch.cuda.Event):
            return end - start
        end.synchronize()
        return start.elapsed_time(end) / 1000


class Stopwatch:
    """While it is on, each moment belongs to the innermost part that is under way, or else to ``outside``."""

    outside = "loop"

    def __init__(self) -> None:
        super().__init__()
        self.clock: Clock | None = None
        """While it is on."""
        self._under_way: list[str] = []
        self._segments: list[tuple[str, Any, Any]] = []
        self._since: Any = None

    def begin(self, clock: Clock) -> None:
        """Count from here on."""
        self.clock, self._since = clock, clock.now()
        self._under_way, self._segments = [], []

    def end(self) -> defaultdict[str, float]:
        """Seconds of each part since the beginning; their sum is what has passed."""
        self._cut()
        clock, self.clock = self.clock, None
        assert clock is not None
        seconds: defaultdict[str, float] = defaultdict(float)
        for part, start, stop in self._segments:
            seconds[part] += clock.seconds(start, stop)
        return seconds

    def wrap(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        """The function, whose time belongs to the part."""

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self.clock is None:
                return function(*args, **kwargs)
            self._enter(part)
            try:
                return function(*args, **kwargs)
            finally:
                self._leave()

        return timed

    @property
    def _part(self) -> str:
        return self._under_way[-1] if self._under_way else self.outside

    def _enter(self, part: str) -> None:
        if part != self._part:
            self._cut()
        self._under_way.append(part)

    def _leave(self) -> None:
        part = self._under_way.pop()
        if part != self._part:
            self._cut(part)

    def _cut(self, part: str | None = None) -> None:
        """End a segment, which is of the part under way if no other is named."""
        assert self.clock is not None
        now = self.clock.now()
        self._segments.append((part or self._part, self._since, now))
        self._since = now
