"""Rows of text in the files that labelled data come in: TSV, CSV, JSON lines, Parquet, Hugging Face, plain lines."""

import csv
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.utilities import rank_zero_warn

from d2v.errors import UserError
from d2v.modalities.text.raw_files import ending, open_binary

if TYPE_CHECKING:
    import pyarrow  # type: ignore[import-untyped]

Row = tuple[str, list[str | None]]
"""Where it stands (FILE:LINE, from 1), and the cells that were asked for; None where there is none."""

ENDINGS = (".tsv", ".csv", ".jsonl", ".ndjson", ".json", ".parquet", ".txt")


class Table(ABC):
    """Rows with named columns.

    Args:
        path: Of the file or folder.
        columns: Their names.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = path
        self.columns = tuple(columns)

    @abstractmethod
    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """All rows in their order.

        Raises:
            UserError: The file cannot be read.
        """

    def class_names(self, column: str) -> tuple[str, ...]:
        """Names that the file itself gives to the numbers in a column, in their order; none but in Hugging Face's."""
        return ()


def open_table(path: Path, header: Sequence[str] | None = None) -> Table:
    """The table in a file, by its ending, or in a folder that ``datasets`` has saved.

    Args:
        path: ``.tsv`` (no quoting: a quote is text, and a line a row), ``.csv`` (quoted), ``.jsonl``, ``.parquet``, or
            ``.txt`` (one text a line); the text formats also ``.gz``, ``.bz2``, ``.xz``,
            ``.zst``.
        header: Names of the columns of a delimited file without a line of names; None: its first line has them; empty:
            they are numbered from 1.

    Raises:
        UserError: Nothing of this kind is there.
    """
    if path.is_dir():
        return SavedDataset(path)
    kind = ending_of(path)
    if kind in (".tsv", ".csv"):
        return Delimited(path, header, quoted=kind == ".csv")
    if kind in (".jsonl", ".ndjson", ".json"):
        return JsonLines(path)
    if kind == ".parquet":
        return Parquet(path)
    if kind == ".txt":
        return Lines(path)
    raise UserError(f"data.root {path}: of no known kind; labelled text is read from {', '.join(ENDINGS)} files")


def ending_of(path: Path) -> str:
    """In lower case, without that of a compression."""
    return ending(path.name)


class Delimited(Table):
    """Cells between tabs, or between commas with quotes."""

    def __init__(self, path: Path, header: Sequence[str] | None, quoted: bool) -> None:
        self._quoted = quoted
        self._skipped = 0
        first = next(_delimited(path, quoted, limit=1), (1, []))[1]
        if not first:
            raise UserError(f"data.root {path}: is empty")
        if header is None:
            super().__init__(path, [name.strip() for name in first])
            self._skipped = 1
        else:
            super().__init__(path, header or [str(number) for number in range(1, len(first) + 1)])

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        places = [self.columns.index(column) for column in columns]
        for number, (line, cells) in enumerate(_delimited(self.path, self._quoted)):
            if number >= self._skipped and cells:  # an empty line is no row
                yield f"{self.path.name}:{line}", [cells[place] if place < len(cells) else None for place in places]


def _delimited(path: Path, quoted: bool, limit: int | None = None) -> Iterator[tuple[int, list[str]]]:
    if not quoted:
        for line, text in _lines(path, limit):
            yield line, text.split("\t") if text else []
        return
    csv.field_size_limit(2**31 - 1)  # a cell is a whole review, or a book
    reader = csv.reader(text + "\n" for _, text in _lines(path))
    line = 1
    try:
        for count, cells in enumerate(reader):
            if count == limit:
                return
            yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"data.root {path}, line {line}: no valid CSV ({error}); mend it") from error


class JsonLines(Table):
    """An object a line, or one array of objects."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, ())
        first = next(self._objects(), None)
        if first is None:
            raise UserError(f"data.root {path}: is empty")
        self.columns = tuple(first[1])

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        for line, item in self._objects():
            yield f"{self.path.name}:{line}", [_text(item.get(column)) for column in columns]

    def _objects(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for line, text in _lines(self.path):
            if not text.strip():
                continue
            if line == 1 and text.lstrip().startswith("["):
                yield from self._array()
                return
            yield line, self._parsed(text, line)

    def _array(self) -> Iterator[tuple[int, dict[str, Any]]]:
        items = self._parsed("\n".join(text for _, text in _lines(self.path)), 1)
        yield from enumerate(items, 1)

    def _parsed(self, text: str, line: int) -> Any:
        """An object, or at the first line a list of them."""
        try:
            found = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"data.root {self.path}, line {line}: no valid JSON ({error})") from error
        if not all(isinstance(item, dict) for item in (found if isinstance(found, list) and line == 1 else [found])):
            raise UserError(f"data.root {self.path}, line {line}: expected JSON objects, one a line, found {text[:40]}")
        return found


class Lines(Table):
    """A text a line, without labels."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, ("text",))

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        name = self.path.name
        return ((f"{name}:{line}", [text for _ in columns]) for line, text in _lines(self.path) if text.strip())


class ClassFolders(Table):
    """A folder a class, and in it a file a text, as in aclImdb; ``unsup`` is no class there.

    Args:
        path: The folder with those of the classes.
        classes: Their names.
    """

    NOT_A_CLASS = ("unsup",)

    def __init__(self, path: Path, classes: Sequence[str]) -> None:
        super().__init__(path, ("text", "label"))
        self._classes = classes

    @classmethod
    def found_in(cls, folder: Path) -> "ClassFolders | None":
        """None if the folder has no two folders with texts in them."""
        if not folder.is_dir():
            return None
        inside = sorted(path for path in folder.iterdir() if path.is_dir() and path.name not in cls.NOT_A_CLASS)
        names = [path.name for path in inside if any(path.glob("*.txt"))]
        return cls(folder, names) if len(names) >= 2 else None

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        for name in self._classes:
            for file in sorted((self.path / name).glob("*.txt")):
                cells = {"text": "\n".join(text for _, text in _lines(file)), "label": name}
                yield f"{name}/{file.name}", [cells[column] for column in columns]


class Parquet(Table):
    """Parquet, as Hugging Face's or of any other origin."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        try:
            self._file = parquet.ParquetFile(path)
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"data.root {path}: cannot be read as Parquet ({error})") from error
        schema = self._file.schema_arrow
        super().__init__(path, schema.names)
        # Where Hugging Face keeps what the numbers of a column mean.
        described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        self._features = described.get("info", {}).get("features", {})

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        batches = self._file.iter_batches(10_000, columns=list(dict.fromkeys(columns)))
        return _arrow_rows(self.path.name, batches, columns)

    def class_names(self, column: str) -> tuple[str, ...]:
        return tuple(self._features.get(column, {}).get("names", ()))


class SavedDataset(Table):
    """One split that ``datasets`` has written with ``save_to_disk``."""

    def __init__(self, path: Path) -> None:
        from datasets import load_from_disk

        try:
            self._dataset = load_from_disk(str(path))
        except Exception as error:  # the library raises many types of its own
            raise UserError(f"data.root {path}: no data set that `datasets` has saved, or a damaged one") from error
        super().__init__(path, self._dataset.column_names)

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        return _arrow_rows(self.path.name, self._dataset.with_format("arrow").iter(10_000), columns)

    def class_names(self, column: str) -> tuple[str, ...]:
        return tuple(getattr(self._dataset.features[column], "names", ()))


def _arrow_rows(
    name: str, batches: "Iterable[pyarrow.RecordBatch | pyarrow.Table]", columns: Sequence[str]
) -> Iterator[Row]:
    number = 0
    for batch in batches:
        cells = [batch.column(column).to_pylist() for column in columns]
        for row in zip(*cells, strict=True):
            number += 1
            yield f"{name}:{number}", [_text(value) for value in row]


def _text(value: Any) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # a column of whole numbers with gaps comes as floats
    # JSON can hold halves of surrogate pairs, which are no text.
    return None if value is None else str(value).encode(errors="replace").decode()


def _lines(path: Path, limit: int | None = None) -> Iterator[tuple[int, str]]:
    """Lines of a file by number, without their ends; only a line feed ends one. What is no UTF-8 becomes U+FFFD."""
    invalid = 0
    try:
        with open_binary(str(path)) as (file, _):
            for number, line in enumerate(file, 1):
                line = line.removesuffix(b"\n").removesuffix(b"\r")
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                try:
                    yield number, line.decode()
                except UnicodeDecodeError:
                    invalid += 1
                    yield number, line.decode(errors="replace")
                if number == limit:
                    return
    except OSError as error:
        raise UserError(f"data.root {path}: cannot be read ({error}); restore it") from error
    if invalid:
        rank_zero_warn(f"data: {invalid:,} lines of {path} are no valid UTF-8; what is not became U+FFFD")
