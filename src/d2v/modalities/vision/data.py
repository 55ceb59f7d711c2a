"""Pictures for pretraining, probing and classification."""

import functools
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from d2v.data.data_module import PretrainingDataModule, Split
from d2v.data.normalisation import ASSET, IMAGENET, Normalisation, read_normalisation
from d2v.data.samples import Sample, SampleDataset, SkippedSamples
from d2v.data.sources.source import Categories, Files, Source
from d2v.data.sources.splits import VAL_NAMES, open_splits
from d2v.data.sources.subsets import FewLabels, hold_out
from d2v.errors import UserError
from d2v.modalities.vision.transforms import IMAGES, EvalTransform, TrainTransform, decode_image
from d2v.model.encoder import Encoder
from d2v.types import Batch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pictures:
    """Some pictures of a source, and the class of each."""

    source: Source
    index: np.ndarray
    """int32 [n]: positions in the source."""
    classes: Categories | None
    """Of these pictures; None without labels."""

    def __len__(self) -> int:
        return len(self.index)

    def name(self, index: int) -> str:
        """What to call the picture in messages."""
        return self.source.name(int(self.index[index]))

    def file_names(self) -> list[str]:
        """What each picture is called, without a folder."""
        ids = self.source.ids()
        return [os.path.basename(ids[index]) for index in self.index]

    def select(self, chosen: np.ndarray) -> "Pictures":
        """Some of them: positions, or a mask."""
        classes = self.classes
        if classes is not None:
            classes = Categories(classes.names, classes.ids[chosen])
        return Pictures(self.source, self.index[chosen], classes)


class ImageDataset(SampleDataset):
    """Decoded and transformed pictures."""

    def __init__(
        self, pictures: Pictures, transform: TrainTransform | EvalTransform, seed: int, skipped: SkippedSamples
    ) -> None:
        super().__init__(len(pictures), seed, skipped)
        self._pictures = pictures
        self._transform = transform

    def load(self, index: int) -> tuple[Tensor, int | None]:
        data = self._pictures.source.read(int(self._pictures.index[index]))
        classes = self._pictures.classes
        label = None if classes is None else int(classes.ids[index])
        return self._transform(decode_image(data, self._transform.smallest_side)), label


class ImageNetDataModule(PretrainingDataModule):
    """Pictures from folders, Hugging Face parquet or WebDataset tars; which of them is seen from the content of root.

    Args:
        root: folder with train/ and val/, or one tree of images of any nesting, or train-*.parquet, or *.tar; a file or
            glob of images.
        batch_size: images of one device and one micro-batch.
        global_batch_size: images of one optimizer step on all devices; null: no accumulation.
        num_workers: processes a device that decode images; null: the cores a device, less one, at most 8.
        image_size: pixels, one side or (height, width).
        min_crop_scale: smallest share of a picture's area that a random crop keeps (0.2 in 2.0, 0.08 in 1.0).
        flip: probability of a horizontal flip.
        color_jitter: strength of random brightness, contrast and saturation (0 in 2.0, 0.4 in 1.0).
        augment: what else is done to a training crop; null: nothing. Any transform from PIL picture to PIL picture,
            such as d2v.modalities.vision.rand_augment.RandAugment or torchvision.transforms.v2.TrivialAugmentWide.
        random_erasing: probability that a rectangle of a training picture is replaced by noise.
        eval_crop: share of a picture's shorter side that the central crop of evaluation takes; null: 0.875, and 1 from
            384 pixels on.
        mean: of red, green and blue in [0, 1], subtracted; null: as the encoder was trained, of a new one ImageNet's.
        std: of red, green and blue, divided by; null: likewise.
        train_split: splits (folders, or words in the names of archives), comma-separated; null: train, or everything.
        val_split: likewise; null: the first of dev, val, validation, ... that exists.
        val_fraction: share of the training images held out for validation, unless val_split names one.
        label_fraction: train on this share of the training images, with as many of each class as far as possible (0.01
            and 0.1 are usual); the same images whatever the seed.
        max_samples: the same as a number of images.
        subset: text file with the names of the images to train on instead, one a line (SimCLR's lists of 1% and 10%).
        seed: of the order of samples and of their augmentation.
        max_skipped_fraction: largest tolerable share of unreadable files.
    """

    unit = "images"

    def __init__(
        self,
        root: str,
        batch_size: int = 64,
        global_batch_size: int | None = None,
        num_workers: int | None = None,
        image_size: int | tuple[int, int] = 224,
        min_crop_scale: float = 0.2,
        flip: float = 0.5,
        color_jitter: float = 0.0,
        augment: Callable | None = None,
        random_erasing: float = 0.0,
        eval_crop: float | None = None,
        mean: tuple[float, float, float] | None = None,
        std: tuple[float, float, float] | None = None,
        train_split: str | None = None,
        val_split: str | None = None,
        val_fraction: float = 0.0,
        label_fraction: float = 1.0,
        max_samples: int | None = None,
        subset: str | None = None,
        seed: int = 0,
        max_skipped_fraction: float = 0.01,
    ) -> None:
        super().__init__(root, batch_size, global_batch_size, num_workers, seed, max_skipped_fraction)
        self.image_size = (image_size, image_size) if isinstance(image_size, int) else image_size
        if min(self.image_size) < 1:
            raise UserError(f"data.image_size is {image_size}: it must be at least one pixel.")
        if not 0 < min_crop_scale <= 1:
            raise UserError(f"data.min_crop_scale is {min_crop_scale}: it must lie above 0 and at most at 1.")
        if not 0 <= flip <= 1:
            raise UserError(f"data.flip is {flip}: it is a probability, from 0 to 1.")
        if color_jitter < 0:
            raise UserError(f"data.color_jitter is {color_jitter}: it must be 0 (none) or more.")
        if not 0 <= random_erasing <= 1:
            raise UserError(f"data.random_erasing is {random_erasing}: it is a probability, from 0 to 1.")
        if eval_crop is not None and not 0 < eval_crop <= 1:
            raise UserError(f"data.eval_crop is {eval_crop}: it must lie above 0 and at most at 1.")
        if not 0 <= val_fraction < 1:
            raise UserError(f"data.val_fraction is {val_fraction}: it must be at least 0 and less than 1.")
        self.train_split = train_split
        self.val_split = val_split
        self.val_fraction = val_fraction
        self.few_labels = FewLabels(subset=subset, max_samples=max_samples, label_fraction=label_fraction)
        self.mean, self.std = mean, std
        self._make_train = functools.partial(
            TrainTransform,
            self.image_size,
            min_crop_scale,
            flip,
            color_jitter,
            augment=augment,
            random_erasing=random_erasing,
        )
        self._make_eval = functools.partial(EvalTransform, self.image_size, eval_crop=eval_crop)
        self._normalise(IMAGENET)

    def adapt_to(self, encoder: Encoder) -> None:
        """Normalise pixels as the encoder knows them, unless ``data.mean`` and ``data.std`` say how; it keeps that."""
        found = self._normalise(read_normalisation(encoder.assets) or IMAGENET)
        encoder.assets[ASSET] = found.to_asset()

    def _normalise(self, usual: Normalisation) -> Normalisation:
        chosen = Normalisation(self.mean or usual.mean, self.std or usual.std)
        self.train_transform = self._make_train(mean=chosen.mean, std=chosen.std)
        self.eval_transform = self._make_eval(mean=chosen.mean, std=chosen.std)
        return chosen

    def setup(self, stage: str | None = None) -> None:
        """Also open the data, so that a wrong root is reported before anything runs."""
        super().setup(stage)
        _ = self.splits

    @functools.cached_property
    def splits(self) -> dict[Split, Pictures]:
        """``train``, and ``val`` where there is one; opened at the first use."""
        source, val_source = open_splits(self.root, IMAGES, self.train_split, self.val_split)
        train = Pictures(source, np.arange(len(source), dtype=np.int32), self._classes(source))
        splits: dict[Split, Pictures] = {}
        if self.val_split is None and self.val_fraction > 0:
            held_out = hold_out(len(train), self.val_fraction, "images")
            splits["val"] = train.select(held_out)
            train = train.select(~held_out)
        elif val_source is not None:
            classes = None if train.classes is None else self._classes(val_source, train.classes.names)
            splits["val"] = Pictures(val_source, np.arange(len(val_source), dtype=np.int32), classes)
        if self.few_labels.label_fraction < 1 and train.classes is None:
            raise UserError(
                f"data.label_fraction is {self.few_labels.label_fraction}: the training images have no labels; set it "
                "to 1"
            )
        kept = self.few_labels.choose("images", len(train), train.classes, names=train.file_names)
        splits["train"] = train if kept is None else train.select(kept)
        return splits

    @property
    def class_names(self) -> tuple[str, ...]:
        classes = self.splits["train"].classes
        return () if classes is None else classes.names

    def train_dataset(self) -> SampleDataset:
        return self._dataset("train", self.train_transform)

    def eval_dataset(self, split: Split) -> SampleDataset | None:
        return self._dataset(split, self.eval_transform) if split in self.splits else None

    def _dataset(self, split: Split, transform: TrainTransform | EvalTransform) -> ImageDataset:
        pictures = self.splits[split]
        skipped = self.skipped_samples(split, pictures.name, len(pictures))
        return ImageDataset(pictures, transform, self.seed, skipped)

    def _classes(self, source: Source, train_names: tuple[str, ...] | None = None) -> Categories | None:
        """By the folders directly below a folder of images, or by the labels in archives; None without labels.

        Args:
            source: of a split.
            train_names: classes of the training split, which those of this split must be; None: this one is for
                training, and only folders that hold all images, and are more than one, are classes.
        """
        found = source.categories("folder" if isinstance(source, Files) else "label")
        if found is None:
            return None
        without = np.flatnonzero(found.ids < 0)
        if len(without) and len(found.names) > 1:
            log.warning(
                "data: %d of %d images have no class, so the classes of the others are not used (the first: %s)",
                len(without), len(source), source.name(int(without[0])),
            )  # fmt: skip
        if len(without) or (train_names is None and isinstance(source, Files) and len(found.names) < 2):
            return None
        if isinstance(source, Files):
            self._warn_of_empty_classes(Path(source.folder), found.names)
        return found if train_names is None else found.numbered_as(train_names, f"data.root {self.root}")

    def _warn_of_empty_classes(self, folder: Path, names: tuple[str, ...]) -> None:
        for path in sorted(folder.iterdir()):
            is_split = path.name == self.val_split or path.name.lower() in VAL_NAMES
            if path.is_dir() and path.name not in names and not path.name.startswith(".") and not is_split:
                log.warning("data: %s has no images and is left out as a class", path)

    @staticmethod
    def collate(samples: list[Sample]) -> Batch:
        """Stack to pixels [B, 3, H, W]."""
        inputs, sample_ids, epochs, labels = zip(*samples, strict=True)
        return Batch(
            default_collate(list(inputs)),  # inside a worker it stacks into shared memory, without another copy
            torch.tensor(sample_ids),
            torch.tensor(epochs),
            None if labels[0] is None else torch.tensor(labels),
        )
