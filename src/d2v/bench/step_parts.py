"""Where the time of a step goes: Lightning says what it is about to do, and the parts of the method are wrapped."""

import functools
import time
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch.profilers import Profiler
from torch import nn

from d2v.model.data2vec import Method
from d2v.model.task import Task
from d2v.model.teacher import EMATeacher

PARTS = (
    "data", "extractor", "teacher", "targets", "masking", "student", "head", "loss", "backward", "clip", "optimizer",
    "ema", "logging", "loop",
)  # fmt: skip
"""In the order of a step. loss: with all that lies between the parts of the method; loop: Lightning's, between all."""

_ACTIONS = {
    "train_dataloader_next": "data",
    "transfer": "data",
    "batch_to_device": "data",
    "training_step": "loss",
    "backward": "backward",
    "configure_gradient_clipping": "clip",
    "optimizer_step": "optimizer",
    "optimizer_zero_grad": "optimizer",
    "EMATeacherCallback": "ema",
    "LogCallback": "logging",
    "CollapseCallback": "logging",
    "ThroughputCallback": "logging",
}


class Clock:
    """Moments of a device, and the seconds between them. On a GPU they are events: nothing waits for them."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def now(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    @staticmethod
    def seconds(start: Any, end: Any) -> float:
        if isinstance(start, float):
            return end - start
        end.synchronize()
        return start.elapsed_time(end) / 1000


class StepParts(Profiler):
    """The trainer's profiler: while it is on, each moment of a step belongs to the innermost part that is under way."""

    def __init__(self) -> None:
        super().__init__()
        self.clock: Clock | None = None
        """While it is on."""
        self._under_way: list[tuple[str, str]] = []  # actions and their parts
        self._segments: list[tuple[str, Any, Any]] = []
        self._since: Any = None

    def begin(self, clock: Clock) -> None:
        """Count from here on."""
        self.clock, self._since = clock, clock.now()
        self._under_way, self._segments = [], []

    def end(self) -> dict[str, float]:
        """Seconds of each part since the beginning; their sum is what has passed."""
        self._cut()
        clock, self.clock = self.clock, None
        assert clock is not None
        seconds = dict.fromkeys(PARTS, 0.0)
        for part, start, stop in self._segments:
            seconds[part] += clock.seconds(start, stop)
        return seconds

    def start(self, action_name: str) -> None:
        if self.clock is None:
            return
        part = self._part
        for name, meant in _ACTIONS.items():
            if name in action_name:
                part = meant
        self._enter(action_name, part)

    def stop(self, action_name: str) -> None:
        if self.clock is not None and self._under_way and self._under_way[-1][0] == action_name:
            self._leave()

    def wrap(self, function: Callable, part: str) -> Callable:
        """The function, whose time belongs to the part."""

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self.clock is None:
                return function(*args, **kwargs)
            self._enter(part, part)
            result = function(*args, **kwargs)
            self._leave()
            return result

        return timed

    def wrap_method(self, method: Method) -> None:
        """Wrap what stands in the figure of the paper, of any method that is made of these parts."""
        for part in method.modules():
            if isinstance(part, EMATeacher):
                self._wrap_forward(part, "teacher")
            elif isinstance(part, Task):
                for name in ("targets", "masking", "head"):
                    self._wrap_forward(part.get_submodule(name), name)
        for encoder in method.encoders.values():
            self._wrap_forward(encoder.front.feature_extractor, "extractor")  # type: ignore[arg-type]
            encoder.encode = self.wrap(encoder.encode, "student")  # type: ignore[method-assign]

    def _wrap_forward(self, module: nn.Module, part: str) -> None:
        module.forward = self.wrap(module.forward, part)

    @property
    def _part(self) -> str:
        return self._under_way[-1][1] if self._under_way else "loop"

    def _enter(self, action: str, part: str) -> None:
        if part != self._part:
            self._cut()
        self._under_way.append((action, part))

    def _leave(self) -> None:
        part = self._part
        before = self._under_way[-2][1] if len(self._under_way) > 1 else "loop"
        if before != part:
            self._cut()
        self._under_way.pop()

    def _cut(self) -> None:
        assert self.clock is not None
        now = self.clock.now()
        self._segments.append((self._part, self._since, now))
        self._since = now
