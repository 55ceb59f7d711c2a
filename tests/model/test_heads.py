"""Heads: each prediction stands where its token was, and is made from what belongs there."""

import pytest
import torch
import torch.nn.functional as F

from d2v.model.heads import ConvDecoder2d, IdentityHead, LinearHead
from d2v.types import EncoderOutput, Mask

close = torch.testing.assert_close
GRID = (3, 5)


@pytest.fixture
def mask() -> Mask:
    order = torch.rand(4, 15, generator=torch.Generator().manual_seed(0)).argsort(dim=1)
    return Mask.from_dense(order < 9, 9, num_masks=2)


def context(tokens: torch.Tensor) -> EncoderOutput:
    return EncoderOutput(tokens=tokens, layers=(), ffn_outputs=())


@pytest.mark.parametrize("decoder_width", [8, 12])
def test_conv_decoder_puts_visible_tokens_back_and_predicts_at_the_masked_ones(mask, decoder_width):
    torch.manual_seed(0)
    head = ConvDecoder2d(8, decoder_width, num_layers=2, kernel_size=3, groups=4, mask_noise=0.0)
    visible = torch.randn(4, 6, 8)
    predictions = head(context(visible), mask, GRID)
    assert predictions.shape == (4, 9, 8)
    for row in range(4):
        picture = torch.zeros(8, *GRID)
        for number, place in enumerate((~mask.masked[row]).nonzero().flatten().tolist()):
            picture[:, place // 5, place % 5] = visible[row, number]
        x = picture[None]
        for conv in head.layers:
            y = F.conv2d(x, conv.weight, conv.bias, padding=1, groups=4)
            y = F.gelu(F.layer_norm(y.movedim(1, -1), (decoder_width,)).movedim(-1, 1))
            x = x + y if y.shape == x.shape else y
        for number, place in enumerate(mask.masked[row].nonzero().flatten().tolist()):
            close(predictions[row, number], head.proj(x[0, :, place // 5, place % 5]), rtol=0, atol=1e-5)


def test_conv_decoder_fills_masked_places_with_noise(mask):
    torch.manual_seed(0)
    head = ConvDecoder2d(8, 8, 1, 3, 4, mask_noise=0.5)
    visible = torch.randn(4, 6, 8)
    torch.manual_seed(1)
    first = head(context(visible), mask, GRID)
    assert (head(context(visible), mask, GRID) - first).abs().max() > 0.01
    torch.manual_seed(1)
    close(head(context(visible), mask, GRID), first, rtol=0, atol=0)
    with pytest.raises(ValueError, match="kernel_size must be odd"):
        ConvDecoder2d(8, 8, 1, kernel_size=4)


def test_heads_on_all_tokens_pick_the_masked_ones(mask):
    tokens = torch.randn(4, 15, 8)
    by_hand = torch.stack([tokens[row][mask.masked[row]] for row in range(4)])
    close(IdentityHead(8)(context(tokens), mask, GRID), by_hand, rtol=0, atol=0)
    head = LinearHead(8)
    close(head(context(tokens), mask, GRID), head.proj(by_hand))
