"""Cuts inputs into pieces, and puts pieces of about the same length into batches."""

import functools
import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from d2v.data.encoder_inputs import Inputs
from d2v.data.loading_processes import reading
from d2v.errors import BrokenSample, UserError
from d2v.features.chunks import Chunk, plan_chunks
from d2v.features.feature_settings import FeatureOptions
from d2v.model.encoder import Encoder
from d2v.shares import Share

_LARGEST_RATIO = 1.25
# Patches in a batch of pictures; a processor is fastest on batches that fit its cache.
_PATCHES_CPU, _PATCHES_GPU = 4_096, 65_536


class Lengths(NamedTuple):
    """Lengths of pieces and batches, in samples."""

    chunk: int
    """Longest piece."""
    overlap: int
    """Shared by two neighbouring pieces."""
    batch: int
    """Largest batch, padding included; a longer piece is a batch of its own."""
    window: int
    """Pieces are sorted by length within windows of so many samples, because rows are written in their order."""


class PieceBatch(NamedTuple):
    """Pieces of about the same length, padded at their ends."""

    pieces: list[int]
    """Numbers of the pieces that could be read, one a row."""
    x: Tensor | None
    """[B, samples], or whole inputs [B, ...]; None if no piece could be read."""
    padding_mask: Bool[Tensor, "b samples"] | None
    """True = padding; None when nothing is padded."""
    broken: list[tuple[int, str]]
    """Numbers of the others, and why they could not be read."""


class Pieces(Dataset[PieceBatch]):
    """Batches of pieces: the chunks of all inputs in their order; an input that is read whole is one piece.

    Which pieces are in a batch depends on nothing but the inputs and the lengths.

    Args:
        inputs: What to read.
        encoder: Chunks are cut between its frames.
        lengths: Lengths of chunks and batches; or the number of inputs in a batch, if they are read whole.

    Raises:
        UserError: The chunks are too short for their overlap, or for a frame.
    """

    def __init__(self, inputs: Inputs, encoder: Encoder, lengths: Lengths | int) -> None:
        self.inputs = inputs
        self.cut: tuple[int, int, int, int] | None = None
        if isinstance(lengths, int):
            self._input_of = np.arange(len(inputs))
            self._first = np.arange(len(inputs) + 1)
            self._batches = np.split(self._input_of, np.arange(lengths, len(inputs), lengths))
            return
        self.cut = (lengths.chunk, lengths.overlap, *inputs.frame_of(encoder))
        plan_chunks(2 * lengths.chunk + self.cut[-1], *self.cut)  # a wrong length raises before anything is read
        counts, flat = list[int](), list[int]()
        for index in range(len(inputs)):
            lengths_of_chunks = [chunk.stop - chunk.start for chunk in self.chunks(index)] or [0]
            counts.append(len(lengths_of_chunks))
            flat += lengths_of_chunks
        self._input_of = np.repeat(np.arange(len(inputs)), counts)
        self._first = np.cumsum([0, *counts])
        ratio = _LARGEST_RATIO if inputs.pads else 1.0
        self._batches = plan_batches(np.array(flat, dtype=np.int64), lengths.batch, lengths.window, ratio)

    def first_piece(self, index: int) -> int:
        """Number of the first piece of an input."""
        return int(self._first[index])

    def batches_of(self, first: int, end: int) -> list[int]:
        """Batches that hold pieces from the first one on, before the end."""
        wanted = []
        for number, pieces in enumerate(self._batches):
            if ((first <= pieces) & (pieces < end)).any():
                wanted.append(number)
        return wanted

    def inputs_of(self, share: Share) -> tuple[int, int]:
        """The first input of a share of the pieces, and the one after its last."""
        first, end = np.searchsorted(self._first, share.bounds(int(self._first[-1]))).tolist()
        return first, end

    def chunks(self, index: int) -> list[Chunk]:
        """The chunks of an input; none if it is read whole, or is too short for a frame."""
        if self.cut is None or self.inputs.num_samples(index) < self.cut[-1]:
            return []
        return _plan(self.inputs.num_samples(index), self.cut)

    def chunk(self, piece: int) -> Chunk | None:
        """The chunk that a piece is; None if it is an input that is read whole."""
        index, number = self.locate(piece)
        chunks = self.chunks(index)
        return chunks[number] if chunks else None

    def locate(self, piece: int) -> tuple[int, int]:
        """Position of the input that a piece belongs to, and the number of the piece within it."""
        index = int(self._input_of[piece])
        return index, piece - int(self._first[index])

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, batch: int) -> PieceBatch:
        pieces, parts, broken = list[int](), list[Tensor](), list[tuple[int, str]]()
        for piece in self._batches[batch].tolist():
            try:
                with reading(self.inputs.names.__getitem__, self.locate(piece)[0]):
                    parts.append(self.read(piece))
                pieces.append(piece)
            except BrokenSample as reason:
                broken.append((piece, " ".join(str(reason).split()) or "it cannot be read"))
        if self.cut is None and parts:  # inside a worker, right into shared memory
            return PieceBatch(pieces, default_collate(parts), None, broken)
        if not parts:
            return PieceBatch(pieces, None, None, broken)
        x = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)
        lengths = torch.tensor([len(part) for part in parts])
        padding: Tensor | None = torch.arange(x.shape[1]) >= lengths[:, None]
        if len(set(lengths.tolist())) == 1:
            padding = None
        return PieceBatch(pieces, x, padding, broken)

    def read(self, piece: int) -> Tensor:
        """One piece as the encoder takes it, without the batch dimension.

        Raises:
            BrokenSample: It cannot be read, or is too short.
        """
        index, number = self.locate(piece)
        if self.cut is None:
            return self.inputs.read(index, 0, None)
        chunks = self.chunks(index)
        if not chunks:
            length = self.inputs.num_samples(index)
            raise BrokenSample(f"it is too short: {length} samples, and one frame is computed from {self.cut[-1]}")
        return self.inputs.read(index, chunks[number].start, chunks[number].stop)


def plan_lengths(inputs: Inputs, device: torch.device, options: FeatureOptions) -> Lengths | int:
    """Choose lengths of pieces and batches for a device.

    Raises:
        UserError: The pieces that are asked for are too short for their overlap.
    """
    on_cpu = device.type == "cpu"
    rate = inputs.sample_rate
    if rate is not None:
        chunk, overlap = options.chunk_seconds, options.overlap_seconds
        if not 0 <= overlap < chunk < math.inf:
            raise UserError(
                f"--chunk_seconds {chunk:g} and --overlap_seconds {overlap:g}: a piece must be longer than what it "
                "shares with the next, and that not below 0"
            )
        longest, shared = round(chunk * rate), round(overlap * rate)
        if inputs.longest is not None:
            longest = min(longest, inputs.longest)
            shared = min(shared, longest // 2)
        return Lengths(longest, shared, (15 if on_cpu else 60) * rate, window=600 * rate)
    if inputs.longest is not None:
        # The first token of a piece is never kept if two or more are shared.
        overlap_tokens, batch_tokens = max(2, inputs.longest // 4), 2_048 if on_cpu else 32_768
        return Lengths(inputs.longest, overlap_tokens, batch_tokens, window=2**18)
    patches = _PATCHES_CPU if on_cpu else _PATCHES_GPU
    return max(1, patches // (inputs.num_parts or _PATCHES_GPU))


def plan_batches(lengths: np.ndarray, largest: int, window: int, ratio: float = _LARGEST_RATIO) -> list[np.ndarray]:
    """Put pieces of about the same length into batches; only pieces of one window come together.

    Args:
        lengths: Lengths of all pieces, int64 [P].
        largest: Largest batch, padding included; a longer piece is a batch of its own.
        window: Samples of a window; all pieces of a window come before those of the next.
        ratio: Length of the longest piece of a batch over that of its shortest, at most.

    Returns:
        Numbers of the pieces of each batch, int64.
    """
    windows = np.cumsum(lengths) // window
    order = np.lexsort((lengths, windows))  # stable: the chunks of a long input stay in order
    batches, batch = list[list[int]](), list[int]()
    for piece in order.tolist():
        fits = (
            batch
            and windows[piece] == windows[batch[0]]
            and lengths[piece] * (len(batch) + 1) <= largest
            and lengths[piece] <= lengths[batch[0]] * ratio
        )
        if not fits:
            batch = []
            batches.append(batch)
        batch.append(piece)
    return [np.array(batch, dtype=np.int64) for batch in batches]


@functools.lru_cache(maxsize=8)  # called again for each piece of an input
def _plan(num_samples: int, cut: tuple[int, int, int, int]) -> list[Chunk]:
    return plan_chunks(num_samples, *cut)
