"""Pretraining of several kinds of input on one trunk."""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from torch import nn
from torch.optim import Optimizer

from d2v.model.joint_data2vec import JointData2Vec, Medium
from d2v.nn.transformer import Transformer
from d2v.training.callbacks.collapse import PUBLISHED, CollapseLimits
from d2v.training.frozen_parts import FrozenParts
from d2v.training.module import Data2VecModule, start_from
from d2v.training.optimizer import Decaying, Groups, groups_with_rates
from d2v.training.schedules import EMADecay, LRSchedule


class JointPretraining(Data2VecModule):
    """Pretrains one trunk for several kinds of input, each with its front end, masking, targets, head and loss.

    Args:
        trunk: The shared blocks.
        media: What stands in front of them, and what must be predicted of it, by name.
        ema: Decay of the teacher.
        optimizer: Built from the parameter groups; its ``lr`` is the peak.
        schedule: Of the learning rate.
        freeze: Parts that are not trained: "trunk", the front end of a medium by its name, or a part of one, such as
            "speech.front.feature_extractor".
        init_from: Checkpoint of a joint model, or of one of its kinds of input alone, whose weights to start from, the
            trunk's too; null: random. ``media.NAME.init_from`` takes one front end and head.
        init_teacher: Which weights of ``init_from`` the teacher starts as: its own average, or the student's.
        seed: Of masks and of everything random in a step; the command line sets it from ``seed_everything``.
        collapse: Where the run ends, because targets or predictions have become too alike.
        weight_decay_on: What decays: "matrices" and kernels; "beit": all but vectors, CLS and positions; "all".
    """

    def __init__(
        self,
        trunk: Transformer,
        media: dict[str, Medium],
        ema: EMADecay,
        optimizer: Callable[[Iterable], Optimizer],
        schedule: LRSchedule,
        freeze: Sequence[str] = (),
        init_from: str | None = None,
        init_teacher: Literal["teacher", "student"] = "teacher",
        seed: int = 0,
        collapse: CollapseLimits = PUBLISHED,
        weight_decay_on: Decaying = "matrices",
    ) -> None:
        method = JointData2Vec(trunk, media)
        super().__init__(method, ema, optimizer, schedule, init_from, init_teacher, seed, collapse, weight_decay_on)
        for name, medium in media.items():
            if medium.init_from is not None:
                start_from(method, medium.init_from, init_teacher, front_of=name)
        self._lr_scales: dict[nn.Module, float] = {}
        for name, medium in media.items():
            if medium.lr_scale != 1:
                self._lr_scales |= dict.fromkeys((method.encoders[name].front, method.tasks[name]), medium.lr_scale)
        self.freezes = bool(freeze)
        self._frozen = FrozenParts(method.student, freeze)

    def train(self, mode: bool = True) -> "JointPretraining":
        super().train(mode)
        self._frozen.eval()
        return self

    def parameter_groups(self) -> Groups:
        return groups_with_rates(self, self._lr_scales, self.weight_decay_on)
