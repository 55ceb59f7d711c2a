"""Masks that are drawn where a batch is loaded, so that a GPU gets them with it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from d2v.model.masking import Masking, keys_of
from d2v.types import Batch

Collate = Callable[[list[Any]], Batch]
"""Makes a batch of samples."""


@dataclass(frozen=True)
class EarlyMasks:
    """Draws the masks of a batch that a loading process has put together: the very ones that the model would draw."""

    collate: Collate
    masking: Masking
    num_masks: int
    seed: int
    grid_of: Callable[[tuple[int, ...]], tuple[int, ...]]
    """Tokens of inputs of a shape (:meth:`d2v.model.front_end.FrontEnd.grid_of`)."""

    def __call__(self, samples: list[Any]) -> Batch:
        batch = self.collate(samples)
        keys = keys_of(batch, self.num_masks, self.seed)
        return batch._replace(masked=self.masking.sample(keys, self.grid_of(batch.inputs.shape)))
