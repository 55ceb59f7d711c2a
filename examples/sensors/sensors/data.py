"""Recordings to batches: one .npy file [time, channels] each, in folders by class."""

import functools
import io
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2v.data.broken_samples import SkippedSamples
from d2v.data.data_module import PretrainingDataModule, Split
from d2v.data.samples import SampleDataset
from d2v.data.sources.source import Medium, Source
from d2v.data.sources.splits import open_splits
from d2v.errors import BrokenSample

RECORDINGS = Medium("recordings", (".npy",), feature=None)


def read_recording(source: Source, index: int) -> Tensor:
    """Normalised values [C, T] of one file."""
    try:
        values = np.load(io.BytesIO(source.read(index)), allow_pickle=False).astype(np.float32)
    except (ValueError, EOFError) as error:
        raise BrokenSample(f"is not a .npy file ({error})") from error
    return torch.from_numpy((values - values.mean(axis=0)) / (values.std(axis=0) + 1e-5)).T


class Recordings(SampleDataset):
    """A part of each recording: a random one in training, the middle otherwise."""

    def __init__(self, source: Source, length: int, random: bool, seed: int, skipped: SkippedSamples) -> None:
        super().__init__(len(source), seed, skipped)
        self.source, self.length, self.random = source, length, random
        self.classes = source.categories("folder")

    def load(self, index: int) -> tuple[Tensor, int | None]:
        values = read_recording(self.source, index)
        spare = values.shape[1] - self.length
        if spare < 0:
            raise BrokenSample(f"{values.shape[1]} steps are fewer than data.length {self.length}")
        start = int(torch.randint(spare + 1, ())) if self.random else spare // 2
        label = None if self.classes is None else int(self.classes.ids[index])
        return values[:, start : start + self.length], label


class SensorDataModule(PretrainingDataModule):
    """Reads root/train and root/val.

    Args:
        root: folder with the recordings.
        length: steps of time in a sample.
        batch_size: recordings of one device and one micro-batch.
        common: what every DataModule has: global_batch_size, num_workers, seed, max_skipped_fraction.
    """

    unit = "recordings"

    def __init__(self, root: str, length: int = 128, batch_size: int = 16, **common: Any) -> None:
        super().__init__(root, batch_size, **common)
        self.length = length

    @functools.cached_property
    def sources(self) -> dict[str, Source | None]:
        train, val = open_splits(self.root, RECORDINGS, None, None)
        return {"train": train, "val": val}

    @property
    def class_names(self) -> tuple[str, ...]:
        classes = self.sources["train"].categories("folder")
        return () if classes is None else classes.names

    def train_dataset(self) -> SampleDataset:
        return self._dataset("train", random=True)

    def eval_dataset(self, split: Split) -> SampleDataset | None:
        return self._dataset(split, random=False) if self.sources[split] is not None else None

    def _dataset(self, split: Split, random: bool) -> Recordings:
        source = self.sources[split]
        skipped = self.skipped_samples(split, source.name, len(source))
        return Recordings(source, self.length, random, self.seed, skipped)
