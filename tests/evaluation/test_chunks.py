"""Chunks of long inputs: kept frames are those of the whole, each far from a cut."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from d2v.errors import UserError
from d2v.features.chunks import encode_chunks, plan_chunks

STRIDE, FIELD = 320, 400


def num_frames(num_samples: int, stride: int = STRIDE, field: int = FIELD) -> int:
    return (num_samples - field) // stride + 1


class ConvEncoder(nn.Module):
    """Frames of 4 samples, 2 apart, each mixed with ``reach`` neighbours on either side: no attention."""

    def __init__(self, reach: int = 3) -> None:
        super().__init__()
        self.frames = nn.Conv1d(1, 5, 4, stride=2)
        self.mix = nn.Conv1d(5, 6, 2 * reach + 1, padding=reach)
        self.dropout = nn.Dropout(0.5)
        self.front = SimpleNamespace(feature_extractor=SimpleNamespace(stride=2, receptive_field=4))
        self.longest = 0
        self.trunk = nn.Identity()

    def embed(self, x: Tensor, pool: str) -> Tensor:
        assert pool == "none"
        self.longest = max(self.longest, x.shape[1])
        return self.dropout(self.mix(self.frames(x[:, None]).relu())).transpose(1, 2)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), stride=st.integers(1, 400), num=st.integers(1, 400_000))
def test_kept_frames_are_exactly_those_of_the_clip(data: st.DataObject, stride: int, num: int) -> None:
    field = data.draw(st.integers(stride, 3 * stride))
    chunk = data.draw(st.integers(max(field, num // 300), max(field, num) + 5))
    size = num_frames(chunk, stride, field)
    overlap = data.draw(st.integers(0, (size - 1) * stride))
    num += field
    chunks = plan_chunks(num, chunk, overlap, stride, field)
    total = num_frames(num, stride, field)
    kept = []
    for one in chunks:
        frames = num_frames(one.stop - one.start, stride, field)
        assert 0 <= one.keep.start < one.keep.stop <= frames
        assert one.start % stride == 0
        assert one.stop <= num
        assert one.stop - one.start <= chunk
        first = one.start // stride + one.keep.start
        assert first == one.first_frame
        kept += range(first, first + one.keep.stop - one.keep.start)
        half = overlap // stride // 2  # frames to a cut that is not an end of the clip
        assert one.start == 0 or one.keep.start >= half
        assert one is chunks[-1] or frames - one.keep.stop >= half
    assert kept == list(range(total))
    assert len({one.stop - one.start for one in chunks}) == 1


def test_chunks_of_the_default_lengths() -> None:
    chunks = plan_chunks(70 * 16_000, 30 * 16_000, 5 * 16_000, STRIDE, FIELD)
    assert [(one.start, one.first_frame, one.keep.stop - one.keep.start) for one in chunks] == [
        (0, 0, 1374),
        (1249 * STRIDE, 1374, 1000),
        (2000 * STRIDE, 2374, 1125),
    ]


@pytest.mark.parametrize("num", [FIELD, 5_000, 16_000])
def test_a_clip_no_longer_than_a_chunk_is_one(num: int) -> None:
    (only,) = plan_chunks(num, 16_000, 3_200, STRIDE, FIELD)
    assert (only.start, only.stop, only.first_frame, only.keep) == (0, num, 0, slice(0, num_frames(num)))


def test_what_cannot_be_cut_is_bad_input() -> None:
    with pytest.raises(UserError, match="399 samples are too short: one frame is computed from 400"):
        plan_chunks(399, 16_000, 0, STRIDE, FIELD)
    for chunk, overlap in ((16_000, 16_000), (16_000, -1), (300, 0)):
        with pytest.raises(UserError, match="chunk_seconds must be above overlap_seconds"):
            plan_chunks(50_000, chunk, overlap, STRIDE, FIELD)


@pytest.mark.parametrize("num", [4, 99, 100, 101, 187, 1_003])
def test_a_convolutional_encoder_sees_no_cut(num: int) -> None:
    """An overlap of twice the reach hides the cuts; the ends of the clip are padded in both ways alike."""
    torch.manual_seed(0)
    encoder, clip = ConvEncoder(), torch.randn(num)
    encoder.train()
    pieces = list(
        encode_chunks(encoder, lambda start, stop: clip[start:stop], num, 100, 12, sample_rate=1)  # type: ignore[arg-type]
    )
    assert encoder.training
    assert encoder.longest <= 100
    assert [first for _, first in pieces] == [0, *torch.tensor([len(f) for f, _ in pieces]).cumsum(0)[:-1].tolist()]
    expected = encoder.eval().embed(clip[None], pool="none")[0]
    torch.testing.assert_close(torch.cat([frames for frames, _ in pieces]), expected, atol=1e-6, rtol=0)


def test_frames_of_a_function_are_kept_instead() -> None:
    encoder, clip = ConvEncoder(), torch.randn(250)
    with torch.no_grad():
        pieces = encode_chunks(
            encoder,  # type: ignore[arg-type]
            lambda start, stop: clip[start:stop],
            250,
            100,
            12,
            function=lambda x: encoder.embed(x, pool="none")[..., :2] * 0 + 1,
            sample_rate=1,
        )
        assert torch.equal(torch.cat([frames for frames, _ in pieces]), torch.ones(124, 2))
