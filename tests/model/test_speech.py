"""The parts of speech: spans, convolutions, distances; and above all that padding changes nothing."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from encoders import data2vec, speech_encoder, step
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from d2v.model.data2vec import Data2Vec
from d2v.model.encoder import Encoder
from d2v.model.heads import ConvDecoder1d, LinearHead
from d2v.model.losses import ClsLoss, RegressionLoss
from d2v.model.masking import RandomSpanMasking, SpanMasking
from d2v.model.targets import TopKTargets
from d2v.nn.feature_extractor import ConvFeatureExtractor
from d2v.nn.positional import ALiBi, ConvPositions
from d2v.types import Batch, EncoderOutput, Mask, TokenSequence

LAYERS = ((8, 10, 5), (8, 3, 2), (8, 2, 2))  # a frame every 20 samples, of 30
close = torch.testing.assert_close


def make_encoder(**changes: Any) -> Encoder:
    torch.manual_seed(0)
    settings = {"width": 16, "depth": 2, "num_heads": 2, "extractor": LAYERS, "position_groups": 4, **changes}
    encoder = speech_encoder(**{"position_layers": 3, "position_kernel": 5, **settings})
    with torch.no_grad():  # off the initial values, where zeros and ones hide mistakes
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return encoder.eval()


def make_method(version: str, **changes: Any) -> Data2Vec:
    first, ten = version == "1.0", version == "emotion2vec"
    encoder = make_encoder(
        masked_input="replace" if first else "drop",
        alibi=not first,
        prenet_depth=0 if first else 1,
        num_cls=10 if ten else 0,
    )
    return data2vec(
        encoder,
        RandomSpanMasking(0.65, 4, 200) if first else SpanMasking(0.5, 3, 0.05),
        TopKTargets(2),
        LinearHead if first else lambda width: ConvDecoder1d(width, 8, 2, 5, 2, mask_noise=0.0),
        RegressionLoss(),
        num_masks=1 if first else 3,
        shared_with_teacher=["feature_extractor", "positions"] if first else ["feature_extractor"],
        cls_loss=ClsLoss(1.0, 1, tokens="mean") if ten else None,
        **changes,
    )


def padded_batch(lengths: tuple[int, ...] = (1000, 640, 810)) -> Batch:
    generator = torch.Generator().manual_seed(1)
    waves = torch.randn(len(lengths), max(lengths), generator=generator)
    padding = torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None]
    return Batch(
        waves.masked_fill(padding, 0), torch.arange(7, 7 + len(lengths)), torch.ones(len(lengths)).long(), None, padding
    )


def alone(batch: Batch, row: int) -> Batch:
    length = int((~batch.padding_mask[row]).sum())
    return Batch(batch.inputs[row : row + 1, :length], batch.sample_ids[row : row + 1], batch.epochs[row : row + 1])


# Padding


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize(("alibi", "num_cls"), [(False, 0), (True, 0), (True, 10)])
def test_a_padded_clip_has_the_features_of_the_clip_alone(alibi, num_cls, norm_first):
    encoder = make_encoder(alibi=alibi, num_cls=num_cls, prenet_depth=1, norm_first=norm_first)
    batch = padded_batch()
    together = encoder(batch.inputs, batch.padding_mask)
    for row in range(3):
        single = encoder(alone(batch, row).inputs)
        frames = single.tokens.shape[1]
        assert (~together.padding_mask[row]).sum() == frames
        close(together.tokens[row, :frames], single.tokens[0], rtol=0, atol=1e-5)
        pooled = encoder.embed(batch.inputs, padding_mask=batch.padding_mask)[row]
        close(pooled, encoder.embed(alone(batch, row).inputs)[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("version", ["1.0", "2.0", "emotion2vec"])
def test_a_padded_clip_has_the_mask_targets_and_loss_of_the_clip_alone(version):
    method = make_method(version).eval()
    batch = padded_batch()
    together = step(method, batch)
    rows = method.task.num_masks
    total, total_cls = torch.zeros(()), torch.zeros(())
    count = 0
    for row in range(3):
        single = step(method, alone(batch, row))
        frames = single.mask.masked.shape[1]
        mine = slice(row * rows, (row + 1) * rows)
        assert torch.equal(together.mask.masked[mine, :frames], single.mask.masked)
        assert not together.mask.masked[mine, frames:].any()
        scored = together.mask.scored[mine]
        close(together.targets[mine][scored], single.targets.flatten(0, 1), rtol=0, atol=1e-5)
        close(together.predictions[mine][scored], single.predictions.flatten(0, 1), rtol=0, atol=1e-5)
        total = total + single.regression_loss * single.mask.masked.sum()
        if single.cls_loss is not None:
            total_cls = total_cls + single.cls_loss / 3
        count += int(single.mask.masked.sum())
    close(together.regression_loss, total / count, rtol=1e-5, atol=0)  # a mean over the masked frames of the batch
    close(together.loss, together.regression_loss + total_cls, rtol=1e-5, atol=0)  # and one over its clips


@pytest.mark.parametrize("version", ["2.0", "emotion2vec"])
def test_a_padded_batch_trains_every_parameter(version):
    method = make_method(version).train()
    step(method, padded_batch()).loss.backward()
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().max() > 0, name


# Feature extractor


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 4000))
@example(29)
@example(30)
@example(50)
def test_number_of_frames(num_samples):
    extractor = ConvFeatureExtractor(4, ((2, 10, 5), (2, 3, 2), (2, 2, 2)))
    assert (extractor.stride, extractor.receptive_field) == (20, 30)
    frames = extractor.num_frames(num_samples)
    assert frames == max(0, (num_samples - 30) // 20 + 1)
    assert extractor.num_frames(torch.tensor([num_samples])).tolist() == [frames]
    if frames == 0:
        with pytest.raises(ValueError, match="shorter than one frame, which needs 30"):
            extractor(torch.zeros(1, num_samples))
    else:
        assert extractor(torch.zeros(1, num_samples)).grid == (frames,)


def test_published_geometry():
    extractor = ConvFeatureExtractor(4)
    assert (extractor.stride, extractor.receptive_field) == (320, 400)
    assert extractor.num_frames(16_000) == 49


@pytest.mark.parametrize("num_samples", [330, 331, 337])
@pytest.mark.parametrize(
    "layers",
    [((4, 10, 5), (6, 3, 2), (6, 2, 2)), ((4, 4, 4), (3, 7, 3), (5, 1, 2)), ((4, 3, 2), (200, 5, 1), (2, 2, 3))],
)
def test_the_extractor_is_the_stack_of_convolutions_that_it_says(layers, num_samples):
    extractor = ConvFeatureExtractor(8, layers).double()  # a norm over two channels has steep gradients
    wave = torch.randn(2, num_samples, dtype=torch.double)
    x = wave[:, None]
    for layer in extractor.layers:
        x = F.conv1d(x, layer.conv.weight, stride=layer.conv.stride)
        x = F.gelu(layer.norm(x.transpose(1, 2))).transpose(1, 2)
    expected, tokens = extractor.proj(extractor.norm(x.transpose(1, 2))), extractor(wave).tokens
    close(tokens, expected, rtol=1e-9, atol=1e-9)
    weights, toward = list(extractor.parameters()), torch.randn_like(tokens)
    for ours, theirs in zip(
        torch.autograd.grad(tokens, weights, toward), torch.autograd.grad(expected, weights, toward), strict=True
    ):
        close(ours, theirs, rtol=1e-7, atol=1e-9)


# Positions and distances


def test_masked_frames_do_not_leak_through_the_positions():
    encoder = make_encoder()
    sequence = encoder.extract(padded_batch((1000,)).inputs)
    masking = SpanMasking(0.5, 3, 0.05)
    mask = masking(padded_batch((1000,)), sequence.grid, 2, 0)
    changed = sequence.tokens.repeat_interleave(2, dim=0)
    changed = TokenSequence(changed + 10 * mask.masked[..., None], sequence.grid)
    as_rows = Mask.from_dense(mask.masked, masking.num_masked(sequence.grid))
    close(encoder.encode(changed, as_rows).tokens, encoder.encode(sequence, mask).tokens, rtol=0, atol=1e-5)


def test_conv_positions_refuse_a_kernel_that_has_no_middle():
    with pytest.raises(ValueError, match="position_kernel must be odd"):
        ConvPositions(8, 1, 4, 2)


def test_alibi_follows_the_kept_frames_and_is_never_positive():
    bias = ALiBi(4)
    with torch.no_grad():
        bias.scale.copy_(torch.tensor([1.0, 2.0, -1.0, 0.5]))
    whole = bias((9,), 0, None)[0]
    assert whole.shape == (1, 4, 9, 9)
    assert (whole <= 0).all()
    assert (whole[0, 2] == 0).all()  # a negative scale counts as none
    assert whole[0, 1, 2, 7] == -5 * 2 * 2**-4  # distance, scale, slope
    kept = torch.tensor([[0, 3, 8], [1, 2, 6]])
    for row in range(2):
        close(bias((9,), 0, kept)[0, row], whole[0][:, kept[row]][:, :, kept[row]], rtol=0, atol=0)
    with_cls = bias((9,), 2, kept)[0]
    assert not with_cls[:, :, :2].any()  # CLS tokens are far from nothing
    assert not with_cls[..., :2].any()
    close(with_cls[:, :, 2:, 2:], bias((9,), 0, kept)[0], rtol=0, atol=0)


def test_of_the_tokens_before_the_frames_the_first_starts_as_zero_and_the_others_do_not():
    """fairseq's ``init_extra_token_zero``."""
    torch.manual_seed(0)
    tokens = speech_encoder(width=64, depth=1, num_heads=2, num_cls=10).front.cls_token
    assert tokens.shape == (10, 64)
    assert not tokens[0].any()
    assert 0.9 < tokens[1:].std() < 1.1


# LayerDrop


def test_layer_drop_leaves_blocks_out_and_gives_their_weights_a_gradient_of_zero():
    encoder = make_encoder(layer_drop=0.5, depth=6)
    wave = padded_batch((1000,)).inputs
    calls: list[nn.Module] = []
    for block in encoder.trunk.blocks:
        block.register_forward_hook(lambda block, *_: calls.append(block))
    encoder(wave)
    assert len(calls) == 6  # in eval mode, all
    calls.clear()
    encoder.train()
    torch.manual_seed(0)
    encoder(wave).tokens.square().sum().backward()
    assert 0 < len(calls) < 6
    for block in encoder.trunk.blocks:
        gradients = [parameter.grad for parameter in block.parameters()]
        assert all(gradient is not None for gradient in gradients)
        assert any(gradient.any() for gradient in gradients) == (block in calls)
    calls.clear()
    for _ in range(50):
        encoder(wave)
    assert 110 < len(calls) < 190  # of 300, half


# SpanMasking


def lengths_of_spans(row: Tensor) -> list[int]:
    runs = "".join("x" if masked else " " for masked in row.tolist()).split()
    return [len(run) for run in runs]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(5, 90), min_size=1, max_size=6),
    st.floats(0.3, 0.8),
    st.integers(1, 12),
    st.floats(0, 0.2),
    st.integers(0, 2**40),
)
@example([50, 50, 49, 5], 0.5, 5, 0.05, 0)
@example([60, 12, 9], 0.49, 10, 0.16, 1)  # clips hardly longer than a span
def test_span_masks_have_exact_counts_within_each_clip(lengths, ratio, span, adjust, key):
    masking = SpanMasking(ratio, span, adjust)
    longest = max(lengths)
    keys = torch.arange(key, key + len(lengths))
    masked = masking.sample(keys, (longest,), torch.tensor(lengths))
    assert masked.sum(dim=1).tolist() == [masking.num_masked((length,)) for length in lengths]
    assert all(abs(masking.num_masked((length,)) - length * ratio) <= 1 for length in lengths)
    for row, length in zip(masked, lengths, strict=True):
        assert not row[length:].any()
    for i, length in enumerate(lengths):  # who shares the batch, and how long it is, changes nothing
        assert torch.equal(masking.sample(keys[i : i + 1], (length,))[0], masked[i, :length])


@pytest.mark.parametrize("masking", [SpanMasking(0.5, 5, 0.05), SpanMasking(0.55, 5, 0.1)])
def test_span_masks_are_spans(masking):
    """fairseq's spans, before random frames even out the counts, are at least `span` long but for the ends."""
    masked = masking.sample(torch.arange(400), (500,))
    assert set(masked.sum(dim=1).tolist()) == {masking.num_masked((500,))}
    spans = [length for row in masked for length in lengths_of_spans(row)]
    frames_in_spans = sum(length for length in spans if length >= masking.span)
    assert frames_in_spans / sum(spans) > 0.8
    everywhere = masked.float().mean(dim=0)[20:-20]  # no frame is masked more often than others
    assert everywhere.min() / everywhere.mean() > 0.75
    assert everywhere.max() / everywhere.mean() < 1.25


def test_spans_are_cut_at_the_ends():
    ends = SpanMasking(0.5, 20, 0.0).sample(torch.arange(2000), (200,)).float().mean(dim=0)[0]
    assert ends > RandomSpanMasking(0.5, 20).sample(torch.arange(2000), (200,)).float().mean(dim=0)[0]


def test_span_masks_differ_by_key_and_repeat():
    masking, batch = SpanMasking(), padded_batch((1000, 1000))
    masks = masking(batch, (48,), 4, 0).masked
    assert len({tuple(row.tolist()) for row in masks}) == 8
    assert torch.equal(masking(batch, (48,), 4, 0).masked, masks)
    assert not torch.equal(masking(batch, (48,), 4, 1).masked, masks)


def test_spans_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="mask_ratio must lie between 0 and 1, not 1"):
        SpanMasking(1)
    with pytest.raises(ValueError, match="span must be at least 1 token, not 0"):
        SpanMasking(span=0)
    with pytest.raises(ValueError, match="masks nothing of 1 tokens"):
        SpanMasking(0.5).num_masked((1,))


# Decoder, teacher


def test_decoder_1d_with_two_layers_of_projection_and_no_residual():
    torch.manual_seed(0)
    head = ConvDecoder1d(6, 8, 2, 3, 1, 0.0, residual=False, projection_layers=2, projection_ratio=1.5)
    mask = Mask.from_dense(torch.tensor([[False, True, True, False, True]]), 3)
    visible = torch.randn(1, 2, 6)
    x = torch.zeros(1, 6, 5)
    x[0, :, [0, 3]] = visible[0].T
    for conv in head.layers:
        x = F.gelu(F.layer_norm(F.conv1d(x, conv.weight, conv.bias, padding=1).transpose(1, 2), (8,))).transpose(1, 2)
    first, _, last = head.proj
    assert first.weight.shape == (12, 8)
    expected = last(F.gelu(first(x.transpose(1, 2)[0, [1, 2, 4]])))
    close(head(EncoderOutput(visible, (), ()), mask, (5,))[0], expected, rtol=0, atol=1e-6)


def test_borrowed_positions_keep_their_gradient_under_autocast():
    # The teacher runs them first, without a gradient: autocast must not keep that cast (pytorch pull request 165068).
    method = make_method("1.0").train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = step(method, padded_batch()).loss
    loss.backward()
    for name, parameter in method.student.front.positions.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
