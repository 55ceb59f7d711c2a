"""data2vec 1.0 and 2.0: a student predicts what its own moving average computes from the whole input."""

from collections.abc import Callable, Sequence

from torch import nn

from d2v.model.encoder import Encoder
from d2v.model.heads import Head
from d2v.model.losses import ClsLoss, RegressionLoss
from d2v.model.masked_input import DropMasked, gather_tokens
from d2v.model.masking import Masking
from d2v.model.targets import TopKTargets
from d2v.model.teacher import EMATeacher, Part
from d2v.types import Batch, Data2VecOutput


class Data2Vec(nn.Module):
    """The method; a recipe picks the parts.

    Args:
        student: The encoder that is trained.
        masking: Which tokens are masked.
        targets: What is predicted.
        head: Built for the student's width: how it is predicted.
        loss: Distance of predictions and targets.
        cls_loss: What CLS must predict; None: nothing (1.0).
        num_masks: M, masks a sample; the teacher's targets serve all of them (2.0, section 3.2).
        shared_with_teacher: Parts of the student that the teacher borrows instead of averaging.
        seed: First part of the key of every mask.
    """

    def __init__(
        self,
        student: Encoder,
        masking: Masking,
        targets: TopKTargets,
        head: Callable[[int], Head],
        loss: RegressionLoss,
        cls_loss: ClsLoss | None = None,
        num_masks: int = 1,
        shared_with_teacher: Sequence[Part] = (),
        seed: int = 0,
    ) -> None:
        super().__init__()
        if cls_loss is not None and student.num_cls == 0:
            raise ValueError("cls_loss needs a CLS token: set the student's num_cls to 1, or cls_loss to null")
        depth = len(student.transformer.blocks)
        if targets.top_k > depth:
            raise ValueError(
                f"targets.top_k is {targets.top_k}, but the student has only {depth} blocks to take targets from"
            )
        if num_masks < 1:
            raise ValueError(f"num_masks must be at least 1, not {num_masks}")
        self.student = student
        self.teacher = EMATeacher(student, shared_with_teacher)
        self.masking = masking
        self.targets = targets
        self.head = head(student.width)
        if self.head.reads_masked_tokens and isinstance(student.masked_input, DropMasked):
            raise ValueError(
                f"head {type(self.head).__name__} predicts from masked tokens, but the student drops them: set the "
                "student's masked_input to replace, or take a decoder as head"
            )
        self.loss = loss
        self.cls_loss = cls_loss
        self.num_masks = num_masks
        self.seed = seed

    def forward(self, batch: Batch) -> Data2VecOutput:
        """One pretraining step; dimension letters as in ``types.py``."""
        features = self.student.extract(batch.inputs, batch.padding_mask)  # [B, N, D]
        targets = self.targets(self.teacher(batch, features))  # [B, N, D]   the teacher sees everything
        mask = self.masking(batch, features.grid, self.num_masks, self.seed, features.padding_mask)  # [R, N]   R = B*M
        context = self.student.encode(features, mask)  # [R, V, D]   V = N (1.0) or the visible tokens (2.0)
        predictions = self.head(context, mask, features.grid)  # [R, K, D]   K masked tokens
        masked_targets = gather_tokens(targets, mask.masked_index)  # [R, K, D]

        regression_loss = self.loss(predictions, masked_targets, mask.scored)
        cls_loss = None
        if self.cls_loss is not None:
            assert context.cls is not None  # the constructor made sure
            cls_loss = self.cls_loss(context.cls[:, -1], targets, self.num_masks)
        return Data2VecOutput(
            loss=regression_loss if cls_loss is None else regression_loss + cls_loss,
            regression_loss=regression_loss,
            cls_loss=cls_loss,
            predictions=predictions,
            targets=masked_targets,
            mask=mask,
            features=features,
        )
