"""Features of many inputs, long ones in overlapping chunks, in bounded memory and in a fixed order."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from d2v.data.dataset import BrokenSample
from d2v.data.inputs import Inputs
from d2v.errors import UserError
from d2v.evaluation.chunks import Chunk, plan_chunks
from d2v.evaluation.features import eval_mode
from d2v.model.encoder import Encoder, Pooling

MAX_FRAMES = 15_000
"""Features of one frame each (five minutes of sound) that are gathered before they are handed on."""


@dataclass(frozen=True)
class Row:
    """Features of one input; without pooling, of a very long one only a part."""

    name: str
    features: np.ndarray
    """float32 [D]; without pooling [n, D]."""
    num_frames: int
    """Of the whole input."""
    first_frame: int
    """Where the part begins; 0 but for the later parts of a very long input."""
    duration: float | None
    """Seconds of the whole input; None where inputs have no duration."""
    times: np.ndarray | None
    """float64 [n], seconds at the centres of the frames; None where inputs have no duration, or after pooling."""


@dataclass(frozen=True)
class Progress:
    """So much was done: one more input is finished, or skipped for a reason, or a piece of one was encoded."""

    amount: float
    """Seconds, or inputs where they have no duration."""
    name: str
    skipped: str | None = None


class Pieces(Dataset):
    """The chunks of all inputs, one after the other; an input that is read whole is one piece.

    Args:
        inputs: What to read.
        encoder: Whose frames the chunks are cut at.
        chunk_seconds: Longest piece.
        overlap_seconds: What neighbours share.

    Raises:
        UserError: The chunks are too short for their overlap.
    """

    def __init__(self, inputs: Inputs, encoder: Encoder, chunk_seconds: float, overlap_seconds: float) -> None:
        self.inputs = inputs
        self.cut: tuple[int, int, int, int] | None = None
        if inputs.sample_rate is not None:
            if not 0 <= overlap_seconds < chunk_seconds:
                raise UserError(
                    f"--chunk_seconds {chunk_seconds:g} and --overlap_seconds {overlap_seconds:g}: a piece must be "
                    "longer than what it shares with the next, and that not below 0"
                )
            extractor: Any = encoder.feature_extractor
            chunk, overlap = (round(seconds * inputs.sample_rate) for seconds in (chunk_seconds, overlap_seconds))
            self.cut = (chunk, overlap, extractor.stride, extractor.receptive_field)
            plan_chunks(2 * chunk + extractor.receptive_field, *self.cut)  # a wrong length is told at once
        counts = [max(1, len(self.chunks(index))) for index in range(len(inputs))]
        self._input_of = np.repeat(np.arange(len(inputs)), counts)
        self._first = np.cumsum([0, *counts])

    def chunks(self, index: int) -> list[Chunk]:
        """Of one input; none if it is read whole or too short for a frame."""
        if self.cut is None or self.inputs.num_samples(index) < self.cut[-1]:
            return []
        return _plan(self.inputs.num_samples(index), self.cut)

    def __len__(self) -> int:
        return len(self._input_of)

    def __getitem__(self, piece: int) -> tuple[int, int, Tensor | str]:
        """Position of the input, number of the piece within it, and the samples or why there are none."""
        index = int(self._input_of[piece])
        number = piece - int(self._first[index])
        try:
            if self.cut is None:
                return index, number, self.inputs.read(index, 0, None)
            chunks = self.chunks(index)
            if not chunks:
                length = self.inputs.num_samples(index)
                return (
                    index,
                    number,
                    f"it is too short: {length} samples, and one frame is computed from {self.cut[-1]}",
                )
            return index, number, self.inputs.read(index, chunks[number].start, chunks[number].stop)
        except BrokenSample as reason:
            return index, number, " ".join(str(reason).split()) or "it cannot be read"


@functools.lru_cache(maxsize=8)  # asked for at each piece of the same input
def _plan(num_samples: int, cut: tuple[int, int, int, int]) -> list[Chunk]:
    return plan_chunks(num_samples, *cut)


def embed_inputs(
    encoder: Encoder,
    pieces: Pieces,
    device: torch.device,
    layer: int | Literal["mean"] | None = None,
    pool: Pooling = "mean",
    autocast: torch.dtype | None = None,
    num_workers: int = 1,
) -> Iterator[Row | Progress]:
    """Encode piece by piece, without gradients and in eval mode.

    Args:
        encoder: On ``device`` already.
        pieces: What to encode.
        device: Where the encoder is.
        layer: As in :meth:`Encoder.embed`.
        pool: As in :meth:`Encoder.embed`; over several pieces, the mean weighted by their kept frames.
        autocast: Precision to compute in where autocast sees fit; None: that of the weights.
        num_workers: Processes that read; 0: this one.

    Yields:
        A row as soon as it is complete, and progress after each piece.

    Raises:
        UserError: The encoder has no such layer or no CLS token.
    """
    loader = DataLoader(
        pieces, batch_size=None, num_workers=num_workers, pin_memory=device.type == "cuda", prefetch_factor=None
    )
    casting = torch.autocast(device.type, dtype=autocast, enabled=autocast is not None)
    state = _Gathered(pieces, encoder, pool)
    with eval_mode(encoder), torch.no_grad(), casting:
        for index, number, x in loader:
            amount = _amount(pieces, index, number)
            if state.is_broken(index):
                yield Progress(amount, pieces.inputs.names[index])
                continue
            if isinstance(x, str):
                state.mark_broken(index)
                yield Progress(amount, pieces.inputs.names[index], skipped=x)
                continue
            try:
                frames = encoder.embed(x[None].to(device, non_blocking=True), layer, "none" if pool == "mean" else pool)
            except ValueError as error:
                raise UserError(f"--layer {layer}, --pool {pool}: {error}") from error
            yield from state.add(index, number, frames[0].float())
            yield Progress(amount, pieces.inputs.names[index])


def _amount(pieces: Pieces, index: int, number: int) -> float:
    """Seconds (or inputs) that a piece stands for: those up to the last of them add up to the whole."""
    inputs = pieces.inputs
    if pieces.cut is None or inputs.sample_rate is None:
        return 1.0
    seconds, chunks = inputs.num_samples(index) / inputs.sample_rate, pieces.chunks(index)
    if not chunks:
        return seconds
    last = chunks[-1]
    return seconds * chunks[number].num_kept / (last.first_frame + last.num_kept)


class _Gathered:
    """Frames of the input that is being encoded, until they make a row."""

    def __init__(self, pieces: Pieces, encoder: Encoder, pool: Pooling) -> None:
        self._pieces, self._pool = pieces, pool
        self._extractor: Any = encoder.feature_extractor
        self._broken = -1
        self._buffer: Any = None
        self._sum: Any = 0.0
        self._reset(0)

    def is_broken(self, index: int) -> bool:
        return index == self._broken

    def mark_broken(self, index: int) -> None:
        self._broken = index
        self._reset(0)

    def add(self, index: int, number: int, frames: Float[Tensor, "*n d"]) -> Iterator[Row]:
        """One piece more: all its frames, or its CLS token."""
        chunks = self._pieces.chunks(index)
        if chunks:
            keep, is_last = chunks[number].keep, number == len(chunks) - 1
            total = chunks[-1].first_frame + chunks[-1].num_kept
        else:
            total = len(frames) if frames.ndim > 1 else 1
            keep, is_last = slice(0, total), True
        count = keep.stop - keep.start
        if self._pool == "none":
            if self._buffer is None:
                # At once: many small pieces that stay between large ones that go would split the heap.
                longest = max((chunk.num_kept for chunk in chunks), default=total)
                rows = min(total - self._first, MAX_FRAMES + longest)
                self._buffer = np.empty((rows, frames.shape[-1]), np.float32)
            self._buffer[self._count : self._count + count] = frames[keep].cpu().numpy()
        else:  # in fp32 on the device; few numbers per piece, so that many pieces lose nothing
            part = frames[keep].sum(dim=0) if frames.ndim > 1 else frames * count
            self._sum = self._sum + part.cpu().numpy().astype(np.float64)
        self._count += count
        if is_last or (self._pool == "none" and self._count >= MAX_FRAMES):
            yield self._row(index, total)
            self._reset(0 if is_last else self._first + self._count)

    def _row(self, index: int, total: int) -> Row:
        inputs = self._pieces.inputs
        duration = times = None
        if inputs.sample_rate is not None:
            duration = inputs.num_samples(index) / inputs.sample_rate
            if self._pool == "none":
                frames = np.arange(self._first, self._first + self._count)
                centre = self._extractor.receptive_field / 2
                times = (frames * self._extractor.stride + centre) / inputs.sample_rate
        pooled = self._pool != "none"
        features = (self._sum / self._count).astype(np.float32) if pooled else self._buffer[: self._count]
        return Row(inputs.names[index], features, total, self._first, duration, times)

    def _reset(self, first: int) -> None:
        self._first, self._count = first, 0
        self._buffer, self._sum = None, 0.0
