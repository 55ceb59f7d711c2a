"""One reader of records: rows of CSV, TSV and Parquet, objects of JSON lines, lines of plain text.

Record by record, so that a file of any size takes little memory, the line of an error is known, and rows with too few
cells, blank lines and invalid UTF-8 do no harm. Making tokens of a text takes twenty times as long or more.
"""

import csv
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from lightning.pytorch.utilities import rank_zero_warn

from d2v.data.unpacking import require_plausible, require_plausible_parquet
from d2v.errors import UserError
from d2v.modalities.text.numbered_lines import END, NumberedLines, ending_of, open_binary, require_text
from d2v.modalities.text.tokenizer import without_surrogates

if TYPE_CHECKING:
    import pyarrow as pa  # type: ignore[import-untyped]

Row = tuple[str, list[str | None]]
"""The place of a record (FILE:LINE, from 1), and the cells that were asked for; None for a missing cell."""
NumberedRow = tuple[int, list[str | None]]

ENDINGS = (".tsv", ".csv", ".jsonl", ".ndjson", ".json", ".parquet", ".txt")

_BLOCK = 1 << 20
_PARQUET_ROWS = 256  # in memory at the same time: each may be a whole book


@dataclass(frozen=True)
class Reading:
    """Which part of a file is read, and how messages name it.

    Args:
        source: The key or option with which the user named the file.
        start: No record is read that begins before this byte; for Parquet the first row group.
        stop: No record is read that begins at this byte, or row group, or later.
        how_to_name: If set, every record must have a text in the columns that are asked for; the error for one that
            has none says that this names another column. None: a missing cell is None, and numbers become text.
    """

    source: str = "data.root"
    start: int = 0
    stop: int = END
    how_to_name: str | None = None


class Records(ABC):
    """Records with named columns.

    Args:
        path: The file or folder.
        columns: The names of its columns.
    """

    read_bytes = 0
    """Bytes on the disk that were read so far."""
    invalid = 0
    """Places read so far that were no valid UTF-8 and became U+FFFD."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = path
        self.columns = tuple(columns)
        self.too_wide: set[str] = set()
        """Places of the rows read so far that have more cells than the table has columns: a stray tab or comma."""

    @abstractmethod
    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """All records in order.

        Raises:
            UserError: The file cannot be read.
        """

    def class_names(self, column: str) -> tuple[str, ...]:
        """Names that the file itself gives to the numbers in a column, in order; only Hugging Face's files do."""
        return ()


def open_records(path: Path, header: Sequence[str] | None = None, reading: Reading | None = None) -> Records:
    """Open a file of records; its ending says which format it has.

    Args:
        path: ``.tsv`` (no quoting: a quote is text, and a line is a row), ``.csv`` (quoted), ``.jsonl``, ``.parquet``,
            or ``.txt`` (one text per line); except for Parquet also compressed: ``.gz``, ``.bz2``, ``.xz``, ``.zst``.
        header: Names of the columns of a delimited file without a header line; None: its first line has them; empty:
            they are numbered from 1.
        reading: Which part to read; None: all of it.

    Raises:
        UserError: The file has no known ending, is empty or is damaged.
    """
    reading = reading or Reading()
    kind = ending_of(path)
    if kind in ENDINGS and kind != ".parquet":
        require_text(path, reading.source)
    if kind in (".tsv", ".csv"):
        return Delimited(path, reading, header, quoted=kind == ".csv")
    if kind in (".jsonl", ".ndjson", ".json"):
        return JsonLines(path, reading)
    if kind == ".parquet":
        return Parquet(path, reading)
    if kind == ".txt":
        return Lines(path, reading)
    raise UserError(f"{reading.source} {path}: of no known kind; text is read from {', '.join(ENDINGS)} files")


class TextRecords(Records):
    """Records in lines of text; only a line feed ends a line.

    Args:
        path: The file.
        reading: Which part of it to read.
    """

    def __init__(self, path: Path, reading: Reading) -> None:
        super().__init__(path, ())
        self.reading = reading
        self._begin = (0, 1)  # byte and line of the first record
        self._part_begin = 0
        self._raw: IO[bytes] | None = None

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        reading, name = self.reading, self.path.name
        with open_binary(self.path, reading.source) as (file, self._raw):
            if reading.start:
                file.seek(reading.start - 1)
                file.readline()  # to the first line that begins in the part
                self._part_begin = file.tell()
                begin = (self._part_begin, 1)
            else:
                begin = self._begin
                file.read(begin[0])
            lines = NumberedLines(file, *begin, reading.stop)
            for line, cells in self._read(lines, columns):
                self.invalid = lines.invalid
                yield f"{name}:{line}", cells
            self.invalid = lines.invalid

    @property
    def read_bytes(self) -> int:  # type: ignore[override]
        return 0 if self._raw is None else self._raw.tell() - self.reading.start

    @abstractmethod
    def _read(self, lines: NumberedLines, columns: Sequence[str]) -> Iterator[NumberedRow]:
        """The records that begin before the stop."""

    def _where(self, line: int) -> str:
        """The beginning of an error message."""
        with open(self.path, "rb") as file:  # ``line`` counts from the first line of the part that is read
            left = self._part_begin
            while left and (block := file.read(min(_BLOCK, left))):
                left -= len(block)
                line += block.count(b"\n")
        return f"{self.reading.source} {self.path}, line {line}"


class Delimited(TextRecords):
    """TSV or CSV.

    Args:
        path: The file.
        reading: Which part of it to read.
        header: As for :func:`open_records`.
        quoted: Whether it is CSV: between commas, with quotes.
    """

    def __init__(self, path: Path, reading: Reading, header: Sequence[str] | None, quoted: bool) -> None:
        super().__init__(path, reading)
        self.quoted = quoted
        with open_binary(path, reading.source) as (file, _):
            lines = NumberedLines(file)
            _, first = next(self._cells(lines), (1, []))
        if not first:
            raise UserError(f"{reading.source} {path}: is empty")
        if header is None:
            self.columns = tuple(name.strip() for name in first)
            self._begin = (lines.position, lines.line)
        else:
            self.columns = tuple(header) or tuple(map(str, range(1, len(first) + 1)))

    def _read(self, lines: NumberedLines, columns: Sequence[str]) -> Iterator[NumberedRow]:
        places = [self.columns.index(column) for column in columns]
        width = max(places) + 1
        for line, cells in self._cells(lines):
            if len(cells) < width and self.reading.how_to_name is not None:
                if not "".join(cells).strip():
                    continue
                raise UserError(f"{self._where(line)}: has {len(cells)} cells, and the text should be in cell {width}")
            if "".join(cells[len(self.columns) :]).strip():
                self.too_wide.add(f"{self.path.name}:{line}")
            padded = [*cells, *[None] * (width - len(cells))]
            yield line, [padded[place] for place in places]

    def _cells(self, lines: NumberedLines) -> Iterator[tuple[int, list[str]]]:
        """All cells of each row; a blank line is not a row."""
        if not self.quoted:
            for line, text in lines.numbered():
                if text:
                    yield line, text.split("\t")
            return
        csv.field_size_limit(2**31 - 1)  # a cell may be a whole book
        reader = csv.reader(text + "\n" for text in lines)
        line = lines.line
        try:
            while lines.position < lines.stop:
                line = lines.line
                cells = next(reader, None)
                if cells is None:
                    return
                if cells:
                    yield line, cells
        except csv.Error as error:
            raise UserError(f"{self._where(line)}: no valid CSV ({error}); correct it") from error


class JsonLines(TextRecords):
    """One object per line; or one array of objects, unless every record must have a text."""

    def __init__(self, path: Path, reading: Reading) -> None:
        super().__init__(path, reading)
        self._array: list[dict[str, Any]] = []
        if reading.how_to_name is not None:
            return  # the keys of each record are checked
        with open_binary(path, reading.source) as (file, _):
            lines = NumberedLines(file)
            text = next((text for text in lines if text.strip()), "")
            if lines.line == 2 and text.lstrip().startswith("["):
                self._array = self._parsed("\n".join([text, *lines]), 1)
                first = next(iter(self._array), None)
            elif text:
                first = self._parsed(text, lines.line - 1)
        if not text or first is None:
            raise UserError(f"{reading.source} {path}: is empty")
        self.columns = tuple(first)

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        if not self._array:
            yield from super().rows(columns)
        for number, item in enumerate(self._array, 1):
            yield f"{self.path.name}:{number}", self._texts(item, columns, number)

    def _read(self, lines: NumberedLines, columns: Sequence[str]) -> Iterator[NumberedRow]:
        for line, text in lines.numbered():
            if text.strip():
                yield line, self._texts(self._parsed(text, line), columns, line)

    def _parsed(self, text: str, line: int) -> Any:
        """An object, or a list of objects."""
        is_array = text.lstrip().startswith("[")
        if is_array and self.reading.how_to_name is not None:
            raise UserError(
                f"{self._where(line)}: is or begins an array; write one object a line (JSON lines), as "
                "`jq -c '.[]' FILE` does"
            )
        try:
            found = json.loads(text)
        except ValueError as error:
            raise UserError(f"{self._where(line)}: no valid JSON ({error}); each line must be an object") from error
        items = found if is_array and line == 1 else [found]
        for item in items:
            if not isinstance(item, dict):
                raise UserError(f"{self._where(line)}: expected JSON objects, one a line, found {text[:40]}")
        return found

    def _texts(self, item: dict[str, Any], columns: Sequence[str], line: int) -> list[str | None]:
        if self.reading.how_to_name is not None:
            self._require_texts(item, columns, line)
        return [as_text(item.get(column)) for column in columns]

    def _require_texts(self, item: dict[str, Any], columns: Sequence[str], line: int) -> None:
        for column in columns:
            if column not in item:
                raise UserError(
                    f"{self._where(line)}: expected an object with the key {column!r}, there is only "
                    f"{', '.join(map(repr, item))}; name the key of the text: {self.reading.how_to_name}"
                )
            if not isinstance(item[column], str | None):
                raise UserError(f"{self._where(line)}: {column!r} is not text but {type(item[column]).__name__}")


class Lines(TextRecords):
    """One text per line; blank lines are left out."""

    def __init__(self, path: Path, reading: Reading) -> None:
        super().__init__(path, reading)
        self.columns = ("text",)

    def _read(self, lines: NumberedLines, columns: Sequence[str]) -> Iterator[NumberedRow]:
        for line, text in lines.numbered():
            if text.strip():
                yield line, [text] * len(columns)


class Parquet(Records):
    """Parquet, written by Hugging Face's `datasets` or by anything else.

    Args:
        path: The file.
        reading: Which part of it to read.
    """

    def __init__(self, path: Path, reading: Reading) -> None:
        import pyarrow as pa
        from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped]

        try:
            require_plausible_parquet(path)
            self._file = ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{reading.source} {path}: cannot be read as Parquet ({error})") from error
        super().__init__(path, self._file.schema_arrow.names)
        self.reading = reading
        self.num_groups: int = self._file.metadata.num_row_groups
        # Here Hugging Face stores what the numbers of a column mean.
        described = json.loads((self._file.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
        self._features = described.get("info", {}).get("features", {})

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        import pyarrow as pa

        groups = range(self.reading.start, min(self.reading.stop, self.num_groups))
        size = os.path.getsize(self.path)
        done = unpacked = 0
        batches = self._file.iter_batches(_PARQUET_ROWS, row_groups=groups, columns=list(dict.fromkeys(columns)))
        try:
            for batch in batches:
                rows = list(arrow_rows(self.path.name, done + 1, batch, columns))
                size_of_rows = sum(len("".join(filter(None, cells))) for _, cells in rows)
                if not done:  # all rows are about as long as the first ones
                    require_plausible(self.path, size_of_rows * self._file.metadata.num_rows // max(1, len(batch)))
                unpacked += size_of_rows
                require_plausible(self.path, unpacked)
                yield from rows
                done += len(batch)
                self.read_bytes = size * done // self._file.metadata.num_rows
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise UserError(f"{self.reading.source} {self.path}: cannot be read as Parquet ({error})") from error

    def class_names(self, column: str) -> tuple[str, ...]:
        return tuple(self._features.get(column, {}).get("names", ()))

    def require_text(self, column: str) -> None:
        """Check that a column holds text.

        Raises:
            UserError: It holds something else.
        """
        import pyarrow.types as types  # type: ignore[import-untyped]

        kind = self._file.schema_arrow.field(column).type
        if types.is_dictionary(kind):
            kind = kind.value_type
        if not (types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)):
            raise UserError(
                f"{self.reading.source} {self.path}: the column {column!r} holds {kind} and no text; name another: "
                f"{self.reading.how_to_name}"
            )


def arrow_rows(name: str, first: int, batch: "pa.RecordBatch | pa.Table", columns: Sequence[str]) -> Iterator[Row]:
    """The rows of a batch, numbered from ``first``."""
    cells = [batch.column(column).to_pylist() for column in columns]
    for number, values in enumerate(zip(*cells, strict=True), first):
        yield f"{name}:{number}", list(map(as_text, values))


def as_text(value: Any) -> str | None:
    """A value of JSON or Parquet as it would be written in a table of text."""
    if isinstance(value, str):
        return without_surrogates(value)  # JSON can hold halves of surrogate pairs, which UTF-8 cannot
    if value is None:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # a column of whole numbers with gaps comes as floats
    return str(value)


def warn_of_invalid(records: Records) -> None:
    """Warn if something that was read was no valid UTF-8."""
    if records.invalid:
        rank_zero_warn(f"data: {records.invalid:,} places in {records.path} are not valid UTF-8 and became U+FFFD")
