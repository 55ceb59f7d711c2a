"""Pictures for pretraining, probing and classification."""

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from d2v.data.dataset import Sample, SampleDataset, SkippedSamples
from d2v.data.module import PretrainingDataModule, Split
from d2v.data.normalisation import ASSET, IMAGENET, Normalisation, read_normalisation
from d2v.data.sources.subsets import HOLD_OUT_SEED, permutation
from d2v.errors import UserError
from d2v.modalities.vision.decoding import decode_image
from d2v.modalities.vision.layout import open_sources
from d2v.modalities.vision.sources import ImageSource, SubsetSource
from d2v.modalities.vision.subsets import labelled_share, named_subset
from d2v.modalities.vision.transforms import EvalTransform, TrainTransform
from d2v.model.encoder import Encoder
from d2v.types import Batch


class ImageDataset(SampleDataset):
    """Decoded and transformed pictures of one source."""

    def __init__(
        self, source: ImageSource, transform: TrainTransform | EvalTransform, seed: int, skipped: SkippedSamples
    ) -> None:
        super().__init__(len(source), seed, skipped)
        self._source = source
        self._transform = transform

    def load(self, index: int) -> tuple[Tensor, int | None]:
        data, label = self._source.read(index)
        return self._transform(decode_image(data, self._transform.smallest_side)), label


class ImageNetDataModule(PretrainingDataModule):
    """Pictures from folders, Hugging Face parquet or WebDataset tars; which of them is seen from the content of root.

    Args:
        root: folder with train/ and val/, or one tree of images of any nesting, or train-*.parquet, or *.tar.
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
        train_split: name of the training split; null: train, or everything.
        val_split: name of the validation split; null: the first of dev, val, validation, ... that exists.
        val_fraction: share of the training images held out for validation where there is no such split.
        label_fraction: train on this share of the training images, with as many of each class as far as possible (0.01
            and 0.1 are usual); the same images whatever the seed.
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
        if not 0 < label_fraction <= 1:
            raise UserError(f"data.label_fraction is {label_fraction}: it must lie above 0 and at most at 1.")
        if subset is not None and label_fraction < 1:
            raise UserError(
                f"data.subset is {subset} and data.label_fraction {label_fraction}: set one of them, the other to null "
                "or 1."
            )
        if not 0 <= val_fraction < 1:
            raise UserError(f"data.val_fraction is {val_fraction}: it must be at least 0 and less than 1.")
        self.train_split = train_split
        self.val_split = val_split
        self.val_fraction = val_fraction
        self.label_fraction = label_fraction
        self.subset = subset
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
        _ = self.sources

    @functools.cached_property
    def sources(self) -> tuple[ImageSource, ImageSource | None]:
        """Training and validation pictures; opened at the first use."""
        train, val = open_sources(self.root, self.train_split, self.val_split)
        num_val = round(len(train) * self.val_fraction)
        if val is None and num_val > 0:
            order = permutation(len(train), HOLD_OUT_SEED)
            val = SubsetSource(train, np.sort(order[:num_val]))
            train = SubsetSource(train, np.sort(order[num_val:]))
        if self.subset is not None:
            return named_subset(train, self.subset), val
        return (labelled_share(train, self.label_fraction) if self.label_fraction < 1 else train), val

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.sources[0].classes

    def train_dataset(self) -> SampleDataset:
        return self._dataset("train", self.sources[0], self.train_transform)

    def eval_dataset(self, split: Split) -> SampleDataset | None:
        train, val = self.sources
        source = train if split == "train" else val
        return None if source is None else self._dataset(split, source, self.eval_transform)

    def _dataset(self, split: Split, source: ImageSource, transform: TrainTransform | EvalTransform) -> ImageDataset:
        return ImageDataset(source, transform, self.seed, self.skipped_samples(split, source.name, len(source)))

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
