"""What a student must do: which tokens are hidden, what is predicted of them, and how the prediction is judged."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from d2v.errors import UserError
from d2v.model.encoder import Encoder
from d2v.model.heads import Head
from d2v.model.losses import ClsLoss, RegressionLoss
from d2v.model.masked_input import DropMasked
from d2v.model.masking import Masking
from d2v.model.targets import TopKTargets
from d2v.model.teacher import Part
from d2v.types import Batch, Mask

_MEDIA = {1: "sequences (speech, text)", 2: "pictures"}
"""By the dimensions of their grid of tokens."""


class Task(nn.Module):
    """The parts of the method beside the encoder; a recipe picks them.

    Args:
        student: The encoder that has this task; it is not kept.
        masking: Which tokens are masked.
        targets: What is predicted.
        head: Built for the student's width: how it is predicted.
        loss: Distance of predictions and targets.
        cls_loss: What CLS must predict; null: nothing (1.0).
        num_masks: M, masks a sample; the teacher's targets serve all of them (2.0, section 3.2).
        shared_with_teacher: Parts of the student's front end that the teacher borrows instead of averaging.

    Raises:
        ValueError: The parts do not fit one another or the student.
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
    ) -> None:
        super().__init__()
        depth = student.trunk.depth
        if cls_loss is not None and student.front.num_cls == 0:
            raise ValueError("cls_loss needs a CLS token: set the front end's num_cls to 1, or cls_loss to null")
        if targets.top_k > depth:
            raise ValueError(
                f"targets.top_k is {targets.top_k}, but the student has only {depth} blocks to take targets from"
            )
        if num_masks < 1:
            raise ValueError(f"num_masks must be at least 1, not {num_masks}")
        self.masking = masking
        self.targets = targets
        self.head = head(student.width)
        drops = isinstance(student.front.masked_input, DropMasked)
        if self.head.reads_masked_tokens == drops:
            kept, other = ("drops", "replace, or take a decoder as head")
            if not drops:
                kept, other = ("keeps", "drop, or take LinearHead, MLPHead or IdentityHead")
            reads = "predicts from masked tokens" if drops else "fills the gaps between visible tokens"
            raise ValueError(
                f"head {type(self.head).__name__} {reads}, but the student {kept} masked tokens: set the front end's "
                f"masked_input to {other}"
            )
        self.loss = loss
        self.cls_loss = cls_loss
        self.num_masks = num_masks
        self.shared_with_teacher = tuple(shared_with_teacher)

    def require_fitting(self, grid: tuple[int, ...]) -> None:
        """Refuse tokens of a medium or size that a part is not for.

        Raises:
            UserError: It names the part's key.
        """
        for key, part in (("masking", self.masking), ("head", self.head)):
            if part.dimensions not in (None, len(grid)):
                meant, are = _MEDIA[part.dimensions], _MEDIA[len(grid)]
                raise UserError(
                    f"model.{key} is {type(part).__name__}, which is for {meant}, and the tokens are of {are}: take "
                    f"one for {are} from {type(part).__module__}"
                )
        self.masking.require_room(grid)

    def token_weight(self, student: Encoder, batch: Batch, mask: Mask) -> float | Tensor:
        """Of the mean over a micro-batch's masked tokens, so that each weighs the same in the whole optimizer step.

        How many the other micro-batches have follows from the lengths of their samples; nothing waits for a device.
        """
        if batch.step is None or batch.step.lengths is None:
            return batch.sample_weight
        num_tokens = student.front.num_tokens(batch.step.lengths)
        if num_tokens is None:
            return 1.0
        total = self.num_masks * int(self.masking.count(num_tokens).sum())
        return batch.step.weight(mask.num_scored, max(total, 1))
