"""Token ids: blocks of the stream, and batches of them."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from d2v.data.samples import SampleDataset, SkippedSamples
from d2v.errors import BrokenSample
from d2v.modalities.text.corpus.blocks import Blocks
from d2v.modalities.text.corpus.shards import Shards


class TextDataset(SampleDataset):
    """Token ids int64 [N] that begin with ``<s>``.

    Nothing here is random. Worker processes get the names of the shards and where the blocks lie, and no tokens.

    Args:
        shards: the split.
        blocks: its cuts.
        skipped: where unreadable blocks are counted.
    """

    broken_for_good = False  # a disk may answer again

    def __init__(self, shards: Shards, blocks: Blocks, skipped: SkippedSamples) -> None:
        super().__init__(len(blocks), 0, skipped)
        self._shards, self._blocks = shards, blocks
        self._bos, self._vocabulary = shards.tokenizer.bos_id, len(shards.tokenizer)

    @property
    def lengths(self) -> np.ndarray:
        """int64 [n]: tokens of each block, ``<s>`` included."""
        return self._blocks.lengths

    def candidates(self, index: int) -> Iterator[int]:
        """No longer block takes the place of a broken one, and the batch keeps within its tokens."""
        yield index
        lengths = self.lengths
        others = np.roll(np.arange(len(lengths)), -index)[1:]
        yield from (int(other) for other in others[lengths[others] <= lengths[index]])

    def load(self, index: int) -> tuple[Tensor, int | Tensor | None]:
        start, stop = self._blocks.span(index)
        ids = torch.empty(stop - start + 1, dtype=torch.int64)
        ids[0] = self._bos
        tokens = ids[1:].numpy()
        try:
            tokens[:] = self._shards.read(start, stop)
        except OSError as error:
            raise BrokenSample(error.strerror or str(error)) from error
        if tokens.max() >= self._vocabulary:  # an accelerator could not say what is wrong
            raise BrokenSample(f"it holds the id {tokens.max()}, and the tokenizer has {self._vocabulary:,} ids")
        return ids, None
