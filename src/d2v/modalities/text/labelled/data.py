"""Any labelled text for fine-tuning and probing."""

import functools
from pathlib import Path

from d2v.data.sources.splits import TRAIN_NAMES, VAL_NAMES
from d2v.errors import UserError
from d2v.modalities.text.labelled.examples import Columns, Examples, have_column, is_number, read_examples
from d2v.modalities.text.labelled.labelled_texts import SentenceDataModule
from d2v.modalities.text.labelled.tables import all_tables, find_tables
from d2v.modalities.text.records import Records

TEXT_COLUMNS = ("text", "sentence", "review", "content", "body", "document", "comment", "question", "title")
"""Usual names of a column of texts; the first that is there is taken."""
_PAIRS = (("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("text1", "text2"))
_LABEL = ("label", "labels", "gold_label", "class", "category", "sentiment", "target", "score", "rating", "stars")


class LabelledTextDataModule(SentenceDataModule):
    """Texts, or pairs of them, with a class or a score each, from TSV, CSV, JSON lines, Parquet and the like.

    Args:
        root: file (all for training), or folder with train and dev files or folders, a data set that `datasets` has
            saved, or a folder a class with .txt files. TSV is read without quoting, CSV with it.
        batch_size: texts (or pairs) of one device and one micro-batch.
        global_batch_size: texts of one optimizer step on all devices; null: no accumulation.
        num_workers: processes a device that load; null: the cores a device, less one, at most 8.
        max_length: tokens of a text, or of a pair together; what is longer is cut.
        tokenizer: tokenizer.json or a folder with a tokenizer; null: the one that the encoder was trained with.
        text: column of the texts, or two of pairs: "premise,hypothesis"; null: the first usual name that is there.
            Numbers (from 1) for files without a line of names, then also in label.
        label: column of the labels; null: the first usual name that is there.
        train_split: name of the training split; null: train, or everything where no file has the name of a split.
        val_split: name of the validation split; null: the first of dev, val, validation, valid, test with labels.
        val_fraction: share of the training texts held out for validation instead, where val_split is null.
        max_samples: train on a fixed subset of so many texts, with as many of each class as far as possible.
        label_fraction: the same as a share of them: 0.01, 0.1.
        regression: whether labels are numbers to predict, and not classes.
        predict_on: what `d2v predict` reads: "val", that split; "all", all in root; or the name of a split. But for
            "val", labels are not needed.
        seed: of the order of texts.
        max_skipped_fraction: largest tolerable share of rows without a text or a label.
    """

    def __init__(
        self,
        root: str,
        batch_size: int = 32,
        global_batch_size: int | None = None,
        num_workers: int | None = None,
        max_length: int = 512,
        tokenizer: str | None = None,
        text: str | None = None,
        label: str | None = None,
        train_split: str | None = None,
        val_split: str | None = None,
        val_fraction: float = 0.0,
        max_samples: int | None = None,
        label_fraction: float = 1.0,
        regression: bool = False,
        predict_on: str = "val",
        seed: int = 0,
        max_skipped_fraction: float = 0.01,
    ) -> None:
        super().__init__(
            root,
            batch_size,
            global_batch_size,
            num_workers,
            max_length,
            tokenizer,
            val_fraction,
            max_samples,
            predict_on,
            seed,
            max_skipped_fraction,
            label_fraction,
        )
        if val_split is not None and val_fraction > 0:
            raise UserError(
                f"data.val_split is {val_split} and data.val_fraction {val_fraction}: set one of them, the other to "
                "null or 0."
            )
        names = () if text is None else tuple(name.strip() for name in text.split(","))
        if len(names) > 2 or not all(names or ("-",)):
            raise UserError(f"data.text is {text!r}: it must be one column, or two separated by a comma.")
        self._text, self._label = names, None if label is None else label.strip()
        numbered = [name.isdecimal() for name in (*names, *([] if label is None else [self._label or ""]))]
        if any(numbered) and not all(numbered):
            raise UserError(f"data.text {text} and data.label {label}: give the names of both, or the numbers of both.")
        self._header: tuple[str, ...] | None = () if any(numbered) else None
        self.train_split, self.val_split = train_split, val_split
        self._regression = regression

    @property
    def regression(self) -> bool:
        return self._regression

    def read_train(self) -> Examples:
        return self._read(self._train_tables, labelled=True)

    def read_val(self) -> Examples | None:
        if self.val_split is not None:
            return self._read(self._named_split("val_split", self.val_split), labelled=True)
        if not self._path.is_dir():
            return None
        for name in VAL_NAMES:
            tables = find_tables(self._path, [name], self._header)
            trained_on = {table.path for table in self._train_tables}
            if tables and have_column(tables, self._label_names) and not trained_on & {t.path for t in tables}:
                return self._read(tables, labelled=True)
        return None

    def read_for_prediction(self) -> Examples:
        if self.predict_on == "all":
            return self._read(all_tables(self._path, self._header), labelled=False)
        return self._read(self._named_split("predict_on", self.predict_on), labelled=False)

    @property
    def _path(self) -> Path:
        return Path(self.root).expanduser()

    @property
    def _label_names(self) -> tuple[str, ...]:
        return _LABEL if self._label is None else (self._label,)

    @functools.cached_property
    def _train_tables(self) -> list[Records]:
        if self._path.is_dir():
            if self.train_split is not None:
                return self._named_split("train_split", self.train_split)
            if found := find_tables(self._path, TRAIN_NAMES, self._header):
                return found
        return all_tables(self._path, self._header)

    def _named_split(self, key: str, name: str) -> list[Records]:
        found = find_tables(self._path, [name], self._header) if self._path.is_dir() else []
        if not found:
            there = sorted(path.name for path in self._path.iterdir()) if self._path.is_dir() else [self._path.name]
            raise UserError(
                f"data.{key} is {name}: data.root {self.root} has no such split; it has {', '.join(there[:9])}"
            )
        return found

    def _columns(self, tables: list[Records]) -> Columns:
        texts: tuple[tuple[str, ...], ...]
        if self._text:
            texts = tuple((name,) for name in self._text)
        else:
            pair = next((pair for pair in _PAIRS if all(have_column(tables, [name]) for name in pair)), None)
            texts = (TEXT_COLUMNS,) if pair is None else tuple((name,) for name in pair)
        return Columns(texts, self._label_names)

    def _read(self, tables: list[Records], labelled: bool) -> Examples:
        check = _not_a_number if self.regression else lambda label: None
        return read_examples(tables, self._columns(tables), labelled, check, self.max_skipped_fraction)


def _not_a_number(label: str) -> str | None:
    return None if is_number(label) else f"has the label {label!r}, which is no number (data.regression is true)"
