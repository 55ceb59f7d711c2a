"""Time and channel masks."""

import pytest
import torch
from torch import Tensor

from d2v.finetuning.augmentation import TokenMasks
from d2v.model.random_spans import RandomSpans
from d2v.types import TokenSequence

KEYS = torch.arange(2000)


def runs(row: Tensor) -> list[int]:
    """Lengths of the runs of True."""
    return [len(run) for run in "".join("x" if on else " " for on in row.tolist()).split()]


@pytest.mark.parametrize("length", [1, 5, 10])
def test_the_share_is_that_of_spans_that_overlap_at_random(length: int):
    """p * n / length distinct spans: a position is free if none of the `length` starts before it is taken."""
    size, prob = 400, 0.65
    masked = RandomSpans(prob, length).draw(KEYS, torch.full_like(KEYS, size), size)
    starts = size - length
    expected = 1 - (1 - prob * size / length / starts) ** length
    inner = masked[:, length:-length] if length > 1 else masked
    assert inner.float().mean().item() == pytest.approx(expected, abs=0.02)
    assert min(min(runs(row)) for row in masked if row.any()) >= length


def test_the_number_of_spans_is_rounded_at_random():
    masked = RandomSpans(0.5, 10).draw(KEYS, torch.full_like(KEYS, 30), 30)  # 1.5 spans
    one = sum(runs(row) == [10] for row in masked)
    assert 0.4 < one / len(KEYS) < 0.6
    assert masked.any(dim=1).all()


@pytest.mark.parametrize("shared_by", [None, 500])
def test_masks_never_touch_padding_and_do_not_depend_on_it(shared_by: int | None):
    lengths = torch.tensor([0, 5, 10, 11, 40, 100]).repeat(50)
    keys, masks = torch.arange(len(lengths)), TokenMasks(0.65, 10, 0.5, 4, shared_by)
    padding = torch.arange(100) >= lengths[:, None]
    hidden, masked = masks.apply(TokenSequence(torch.ones(300, 100, 16), (100,), padding), keys)
    assert not (masked & padding).any()
    assert not masked[lengths <= 10].any(), "a clip that is not longer than a span would be hidden as a whole"
    shorter = lengths < 50
    sequence = TokenSequence(torch.ones(250, 40, 16), (40,), padding[shorter, :40])
    alone, masked_alone = masks.apply(sequence, keys[shorter])
    assert torch.equal(masked_alone, masked[shorter, :40])
    assert torch.equal(alone.tokens, hidden.tokens[shorter, :40])


def test_masked_steps_get_the_token_and_masked_channels_zero():
    tokens = torch.full((3, 60, 32), 2.0)
    padding = torch.arange(60) >= torch.tensor([60, 40, 20])[:, None]
    masks = TokenMasks(0.5, 5, 0.5, 8)
    token = torch.arange(32) + 10.0
    out, steps = masks.apply(TokenSequence(tokens, (60,), padding), torch.arange(3), token)
    assert steps.any(dim=1).all()
    assert not (steps & padding).any()
    zero = (out.tokens == 0).all(dim=1)  # [3, 32]
    assert zero.any(dim=1).all()
    expected = torch.where(steps[..., None], token, tokens).masked_fill(zero[:, None], 0)
    assert torch.equal(out.tokens, expected)
    assert all(length >= 8 for row in zero for length in runs(row))
    zeros, _ = masks.apply(TokenSequence(tokens, (60,), padding), torch.arange(3))
    assert torch.equal(zeros.tokens == 0, steps[..., None] | zero[:, None])


def test_each_clip_and_epoch_has_masks_of_its_own():
    sequence, masks = TokenSequence(torch.ones(50, 200, 4), (200,)), TokenMasks(0.65, 10)
    _, masked = masks.apply(sequence, KEYS[:50])
    assert len({tuple(row.tolist()) for row in masked}) == 50
    assert torch.equal(masked, masks.apply(sequence, KEYS[:50])[1])


def test_nothing_is_masked_without_a_probability():
    sequence = TokenSequence(torch.randn(2, 30, 16), (30,))
    out, steps = TokenMasks(shared_by=100).apply(sequence, torch.arange(2))
    assert torch.equal(out.tokens, sequence.tokens)
    assert not steps.any()


def test_bad_values_are_named():
    with pytest.raises(ValueError, match=r"time_prob must lie between 0 and 1, not 1\.5"):
        TokenMasks(time_prob=1.5)
    with pytest.raises(ValueError, match="channel_length must be at least 1, not 0"):
        TokenMasks(channel_length=0)
