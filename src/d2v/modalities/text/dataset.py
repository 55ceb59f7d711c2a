"""Blocks of token ids as a dataset."""

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

    Nothing here is random. Worker processes are sent the names of the shards and the spans of the blocks, no tokens.

    Args:
        shards: the tokens of a split.
        blocks: where they are cut.
        skipped: counts unreadable blocks.
    """

    broken_for_good = False  # the disk may answer the next time

    def __init__(self, shards: Shards, blocks: Blocks, skipped: SkippedSamples) -> None:
        super().__init__(len(blocks), 0, skipped)
        self._shards, self._blocks = shards, blocks
        self._bos, self._vocabulary = shards.tokenizer.bos_id, len(shards.tokenizer)

    @property
    def lengths(self) -> np.ndarray:
        """int64 [n]: tokens of each block, ``<s>`` included."""
        return self._blocks.lengths

    def candidates(self, index: int) -> Iterator[int]:
        """A broken block is replaced by one that is no longer, so that the batch keeps to its number of tokens."""
        yield index
        lengths = self.lengths
        others = np.roll(np.arange(len(lengths)), -index)[1:]
        yield from others[lengths[others] <= lengths[index]].tolist()

    def load(self, index: int) -> tuple[Tensor, int | Tensor | None]:
        start, stop = self._blocks.span(index)
        ids = torch.empty(stop - start + 1, dtype=torch.int64)
        ids[0] = self._bos
        tokens = ids[1:].numpy()
        try:
            tokens[:] = self._shards.read(start, stop)
        except OSError as error:
            raise BrokenSample(error.strerror or str(error)) from error
        if tokens.max() >= self._vocabulary:  # on an accelerator the error would name no cause
            raise BrokenSample(f"it holds the id {tokens.max()}, and the tokenizer has {self._vocabulary:,} ids")
        return ids, None
