"""Rows of Hugging Face's library ``datasets``: parquet files, what ``save_to_disk`` wrote, or a data set of its hub.

That library converts parquet files once into its own cache (``HF_DATASETS_CACHE``), as large as the data; nothing is
fetched from a network unless the root begins with ``hf://``.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from d2v.data.file_index import PackedStrings, fingerprint
from d2v.data.sources.source import COLUMNS, Categories, Medium, Source, printable
from d2v.data.sources.stores import fetched, named
from d2v.data.unpacking import require_plausible_parquet
from d2v.errors import BrokenSample, UserError
from d2v.regular_files import read_regular

if TYPE_CHECKING:
    from datasets import Dataset


def open_rows(files: Sequence[Path], medium: Medium) -> "Rows":
    """The rows of one split: parquet files, or .arrow files of one folder.

    Raises:
        UserError: a file cannot be read, has no rows, or no column holds the medium.
    """
    import datasets

    where, folder = f"data.root: {named(str(files[0]))}", files[0].parent
    try:
        if files[0].suffix.lower() == ".parquet":
            copies = fetched(files)
            for file in copies:
                require_plausible_parquet(file)
            rows = datasets.Dataset.from_parquet(list(map(str, copies)))  # load_dataset would report it to a server
        elif (folder / "state.json").is_file():  # without files that the library has cached beside them
            rows = datasets.Dataset.load_from_disk(str(folder))
        else:
            rows = datasets.concatenate_datasets([datasets.Dataset.from_file(str(file)) for file in files])
    except UserError:
        raise
    except Exception as error:  # the library wraps what goes wrong in many types of its own
        kind = files[0].suffix.lower().removeprefix(".")
        raise UserError(f"{where} (or one beside it) cannot be read as {kind}: {error.__cause__ or error}") from error
    return Rows(rows, medium, where, list(map(str, files)))


class Rows(Source):
    """Rows with a column of files, and perhaps columns of labels, speakers or texts.

    A file is stated by its bytes, as the library's own type, or by its path: absolute, or relative to the folder of the
    table or the one above.

    Args:
        rows: of one split.
        medium: of the files.
        where: the option and its value that gave the rows, for messages.
        archives: files that hold the rows; none: the rows were given as an object.

    Raises:
        UserError: there are no rows, or not one column holds such files.
    """

    def __init__(self, rows: "Dataset", medium: Medium, where: str, archives: Sequence[str] = ()) -> None:
        import datasets

        self._noun = medium.noun
        self._where = where
        self.archives = archives
        if len(rows) == 0:
            raise UserError(f"{self._where} has no rows.")
        rows = rows.with_format(None)
        self._encoded = self._column_of_files(rows, medium)
        self._columns: Dataset = rows.remove_columns([self._encoded])
        self._rows: Dataset = rows.select_columns([self._encoded])
        self._folders: list[str] = []
        if archives:
            folder = os.path.dirname(os.path.abspath(archives[0]))
            self._folders = [folder, os.path.dirname(folder)]
        if isinstance(rows.features[self._encoded], datasets.Value):
            self._path = self._encoded
            self._paths: Dataset | None = None
            if rows.features[self._encoded].dtype in _TEXT:
                self._paths = self._rows
            return
        if medium.feature is not None:
            self._rows = self._rows.cast_column(self._encoded, getattr(datasets, medium.feature)(decode=False))
        # Apart from the bytes, which reading a row would copy.
        self._path = f"{self._encoded}.path"
        self._paths = self._rows.flatten().select_columns([self._path])

    def __len__(self) -> int:
        return len(self._rows)

    def open(self, index: int) -> bytes:
        return self.read(index)

    def read(self, index: int) -> bytes:
        value: Any = self._rows[index][self._encoded]
        if isinstance(value, dict):
            value = value["bytes"] if value["bytes"] is not None else value["path"]
        if isinstance(value, str) and value:
            return self._read_file(value)
        if value is None or value == "":
            raise BrokenSample(f"the row holds no {self._noun}")
        return value

    def _read_file(self, path: str) -> bytes:
        if "://" in path:
            raise BrokenSample(f"the row holds the address {path}, and nothing is fetched")
        for folder in ("", *self._folders):
            place = os.path.join(folder, path)
            if os.path.isfile(place):
                try:
                    return read_regular(place)
                except OSError as error:
                    raise BrokenSample(error.strerror or str(error)) from error
        raise BrokenSample(f"there is no file {path}, here or beside the table")

    def name(self, index: int) -> str:
        name = f"row {index}"
        if self.archives:
            name = f"{named(self.archives[0])}: {name}"
        if self._paths is not None and (path := self._paths[index][self._path]):
            name += f" ({path})"
        return name

    def ids(self) -> list[str]:
        """What the files of the rows were called, if that tells them apart; else the numbers of the rows, from 0."""
        paths: list[str] = []
        if self._paths is not None:
            paths = self._paths.with_format("arrow")[:][self._path].to_pylist()
        if paths and all(paths) and len(set(paths)) == len(paths):
            return list(map(printable, paths))
        return list(map(str, range(len(self))))

    def fingerprint(self) -> str:
        return fingerprint(self.archives, self._rows._fingerprint)

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

    def _column_of_files(self, rows: "Dataset", medium: Medium) -> str:
        """The column of the library's own type, else of structs of bytes and path, else of bytes or paths."""
        import datasets

        own = getattr(datasets, medium.feature or "", ())
        typed: list[str] = []
        plain: list[str] = []
        for name, feature in rows.features.items():
            if isinstance(feature, own) or (isinstance(feature, dict) and {"bytes", "path"} <= set(feature)):
                typed.append(name)
            elif isinstance(feature, datasets.Value) and self._is_file(feature.dtype, _first(rows, name), name, medium):
                plain.append(name)
        found = typed or plain
        usual = (medium.feature or "").lower()
        if len(found) > 1 and usual in found:
            return usual
        if len(found) != 1:
            raise UserError(
                f"{self._where}: expected one column of {medium.noun} (bytes, a struct with bytes and path, or paths "
                f"of {', '.join(medium.suffixes[:3])}, ...), found {' and '.join(found) or 'none'} among "
                f"{', '.join(rows.features)}. Rename the one that is meant to {usual or medium.noun}."
            )
        return found[0]

    def _is_file(self, dtype: str, first: Any, name: str, medium: Medium) -> bool:
        """Whether a column with this first value holds files."""
        if dtype not in _TEXT or not first:
            return dtype in ("binary", "large_binary")
        if not first.lower().partition("?")[0].endswith(medium.suffixes):
            return False
        if "://" in first:
            raise UserError(
                f"{self._where}: column {name!r} holds addresses of {medium.noun} ({first}), and d2v fetches nothing "
                "that was not asked for. Download them, and put the files or their paths into the table."
            )
        return True


_TEXT = ("string", "large_string")


def _first(rows: "Dataset", name: str) -> Any:
    """The first value of a column that is there, of some rows at the beginning."""
    for value in rows.select_columns([name])[: min(len(rows), 100)][name]:
        if value:
            return value
    return None


def _one_line(text: object) -> str:
    """The words of a text; none of anything else."""
    if not isinstance(text, str):
        return ""
    return " ".join(text.split())
