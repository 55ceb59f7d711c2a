"""Hugging Face parquet with a column of encoded files, memory-mapped by the ``datasets`` library.

That library converts the files once into its own cache (``HF_DATASETS_CACHE``), as large as the data; nothing is
fetched from a network.
"""

from collections.abc import Iterator, Sequence
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
        self.archives = [str(file) for file in files]
        try:
            rows = datasets.load_dataset("parquet", data_files=self.archives, split="train")
        except Exception as error:  # the library wraps what goes wrong in many types of its own
            raise UserError(
                f"{self._where} (or one beside it) cannot be read as parquet: {error.__cause__ or error}"
            ) from error
        if len(rows) == 0:
            raise UserError(f"{self._where} has no rows.")
        feature = getattr(datasets, medium.feature)
        self._encoded = self._column_of_files(rows, feature, medium.noun)
        self._columns: Dataset = rows.remove_columns([self._encoded])
        self._rows: Dataset = rows.select_columns([self._encoded]).cast_column(self._encoded, feature(decode=False))
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
        path = self._paths[index][self._path]
        name = f"{self.archives[0]}: row {index}"
        return f"{name} ({path})" if path else name

    def ids(self) -> list[str]:
        """What the files of the rows were called, if that tells them apart; else the numbers of the rows, from 0."""
        paths = self._paths.with_format("arrow")[:][self._path].to_pylist()
        if all(paths) and len(set(paths)) == len(paths):
            return [printable(path) for path in paths]
        return [str(number) for number in range(len(paths))]

    def fingerprint(self) -> str:
        return fingerprint(self.archives)

    def categories(self, column: str) -> Categories | None:
        from datasets import ClassLabel, Value

        name = self._named(column)
        if name is None:
            return None
        feature = self._columns.features[name]
        if isinstance(feature, ClassLabel):
            ids = np.array([-1 if number is None else number for number in self._columns[name]], dtype=np.int32)
            return Categories(tuple(feature.names), np.maximum(ids, -1)) if (ids >= 0).any() else None
        if not isinstance(feature, Value):
            raise UserError(
                f"{self._where}: column {name!r} is {feature}, and a {column} is one number or text a row. Convert or "
                "rename it."
            )
        make = Categories.of_labels if column == "label" else Categories.of
        return make("" if value in (None, -1) else str(value) for value in self._columns[name])

    def texts(self) -> PackedStrings | None:
        name = self._named("text")
        return None if name is None else PackedStrings(self._one_line(name))

    def _one_line(self, column: str) -> Iterator[str]:
        for text in self._columns[column]:
            yield " ".join(text.split()) if isinstance(text, str) else ""

    def _named(self, column: str) -> str | None:
        """The first usual name of a column that is there; of labels also the only column of Hugging Face's classes."""
        from datasets import ClassLabel

        features = self._columns.features
        for name in COLUMNS.get(column, ()):
            if name in features:
                return name
        classes = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
        return classes[0] if column == "label" and len(classes) == 1 else None

    def _column_of_files(self, rows: "Dataset", kind: type, noun: str) -> str:
        found = []
        for name, feature in rows.features.items():
            if isinstance(feature, kind) or (isinstance(feature, dict) and {"bytes", "path"} <= set(feature)):
                found.append(name)
        if len(found) != 1:
            raise UserError(
                f"{self._where}: expected one column of {noun} (struct with bytes and path), found {found or 'none'} "
                f"among {list(rows.features)}."
            )
        return found[0]
