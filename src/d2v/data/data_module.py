"""The base of every DataModule: batch sizes, exact resuming, loaders."""

import math
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from itertools import chain
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader

from d2v.data.batching import TrainingSize, derive_accumulation, plain_number
from d2v.data.broken_samples import SkippedSamples
from d2v.data.cores import available_cores, most_workers
from d2v.data.length_buckets import LengthBuckets, consecutive_batches
from d2v.data.loading_processes import Loader, StreamLoader, begin
from d2v.data.sampler import OrderedBatches, OrderedSampler, StreamSampler, Unpack
from d2v.data.samples import Sample, SampleDataset, collate_samples
from d2v.errors import UserError
from d2v.model.early_masks import Collate
from d2v.model.encoder import Encoder
from d2v.types import Batch, OptimizerStep

Split = Literal["train", "val"]


def require(valid: bool, key: str, value: object, must: str) -> None:
    """Refuse a value of the section ``data``: a UserError names the key, the value and what it must be."""
    if not valid:
        raise UserError(f"data.{key} is {value}: it must {must}.")


def named_root(root: str | None, dataset: object) -> str:
    """The root that samples come from, or the name of the data set that stands in its place, for messages.

    Raises:
        UserError: neither is given.
    """
    if dataset is not None:
        return type(dataset).__name__
    if root is None:
        raise UserError("data.root is not set: give --data.root DIR, or --data.dataset CLASS for an own data set")
    return root


class PretrainingDataModule(LightningDataModule, ABC):
    """Loads (epoch, index) samples in an order that survives a resume, and derives the gradient accumulation.

    A modality provides the data sets, the function that makes a ``Batch`` of samples, and the unit in which it counts.

    Args:
        root: where the data lie.
        batch_size: of one device and one micro-batch, in ``unit``.
        global_batch_size: of one optimizer step on all devices, in ``unit``; null: no accumulation.
        num_workers: loading processes per device; null: the cores per device, less one, at most 8.
        seed: of the order of samples and of all their randomness.
        max_skipped_fraction: largest tolerable share of unreadable files.
    """

    unit: ClassVar[str]
    """What batch sizes count and throughput is measured in: images, audio_seconds, tokens."""

    pads: ClassVar[bool] = False
    """Whether batches may hold padding, whose share is then logged."""

    values_per_unit: ClassVar[int | None] = None
    """Input values in one ``unit``, where batches hold samples of about the same length; None: ``unit`` is a sample."""

    encoder_name: str = ""
    """Of the encoder that reads its batches."""

    parts_together: int = 1
    """DataModules that read at the same time and share the cores."""

    reads_labels: bool = True
    """Whether batches hold labels. Pretraining has no use for them, so nothing about labels can stop it."""

    def __init__(
        self,
        root: str,
        batch_size: float,
        global_batch_size: int | float | None = None,
        num_workers: int | None = None,
        seed: int = 0,
        max_skipped_fraction: float = 0.01,
    ) -> None:
        super().__init__()
        if not hasattr(self, "unit"):
            raise TypeError(f"{type(self).__name__} does not define `unit`, the word for what batch_size counts")
        require(batch_size >= 1, "batch_size", batch_size, "be at least 1")
        require(num_workers is None or num_workers >= 0, "num_workers", num_workers, "be 0 (no extra process) or more")
        most = most_workers()
        fits = f"fit this machine with its {os.cpu_count()} CPU cores: at most {most}"
        require(num_workers is None or num_workers <= most, "num_workers", num_workers, fits)
        valid = 0 <= max_skipped_fraction <= 1
        require(valid, "max_skipped_fraction", max_skipped_fraction, "lie between 0 and 1")
        self.root = root
        self.batch_size = batch_size
        self.global_batch_size = global_batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.max_skipped_fraction = max_skipped_fraction
        self.accumulation = 1
        self._skipped: dict[str, SkippedSamples] = {}
        self._train_sampler: StreamSampler | None = None
        self._buckets: LengthBuckets | None = None
        self._resume: dict[str, int] | None = None
        self._train_data: SampleDataset | None = None
        self._with_masks: Callable[[Collate], Collate] | None = None
        self._step: OptimizerStep | None = None  # of ...
        self._step_batches = range(0)  # ... these micro-batches of the run

    # What a modality provides.

    @abstractmethod
    def train_dataset(self) -> SampleDataset:
        """Training samples, augmented as the recipe says."""

    @abstractmethod
    def eval_dataset(self, split: Split) -> SampleDataset | None:
        """Samples without augmentation; None if there is no such split."""

    @property
    @abstractmethod
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes by label; empty without labels."""

    @staticmethod
    def collate(samples: list[Sample]) -> Batch:
        """Make a batch. Static, so that worker processes receive the function and not the DataModule."""
        return collate_samples(samples)

    def adapt_to(self, encoder: Encoder) -> None:
        """Prepare for the encoder that will read the batches; called before anything is read for it.

        A modality checks here that data and encoder fit, and exchanges what both must share (``Encoder.assets``).
        """

    @property
    def key(self) -> str:
        """Under which it stands in a config."""
        return f"data.parts.{self.encoder_name}" if self.encoder_name else "data"

    @property
    def parts(self) -> Mapping[str, "PretrainingDataModule"]:
        """The DataModules that fill batches, by the name of the encoder that reads them; ``""`` for a single one."""
        return {self.encoder_name: self}

    # Batch sizes.

    def setup(self, stage: str | None = None) -> None:
        """Adapt to the encoder, derive the accumulation and tell it to the trainer.

        Raises:
            UserError: the batch sizes cannot be met, Lightning would replace our sampler, or a split is missing.
        """
        module = self.trainer and self.trainer.lightning_module
        encoders: Mapping[str, Encoder] = getattr(module, "encoders", {})
        self.reads_labels = getattr(module, "reads_labels", self.reads_labels)
        if self.encoder_name in encoders:
            self.adapt_to(encoders[self.encoder_name])
        with_masks: Callable[..., Collate] | None = getattr(module, "with_early_masks", None)
        self._with_masks = None if with_masks is None else partial(with_masks, name=self.encoder_name)
        if stage in ("validate", "test") and self.parts_together == 1 and self.eval_dataset("val") is None:
            raise UserError(
                f"data.root {self.root}: there is no validation split, and `d2v {TrainerFn(stage).value}` needs one; "
                "name it in data.val_split, or hold out a share of the training samples: data.val_fraction 0.05"
            )
        if stage not in (None, "fit"):
            return
        trainer = self.trainer
        set_by_user = 1 if trainer is None else trainer.accumulate_grad_batches
        self.accumulation = derive_accumulation(self.batch_size, self.global_batch_size, self.world_size, set_by_user)
        self._train_sampler = self._buckets = None
        self._step_batches = range(0)
        if trainer is None:
            return
        if self.world_size > 1 and trainer._accelerator_connector.use_distributed_sampler:
            raise UserError(
                "trainer.use_distributed_sampler is true, and Lightning would replace the sampler that makes runs "
                "resumable. Set it to false: the data are divided among the devices already."
            )
        trainer.accumulate_grad_batches = self.accumulation
        unit = self.unit.replace("_", " ")
        total = self.batch_size * self.world_size * self.accumulation
        rank_zero_info(
            f"{plain_number(total)} {unit} an optimizer step = {plain_number(self.batch_size)} {unit} "
            f"x {self.world_size} devices x {self.accumulation} accumulated"
        )

    def count_units(self, batch: Batch) -> float | Tensor:
        """How much of ``unit`` a batch holds without padding.

        A tensor on the batch's device where a number would have to wait for the device.
        """
        if self.values_per_unit is None:
            return len(batch.inputs)
        if batch.padding_mask is None:
            return batch.inputs.numel() / self.values_per_unit
        return (~batch.padding_mask).sum() / self.values_per_unit

    @property
    def world_size(self) -> int:
        return 1 if self.trainer is None else self.trainer.world_size

    @property
    def rank(self) -> int:
        return 0 if self.trainer is None else self.trainer.global_rank

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    # Loaders.

    def train_dataloader(self) -> StreamLoader:
        dataset = self.train_dataset()
        if self._train_sampler is None:
            self._train_sampler = self.train_sampler(dataset)
        if self._resume is not None:
            self._seek(self._train_sampler, self._resume)
            self._resume = None
        self._train_data = dataset
        workers = self._workers()
        return StreamLoader(
            dataset,
            self._train_sampler,
            collate_fn=self._collate_with_masks(),
            num_workers=workers,
            worker_init_fn=begin,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def training_size(self) -> TrainingSize:
        """How much there is to train on, without making a loader, whose position could not be moved any more."""
        dataset = self.train_dataset()
        sampler = self.train_sampler(dataset)
        batches = len(sampler)
        passes_per_step = sampler.passes * self.accumulation / batches
        limit = 1.0 if self.trainer is None else self.trainer.limit_train_batches
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        return TrainingSize(len(dataset), math.ceil(batches / self.accumulation), passes_per_step)

    def train_sampler(self, dataset: SampleDataset) -> StreamSampler:
        """A stream of samples, or one of batches of samples of about the same length."""
        if self.values_per_unit is None:
            return self.stream(len(dataset), int(self.batch_size))
        if self._buckets is None or self._buckets.num_samples != len(dataset):  # to sort many takes seconds
            self._buckets = LengthBuckets(dataset.lengths, self.batch_size * self.values_per_unit, self.seed)
        return self.stream(len(self._buckets), 1, self._buckets.batches)

    def stream(self, num_entries: int, batch_size: int, unpack: Unpack | None = None) -> StreamSampler:
        """The stream of entries, of which each rank gets its share; see :class:`StreamSampler`."""
        consumed = None if self.trainer is None else self._consumed
        return StreamSampler(
            num_entries, batch_size, self.seed, self.rank, self.world_size, self.accumulation, consumed, unpack
        )

    def val_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        """The validation split in its order, divided among the ranks; no loader if there is no such split."""
        dataset = self.eval_dataset("val")
        if dataset is None:
            text = f"{self.key}.root {self.root}: there is no validation split, so "
            text += f"{self.encoder_name} is left out" if self.encoder_name else "nothing is validated"
            if hasattr(self, "val_fraction"):
                text += f"; --{self.key}.val_fraction 0.1 holds out a tenth of the samples"
            rank_zero_info(text)
            warnings.filterwarnings("ignore", "Total length of `list` across ranks is zero")  # it is meant to be
            return []
        return self._divided_loader(dataset, "validate", collate_fn=self._collate_with_masks())

    def test_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        return self.val_dataloader()

    def predict_dataset(self) -> SampleDataset:
        """The samples that `d2v predict` reads: the validation split, or all samples if there is none."""
        dataset = self.eval_dataset("val")
        if dataset is None:
            dataset = self.eval_dataset("train")
        assert dataset is not None
        return dataset

    def predict_dataloader(self) -> DataLoader[Any]:
        return self._divided_loader(self.predict_dataset(), "predict")

    def probe_dataloaders(self, max_samples: int | None = None) -> tuple[DataLoader[Any], DataLoader[Any] | None]:
        """Train and validation split with labels, without augmentation, in a fixed order, whole on every rank.

        There may be no validation split.

        Args:
            max_samples: most samples of each split, which are evenly spaced.

        Raises:
            UserError: without labels.
        """
        self.reads_labels = True  # from now on also in pretraining, which does not mind
        if not self.class_names:
            raise UserError(
                f"data.root {self.root}: the samples have no labels, so there is nothing to probe; name others in "
                "data.root: two or more folders, one for each class, or a table with labels."
            )
        val = self.eval_dataset("val")
        train = self.eval_dataset("train")
        assert train is not None
        loaders = []
        for dataset in (train, val):
            if dataset is not None:
                loaders.append(self.eval_loader(dataset, OrderedSampler(_evenly(len(dataset), max_samples))))
        return loaders[0], loaders[1] if val is not None else None

    def _divided_loader(self, dataset: SampleDataset, purpose: str, **options: Any) -> DataLoader[Any]:
        if len(dataset) < self.world_size:
            raise UserError(
                f"data.root {self.root}: {len(dataset)} samples to {purpose} on {self.world_size} devices leave some "
                "without any, and the others would wait for them; use fewer devices or more samples."
            )
        return self.eval_loader(dataset, OrderedSampler(range(len(dataset)), self.rank, self.world_size), **options)

    def eval_loader(self, dataset: SampleDataset, sampler: OrderedSampler, **options: Any) -> DataLoader[Any]:
        """Samples in their order, in batches of at most ``batch_size``; a longer one has a batch of its own."""
        if self.values_per_unit is None:
            # A plain sampler and not a batch sampler: Lightning takes the loader apart for `predict`.
            return self._loader(dataset, batch_size=int(self.batch_size), sampler=sampler, **options)
        indices = list(sampler.indices)
        groups = consecutive_batches(dataset.lengths[indices], self.batch_size * self.values_per_unit)
        batches = OrderedBatches([indices[group.start : group.stop] for group in groups])
        warnings.filterwarnings("ignore", "You are using a custom batch sampler")  # Lightning's `predict` cannot know
        return self._loader(dataset, batch_sampler=batches, **options)

    def _loader(self, dataset: SampleDataset, **options: Any) -> DataLoader[Any]:
        """A loader of this DataModule's batches; ``options`` of torch's DataLoader state at least the order."""
        options = {"num_workers": self._workers(), "worker_init_fn": begin, "collate_fn": self.collate, **options}
        return Loader(dataset, pin_memory=torch.cuda.is_available(), **options)

    def _collate_with_masks(self) -> Collate:
        """Of batches that a loss is computed on; probes and `d2v predict` have no use for masks."""
        return self.collate if self._with_masks is None else self._with_masks(self.collate)

    def _workers(self) -> int:
        if self.num_workers is not None:
            return self.num_workers
        devices = 1 if self.trainer is None else self.trainer.num_devices
        return max(0, min(8, (available_cores() // devices - 1) // self.parts_together))

    # Broken samples.

    def skipped_samples(self, split: str, name: Callable[[int], str], num_samples: int) -> SkippedSamples:
        """The one record of broken samples of a split (or of a part of it), made at the first call."""
        if split not in self._skipped:
            self._skipped[split] = SkippedSamples(name, num_samples, self.tolerated_fraction)
        return self._skipped[split]

    @property
    def tolerated_fraction(self) -> float:
        """Largest tolerable share of unreadable files: `d2v predict` marks them in its table, however many."""
        if self.trainer is not None and self.trainer.state.fn == TrainerFn.PREDICTING:
            return 1.0
        return self.max_skipped_fraction

    def left_out(self) -> Mapping[str, str]:
        """Files of what `d2v test` or `d2v predict` reads that are in none of its batches, and why."""
        return {}

    @property
    def skipped(self) -> int:
        """Distinct samples that this rank could not read so far, all splits together."""
        return sum(record.count for record in self._skipped.values())

    def skipped_names(self) -> list[str]:
        """Which they are."""
        names: list[str] = []
        for record in self._skipped.values():
            names += record.broken_names()
        return names

    def training_sample(self, sample_id: int) -> str:
        """What a sample of a training batch is called, in messages."""
        assert self._train_data is not None
        skipped = self._train_data.skipped
        name = skipped.name(sample_id)
        return f"what stood in for {name}" if skipped.is_broken(sample_id) else name

    # The optimizer step that a batch is of.

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Lightning calls this in the main process for each batch, in the order in which they are trained on.

        Stops on too many broken samples, and tells a training batch what its whole optimizer step is made of. A
        DataModule of several ``parts`` calls it for the batch of each.
        """
        for record in self._skipped.values():
            record.check()
        if self._train_sampler is None or self.trainer is None or not self.trainer.training:
            return batch
        return batch._replace(step=self._optimizer_step(self.trainer, self._train_sampler))

    def _optimizer_step(self, trainer: Trainer, sampler: StreamSampler) -> OptimizerStep | None:
        """The one under way, from the order that every rank knows; worked out at its first micro-batch."""
        consumed = self._consumed()
        if consumed not in self._step_batches:
            # Lightning counts the micro-batches of its epoch, whose last step may have fewer of them than the others.
            in_epoch = trainer.fit_loop.epoch_loop.batch_progress.current.ready
            accumulation = trainer.accumulate_grad_batches
            left_in_epoch = max(1, trainer.num_training_batches - in_epoch)
            count = int(min(accumulation - in_epoch % accumulation, left_in_epoch))
            positions, lengths = range(sampler.position(consumed), sampler.position(consumed + count)), None
            num_samples = len(positions)
            if self.values_per_unit is not None:
                assert self._train_data is not None
                indices = [index for _, index in chain.from_iterable(sampler.at(positions))]
                lengths, num_samples = self._train_data.lengths_of(indices), len(indices)
            self._step_batches = range(consumed, consumed + count)
            self._step = OptimizerStep(num_samples, lengths, self.world_size * accumulation)
        return self._step

    # Resuming.

    def state_dict(self) -> dict[str, int]:
        """The position in the stream of samples, and after how many micro-batches of each rank it was reached."""
        if self._train_sampler is None:
            return {}
        batches, sampler = self._consumed(), self._train_sampler
        return {
            "position": sampler.position(batches),
            "batches": batches,
            "num_samples": sampler.num_samples,
            "seed": sampler.seed,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.trainer is not None and self.trainer.state.fn != TrainerFn.FITTING:
            return  # `test` after `fit` restores the DataModule too
        if self._train_sampler is not None:
            raise RuntimeError("The training data were already being read when their position was to be restored.")
        self._resume = dict(state_dict)

    def _consumed(self) -> int:
        """Number of micro-batches this rank has trained on, without prefetched ones and one that failed."""
        if self.trainer is None:
            return 0
        return self.trainer.fit_loop.epoch_loop.batch_progress.total.processed  # type: ignore[attr-defined]

    def _seek(self, sampler: StreamSampler, resume: dict[str, int]) -> None:
        for key, now in (("num_samples", sampler.num_samples), ("seed", sampler.seed)):
            if resume[key] != now:
                rank_zero_warn(f"data: {key} was {resume[key]} in the checkpoint and is {now}: the order changes here.")
        sampler.seek(resume["position"], resume["batches"])


def _evenly(num_samples: int, max_samples: int | None) -> range | list[int]:
    if max_samples is None or max_samples >= num_samples:
        return range(num_samples)
    return [index * num_samples // max_samples for index in range(max_samples)]
