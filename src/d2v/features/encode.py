"""Computes the features of many inputs, in a fixed order and in bounded memory, whatever their length."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch

from d2v.data.loading_processes import Loader, begin
from d2v.data.normalisation import normalised
from d2v.errors import UserError
from d2v.evaluation.frozen import eval_mode
from d2v.features.feature_settings import FeatureOptions
from d2v.features.pieces import PieceBatch, Pieces
from d2v.model.encoder import Encoder, Pooling

MAX_FRAMES = 15_000
"""Longest row without pooling (five minutes of sound); a longer input becomes several rows."""
# Bytes of one input without pooling; more than that waits on the disk until the input is complete.
_MOST_IN_MEMORY = 2**24


@dataclass(frozen=True)
class Row:
    """Features of one input, or, without pooling, of a part of a very long one."""

    name: str
    features: np.ndarray
    """float32 [D]; without pooling [n, D]."""
    num_frames: int
    """Frames of the whole input."""
    first_frame: int
    """Position of the first frame in the input; above 0 only in later parts of a very long one."""
    duration: float | None
    """Seconds of the whole input; None where inputs have no duration."""
    times: np.ndarray | None
    """float64 [n], seconds at the centres of the frames; None where inputs have no duration, or after pooling."""

    @property
    def num_vectors(self) -> int:
        """Vectors in this row."""
        return 1 if self.features.ndim == 1 else len(self.features)

    @property
    def is_last(self) -> bool:
        """Whether the input is complete with this row."""
        return self.features.ndim == 1 or self.first_frame + len(self.features) == self.num_frames


@dataclass(frozen=True)
class Skipped:
    """An input without features, and why."""

    name: str
    reason: str


def embed_inputs(
    encoder: Encoder,
    pieces: Pieces,
    device: torch.device,
    options: FeatureOptions,
    num_workers: int = 0,
    scratch: Path | None = None,
    start: int = 0,
    stop: int | None = None,
    on_pieces: Callable[[int], object] | None = None,
) -> Iterator[Row | Skipped]:
    """Encode batch by batch, without gradients and in eval mode.

    Args:
        encoder: Already on ``device``.
        pieces: What to encode.
        device: Where the encoder is.
        options: Layer, pooling and precision. Of an input in several pieces, the mean is taken over all kept
            frames, and the CLS token is that of the first piece.
        num_workers: Processes that read; 0: this one.
        scratch: Folder for the frames of very long inputs, until they are complete; None: the system's.
        start: The first input to return. Batches are put together as if it were 0, so that features are the same to
            the last bit.
        stop: The first input that is not returned any more; None: all are. Batches do not depend on it either.
        on_pieces: Called with how many pieces were read and encoded since the last time.

    Yields:
        Rows and skipped inputs, in the order of the inputs; the rows of an input once all of it was encoded.

    Raises:
        UserError: The encoder has no such layer or no CLS token.
    """
    following = pieces.first_piece(start)
    end = pieces.first_piece(len(pieces.inputs) if stop is None else stop)
    loader = Loader(
        pieces,
        batch_size=None,
        sampler=pieces.batches_of(following, end),
        num_workers=num_workers,
        worker_init_fn=begin,
        pin_memory=device.type == "cuda",
    )
    casting = torch.autocast(device.type, dtype=options.autocast, enabled=options.autocast is not None)
    gathered = _Gathered(pieces, encoder, options.pool, scratch)
    waiting: dict[int, _Part | str] = {}
    with eval_mode(encoder), torch.no_grad(), casting:
        for batch in loader:
            read: list[tuple[int, _Part | str]] = [*batch.broken]
            if batch.x is not None:
                read += _encode(encoder, pieces, batch, device, options)
            wanted = {piece: part for piece, part in read if following <= piece < end}
            waiting |= wanted
            if on_pieces is not None:
                on_pieces(len(wanted))
            while following in waiting:
                yield from gathered.add(following, waiting.pop(following))
                following += 1


class _Part(NamedTuple):
    """The kept frames of one piece."""

    features: np.ndarray
    """float32 [n, D]; after pooling [D]."""
    num_frames: int
    """How many are kept."""


def _encode(
    encoder: Encoder, pieces: Pieces, batch: PieceBatch, device: torch.device, options: FeatureOptions
) -> list[tuple[int, _Part]]:
    """The kept frames of each piece of a batch."""
    assert batch.x is not None
    x = normalised(batch.x.to(device, non_blocking=True), encoder.assets)
    padding = batch.padding_mask
    if padding is not None:
        padding = padding.to(device, non_blocking=True)
    pool = options.pool
    if pool == "mean":  # over the kept frames alone, which the encoder does not know
        pool = "none"
    try:
        frames = encoder.embed(x, options.layer, pool, padding).float()
    except ValueError as error:
        raise UserError(f"--layer {options.layer}, --pool {options.pool}: {error}") from error
    keeps = []
    for piece in batch.pieces:
        chunk = pieces.chunk(piece)
        if chunk is not None:
            each = pieces.inputs.vectors_per_frame
            keeps.append(slice(chunk.keep.start * each, chunk.keep.stop * each))
        elif frames.ndim > 2:
            keeps.append(slice(0, frames.shape[1]))
        else:  # the CLS token of an input that was read whole
            keeps.append(slice(0, pieces.inputs.num_parts or 1))
    if options.pool == "mean":  # on the device
        frames = torch.stack([frames[row, keep].mean(dim=0) for row, keep in enumerate(keeps)])
    parts = []
    for piece, keep, features in zip(batch.pieces, keeps, frames.cpu().numpy(), strict=True):
        if options.pool == "none":
            features = features[keep]
        parts.append((piece, _Part(features, keep.stop - keep.start)))
    return parts


class _Gathered:
    """Collects the pieces of one input after the other; an input with a broken piece has no row."""

    def __init__(self, pieces: Pieces, encoder: Encoder, pool: Pooling, scratch: Path | None) -> None:
        self._pieces, self._pool = pieces, pool
        self._scratch = None if scratch is None else str(scratch)
        self._encoder = encoder
        self._broken = -1
        self._sum: Any = 0.0
        self._reset()

    def add(self, piece: int, part: _Part | str) -> Iterator[Row | Skipped]:
        """Take the next piece, or the reason why it cannot be read."""
        index, number = self._pieces.locate(piece)
        if index == self._broken:
            return
        if isinstance(part, str):
            self._broken = index
            self._reset()
            yield Skipped(self._pieces.inputs.names[index], part)
            return
        if self._pool == "none":
            self._frames.write(part.features.data)
        elif self._pool == "mean" or number == 0:
            weight = part.num_frames if self._pool == "mean" else 1
            self._sum = self._sum + part.features.astype(np.float64) * weight
            self._weight += weight
        self._count += part.num_frames
        if number == max(1, len(self._pieces.chunks(index))) - 1:
            width = part.features.shape[-1]
            if self._pool == "none":
                self._frames.seek(0)
                for first in range(0, self._count, MAX_FRAMES):
                    yield self._row(index, self._read(MAX_FRAMES, width), first)
            else:
                yield self._row(index, (self._sum / self._weight).astype(np.float32), 0)
            self._reset()

    def _read(self, num_frames: int, width: int) -> np.ndarray:
        """Read at most so many of the collected frames."""
        return np.frombuffer(self._frames.read(num_frames * width * 4), np.float32).reshape(-1, width)

    def _row(self, index: int, features: np.ndarray, first: int) -> Row:
        inputs = self._pieces.inputs
        duration = times = None
        if inputs.sample_rate is not None:
            duration = inputs.seconds(index)
            if self._pool == "none":
                stride, receptive_field = inputs.frame_of(self._encoder)
                frames = np.arange(first, first + len(features)) // inputs.vectors_per_frame
                times = (frames * stride + receptive_field / 2) / inputs.sample_rate
        return Row(inputs.names[index], features, self._count, first, duration, times)

    def _reset(self) -> None:
        self._count, self._weight, self._sum = 0, 0, 0.0
        self._frames: IO[bytes] = tempfile.SpooledTemporaryFile(_MOST_IN_MEMORY, dir=self._scratch)  # noqa: SIM115
