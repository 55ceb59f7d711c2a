"""The base of DataModules of labelled texts: the tokenizer, the splits and the data sets."""

import functools
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info

from d2v.data.data_module import PretrainingDataModule, Split
from d2v.data.samples import Sample, collate_samples
from d2v.data.sources.source import Categories
from d2v.data.sources.subsets import FewLabels, hold_out, share_to_hold_out
from d2v.errors import UserError
from d2v.modalities.text.encoder_check import check_encoder
from d2v.modalities.text.labelled.examples import Examples, label_order, require_classes, require_known
from d2v.modalities.text.labelled.sequences import SentenceDataset, Sequences, tokenise
from d2v.modalities.text.tokenizer import TextTokenizer
from d2v.modalities.text.tokenizer_files import TOKENIZER
from d2v.model.encoder import Encoder
from d2v.types import Batch


class SentenceDataModule(PretrainingDataModule):
    """Texts with a class or a score each, padded to the longest of a batch.

    Arguments are those of :class:`~d2v.modalities.text.labelled.data.LabelledTextDataModule`.
    """

    unit = "sentences"
    pads = True
    regression: bool
    """Whether labels are scores, not classes; set by a subclass."""

    def __init__(
        self,
        root: str,
        batch_size: int,
        max_length: int,
        tokenizer: str | None,
        val_fraction: float | None,
        max_samples: int | None,
        predict_on: str,
        label_fraction: float = 1.0,
        **common: Any,
    ) -> None:
        super().__init__(root, batch_size, **common)
        if val_fraction is not None and not 0 <= val_fraction < 1:
            raise UserError(f"data.val_fraction is {val_fraction}: it must be at least 0 and less than 1.")
        if max_length < 8:
            raise UserError(f"data.max_length is {max_length}: it must be at least 8 tokens.")
        self.max_length = max_length
        self.val_fraction = val_fraction
        self.few_labels = FewLabels(max_samples=max_samples, label_fraction=label_fraction)
        self.predict_on = predict_on
        self._tokenizer: TextTokenizer | None = None
        if tokenizer is not None:
            self._tokenizer = TextTokenizer.open(tokenizer)
        self._has_own_tokenizer = tokenizer is not None
        self._sequences: dict[str, Sequences] = {}
        self._left_out = 0

    # Reading, which a subclass provides.

    @abstractmethod
    def read_train(self) -> Examples:
        """All labelled training texts."""

    @abstractmethod
    def read_val(self) -> Examples | None:
        """Labelled validation texts, where a split of them is there."""

    @abstractmethod
    def read_for_prediction(self) -> Examples:
        """What ``predict_on`` names, with no row left out."""

    # The encoder and its tokenizer.

    def adapt_to(self, encoder: Encoder) -> None:
        """Take the encoder's tokenizer, or give it ours; what was tokenised with another one is dropped.

        Raises:
            UserError: The encoder reads no text, brings no tokenizer, or is too small for it or for ``max_length``.
        """
        own = None
        if self._has_own_tokenizer:
            own = self._tokenizer
        tokenizer = check_encoder(encoder, own, "data.tokenizer: it", "data.max_length", self.max_length)
        if self._tokenizer is None or self._tokenizer.fingerprint != tokenizer.fingerprint:
            self._sequences = {}
        self._tokenizer = tokenizer
        encoder.assets[TOKENIZER] = tokenizer.to_json()

    @property
    def tokenizer(self) -> TextTokenizer:
        """Known once there is an encoder to adapt to, unless ``tokenizer`` named one."""
        if self._tokenizer is None:
            raise UserError("data.tokenizer: not set, and there is no encoder to take one from; name a tokenizer")
        return self._tokenizer

    def setup(self, stage: str | None = None) -> None:
        """Also read the data, so that a wrong root is reported before anything runs."""
        super().setup(stage)
        _ = self._prediction if self._only_predicts else self.splits

    # Splits.

    @functools.cached_property
    def splits(self) -> dict[str, Examples]:
        """``train``, and ``val`` where there is one; read at the first use."""
        train, val = self.read_train(), None
        self._left_out += train.left_out
        if not self.val_fraction:
            val = self.read_val()
        if val is not None:
            self._left_out += val.left_out
        elif fraction := share_to_hold_out(self.val_fraction, has_split=False):
            held_out = hold_out(len(train), fraction, "texts")
            val, train = train.select(np.flatnonzero(held_out)), train.select(np.flatnonzero(~held_out))
        classes = None
        if not self.regression:
            assert train.labels is not None
            require_classes(train.labels)
            classes = Categories.of(train.labels)
        kept = self.few_labels.choose("texts", len(train), classes)
        if kept is not None:
            train = train.select(kept)
        splits, message = {"train": train}, f"data: {len(train):,} texts to train"
        if val is not None:
            splits["val"] = val
            message += f", {len(val):,} texts to val"
        if not self.regression:
            numbers = self._numbers(train)
            message += f", {len(numbers)} classes"
            if val is not None:
                require_known(val, numbers)
        rank_zero_info(message)
        return splits

    @functools.cached_property
    def _prediction(self) -> Examples:
        return self.read_for_prediction()

    @property
    def _only_predicts(self) -> bool:
        predicts = self.trainer is not None and self.trainer.state.fn == TrainerFn.PREDICTING
        return predicts and self.predict_on != "val"

    @property
    def class_names(self) -> tuple[str, ...]:
        if self.regression or self._only_predicts:
            return ()
        return tuple(self._numbers(self.splits["train"]))

    @property
    def skipped(self) -> int:
        """Includes the rows left out because they have no text or label."""
        return self._left_out + super().skipped

    # Data sets.

    def train_dataset(self) -> SentenceDataset:
        return self._dataset("train", self.splits["train"])

    def eval_dataset(self, split: Split) -> SentenceDataset | None:
        if split not in self.splits:
            return None
        return self._dataset(split, self.splits[split])

    def predict_dataset(self) -> Any:
        if self.predict_on == "val":
            return super().predict_dataset()
        return self._dataset("predict", self._prediction)

    @property
    def collate(self) -> Callable[[list[Sample]], Batch]:  # type: ignore[override]  # it needs the id of <pad>
        """Pad with ``<pad>`` to ids [B, N]."""
        return functools.partial(collate_samples, padding=self.tokenizer.pad_id)

    def _dataset(self, name: str, examples: Examples) -> SentenceDataset:
        if name not in self._sequences:
            self._sequences[name] = tokenise(examples, self.tokenizer, self.max_length)
            if cut := self._sequences[name].num_cut:
                rank_zero_info(
                    f"data: {cut:,} of {len(examples):,} texts to {name} are longer than data.max_length "
                    f"{self.max_length} tokens and are cut"
                )
        skipped = self.skipped_samples(name, examples.places.__getitem__, len(examples))
        return SentenceDataset(self._sequences[name], self._values(examples), skipped)

    def _values(self, examples: Examples) -> np.ndarray | None:
        if examples.labels is None:
            return None
        if self.regression:
            return np.array(list(map(float, examples.labels)), dtype=np.float32)
        numbers = self._numbers(self.splits["train"])
        return np.array([numbers[label] for label in examples.labels], dtype=np.int64)

    def _numbers(self, train: Examples) -> dict[str, int]:
        assert train.labels is not None
        names = label_order(train.labels, train.class_names)
        return dict(zip(names, range(len(names)), strict=True))
