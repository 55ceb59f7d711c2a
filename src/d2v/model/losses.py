"""How far predictions are from targets, and what CLS must say."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn


class RegressionLoss(nn.Module):
    """Squared or smooth L1 distance, a mean over the masked tokens of all rows (1.0, equation 4; 2.0, section 3.3).

    Args:
        kind: "mse", or "smooth_l1" (quadratic below ``beta``).
        beta: Of smooth L1.
        reduction: Over the D features of a token: their "mean", their "sum", or the "scaled_sum", which is the sum
            over sqrt(D) (fairseq where ``loss_scale`` is not set).
    """

    def __init__(
        self,
        kind: Literal["mse", "smooth_l1"] = "mse",
        beta: float = 1.0,
        reduction: Literal["mean", "sum", "scaled_sum"] = "scaled_sum",
    ) -> None:
        super().__init__()
        if beta <= 0:
            raise ValueError(f"beta must be above 0, not {beta}; for the squared distance use kind: mse")
        self.kind = kind
        self.beta = beta
        self.reduction = reduction

    def forward(
        self,
        predictions: Float[Tensor, "r k d"],
        targets: Float[Tensor, "r k d"],
        scored: Bool[Tensor, "r k"] | None = None,
    ) -> Float[Tensor, ""]:
        """Loss in fp32, over the tokens that are scored."""
        predictions, targets = predictions.float(), targets.float()
        if scored is not None:
            # Equal pairs add nothing to the sum; the mean is then taken over the scored tokens alone.
            targets = torch.where(scored[..., None], targets, predictions.detach())
            predictions = torch.where(scored[..., None], predictions, predictions.detach())
        if self.kind == "mse":
            mean = F.mse_loss(predictions, targets)
        else:
            mean = F.smooth_l1_loss(predictions, targets, beta=self.beta)
        if scored is not None:
            mean = mean * (scored.numel() / scored.sum())
        width = predictions.shape[-1]
        return mean * {"mean": 1, "sum": width, "scaled_sum": width**0.5}[self.reduction]


class ClsLoss(nn.Module):
    """CLS predicts the mean target of its sample, by the squared distance over sqrt(D) (2.0, section 3.3).

    fairseq adds up the rows of a micro-batch, so that its weight grows with the batch; the published weight 0.01 went
    with 16 images x 16 masks a device. Here the rows are averaged and the weight is multiplied by the rows of the
    published run, which is the same there and stays the same for every other batch.

    Where a sample's targets are normalised over its tokens (``layer_norm: instance``) and not after it, their mean is
    zero, and so is what CLS must predict.

    Args:
        weight: fairseq's ``cls_loss``.
        rows: Samples x masks a device that ``weight`` is meant for.
        tokens: Of several CLS tokens the "last" predicts (fairseq), or their "mean" (emotion2vec's loss of chunks,
            arXiv 2312.15185).
    """

    def __init__(self, weight: float = 0.01, rows: int = 256, tokens: Literal["last", "mean"] = "last") -> None:
        super().__init__()
        self.weight = weight
        self.rows = rows
        self.tokens = tokens

    def forward(
        self, cls: Float[Tensor, "r c d"], mean_targets: Float[Tensor, "b d"], num_masks: int
    ) -> Float[Tensor, ""]:
        """Weighted loss, from the CLS tokens of each row and the mean target of each sample; its rows lie together."""
        said = cls[:, -1] if self.tokens == "last" else cls.mean(dim=1)
        target = mean_targets.float().repeat_interleave(num_masks, dim=0)
        return self.weight * self.rows * F.mse_loss(said.float(), target) * cls.shape[-1] ** 0.5
