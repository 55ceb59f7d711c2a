"""Hugging Face parquet with a column of encoded files, memory-mapped by the ``datasets`` library.

That library converts the files once into its own cache (``HF_DATASETS_CACHE``), as large as the data; nothing is
fetched from a network.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from d2v.data.file_index import PackedStrings, fingerprint
from d2v.data.sources.source import COLUMNS, Categories, Medium, Source, printable
from d2v.errors import BrokenSample, UserError

if TYPE_CHECKING:
    from datasets import Dataset


class Parquet(Source):
    """Rows with a column of struct{bytes, path}, and perhaps columns of labels, speakers or texts.

    Args:
        files: of one split, in their order.
        medium: of the encoded files.

    Raises:
        UserError: a file cannot be read, has no rows, or not exactly one column holds such files.
    """

    def __init__(self, files: Sequence[Path], medium: Medium) -> None:
        import datasets

        self._noun = medium.noun
        self._where = f"data.root: {files[0]}"
        self.archives = list(map(str, files))
        try:
            rows = datasets.load_dataset("parquet", data_files=self.archives, split="train")
        except Exception as error:  # the library wraps what goes wrong in many types of its own
            raise UserError(
                f"{self._where} (or one beside it) cannot be read as parquet: {error.__cause__ or error}"
            ) from error
        if len(rows) == 0:
            raise UserError(f"{self._where} has no rows.")
        kinds: tuple[type, ...] = ()
        if medium.feature is not None:
            kinds = (getattr(datasets, medium.feature),)
        self._encoded = self._column_of_files(rows, kinds, medium.noun)
        self._columns: Dataset = rows.remove_columns([self._encoded])
        self._rows: Dataset = rows.select_columns([self._encoded])
        for kind in kinds:
            self._rows = self._rows.cast_column(self._encoded, kind(decode=False))
        # Apart from the bytes, which reading a row would copy.
        self._path = f"{self._encoded}.path"
        self._paths: Dataset = self._rows.flatten().select_columns([self._path])

    def __len__(self) -> int:
        return len(self._rows)

    def open(self, index: int) -> bytes:
        return self.read(index)

    def read(self, index: int) -> bytes:
        encoded = self._rows[index][self._encoded]
        if encoded is None or encoded["bytes"] is None:
            raise BrokenSample(f"the row holds no {self._noun}")
        return encoded["bytes"]

    def name(self, index: int) -> str:
        name = f"{self.archives[0]}: row {index}"
        if path := self._paths[index][self._path]:
            name += f" ({path})"
        return name

    def ids(self) -> list[str]:
        """What the files of the rows were called, if that tells them apart; else the numbers of the rows, from 0."""
        paths = self._paths.with_format("arrow")[:][self._path].to_pylist()
        if all(paths) and len(set(paths)) == len(paths):
            return list(map(printable, paths))
        return list(map(str, range(len(paths))))

    def fingerprint(self) -> str:
        return fingerprint(self.archives)

    def categories(self, column: str) -> Categories | None:
        import pyarrow.compute as pc  # type: ignore[import-untyped]
        from datasets import ClassLabel, Value

        name = self._named(column)
        if name is None:
            return None
        feature, values = self._columns.features[name], self._columns.with_format("arrow")[:][name]
        if isinstance(feature, ClassLabel):
            ids = np.maximum(values.fill_null(-1).to_numpy(), -1).astype(np.int32)
            if (ids < 0).all():
                return None
            return Categories(tuple(feature.names), ids)
        if not isinstance(feature, Value):
            raise UserError(
                f"{self._where}: column {name!r} is {feature}, and a {column} is one number or text a row. Convert or "
                "rename it."
            )
        words = values.cast("string").fill_null("")
        words = pc.if_else(pc.equal(words, "-1"), "", words).to_pylist()
        if column == "label":
            return Categories.of_labels(words)
        return Categories.of(words)

    def texts(self) -> PackedStrings | None:
        name = self._named("text")
        if name is None:
            return None
        return PackedStrings(map(_one_line, self._columns[name]))

    def _named(self, column: str) -> str | None:
        """The first usual name of a column that is there; of labels also the only column of Hugging Face's classes."""
        from datasets import ClassLabel

        features = self._columns.features
        for name in COLUMNS.get(column, ()):
            if name in features:
                return name
        classes = [name for name in features if isinstance(features[name], ClassLabel)]
        if column == "label" and len(classes) == 1:
            return classes[0]
        return None

    def _column_of_files(self, rows: "Dataset", kinds: tuple[type, ...], noun: str) -> str:
        found = []
        for name, feature in rows.features.items():
            if isinstance(feature, kinds) or (isinstance(feature, dict) and {"bytes", "path"} <= set(feature)):
                found.append(name)
        if len(found) != 1:
            raise UserError(
                f"{self._where}: expected one column of {noun} (struct with bytes and path), found {found or 'none'} "
                f"among {list(rows.features)}."
            )
        return found[0]


def _one_line(text: object) -> str:
    """The words of a text; none of anything else."""
    if not isinstance(text, str):
        return ""
    return " ".join(text.split())
