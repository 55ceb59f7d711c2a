"""Tables with a row for each file, as people and data sets write them: transcripts or labels."""

import csv
import io
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from d2v.data.unpacking import require_plausible_parquet
from d2v.errors import UserError, some_of

FILE_COLUMNS = (
    "audio_filepath", "file_name", "filename", "file", "path", "filepath", "file_path", "audio_file", "audio_path",
    "audio", "wav", "wav_filename", "clip", "recording", "utterance", "utterance_id", "utt_id", "image", "image_path",
    "img", "picture", "photo", "image_id", "id", "name",
)  # fmt: skip
"""Usual headings of the column that names a file, the first of which is taken."""

_DELIMITERS = {".csv": ",;\t|", ".tsv": "\t;|,"}
_LOOKED_AT = 1000  # rows, where a column is found by its content


class FileTable:
    """A table as it is written, and which row names which file.

    It may be TSV (a quote is text, unless it encloses a cell), CSV with commas, semicolons or bars, JSON lines or a
    JSON list of objects, or lines of FILE TEXT; in UTF-8 or UTF-16. Or Parquet.

    Args:
        path: of the table.
        key: the option that names it, for messages.
        endings: of the files that it names, in lower case.
        headings: names, in lower case, that make the first line a header; ``file_column`` is one more.
        file_column: heading or number of the column that names files; None: found by its heading or its content.

    Raises:
        UserError: it cannot be read, or is empty.
    """

    def __init__(
        self,
        path: Path,
        key: str,
        endings: tuple[str, ...],
        headings: Iterable[str] = (),
        file_column: str | None = None,
    ) -> None:
        self.path, self.where = path, f"{key} {path}"
        self._endings = endings
        self._file_column = file_column
        records, text = None, ""
        if path.suffix.lower() == ".parquet":
            records = self._parquet()
        else:
            text = self._text()
        if text.lstrip()[:1] in ("{", "["):
            records = self._json(text)
        if records is not None:
            names = list(dict.fromkeys(name for _, record in records for name in record))
            self.rows = []
            for line, record in records:
                self.rows.append((line, [_cell(record.get(name)) for name in names]))
            self.columns, self.cut_by = tuple(names), ""
        else:
            self.rows, self.cut_by = self._delimited(text)
            known = {*FILE_COLUMNS, *headings}
            if file_column is not None and not file_column.isdecimal():
                known.add(_heading(file_column))
            first = self.rows[0][1]
            width = min(len(row) for _, row in self.rows if len(row) > 1 or len(first) == 1)
            self.columns = tuple(map(str, range(1, width + 1)))
            if known.intersection(map(_heading, first)) and not any(map(self._is_file, first)):
                self.columns = tuple(first)
                del self.rows[0]
        if not self.rows:
            raise UserError(f"{self.where}: there is no row with a file.")

    def column(self, given: str | None, known: Sequence[str], option: str) -> int | None:
        """Number of a column: the one that is given by heading or number, else the first with a known heading.

        Raises:
            UserError: there is no column as given.
        """
        headings = list(map(_heading, self.columns))
        if given is not None:
            if _heading(given) in headings:
                return headings.index(_heading(given))
            if given.isdecimal() and 0 < int(given) <= len(headings):
                return int(given) - 1
            raise UserError(f"{option} {given}: {self.path} has the columns {some_of(self.columns, 12)}.")
        for name in known:
            if name in headings:
                return headings.index(name)
        return None

    def files(self, names: Sequence[str], option: str = "data.file_column") -> tuple[int, list[int]]:
        """The column that names files, and the row of each of these files; -1 where there is none.

        A row names a file by its path from any folder above it, with or without its ending, or with another ending of
        its kind; names are compared in composed form. Where no row does so, the folder that all rows share is left out:
        the table may come from another machine.

        Raises:
            UserError: two rows name one file, or one row several files in different folders.
        """
        column = self.column(self._file_column, FILE_COLUMNS, option)
        if column is None:
            column = self._column_by_content(names)
        keys = [_path("".join(row[column : column + 1]), self.path.parent) for _, row in self.rows]
        found = self._matched(keys, names)
        folders = {os.path.dirname(key) for key in keys}
        if max(found, default=-1) < 0 and len(set(map(os.path.isabs, folders))) == 1:
            shared = os.path.commonpath(folders)
            found = self._matched([key.removeprefix(shared).lstrip("/") for key in keys], names)
        return column, found

    def line(self, row: int) -> str:
        """Where a row stands, for messages."""
        return f"{self.where}, line {self.rows[row][0]}"

    def cell(self, row: int, column: int) -> str:
        """The words of a cell; those of the last column hold also what an unquoted delimiter has cut off."""
        cells = self.rows[row][1][column:]
        if column < len(self.columns) - 1:
            cells = cells[:1]
        return " ".join(f"{self.cut_by} ".join(cells).split())

    def require_whole(self, column: int) -> None:
        """Check that no cell of a column was cut in two.

        Raises:
            UserError: a row has more cells than there are columns.
        """
        for row, (_, cells) in enumerate(self.rows):
            if column < len(self.columns) - 1 and len(cells) > len(self.columns):
                raise UserError(
                    f"{self.line(row)}: {len(cells)} cells, where there are {len(self.columns)} columns; put text that "
                    f"holds {self.cut_by!r} in quotes."
                )

    def _text(self) -> str:
        try:
            data = self.path.read_bytes()
            if data.startswith((b"\xff\xfe", b"\xfe\xff")):
                return data.decode("utf-16")
            return data.decode("utf-8-sig")
        except OSError as error:
            raise UserError(f"{self.where}: cannot be read ({error.strerror or error}).") from error
        except UnicodeDecodeError as error:
            line = data[: error.start].count(b"\n") + 1
            raise UserError(f"{self.where}: line {line} is not UTF-8 text; save the table as CSV in UTF-8.") from error

    def _json(self, text: str) -> list[tuple[int, dict[str, Any]]] | None:
        """Line and content of each object; None if this is no JSON."""
        try:
            listed = json.loads(text)
            if isinstance(listed, dict):
                listed = [listed]
            records = list(enumerate(listed, 1))
        except ValueError:
            records = []
            for number, line in enumerate(text.splitlines(), 1):
                try:
                    if line.strip():
                        records.append((number, json.loads(line)))
                except ValueError as error:
                    if self.path.suffix.lower() not in (".json", ".jsonl", ".ndjson"):
                        return None
                    raise UserError(f"{self.where}, line {number}: is no JSON ({error}).") from error
        for number, record in records:
            if not isinstance(record, dict):
                raise UserError(f"{self.where}, entry {number}: expected an object with a file, found {record!r}.")
        return records

    def _parquet(self) -> list[tuple[int, dict[str, Any]]]:
        """Number and content of each row."""
        import pyarrow as pa  # type: ignore[import-untyped]
        import pyarrow.parquet as pq  # type: ignore[import-untyped]

        try:
            require_plausible_parquet(self.path)
            return list(enumerate(pq.read_table(self.path).to_pylist(), 1))
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{self.where}: cannot be read as Parquet ({error}).") from error

    def _delimited(self, text: str) -> tuple[list[tuple[int, list[str]]], str]:
        """Line and cells of each row, and the delimiter: the one that cuts most rows, and most of them alike."""
        best: tuple[tuple[int, int], str, list[tuple[int, list[str]]]] | None = None
        for delimiter in _DELIMITERS.get(self.path.suffix.lower(), _DELIMITERS[".tsv"]):
            rows = self._cut(text, delimiter)
            widths = Counter(len(row) for _, row in rows if len(row) > 1)
            score = (widths.total(), max(widths.values(), default=0))
            if rows and (best is None or score > best[0]):
                best = score, delimiter, rows
        if best is None:
            raise UserError(f"{self.where}: is empty; expected rows with a file and what it says or is.")
        score, delimiter, rows = best
        if score[0] < len(rows) and self.path.suffix.lower() not in _DELIMITERS:  # lines of FILE TEXT
            lines = enumerate(text.splitlines(), 1)
            return [(number, line.split(maxsplit=1)) for number, line in lines if line.strip()], ""
        return rows, delimiter

    def _cut(self, text: str, delimiter: str) -> list[tuple[int, list[str]]]:
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL
        if delimiter in "\t|":
            quoting = csv.QUOTE_NONE
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, skipinitialspace=True)
        rows = []
        try:
            for row in reader:
                cells = list(map(str.strip, row))
                if quoting == csv.QUOTE_NONE:
                    cells = list(map(_unquoted, cells))
                if any(cells):
                    rows.append((reader.line_num, cells))
        except csv.Error as error:
            raise UserError(f"{self.where}, line {reader.line_num}: cannot be read as a table ({error}).") from error
        return rows

    def _column_by_content(self, names: Sequence[str]) -> int:
        """The column most of whose cells name one of the files; a first line that names none is a header then."""
        stems = {self._stem(os.path.basename(_path(name))) for name in names}
        counts = Counter[int]()
        for _, row in self.rows[:_LOOKED_AT]:
            for column, cell in enumerate(row[: len(self.columns)]):
                counts[column] += self._stem(os.path.basename(_path(cell))) in stems
        column = counts.most_common(1)[0][0]
        first = self.rows[0][1]
        if counts[column] and len(self.rows) > 1 and self._stem(os.path.basename(_path(first[column]))) not in stems:
            self.columns = tuple(first)
            del self.rows[0]
        return column

    def _matched(self, keys: Sequence[str], names: Sequence[str]) -> list[int]:
        exact: dict[str, int] = {}
        stems: dict[str, int] = {}
        for row, key in enumerate(keys):
            if key and exact.setdefault(key, row) != row:
                lines = f"lines {self.rows[exact[key]][0]} and {self.rows[row][0]}"
                raise UserError(f"{self.where}: {lines} both name {key}; a file has one row. Cut long files first.")
            stems.setdefault(self._stem(key), row)
        found = []
        named_by: dict[int, str] = {}
        for name in names:
            row = _row_of(exact, _path(name))
            if row < 0:
                row = _row_of(stems, self._stem(_path(name)))
            other = named_by.setdefault(row, name)
            if row >= 0 and os.path.dirname(other) != os.path.dirname(name):
                raise UserError(f"{self.line(row)}: {keys[row]} is {other} and also {name}; name their folders, too.")
            found.append(row)
        return found

    def _is_file(self, name: str) -> bool:
        return name.lower().endswith(self._endings)

    def _stem(self, path: str) -> str:
        if self._is_file(path):
            return path.rpartition(".")[0]
        return path


def _row_of(rows: dict[str, int], path: str) -> int:
    """The row that names a file by its path from any folder above it; -1: none."""
    parts = path.split("/")
    for depth in range(1, len(parts) + 1):
        tail = "/".join(parts[-depth:])
        if tail in rows:
            return rows[tail]
    return -1


def _path(name: str, folder: Path | None = None) -> str:
    """A file's name in composed characters and with slashes; one that leaves its folder, seen from ``folder``."""
    path = unicodedata.normalize("NFC", name.strip())
    if "/" not in path:
        path = path.replace("\\", "/")
    if path.startswith("../") and folder is not None:
        path = os.path.abspath(folder / path)
    return path.removeprefix("./")


def _heading(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def _unquoted(cell: str) -> str:
    """A cell without the quotes that enclose it, as a TSV may have them; ``"Yes", he said, "no"`` stays."""
    inside = cell[1:-1].replace('""', "")
    if len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in inside:
        return cell[1:-1].replace('""', '"')
    return cell


def _cell(value: object) -> str:
    """An entry of JSON as text; Hugging Face may write a file as an object with its path."""
    if isinstance(value, dict):
        value = value.get("path")
    if value is None:
        return ""
    return str(value)
