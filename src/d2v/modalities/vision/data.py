"""Pictures for pretraining, probing and classification."""

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from d2v.data.data_module import PretrainingDataModule, Split, require
from d2v.data.normalisation import ASSET, IMAGENET, Normalisation, read_normalisation
from d2v.data.samples import SampleDataset, SkippedSamples
from d2v.data.sources.source import Categories, Files, Part, Source
from d2v.data.sources.splits import VAL_NAMES, open_splits
from d2v.data.sources.subsets import FewLabels, hold_out
from d2v.errors import UserError
from d2v.modalities.vision.transforms import IMAGES, EvalTransform, ToPixels, TrainTransform, decode_image, shrink
from d2v.model.encoder import Encoder

log = logging.getLogger(__name__)

_CACHE_BYTES = 2**30
"""What one loading process keeps of shrunk pictures; about 10,000 of 160 pixels."""


@dataclass(frozen=True)
class Pictures(Part):
    """Some pictures of a source, and the class of each; None without labels."""

    classes: Categories | None = None


class ImageDataset(SampleDataset):
    """Decoded and transformed pictures.

    Args:
        cache_side: pixels of the shorter side to which a picture is shrunk, to be kept in memory; None: none is kept.
    """

    def __init__(
        self,
        pictures: Pictures,
        transform: TrainTransform | EvalTransform,
        seed: int,
        skipped: SkippedSamples,
        cache_side: int | None = None,
    ) -> None:
        super().__init__(len(pictures), seed, skipped)
        self._pictures = pictures
        self._transform = transform
        self._cache_side = cache_side
        self._cache: dict[int, Image.Image] = {}
        self._cached_bytes = 0

    def load(self, index: int) -> tuple[Tensor, int | None]:
        pixels = self._transform(self._cache.get(index) or self._read(index))
        classes = self._pictures.classes
        if classes is None:
            return pixels, None
        return pixels, classes.label(index)

    def _read(self, index: int) -> Image.Image:
        data = self._pictures.source.read(int(self._pictures.index[index]))
        if self._cache_side is None:
            return decode_image(data, self._transform.smallest_side)
        image = shrink(decode_image(data, self._cache_side), self._cache_side)
        if self._cached_bytes < _CACHE_BYTES:
            self._cache[index] = image
            self._cached_bytes += 3 * image.width * image.height
        return image


class ImageNetDataModule(PretrainingDataModule):
    """Pictures from folders, Hugging Face parquet or WebDataset tars; which of them is seen from the content of root.

    Args:
        root: folder with train/ and val/, or one tree of images of any nesting, or train-*.parquet, or *.tar; a file or
            glob of images.
        batch_size: images of one device and one micro-batch.
        image_size: pixels, one side or (height, width).
        min_crop_scale: smallest share of a picture's area that a random crop keeps (0.2 in 2.0, 0.08 in 1.0).
        flip: probability of a horizontal flip.
        color_jitter: strength of random brightness, contrast and saturation (0 in 2.0, 0.4 in 1.0).
        augment: what else is done to a training crop; null: nothing. Any transform from PIL picture to PIL picture,
            such as d2v.modalities.vision.rand_augment.RandAugment or torchvision.transforms.v2.TrivialAugmentWide.
        random_erasing: probability that a rectangle of a training picture is replaced by noise.
        cache_side: pixels of the shorter side to which a training picture is shrunk when it is first read, and then
            kept in the memory of its loading process (1 GB at most); null: each is read from its file in every epoch.
            It saves the time of decoding where pictures are few and large; crops are then cut from the shrunk ones.
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
        common: What every DataModule has; see :class:`PretrainingDataModule`.
    """

    unit = "images"

    def __init__(
        self,
        root: str,
        batch_size: int = 64,
        image_size: int | tuple[int, int] = 224,
        min_crop_scale: float = 0.2,
        flip: float = 0.5,
        color_jitter: float = 0.0,
        augment: Callable | None = None,
        random_erasing: float = 0.0,
        cache_side: int | None = None,
        eval_crop: float | None = None,
        mean: tuple[float, float, float] | None = None,
        std: tuple[float, float, float] | None = None,
        train_split: str | None = None,
        val_split: str | None = None,
        val_fraction: float = 0.0,
        label_fraction: float = 1.0,
        max_samples: int | None = None,
        subset: str | None = None,
        **common: Any,
    ) -> None:
        super().__init__(root, batch_size, **common)
        self.image_size = (image_size, image_size) if isinstance(image_size, int) else image_size
        require(min(self.image_size) >= 1, "image_size", image_size, "be at least one pixel")
        require(0 < min_crop_scale <= 1, "min_crop_scale", min_crop_scale, "lie above 0 and at most at 1")
        require(0 <= flip <= 1, "flip", flip, "be a probability, from 0 to 1")
        require(color_jitter >= 0, "color_jitter", color_jitter, "be 0 (none) or more")
        require(0 <= random_erasing <= 1, "random_erasing", random_erasing, "be a probability, from 0 to 1")
        require(eval_crop is None or 0 < eval_crop <= 1, "eval_crop", eval_crop, "lie above 0 and at most at 1")
        require(cache_side is None or cache_side >= 1, "cache_side", cache_side, "be at least one pixel, or null")
        require(0 <= val_fraction < 1, "val_fraction", val_fraction, "be at least 0 and less than 1")
        self.cache_side = cache_side
        self.train_split = train_split
        self.val_split = val_split
        self.val_fraction = val_fraction
        self.few_labels = FewLabels(subset=subset, max_samples=max_samples, label_fraction=label_fraction)
        self.mean, self.std = mean, std
        self.train_transform = TrainTransform(
            self.image_size, min_crop_scale, flip, color_jitter, augment=augment, random_erasing=random_erasing
        )
        self.eval_transform = EvalTransform(self.image_size, eval_crop=eval_crop)
        self._normalise(IMAGENET)

    def adapt_to(self, encoder: Encoder) -> None:
        """Normalise pixels as the encoder knows them, unless ``data.mean`` and ``data.std`` say how; it keeps that."""
        found = self._normalise(read_normalisation(encoder.assets) or IMAGENET)
        encoder.assets[ASSET] = found.to_asset()

    def _normalise(self, usual: Normalisation) -> Normalisation:
        chosen = Normalisation(self.mean or usual.mean, self.std or usual.std)
        self.train_transform.to_pixels = self.eval_transform.to_pixels = ToPixels(*chosen)
        return chosen

    def setup(self, stage: str | None = None) -> None:
        """Also open the data, so that a wrong root is reported before anything runs."""
        super().setup(stage)
        _ = self.splits

    @functools.cached_property
    def splits(self) -> dict[Split, Pictures]:
        """``train``, and ``val`` where there is one; opened at the first use."""
        source, val_source = open_splits(self.root, IMAGES, self.train_split, self.val_split)
        train, val = _pictures(source), None
        if self.val_split is None and self.val_fraction > 0:
            held_out = hold_out(len(train), self.val_fraction, "images")
            train, val = train.select(~held_out), train.select(held_out)
        elif val_source is not None:
            val = _pictures(val_source, train)
        share = self.few_labels.label_fraction
        if share < 1 and train.classes is None:
            raise UserError(f"data.label_fraction is {share}: the training images have no labels; set it to 1")
        kept = self.few_labels.choose("images", len(train), train.classes, names=train.file_names)
        if kept is not None:
            train = train.select(kept)
        if val is None:
            return {"train": train}
        return {"train": train, "val": val}

    @property
    def class_names(self) -> tuple[str, ...]:
        classes = self.splits["train"].classes
        if classes is None:
            return ()
        return classes.names

    def train_dataset(self) -> SampleDataset:
        return self._dataset("train", self.train_transform, self.cache_side)

    def eval_dataset(self, split: Split) -> SampleDataset | None:
        if split not in self.splits:
            return None
        return self._dataset(split, self.eval_transform)

    def _dataset(
        self, split: Split, transform: TrainTransform | EvalTransform, cache_side: int | None = None
    ) -> ImageDataset:
        pictures = self.splits[split]
        skipped = self.skipped_samples(split, pictures.name, len(pictures))
        return ImageDataset(pictures, transform, self.seed, skipped, cache_side)


def _pictures(source: Source, train: Pictures | None = None) -> Pictures:
    """All pictures of a split, with the classes that archives state, or the folders directly below one with pictures.

    Args:
        source: of the split.
        train: the training split, whose classes are those of this split; None: this is it, and its folders are classes
            if they are several and hold all pictures.
    """
    everything = Pictures(source, np.arange(len(source), dtype=np.int32))
    is_folder = isinstance(source, Files)
    classes = source.categories("folder" if is_folder else "label")
    if classes is None or (train is not None and train.classes is None):
        return everything
    without = np.flatnonzero(classes.ids < 0)
    if len(without) and len(classes.names) > 1:
        first = source.name(int(without[0]))
        text = "data: %d of %d images have no class, so the classes of the others are not used (the first: %s)"
        log.warning(text, len(without), len(source), first)
    if len(without) or (is_folder and train is None and len(classes.names) < 2):
        return everything
    if isinstance(source, Files):
        for folder in sorted(Path(source.folder).iterdir()):
            name = folder.name
            if folder.is_dir() and not name.startswith(".") and name not in (*classes.names, *VAL_NAMES):
                log.warning("data: %s has no images and is left out as a class", folder)
    if train is not None and train.classes is not None:
        classes = classes.numbered_as(train.classes.names, "data.root")
    return replace(everything, classes=classes)
