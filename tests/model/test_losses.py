"""Losses: the scored subset, the reductions, and a CLS loss that no batch size changes."""

import pytest
import torch
import torch.nn.functional as F

from d2v.model.losses import ClsLoss, RegressionLoss

close = torch.testing.assert_close
KINDS = [("mse", 1.0), ("smooth_l1", 0.5), ("smooth_l1", 2.0)]


def pairs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    predictions, targets = (torch.randn(3, 5, 9, generator=generator) * 2 for _ in range(2))
    return predictions.requires_grad_(), targets


@pytest.mark.parametrize(("kind", "beta"), KINDS)
@pytest.mark.parametrize("reduction", ["mean", "sum", "scaled_sum"])
def test_only_scored_tokens_count(kind, beta, reduction):
    loss = RegressionLoss(kind, beta, reduction)
    predictions, targets = pairs()
    scored = torch.tensor([[1, 1, 0, 1, 0], [0, 0, 0, 0, 0], [1, 0, 0, 0, 1]]).bool()
    value = loss(predictions, targets, scored)
    (grad,) = torch.autograd.grad(value, predictions)
    subset = loss(predictions[scored][None], targets[scored][None])
    (subset_grad,) = torch.autograd.grad(subset, predictions)
    close(value, subset)
    close(grad, subset_grad)
    assert grad[~scored].abs().max() == 0
    assert grad[scored].abs().min() > 0
    close(loss(predictions, targets, torch.ones_like(scored)), loss(predictions, targets))


@pytest.mark.parametrize(("kind", "beta"), KINDS)
@pytest.mark.parametrize(("reduction", "factor"), [("mean", 1 / 9), ("sum", 1), ("scaled_sum", 1 / 3)])
def test_reductions_are_a_mean_over_tokens_of_a_sum_over_features(kind, beta, reduction, factor):
    predictions, targets = pairs()
    difference = (predictions - targets).abs()
    if kind == "mse":
        distance = difference**2
    else:
        distance = torch.where(difference < beta, 0.5 * difference**2 / beta, difference - 0.5 * beta)
    expected = distance.sum(dim=-1).mean() * factor
    close(RegressionLoss(kind, beta, reduction)(predictions, targets), expected)


def test_the_loss_is_computed_in_fp32():
    predictions, targets = pairs()
    loss = RegressionLoss()(predictions.bfloat16(), targets.bfloat16())
    assert loss.dtype == torch.float32
    close(loss, RegressionLoss()(predictions.bfloat16().float(), targets.bfloat16().float()), rtol=0, atol=0)


def test_beta_must_be_positive():
    with pytest.raises(ValueError, match="kind: mse"):
        RegressionLoss("smooth_l1", beta=0.0)


def test_cls_loss_does_not_depend_on_the_batch_or_the_number_of_masks():
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(4, 9, generator=generator)
    cls = torch.randn(8, 1, 9, generator=generator)
    loss = ClsLoss(0.01, rows=256)
    value = loss(cls, targets, 2)
    close(loss(cls.repeat(3, 1, 1), targets.repeat(3, 1), 2), value)
    close((loss(cls[:4], targets[:2], 2) + loss(cls[4:], targets[2:], 2)) / 2, value)
    close(loss(cls.repeat_interleave(5, dim=0), targets, 10), value)
    # fairseq's sum over 256 rows of the squared distance over sqrt(D), at the published micro-batch of 16 x 16.
    cls, targets = torch.randn(256, 1, 9, generator=generator), torch.randn(16, 9, generator=generator)
    published = 0.01 * sum(F.mse_loss(cls[row, 0], targets[row // 16], reduction="sum") for row in range(256)) / 3
    close(loss(cls, targets, 16), published)


def test_of_several_cls_tokens_the_last_or_their_mean_predicts():
    generator = torch.Generator().manual_seed(0)
    targets, cls = torch.randn(2, 9, generator=generator), torch.randn(4, 10, 9, generator=generator)
    close(ClsLoss()(cls, targets, 2), ClsLoss()(cls[:, 9:], targets, 2))
    close(ClsLoss(tokens="mean")(cls, targets, 2), ClsLoss()(cls.mean(dim=1, keepdim=True), targets, 2))
