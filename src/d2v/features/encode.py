"""Features of many inputs, long ones in overlapping chunks, in bounded memory and in a fixed order."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader

from d2v.errors import UserError
from d2v.evaluation.frozen import eval_mode
from d2v.features.feature_settings import FeatureOptions
from d2v.features.pieces import PieceBatch, Pieces
from d2v.model.encoder import Encoder, Pooling

MAX_FRAMES = 15_000
"""Most that a row without pooling has (five minutes of sound)."""
# Of one input without pooling; what is larger waits on the disk until its end was read.
_MOST_IN_MEMORY = 2**24


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

    @property
    def num_vectors(self) -> int:
        """In this row."""
        return 1 if self.features.ndim == 1 else len(self.features)

    @property
    def is_last(self) -> bool:
        """Whether no other row of the same input follows."""
        return self.features.ndim == 1 or self.first_frame + len(self.features) == self.num_frames


@dataclass(frozen=True)
class Skipped:
    """An input that has no row."""

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
    on_pieces: Callable[[int], object] | None = None,
) -> Iterator[Row | Skipped]:
    """Encode batch by batch, without gradients and in eval mode.

    Args:
        encoder: On ``device`` already.
        pieces: What to encode.
        device: Where the encoder is.
        options: Layer, pooling and precision; over several pieces, the mean is weighted by their kept frames, and the
            CLS token is that of the first.
        num_workers: Processes that read; 0: this one.
        scratch: Folder for the frames of very long inputs, until they are complete; None: the system's.
        start: The first input that is wanted. Batches are those that they would be from the first input on, so that
            features do not depend on it, to the last bit.
        on_pieces: Called with how many pieces were read and encoded since the last time.

    Yields:
        Rows and what was skipped, in the order of the inputs, an input's rows when its end was read.

    Raises:
        UserError: The encoder has no such layer or no CLS token.
    """
    following = pieces.first_piece(start)
    loader = DataLoader(
        pieces,
        batch_size=None,
        sampler=pieces.batches_from(following),
        num_workers=num_workers,
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
            wanted = {piece: part for piece, part in read if piece >= following}
            waiting |= wanted
            if on_pieces is not None:
                on_pieces(len(wanted))
            while following in waiting:
                yield from gathered.add(following, waiting.pop(following))
                following += 1


class _Part(NamedTuple):
    """What stays of one piece."""

    features: np.ndarray
    """float32 [n, D], the kept frames; after pooling [D]."""
    num_frames: int
    """How many are kept."""


def _encode(
    encoder: Encoder, pieces: Pieces, batch: PieceBatch, device: torch.device, options: FeatureOptions
) -> list[tuple[int, _Part]]:
    """What stays of each piece of a batch."""
    assert batch.x is not None
    x = batch.x.to(device, non_blocking=True)
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
            keeps.append(chunk.keep)
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
    """Parts of the input that comes next, until they are all there: an input that breaks off has no row."""

    def __init__(self, pieces: Pieces, encoder: Encoder, pool: Pooling, scratch: Path | None) -> None:
        self._pieces, self._pool = pieces, pool
        self._scratch = None if scratch is None else str(scratch)
        self._extractor: Any = encoder.front.feature_extractor
        self._broken = -1
        self._sum: Any = 0.0
        self._reset()

    def add(self, piece: int, part: _Part | str) -> Iterator[Row | Skipped]:
        """The next piece, or why there is none."""
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
        """The next frames, or those that are left."""
        return np.frombuffer(self._frames.read(num_frames * width * 4), np.float32).reshape(-1, width)

    def _row(self, index: int, features: np.ndarray, first: int) -> Row:
        inputs = self._pieces.inputs
        duration = times = None
        if inputs.sample_rate is not None:
            duration = inputs.num_samples(index) / inputs.sample_rate
            if self._pool == "none":
                frames = np.arange(first, first + len(features))
                centre = self._extractor.receptive_field / 2
                times = (frames * self._extractor.stride + centre) / inputs.sample_rate
        return Row(inputs.names[index], features, self._count, first, duration, times)

    def _reset(self) -> None:
        self._count, self._weight, self._sum = 0, 0, 0.0
        self._frames: IO[bytes] = tempfile.SpooledTemporaryFile(_MOST_IN_MEMORY, dir=self._scratch)  # noqa: SIM115
