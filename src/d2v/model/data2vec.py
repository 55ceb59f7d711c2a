"""data2vec 1.0 and 2.0: a student predicts what its own moving average computes from the whole input."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial

from torch import nn

from d2v.model.early_masks import Collate, EarlyMasks
from d2v.model.encoder import Encoder, mean_of_tokens
from d2v.model.flops import NotCounted, step_flops
from d2v.model.masked_input import gather_tokens
from d2v.model.task import Task
from d2v.model.teacher import EMATeacher
from d2v.types import Batch, Data2VecOutput, EncoderOutput, TokenSequence


class Method(nn.Module, ABC):
    """All that training, callbacks, probes and checkpoints know of what is pretrained."""

    @property
    @abstractmethod
    def encoders(self) -> Mapping[str, Encoder]:
        """The encoders that are trained, by name; one alone is called ``""``."""

    def loss_weight(self, name: str) -> float:
        """How much the loss of an encoder counts in that of a step."""
        return 1.0

    @abstractmethod
    def forward(self, batches: Mapping[str, Batch], seed: int) -> Mapping[str, Data2VecOutput]:
        """One step of each encoder that has a batch; ``seed`` is the first part of the key of every mask."""

    @abstractmethod
    def move_teacher(self, decay: float) -> None:
        """Let the teacher follow: ``teacher = decay * teacher + (1 - decay) * student`` (1.0, equation 1)."""

    def with_early_masks(self, collate: Collate, name: str, seed: int) -> Collate:
        """The function that puts batches of an encoder together, with their masks where those are better drawn early
        (:attr:`Masking.drawn_early`)."""
        return collate

    def flops(self, name: str, batch: Batch, output: Data2VecOutput) -> float | None:
        """Operations of one encoder's step, forward and backward (``flops.py``); None: nobody has counted them."""
        return None


class Data2Vec(Method):
    """One student of one kind of input; :class:`~d2v.model.joint_data2vec.JointData2Vec` is of several.

    Args:
        student: The encoder that is trained.
        task: What it must do.
    """

    def __init__(self, student: Encoder, task: Task) -> None:
        super().__init__()
        self.student = student
        self.task = task
        self.teacher = EMATeacher(student, {name: task.shared_with_teacher for name, task in self.tasks.items()})

    @property
    def encoders(self) -> Mapping[str, Encoder]:
        return self.student.by_name

    @property
    def tasks(self) -> Mapping[str, Task]:
        """What each encoder must do."""
        return {"": self.task}

    def forward(self, batches: Mapping[str, Batch], seed: int) -> Mapping[str, Data2VecOutput]:
        outputs = {}
        for name, batch in batches.items():
            teacher = partial(self.teacher, name=name)
            outputs[name] = step(self.encoders[name], teacher, self.tasks[name], batch, seed)
        return outputs

    def move_teacher(self, decay: float) -> None:
        self.teacher.update(self.student, decay)

    def with_early_masks(self, collate: Collate, name: str, seed: int) -> Collate:
        task, grid_of = self.tasks[name], self.encoders[name].front.grid_of()
        if grid_of is None or not task.masking.drawn_early:
            return collate
        return EarlyMasks(collate, task.masking, task.num_masks, seed, grid_of)

    def flops(self, name: str, batch: Batch, output: Data2VecOutput) -> float | None:
        teacher, shared = self.teacher.encoder.by_name[name], self.teacher.shared[name]
        try:
            return step_flops(
                self.encoders[name], teacher, shared, self.tasks[name].head, batch.inputs.shape, output.mask
            )
        except NotCounted:
            return None


def step(
    student: Encoder,
    teacher: Callable[[Batch, TokenSequence], EncoderOutput],
    task: Task,
    batch: Batch,
    seed: int,
) -> Data2VecOutput:
    """One pretraining step, the figure of the paper; dimension letters as in ``types.py``."""
    features = student.extract(batch.inputs, batch.padding_mask)  # [B, N, D]
    task.require_fitting(features.grid)
    targets = task.targets(teacher(batch, features))  # [B, N, D]   the teacher sees everything
    mask = task.masking(batch, features.grid, task.num_masks, seed, features.padding_mask)  # [R, N]   R = B*M
    context = student.encode(features, mask)  # [R, V, D]   V = N (1.0) or the visible tokens (2.0)
    predictions = task.head(context, mask, features.grid)  # [R, K, D]   K masked tokens
    masked_targets = gather_tokens(targets, mask.masked_index)  # [R, K, D]

    regression_loss = task.loss(predictions, masked_targets, mask.scored)
    loss = regression_loss * task.token_weight(student, batch, mask)
    cls_loss = None
    if task.cls_loss is not None:
        assert context.cls is not None  # the task made sure
        cls_loss = task.cls_loss(context.cls, mean_of_tokens(targets, features.padding_mask), task.num_masks)
        loss = loss + cls_loss * batch.sample_weight  # a mean over rows, which are as many of each sample
    return Data2VecOutput(loss, regression_loss, cls_loss, predictions, masked_targets, mask, features)
