"""Logs how far a step moves student and teacher, from a sample of their weights."""

from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from d2v import metrics
from d2v.model.data2vec import Data2Vec, Method
from d2v.training.callbacks.log import is_logged, step_is_logged

_MOST_WEIGHTS = 1024  # of a tensor

Samples = dict[str, Tensor]
"""Some weights of each tensor, by its name: [n], or [1, n] of a matrix or kernel."""


class WeightLog(L.Callback):
    """In a step that is logged, on the first device, whose part of the weights it looks at where they are shared out;
    nothing waits for a device. It must come after what moves the teacher.

    Args:
        method: Whose student and teacher they are.
    """

    def __init__(self, method: Method) -> None:
        self.method = method
        self._before: tuple[Samples, Samples] | None = None
        self._start = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if isinstance(self.method, Data2Vec) and trainer.is_global_zero and not self._start:
            self._start = float(_rms(_samples(self.method.student)))

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        if isinstance(self.method, Data2Vec) and trainer.is_global_zero and is_logged(trainer, trainer.global_step + 1):
            self._before = _samples(self.method.student), _samples(self.method.teacher.encoder)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._before is None or not step_is_logged(trainer):
            return
        assert isinstance(self.method, Data2Vec)
        student_before, teacher_before = self._before
        self._before = None
        student, teacher = _samples(self.method.student), _samples(self.method.teacher.encoder)
        followed, count = {name: student[name] for name in teacher}, 0
        still = torch.zeros((), device=pl_module.device)
        for name, parameter in self.method.student.named_parameters():
            count += parameter.numel()
            still = still + parameter.numel() * (student[name] == student_before[name]).all()
        size = _rms(student)
        way = _distance(followed, teacher_before)
        values = {
            metrics.WEIGHT_SIZE: size,
            metrics.WEIGHT_GROWTH: size / self._start,
            metrics.UPDATE_SIZE: _distance(student, student_before) / size,
            metrics.STILL_FRACTION: still / count,
            metrics.TEACHER_DISTANCE: _distance(followed, teacher) / size,
            metrics.TEACHER_RATE: _distance(teacher, teacher_before) / way.clamp(min=1e-12),
        }
        for metric, value in values.items():
            pl_module.log(metric, value, rank_zero_only=True)

    def state_dict(self) -> dict[str, Any]:
        return {"start": self._start}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._start = state_dict["start"]


@torch.no_grad()
def _samples(module: nn.Module) -> Samples:
    found = {}
    for name, parameter in module.named_parameters():
        own = parameter.to_local() if isinstance(parameter, DTensor) else parameter
        flat = own.detach().flatten()
        every = max(1, len(flat) // _MOST_WEIGHTS)
        some = flat[::every][:_MOST_WEIGHTS].float().clone()
        found[name] = some[None] if parameter.dim() > 1 and "positions" not in name else some
    return found


def _rms(samples: Samples) -> Tensor:
    """Of matrices and kernels: gains of norms and fixed positions are near 1 and would outweigh them."""
    return torch.cat([values.flatten() for values in samples.values() if values.dim() > 1]).square().mean().sqrt()


def _distance(a: Samples, b: Samples) -> Tensor:
    return _rms({name: a[name] - b[name] for name in a})
