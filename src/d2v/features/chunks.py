"""Cuts inputs that are too long for one forward pass into overlapping chunks, and keeps the middle of each."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from d2v.errors import UserError
from d2v.evaluation.frozen import eval_mode
from d2v.model.encoder import Encoder

SAMPLE_RATE = 16_000
"""Speech encoders read so many samples a second."""


@dataclass(frozen=True)
class Chunk:
    """Samples ``start`` to ``stop`` of a clip, and which of their frames to keep.

    In a text, samples and frames are the same: its tokens.
    """

    start: int
    stop: int
    first_frame: int
    """Position of the first kept frame in the whole clip."""
    keep: slice
    """Which of the chunk's own frames are kept."""


def plan_chunks(num_samples: int, chunk: int, overlap: int, stride: int, receptive_field: int) -> list[Chunk]:
    """Cut a clip into chunks whose kept frames, put together, are the frames of the whole clip.

    Chunks start at multiples of the stride, so a frame is computed from the same samples in a chunk as in the whole
    clip. Two neighbours share the frames of their overlap equally, so a kept frame is never closer to a cut than half
    the overlap. All chunks have the same length: the last one starts earlier rather than being shorter.

    Args:
        num_samples: Length of the clip.
        chunk: Longest piece to encode at once, in samples.
        overlap: Least number of samples that two neighbours share; rounded up to whole frames.
        stride: Samples from one frame to the next.
        receptive_field: Samples that one frame is computed from.

    Raises:
        UserError: The clip has no frame, or the chunks are too short for their overlap.
    """
    if num_samples < receptive_field:
        raise UserError(
            f"{num_samples} samples are too short: one frame is computed from {receptive_field}. Give a longer clip"
        )
    total = _num_frames(num_samples, stride, receptive_field)
    if num_samples <= chunk:
        return [Chunk(0, num_samples, 0, slice(0, total))]
    size = _num_frames(chunk, stride, receptive_field)  # frames a chunk
    hop = size - -(-overlap // stride)
    if overlap < 0 or hop < 1:
        raise UserError(
            f"chunks of {chunk} samples cannot overlap by {overlap}: chunk_seconds must be above overlap_seconds, and "
            "that not below 0"
        )
    starts = [*range(0, total - size, hop), max(0, total - size)]
    chunks, first = [], 0
    for start, following in zip(starts, [*starts[1:], None], strict=True):
        last = total
        if following is not None:  # each of two neighbours keeps half of what they share
            last = (start + size + following) // 2
        stop = (start + size - 1) * stride + receptive_field
        chunks.append(Chunk(start * stride, stop, first, slice(first - start, last - start)))
        first = last
    return chunks


def encode_chunks(
    encoder: Encoder,
    read: Callable[[int, int], Float[Tensor, "samples"]],
    num_samples: int,
    chunk_seconds: float = 30.0,
    overlap_seconds: float = 5.0,
    device: torch.device | str = "cpu",
    function: Callable[[Float[Tensor, "1 samples"]], Float[Tensor, "1 n d"]] | None = None,
    sample_rate: int = SAMPLE_RATE,
) -> Iterator[tuple[Float[Tensor, "n d"], int]]:
    """Encode a clip of any length chunk by chunk: the memory needed depends on the chunk, not on the clip.

    Args:
        encoder: Already on ``device``; it is in eval mode while it encodes.
        read: Returns the samples between two positions, as the encoder wants them (16 kHz, normalised).
        num_samples: Length of the clip.
        chunk_seconds: Longest piece to encode at once; a shorter clip is one piece.
        overlap_seconds: Shared by neighbouring pieces; every kept frame sees at least half of it on either side.
        device: Where the encoder is.
        function: Computes one vector a frame from a chunk, such as the letters of a CTC head; None: the encoder does.
        sample_rate: Samples a second.

    Yields:
        Kept frames [n, D], on the device, and the position of the first of them in the whole clip.

    Raises:
        UserError: As :func:`plan_chunks`.
    """
    apply = function or (lambda x: encoder.embed(x, pool="none"))
    extractor: Any = encoder.front.feature_extractor
    chunks = plan_chunks(
        num_samples,
        round(chunk_seconds * sample_rate),
        round(overlap_seconds * sample_rate),
        extractor.stride,
        extractor.receptive_field,
    )
    for chunk in chunks:
        x = read(chunk.start, chunk.stop)[None].to(device)  # [1, samples]
        with torch.no_grad(), eval_mode(encoder):
            frames = apply(x)[0, chunk.keep]
        yield frames, chunk.first_frame


def _num_frames(num_samples: int, stride: int, receptive_field: int) -> int:
    """How many windows of this length and stride fit; below 1 if none does."""
    return (num_samples - receptive_field) // stride + 1
