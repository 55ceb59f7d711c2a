"""What speech and audio share of their DataModules: splits of clips, their labels, what is too short or broken."""

import functools
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader, Dataset

from d2v.data.alphabet import Alphabet
from d2v.data.data_module import PretrainingDataModule, Split, named_root, require
from d2v.data.samples import SampleDataset
from d2v.data.sound.audio_reader import SAMPLE_RATE
from d2v.data.sound.clip_labels import SoundSplit, labelled, speakers_of
from d2v.data.sound.sound_files import LEAST_SAMPLES, SOUND, Clips, read_headers, report_headers
from d2v.data.sound.waveforms import Prepare, SoundDataset
from d2v.data.sources.own_datasets import open_datasets
from d2v.data.sources.source import Categories, Source
from d2v.data.sources.splits import open_everything, open_splits
from d2v.data.sources.subsets import FewLabels, hold_out, share_to_hold_out
from d2v.errors import UserError

LEAST_SECONDS = LEAST_SAMPLES / SAMPLE_RATE
# Waveforms of longer clips are gigabytes: no more of them are fetched ahead than one.
_LONG_SECONDS = 600


class SoundDataModule(PretrainingDataModule):
    """Clips of sound from folders, manifests, globs, parquet or tars, whichever ``root`` contains.

    Args:
        root: folder, fairseq manifest (.tsv), glob or file of sound; a data set of the hub, hf://OWNER/NAME; tars or
            parquet in a store, s3://BUCKET/FOLDER.
        batch_size: of one device and one micro-batch, in ``unit``.
        min_seconds: shorter clips are not trained on.
        max_seconds: longer clips are cropped at random.
        max_eval_seconds: length to which longer clips are cut for validation and probes; null: never.
        dataset: instead of root, a map-style torch data set. An item is an array or tensor of samples or a path, alone,
            in a tuple (samples, sample rate, label), or in a dict ("audio", "sampling_rate", "label", "text").
        val_dataset: its validation split.
        train_split: subsets (folders, manifests or words in the names of archives), comma-separated; null: train, or
            all whose names begin with train-, or everything.
        val_split: likewise; null: the first of dev-clean, dev, val, validation, ... that exists.
        val_fraction: share of the training data held out for validation, unless val_split names one; null: a tenth, if
            there is no validation split.
        hold_out: what val_fraction counts: clips, or speakers.
        predict_on: what `d2v predict` reads: "val", that split (all, where there is none); "all", all sound in root.
        labels: speaker, folder, label (of an archive), transcript (of speech), or a .tsv or .csv of files and labels;
            null: none.
        max_hours: train on a fixed subset of this many hours.
        max_samples: train on a fixed subset of this many clips, with equally many of each class as far as possible.
        label_fraction: the same, as a share of the clips: 0.01, 0.1.
        subset: text file with the names of the clips to train on instead, one on each line.
        common: What every DataModule has; see :class:`PretrainingDataModule`.
    """

    def __init__(
        self,
        root: str | None,
        batch_size: float,
        min_seconds: float,
        max_seconds: float,
        max_eval_seconds: float | None,
        train_split: str | None = None,
        val_split: str | None = None,
        val_fraction: float | None = 0.0,
        hold_out: Literal["clips", "speakers"] = "clips",
        predict_on: Literal["val", "all"] = "val",
        labels: str | None = None,
        max_hours: float | None = None,
        max_samples: int | None = None,
        label_fraction: float = 1.0,
        subset: str | None = None,
        dataset: Dataset | None = None,
        val_dataset: Dataset | None = None,
        **common: Any,
    ) -> None:
        super().__init__(named_root(root, dataset), batch_size, **common)
        self.dataset, self.val_dataset = dataset, val_dataset
        for key, value in (("max_seconds", max_seconds), ("max_eval_seconds", max_eval_seconds)):
            long_enough = value is None or value >= LEAST_SECONDS
            require(long_enough, key, value, f"be at least {LEAST_SECONDS}")
        must = f"lie between 0 and data.max_seconds {max_seconds}"
        require(0 <= min_seconds <= max_seconds, "min_seconds", min_seconds, must)
        require(0 <= (val_fraction or 0) < 1, "val_fraction", val_fraction, "be at least 0 and less than 1")
        require(hold_out in ("clips", "speakers"), "hold_out", hold_out, "be clips or speakers")
        require(predict_on in ("val", "all"), "predict_on", predict_on, "be val or all")
        if labels == "speaker" and hold_out == "speakers" and val_fraction != 0:
            raise UserError(
                "data.labels is speaker and data.hold_out is speakers: no speaker would be in both splits. "
                "Set data.hold_out to clips."
            )
        self.min_seconds, self.max_seconds, self.max_eval_seconds = min_seconds, max_seconds, max_eval_seconds
        self.train_split, self.val_split = train_split, val_split
        self.val_fraction, self.hold_out = val_fraction, hold_out
        self.predict_on = predict_on
        self.labels = labels
        self.few_labels = FewLabels(subset, max_hours, max_samples, label_fraction)
        self._num_broken = 0
        self._unusable: dict[str, dict[str, str]] = {}

    # What a modality provides.

    @abstractmethod
    def preparation(self, training: bool) -> Prepare | None:
        """What makes inputs of waveforms, with augmentation in training; None: waveforms are inputs."""

    @property
    def alphabet(self) -> Alphabet | None:
        """Symbols of the transcripts; None without them."""
        return None

    @property
    def _texts(self) -> tuple[list[str], list[str]]:
        """Transcripts of the clips to train and to validate on, empty where there is none."""
        return [], []

    # Samples.

    def prepare_data(self) -> None:
        """Read the headers on one rank; the others find them in the cache."""
        _ = self._everything if self._reads_everything else self._clips

    def setup(self, stage: str | None = None) -> None:
        """Also open the data, so that a wrong root is reported before anything runs."""
        super().setup(stage)
        _ = self._everything if self._reads_everything else self.splits

    @functools.cached_property
    def splits(self) -> dict[str, SoundSplit]:
        """``fit`` for training; ``train`` and ``val`` for validation and probes. Found at first use."""
        train_clips, val_clips = self._clips
        texts, val_texts = self._texts
        train, without = labelled("training", train_clips, self.labels, None, self.alphabet, texts)
        fit, left_out = self._for_training(train)
        classes = None
        if isinstance(fit.labels, Categories):
            classes = fit.labels
        lengths, an_hour, names = fit.clips.num_samples, 3600 * SAMPLE_RATE, fit.clips.names
        kept = self.few_labels.choose("clips", len(fit.clips), classes, lengths, an_hour, names)
        if kept is not None:
            train = fit = fit.select(kept)
        splits = {"fit": fit, "train": train}
        reason = "without a label"
        if self.labels == "transcript":
            reason = "without a transcript"
        _describe("training", fit, [*left_out, (without, reason)])
        if val_clips is not None:
            splits["val"], without = labelled(
                "validation", val_clips, self.labels, train.labels, self.alphabet, val_texts
            )
            _describe("validation", splits["val"], [(without, reason)])
        return splits

    @property
    def class_names(self) -> tuple[str, ...]:
        if self.labels is None:
            return ()  # without a look at the data, which need not have splits
        labels = self.splits["fit"].labels
        assert labels is not None
        return labels.names

    def train_dataset(self) -> SoundDataset:
        return self._dataset("fit", samples_in(self.max_seconds), training=True)

    def eval_dataset(self, split: Split) -> SoundDataset | None:
        if split not in self.splits:
            return None
        longest = None
        if self.max_eval_seconds is not None:
            longest = samples_in(self.max_eval_seconds)
        return self._dataset(split, longest, training=False)

    def predict_dataset(self) -> SampleDataset:
        if self.predict_on == "val":
            return super().predict_dataset()
        clips = self._everything
        skipped = self.skipped_samples("all", clips.name, len(clips))
        prepare = self.preparation(training=False)
        return SoundDataset(SoundSplit(clips, None), None, False, prepare, self.seed, skipped, True)

    def probe_dataloaders(self, max_samples: int | None = None) -> tuple[DataLoader[Any], DataLoader[Any] | None]:
        if self.labels is None:  # folders of sound are often no classes
            raise UserError(
                "data.labels is null, so there is nothing to probe; set it to folder, speaker, or a table of files and "
                "labels (.tsv or .csv): --data.labels folder"
            )
        return super().probe_dataloaders(max_samples)

    def left_out(self) -> dict[str, str]:
        """Clips that `d2v test` or `d2v predict` reads and that are in none of its batches, and why."""
        if self._reads_everything:
            return self._unusable["the root"]
        split, number = "training", 0
        if "val" in self.splits:
            split, number = "validation", 1
        found = dict(self._unusable.get(f"the {split} split", {}))
        clips = self._clips[number]
        assert clips is not None
        for index, text in enumerate(self._texts[number]):
            if not text:
                found[clips.name(index)] = "without a transcript"
        return found

    @property
    def skipped(self) -> int:
        """Includes the files left out because of their headers."""
        return self._num_broken + super().skipped

    @functools.cached_property
    def _clips(self) -> tuple[Clips, Clips | None]:
        """Readable clips to train and to validate on."""
        if self.dataset is None:
            train, val = open_splits(self.root, SOUND, self.train_split, self.val_split)
        else:
            train, val = open_datasets(self.dataset, self.val_dataset, SOUND)
        fraction = share_to_hold_out(self.val_fraction, val is not None)
        if self.val_split is None and fraction > 0:
            val = None
        clips = self._readable("the training split", train)
        if val is not None:
            return clips, self._readable("the validation split", val)
        if self.val_split is not None or fraction == 0:
            return clips, None
        speakers = None
        if self.hold_out == "speakers":
            speakers = speakers_of(clips, self.labels)
            if speakers is None:
                raise UserError(
                    f"data.hold_out is speakers, but speakers are not known (first clip: {clips.name(0)}): the names "
                    "of files must begin with SPEAKER-CHAPTER-NUMBER, or data.labels be a table with a column "
                    "`speaker`. Set it to clips."
                )
        held_out = hold_out(len(clips), fraction, self.hold_out, speakers)
        return clips.select(~held_out), clips.select(held_out)

    @functools.cached_property
    def _everything(self) -> Clips:
        """Readable clips in root, whatever split they belong to."""
        return self._readable("the root", open_everything(self.root, SOUND))

    @property
    def _reads_everything(self) -> bool:
        predicts = self.trainer is not None and self.trainer.state.fn == TrainerFn.PREDICTING
        return predicts and self.predict_on == "all"

    def _readable(self, name: str, source: Source) -> Clips:
        headers = read_headers(source, retry=self.trainer is None or self.trainer.local_rank == 0)
        report_headers(name, headers, self.tolerated_fraction)
        self._num_broken += len(headers.broken)
        long_enough = headers.clips.num_samples >= LEAST_SAMPLES
        clips = headers.clips.select(long_enough)
        unusable = {source.name(position): reason for position, reason in headers.broken.items()}
        for index in np.flatnonzero(~long_enough).tolist():
            unusable[headers.clips.name(index)] = f"shorter than {LEAST_SECONDS} s"
        self._unusable[name] = unusable
        short = len(headers.clips) - len(clips)
        if not len(clips):
            raise UserError(f"data.root {self.root}: no clip of {name} lasts for {LEAST_SECONDS} s.")
        if short:
            rank_zero_info(f"data: left out {short:,} clips of {name} shorter than {LEAST_SECONDS} s")
        return clips

    def _for_training(self, split: SoundSplit) -> tuple[SoundSplit, list[tuple[int, str]]]:
        """Leave out clips that are too short, and clips too long that have a transcript, which no crop would fit."""
        lengths = split.clips.num_samples
        short = lengths < samples_in(self.min_seconds)
        long = (lengths > samples_in(self.max_seconds)) & (self.labels == "transcript")
        kept = np.flatnonzero(~short & ~long)
        if not len(kept):
            raise UserError(
                f"data.min_seconds {self.min_seconds} and data.max_seconds {self.max_seconds} leave nothing to train "
                f"on: the clips last {lengths.min() / SAMPLE_RATE:.2f} to {lengths.max() / SAMPLE_RATE:.2f} s."
            )
        left_out = [
            (int(short.sum()), f"shorter than data.min_seconds {self.min_seconds:g}"),
            (int(long.sum()), f"longer than data.max_seconds {self.max_seconds:g} and with a transcript"),
        ]
        return split.select(kept), left_out

    def _loader(self, dataset: SampleDataset, **options: Any) -> DataLoader[Any]:
        if self._workers() and dataset.lengths.max() > _LONG_SECONDS * SAMPLE_RATE:
            options |= {"num_workers": 1, "prefetch_factor": 1}
        return super()._loader(dataset, **options)

    def _dataset(self, split: str, max_samples: int | None, training: bool) -> SoundDataset:
        found = self.splits[split]
        skipped = self.skipped_samples(split, found.clips.name, len(found.clips))
        silent = self.labels is not None and not training
        return SoundDataset(found, max_samples, training, self.preparation(training), self.seed, skipped, silent)


def _describe(name: str, split: SoundSplit, left_out: Sequence[tuple[int, str]]) -> None:
    """Describe a split in one line of the log."""
    text = f"data: {name}: {len(split.clips):,} clips, {split.hours:,.2f} h"
    speakers = split.clips.categories("speaker")
    if speakers is not None:
        text += f", {len(speakers.used()):,} speakers"
    reasons = ", ".join(f"{count:,} {reason}" for count, reason in left_out if count)
    if reasons:
        text += f"; left out: {reasons}"
    rank_zero_info(text)


def samples_in(seconds: float) -> int:
    """At 16 kHz."""
    return int(seconds * SAMPLE_RATE + 1e-6)  # never more than the seconds of a batch
