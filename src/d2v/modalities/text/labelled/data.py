"""Any labelled text for fine-tuning and probing."""

import functools
import os
from pathlib import Path
from typing import Any

from d2v.data.sources.splits import TRAIN_NAMES, VAL_NAMES
from d2v.data.sources.stores import require_disk
from d2v.errors import UserError
from d2v.modalities.text.labelled.examples import Columns, Examples, have_column, is_number, read_examples
from d2v.modalities.text.labelled.labelled_texts import SentenceDataModule
from d2v.modalities.text.labelled.tables import all_tables, find_tables
from d2v.modalities.text.records import Records

TEXT_COLUMNS = ("text", "sentence", "review", "content", "body", "document", "comment", "question", "title")
"""Usual names of a column of texts; the first one found is taken."""
_PAIRS = (("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("text1", "text2"))
_LABEL = ("label", "labels", "gold_label", "class", "category", "sentiment", "target", "score", "rating", "stars")


class LabelledTextDataModule(SentenceDataModule):
    """Texts, or pairs of them, with a class or a score each, from TSV, CSV, JSON lines, Parquet and the like.

    Args:
        root: file (all for training); or folder with train and dev files or folders, a data set saved by `datasets`, or
            one folder for each class with .txt files. TSV is read without quoting, CSV with it.
        batch_size: texts (or pairs) of one device and one micro-batch.
        max_length: tokens of a text, or of a pair together; longer ones are cut.
        tokenizer: tokenizer.json or a folder with a tokenizer; null: the one that the encoder was trained with.
        text: column of the texts, or two for pairs: "premise,hypothesis"; null: the first usual name found. For files
            without a line of names, numbers (from 1) here and in label.
        label: column of the labels; null: the first usual name found.
        train_split: name of the training split; null: train, or everything where no file has the name of a split.
        val_split: name of the validation split; null: the first of dev, val, validation, valid, test with labels.
        val_fraction: share of the training texts held out for validation instead, where val_split is null; null: a
            tenth, if there is no validation split.
        max_samples: train on a fixed subset of this many texts, with equally many of each class as far as possible.
        label_fraction: the same, as a share of the training texts: 0.01, 0.1.
        regression: whether labels are numbers to predict, not classes.
        predict_on: what `d2v predict` reads: "val", that split; "all", everything in root; or the name of a split.
            Labels are needed for "val" only.
        common: What every DataModule has; see :class:`PretrainingDataModule`.
    """

    def __init__(
        self,
        root: str,
        batch_size: int = 32,
        max_length: int = 512,
        tokenizer: str | None = None,
        text: str | None = None,
        label: str | None = None,
        train_split: str | None = None,
        val_split: str | None = None,
        val_fraction: float | None = 0.0,
        max_samples: int | None = None,
        label_fraction: float = 1.0,
        regression: bool = False,
        predict_on: str = "val",
        **common: Any,
    ) -> None:
        super().__init__(
            root, batch_size, max_length, tokenizer, val_fraction, max_samples, predict_on, label_fraction, **common
        )
        if val_split is not None and val_fraction:
            raise UserError(
                f"data.val_split is {val_split} and data.val_fraction {val_fraction}: set one of them, the other to "
                "null or 0."
            )
        self._text: tuple[str, ...] = ()
        self._label_names: tuple[str, ...] = _LABEL
        if text is not None:
            self._text = tuple(map(str.strip, text.split(",")))
            if len(self._text) > 2 or not all(self._text):
                raise UserError(f"data.text is {text!r}: it must be one column, or two separated by a comma.")
        given = self._text
        if label is not None:
            self._label_names = (label.strip(),)
            given += self._label_names
        numbered = set(map(str.isdecimal, given))
        if len(numbered) > 1:
            raise UserError(f"data.text {text} and data.label {label}: give the names of both, or the numbers of both.")
        self._header: tuple[str, ...] | None = None
        if True in numbered:  # the files have no line of names
            self._header = ()
        self.train_split, self.val_split = train_split, val_split
        self.regression = regression

    def read_train(self) -> Examples:
        return self._read(self._train_tables, labelled=True)

    def read_val(self) -> Examples | None:
        if self.val_split is not None:
            return self._read(self._named_split("val_split", self.val_split), labelled=True)
        if not self._path.is_dir():
            return None
        trained_on = {table.path for table in self._train_tables}
        for name in VAL_NAMES:
            tables = find_tables(self._path, [name], self._header)
            is_new = trained_on.isdisjoint(table.path for table in tables)
            if tables and is_new and have_column(tables, self._label_names):
                return self._read(tables, labelled=True)
        return None

    def read_for_prediction(self) -> Examples:
        if self.predict_on == "all":
            return self._read(all_tables(self._path, self._header), labelled=False)
        return self._read(self._named_split("predict_on", self.predict_on), labelled=False)

    @property
    def _path(self) -> Path:
        require_disk(self.root, "data.root")
        return Path(self.root).expanduser()

    @functools.cached_property
    def _train_tables(self) -> list[Records]:
        if self._path.is_dir():
            if self.train_split is not None:
                return self._named_split("train_split", self.train_split)
            if found := find_tables(self._path, TRAIN_NAMES, self._header):
                return found
        return all_tables(self._path, self._header)

    def _named_split(self, key: str, name: str) -> list[Records]:
        there = [self._path.name]
        if self._path.is_dir():
            if found := find_tables(self._path, [name], self._header):
                return found
            there = sorted(os.listdir(self._path))
        raise UserError(f"data.{key} is {name}: data.root {self.root} has no such split; it has {', '.join(there[:9])}")

    def _columns(self, tables: list[Records]) -> Columns:
        names = self._text
        for first, second in _PAIRS:
            if not names and have_column(tables, [first]) and have_column(tables, [second]):
                names = (first, second)
        if not names:
            return Columns((TEXT_COLUMNS,), self._label_names)
        return Columns(tuple((name,) for name in names), self._label_names)

    def _read(self, tables: list[Records], labelled: bool) -> Examples:
        return read_examples(tables, self._columns(tables), labelled, self._check, self.max_skipped_fraction)

    def _check(self, label: str) -> str | None:
        if not self.regression or is_number(label):
            return None
        return f"has the label {label!r}, which is no number (data.regression is true)"
