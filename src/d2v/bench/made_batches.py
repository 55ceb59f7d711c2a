"""Batches of a recipe's real shapes, made of noise: nothing has to lie on the disk."""

from collections.abc import Mapping
from typing import Any, Literal

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from d2v.data.data_module import PretrainingDataModule
from d2v.data.length_buckets import LengthBuckets
from d2v.data.samples import Sample, collate_samples
from d2v.model.early_masks import Collate
from d2v.model.encoder import Encoder
from d2v.training.module import Batches, Data2VecModule
from d2v.types import Batch, OptimizerStep

Lengths = Literal["equal", "drawn"]

CLIP_SECONDS = 15.6
"""Of clips of one length: 2.0 speech reads four of them in its 62.5 seconds a device."""
# Seconds of the 1,423 utterances of mini LibriSpeech's train-clean-5: the shortest, each twentieth, the longest.
_QUANTILES = (
    1.9, 4.2, 6.4, 8.7, 10.1, 11.4, 12.3, 12.8, 13.2, 13.6, 13.9,
    14.2, 14.5, 14.7, 14.9, 15.2, 15.4, 15.5, 15.8, 16.0, 17.3,
)  # fmt: skip
_NUMBER = 8  # batches, which are read again and again
_DRAWN = 2000  # lengths, of which batches are groups that are about equally long


class MadeBatches(L.LightningDataModule):
    """Gives the same few batches again and again, each ready, as a loader that keeps up would.

    Args:
        parts: The recipe's DataModules by the names of encoders, which say how large a batch is; they read nothing.
        module: Its encoders read the batches.
        lengths: Of sound: all clips equally long, or drawn as they are in LibriSpeech and grouped as in training.
    """

    def __init__(self, parts: Mapping[str, PretrainingDataModule], module: Data2VecModule, lengths: Lengths) -> None:
        super().__init__()
        self.parts = parts
        self.batches: list[Batches] = []
        sizes = {name: _sizes(part, lengths) for name, part in parts.items()}
        for number in range(_NUMBER):
            made = {}
            for name, part in parts.items():
                collate = module.with_early_masks(collate_samples, name)
                made[name] = _batch(part, sizes[name][number], module.encoders[name], collate, number)
            self.batches.append(made.get("", made))

    def val_dataloader(self) -> list[Any]:
        return []

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.batches, batch_size=None, collate_fn=_as_it_is)  # type: ignore[arg-type]


def _as_it_is(batch: Batches) -> Batches:
    """torch would make tensors of the lengths."""
    return batch


def _sizes(data: PretrainingDataModule, lengths: Lengths) -> list[list[int]]:
    """For each batch the values of each of its samples; of pictures, nothing but their number counts."""
    if data.values_per_unit is None:
        return [[0] * int(data.batch_size)] * _NUMBER
    most = int(data.batch_size * data.values_per_unit)
    length = getattr(data, "block_size", None)  # of text
    if length is None:
        low, high = data.min_seconds, data.max_seconds  # type: ignore[attr-defined]
        if lengths == "drawn":
            draws = np.random.default_rng(0).uniform(size=_DRAWN)
            seconds = np.interp(draws, np.linspace(0, 1, len(_QUANTILES)), _QUANTILES).clip(low, high)
            values = (seconds * data.values_per_unit).astype(np.int64)
            buckets = LengthBuckets(values, most, 0)
            groups = buckets.batches(np.zeros(_NUMBER, np.int64), draws[:_NUMBER].argsort())
            return [values[group].tolist() for group in groups]
        length = int(min(CLIP_SECONDS, high) * data.values_per_unit)
    return [[length] * max(1, most // length)] * _NUMBER


def _batch(data: PretrainingDataModule, sizes: list[int], encoder: Encoder, collate: Collate, number: int) -> Batch:
    generator = torch.Generator().manual_seed(number)
    like = encoder.front.example_inputs().make(4, 8)[0]
    samples = []
    for index, length in enumerate(sizes):
        shape: tuple[int, ...] = (length,)
        if data.values_per_unit is None:
            shape = tuple(like.shape[1:])
            size = getattr(data, "image_size", None) or getattr(encoder.front, "image_size", None)
            if size is not None:
                shape = (shape[0], *size)
        inputs = _bytes(shape, generator) if data.unit == "images" else _noise(like, shape, generator)
        samples.append(Sample(inputs, number * len(sizes) + index, 0, None))
    lengths = None if data.values_per_unit is None else np.array(sizes)
    batch = collate(samples)._replace(step=OptimizerStep(len(sizes), lengths, 1))
    if torch.cuda.is_available():  # once, and not for each step
        batch = batch._replace(inputs=batch.inputs.pin_memory())
    return batch


def _bytes(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Pixels as they are loaded: colours side by side, and normalised where the batch goes."""
    channels, height, width = shape
    return torch.randint(256, (height, width, channels), dtype=torch.uint8, generator=generator).permute(2, 0, 1)


def _noise(like: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Values drawn from those of other inputs: of any type, and never one that the encoder does not know."""
    values = like.flatten()
    return values[torch.randint(len(values), shape, generator=generator)]
