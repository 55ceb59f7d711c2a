"""Clips of any length outside of training: in overlapping chunks, so that memory holds the waveform and one chunk."""

from collections.abc import Callable, Iterator

from jaxtyping import Float
from torch import Tensor

from d2v.errors import UserError
from d2v.features.chunks import SAMPLE_RATE, encode_chunks
from d2v.model.encoder import Encoder
from d2v.types import Batch


class Chunking:
    """When and how clips are cut.

    Args:
        chunk_seconds: Longest piece to encode at once; None: everything as a whole.
        overlap_seconds: What neighbouring pieces share.

    Raises:
        UserError: The pieces are too short for their overlap.
    """

    def __init__(self, chunk_seconds: float | None, overlap_seconds: float) -> None:
        if chunk_seconds is not None and not 0 <= overlap_seconds < chunk_seconds:
            raise UserError(
                f"model.overlap_seconds is {overlap_seconds}: it must lie between 0 and model.chunk_seconds "
                f"({chunk_seconds})."
            )
        self.chunk_seconds = chunk_seconds
        self.overlap_seconds = overlap_seconds

    def needed(self, batch: Batch) -> bool:
        """Whether a clip of the batch is longer than a chunk."""
        return self.chunk_seconds is not None and batch.inputs.shape[1] > self.chunk_seconds * SAMPLE_RATE

    def clips(
        self, encoder: Encoder, batch: Batch, function: Callable[[Tensor], Float[Tensor, "1 n d"]]
    ) -> Iterator[Iterator[Float[Tensor, "n d"]]]:
        """The clips of a batch, each as the frames of its chunks one after the other.

        Args:
            encoder: As the batch is, on its device.
            batch: Waveforms.
            function: Makes frames of a chunk.
        """
        assert self.chunk_seconds is not None
        for number, wave in enumerate(batch.inputs):
            if batch.padding_mask is not None:
                wave = wave[: int((~batch.padding_mask[number]).sum())]
            pieces = encode_chunks(
                encoder,
                lambda start, stop, wave=wave: wave[start:stop],  # type: ignore[misc]
                len(wave),
                self.chunk_seconds,
                self.overlap_seconds,
                wave.device,
                function,
            )
            yield (frames for frames, _ in pieces)
