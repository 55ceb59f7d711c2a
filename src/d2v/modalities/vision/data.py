"""Pictures for pretraining, probing and classification."""

import functools
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from d2v.data.broken_samples import SkippedSamples
from d2v.data.data_module import PretrainingDataModule, Split, named_root, require
from d2v.data.normalisation import ASSET, IMAGENET, Normalisation, read_normalisation
from d2v.data.samples import SampleDataset
from d2v.data.sources.own_datasets import open_datasets
from d2v.data.sources.source import Source
from d2v.data.sources.splits import open_splits
from d2v.data.sources.subsets import FewLabels, hold_out, share_to_hold_out
from d2v.errors import BrokenSample, UserError
from d2v.modalities.vision.decoding import IMAGES, Picture, decode_image, shrink
from d2v.modalities.vision.labels import Pictures, all_pictures, with_classes
from d2v.modalities.vision.transforms import EvalTransform, OwnTransform, TrainTransform, Transforms
from d2v.model.encoder import Encoder

AnyTransform = TrainTransform | EvalTransform | OwnTransform

_CACHE_BYTES = 2**30
"""What one loading process keeps of shrunk pictures; about 10,000 of 160 pixels."""


class ImageDataset(SampleDataset):
    """Decoded and transformed pictures.

    Args:
        cache: keep pictures in memory, shrunk to what the transform needs of them.
        normalisation: of pixels, where some samples are normalised floats already; None: they stay bytes.
    """

    stages = {
        "read": ("d2v.data.sources.source.Files.read", "d2v.data.sources.tars.Tars.read"),
        "decode": ("d2v.modalities.vision.decoding.Picture.__init__", "d2v.modalities.vision.decoding.Picture.pixels"),
    }

    def __init__(
        self,
        pictures: Pictures,
        transform: AnyTransform,
        seed: int,
        skipped: SkippedSamples,
        cache: bool = False,
        normalisation: Normalisation | None = None,
    ) -> None:
        super().__init__(len(pictures), seed, skipped)
        self._pictures = pictures
        self._transform = transform
        self._cache: dict[int, Image.Image] | None = {} if cache else None
        self._cached_bytes = 0
        self._normalisation = normalisation

    def load(self, index: int) -> tuple[Tensor, int | None]:
        picture = self._read(index)
        classes = self._pictures.classes
        pixels = picture if isinstance(picture, Tensor) else self._transform(picture)
        if self._normalisation is not None and pixels.dtype == torch.uint8:
            pixels = self._normalisation.apply(pixels)
        if classes is None:
            return pixels, None
        return pixels, classes.label(index)

    def _read(self, index: int) -> Picture | Tensor:
        if self._cache is not None and index in self._cache:
            return Picture(self._cache[index])
        data = self._pictures.source.read(int(self._pictures.index[index]))
        if isinstance(data, Tensor):
            if self._normalisation is None:
                raise BrokenSample("its pixels are normalised already, and those of the first sample are not")
            return data
        if self._cache is None:
            return Picture(data)
        side = None
        if isinstance(self._transform, TrainTransform):
            side = self._transform.smallest_side
        image = decode_image(data, side)
        if side is not None:
            image = shrink(image, side)
        if self._cached_bytes < _CACHE_BYTES:
            self._cache[index] = image
            self._cached_bytes += 3 * image.width * image.height
        return Picture(image)


class ImageNetDataModule(PretrainingDataModule):
    """Pictures from folders, Hugging Face parquet or WebDataset tars; which of them is seen from the content of root.

    Args:
        root: folder with train/ and val/, or one tree of images of any nesting, or train-*.parquet, or *.tar; a file or
            glob of images; a data set of the hub, hf://OWNER/NAME; tars or parquet in a store, s3://BUCKET/FOLDER.
        dataset: instead of root, a map-style torch data set. An item is a PIL picture, array, tensor or path, alone,
            first in a tuple (picture, label), or in a dict ("image", "label").
        val_dataset: its validation split.
        batch_size: images of one device and one micro-batch.
        image_size: pixels, one side or (height, width); null: the encoder's own.
        min_crop_scale: smallest share of a picture's area that a random crop keeps (0.2 in 2.0, 0.08 in 1.0).
        flip: probability of a horizontal flip.
        color_jitter: strength of random brightness, contrast and saturation (0 in 2.0, 0.4 in 1.0).
        transform: what makes a training crop of an RGB picture, in place of crop, flip and all that follows here; null:
            these. A transform of torchvision.transforms.v2 by its class path, such as Compose, or a list of them.
        augment: what else is done to a training crop; null: nothing. Any transform from PIL picture to PIL picture,
            such as d2v.modalities.vision.rand_augment.RandAugment or torchvision.transforms.v2.TrivialAugmentWide.
        random_erasing: probability that a rectangle of a training picture is replaced by noise.
        cache: keep training pictures in the memory of their loading process (1 GB at most), shrunk so that crops of
            min_crop_scale of their area just need not be enlarged. It saves the time of decoding where pictures are
            few and large.
        eval_crop: share of a picture's shorter side that the central crop of evaluation takes; null: 0.875, and 1 from
            384 pixels on.
        mean: of red, green and blue in [0, 1], subtracted; null: as the encoder was trained, of a new one ImageNet's.
        std: of red, green and blue, divided by; null: likewise.
        train_split: splits (folders, or words in the names of archives), comma-separated; null: train, or everything.
        val_split: likewise; null: the first of dev, val, validation, ... that exists.
        val_fraction: share of the training images held out for validation, unless val_split names one; null: a tenth,
            if there is no validation split.
        labels: table of files and classes (.csv, .tsv, .jsonl) for probes and fine-tuning; null: the column of an
            archive, or the folders directly below a split.
        label_fraction: train on this share of the training images, with as many of each class as far as possible (0.01
            and 0.1 are usual); the same images whatever the seed.
        max_samples: the same as a number of images.
        subset: text file with the names of the images to train on instead, one a line (SimCLR's lists of 1% and 10%).
        common: What every DataModule has; see :class:`PretrainingDataModule`.
    """

    unit = "images"

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 64,
        image_size: int | tuple[int, int] | None = None,
        min_crop_scale: float = 0.2,
        flip: float = 0.5,
        color_jitter: float = 0.0,
        transform: Transforms | None = None,
        augment: Callable | None = None,
        random_erasing: float = 0.0,
        cache: bool = False,
        eval_crop: float | None = None,
        mean: tuple[float, float, float] | None = None,
        std: tuple[float, float, float] | None = None,
        train_split: str | None = None,
        val_split: str | None = None,
        val_fraction: float | None = 0.0,
        labels: str | None = None,
        label_fraction: float = 1.0,
        max_samples: int | None = None,
        subset: str | None = None,
        dataset: Dataset | None = None,
        val_dataset: Dataset | None = None,
        **common: Any,
    ) -> None:
        super().__init__(named_root(root, dataset), batch_size, **common)
        self.dataset, self.val_dataset = dataset, val_dataset
        self.image_size = (image_size, image_size) if isinstance(image_size, int) else image_size
        require(self.image_size is None or min(self.image_size) >= 1, "image_size", image_size, "be at least one pixel")
        require(0 < min_crop_scale <= 1, "min_crop_scale", min_crop_scale, "lie above 0 and at most at 1")
        require(0 <= flip <= 1, "flip", flip, "be a probability, from 0 to 1")
        require(color_jitter >= 0, "color_jitter", color_jitter, "be 0 (none) or more")
        require(0 <= random_erasing <= 1, "random_erasing", random_erasing, "be a probability, from 0 to 1")
        require(eval_crop is None or 0 < eval_crop <= 1, "eval_crop", eval_crop, "lie above 0 and at most at 1")
        require(0 <= (val_fraction or 0) < 1, "val_fraction", val_fraction, "be at least 0 and less than 1")
        self.cache = cache
        self.train_split = train_split
        self.val_split = val_split
        self.val_fraction = val_fraction
        self.labels = labels
        self.few_labels = FewLabels(subset=subset, max_samples=max_samples, label_fraction=label_fraction)
        self.mean, self.std = mean, std
        self._eval_crop, self._own = eval_crop, transform
        self._usual = functools.partial(
            TrainTransform,
            min_crop_scale=min_crop_scale,
            flip=flip,
            color_jitter=color_jitter,
            augment=augment,
            random_erasing=random_erasing,
        )
        self._floats = False
        self._size, self._normalisation = self.image_size or (224, 224), self._normalised_like(IMAGENET)
        if self.image_size is not None:
            _ = self.train_transform  # which may be refused

    def adapt_to(self, encoder: Encoder) -> None:
        """Read pictures at the encoder's size and normalise them as it knows them, unless ``data.image_size``,
        ``data.mean`` and ``data.std`` say how; it keeps the latter two."""
        height, width = getattr(encoder.front, "image_size", self._size)
        if self.image_size is None:
            self._size = (height, width)
        elif tuple(self.image_size) != (height, width):
            rank_zero_info(
                f"data.image_size is {self._size[0]} x {self._size[1]}, and the encoder is made for {height} x {width} "
                "pixels: its positions are interpolated; null takes the encoder's size"
            )
        self._normalisation = self._normalised_like(read_normalisation(encoder.assets) or IMAGENET)
        encoder.assets[ASSET] = self._normalisation.to_asset()
        for name in ("train_transform", "eval_transform"):
            self.__dict__.pop(name, None)
        _ = self.train_transform

    def _normalised_like(self, usual: Normalisation) -> Normalisation:
        return Normalisation(self.mean or usual.mean, self.std or usual.std)

    @functools.cached_property
    def train_transform(self) -> AnyTransform:
        """From a picture to pixels in training; of the size and normalisation that the encoder has."""
        if self._own is None:
            return self._usual(self._size, normalisation=self._normalisation)
        transform = OwnTransform(self._own, self._size, self._normalisation)
        if transform.normalises and (self.mean is None or self.std is None):
            rank_zero_warn(
                "data.transform normalises pixels by itself: set data.mean and data.std to what it subtracts and "
                "divides by, because validation and `d2v embed` go by these keys"
            )
        return transform

    @functools.cached_property
    def eval_transform(self) -> EvalTransform:
        """The same without augmentation."""
        return EvalTransform(self._size, self._eval_crop)

    def setup(self, stage: str | None = None) -> None:
        """Also open the data, so that a wrong root is reported before anything runs."""
        super().setup(stage)
        if not self.reads_labels:
            _ = self.splits
            return
        val = self.labelled.get("val")
        if val is not None and val.classes is None and self.class_names and stage in ("fit", "validate", "test"):
            raise UserError(
                f"data.root {self.root}: the training split has classes and the validation split has none (its first "
                f"image: {val.name(0)}). Sort it into folders too, or "
                "hold out part of the training images: data.val_split null and data.val_fraction 0.05"
            )

    @functools.cached_property
    def splits(self) -> dict[Split, Pictures]:
        """``train``, and ``val`` where there is one; opened at the first use, and without a look at labels."""
        return self._chosen(labelled=False)

    @functools.cached_property
    def labelled(self) -> dict[Split, Pictures]:
        """The same with the pictures' classes; pictures without one are left out.

        Raises:
            UserError: the labels are no classes, or those of the validation split are others.
        """
        return self._chosen(labelled=True)

    @functools.cached_property
    def _found(self) -> tuple[Pictures, Pictures | None]:
        """All pictures to train and to validate on, without their classes."""
        if self.dataset is None:
            source, val_source = open_splits(self.root, IMAGES, self.train_split, self.val_split)
        else:
            source, val_source = open_datasets(self.dataset, self.val_dataset, IMAGES)
            self._floats = self._holds_floats(source)
        train = all_pictures(source)
        fraction = share_to_hold_out(self.val_fraction, val_source is not None)
        if self.val_split is None and fraction > 0:
            held_out = hold_out(len(train), fraction, "images")
            return train.select(~held_out), train.select(held_out)
        if val_source is None:
            return train, None
        return train, all_pictures(val_source)

    def _holds_floats(self, source: Source) -> bool:
        """Whether pixels are normalised already, which are used as they are."""
        first = source.read(0)
        if isinstance(first, Tensor) and list(first.shape) != [3, *self._size]:
            raise UserError(
                f"data.dataset: its items are normalised already, {list(first.shape)}, and data.image_size is "
                f"{self._size}: let it give [3, {self._size[0]}, {self._size[1]}], or pictures"
            )
        return isinstance(first, Tensor)

    def _chosen(self, labelled: bool) -> dict[Split, Pictures]:
        train, val = self._found
        if labelled:
            train = with_classes("training", train, self.labels)
            if val is not None and train.classes is not None:
                val = with_classes("validation", val, self.labels, train.classes)
        elif self.few_labels != FewLabels():
            with suppress(UserError):  # so that the same pictures are chosen as where labels are read
                train = with_classes("training", train, self.labels)
        share = self.few_labels.label_fraction
        if share < 1 and train.classes is None:
            raise UserError(f"data.label_fraction is {share}: the training images have no labels; set it to 1")
        kept = self.few_labels.choose("images", len(train), train.classes, names=train.names)
        if kept is not None:
            train = train.select(kept)
        if val is None:
            return {"train": train}
        return {"train": train, "val": val}

    @property
    def class_names(self) -> tuple[str, ...]:
        classes = self.labelled["train"].classes
        if classes is None:
            return ()
        return classes.names

    def train_dataset(self) -> SampleDataset:
        return self._dataset("train", self.train_transform, self.cache)

    def eval_dataset(self, split: Split) -> SampleDataset | None:
        if split not in self.splits:
            return None
        return self._dataset(split, self.eval_transform)

    def _dataset(self, split: Split, transform: AnyTransform, cache: bool = False) -> ImageDataset:
        pictures = self.splits[split]
        if self.reads_labels:
            pictures = self.labelled[split]
        skipped = self.skipped_samples(f"{split} {len(pictures)}", pictures.name, len(pictures))
        normalisation = self._normalisation if self._floats else None
        return ImageDataset(pictures, transform, self.seed, skipped, cache, normalisation)
