"""Where the time of a step goes: Lightning says what it is about to do, and the parts of the method are wrapped."""

from lightning.pytorch.profilers import Profiler
from torch import nn

from d2v.bench.stopwatch import Clock, Stopwatch
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


class StepParts(Stopwatch, Profiler):
    """The trainer's profiler."""

    def __init__(self) -> None:
        super().__init__()
        self._actions: list[str] = []

    def start(self, action_name: str) -> None:
        if self.clock is None:
            return
        part = self._part
        for name, meant in _ACTIONS.items():
            if name in action_name:
                part = meant
        self._actions.append(action_name)
        self._enter(part)

    def stop(self, action_name: str) -> None:
        if self.clock is not None and self._actions and self._actions[-1] == action_name:
            self._actions.pop()
            self._leave()

    def begin(self, clock: Clock) -> None:
        super().begin(clock)
        self._actions = []

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
