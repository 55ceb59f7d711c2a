"""Kinds of files that hold text, and how each is opened."""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, Literal

from d2v.errors import UserError

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped]

Kind = Literal["text", "lines", "json", "csv", "tsv", "parquet"]
"""``text``: documents between blank lines; ``lines``: one document a line."""

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_KINDS: dict[str, Kind] = {
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".txt": "text",
}
_HEAD = 1 << 20
_ABOUT_DATA = re.compile(r"(readme|licen[cs]e)([^a-z]|$)")
_OF_DATASETS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "metadata.json", "state.json")

NAME_IT = "--text_column NAME"
"""How `d2v prepare text` is told of another column."""


def ending(path: str) -> str:
    """In lower case, without that of a compression."""
    name = os.path.basename(path).lower()
    stem, last = os.path.splitext(name)
    return os.path.splitext(stem)[1] if last in COMPRESSED else last


def is_text(path: str, column: str) -> bool:
    """Whether a file that nobody named is read: by its ending, else by having no NUL at its beginning.

    What lies beside data is not: README, LICENSE, and JSON that describes or configures something.
    """
    name, kind = os.path.basename(path).lower(), _KINDS.get(ending(path))
    if kind in (None, "text") and _ABOUT_DATA.match(name):
        return False
    if ending(path) == ".json":
        return name not in _OF_DATASETS and not _is_one_object(path, column)
    if kind is not None:
        return True
    try:
        with open_binary(path) as (file, _):
            return b"\0" not in file.read(8192)
    except (OSError, EOFError, lzma.LZMAError):
        return False


def _is_one_object(path: str, column: str) -> bool:
    """Whether JSON is an object on several lines, or the only one and without the text."""
    try:
        with open_binary(path) as (file, _):
            first, rest = file.readline(_HEAD), file.read(1024)
    except OSError:
        return False  # whoever reads it says so
    if not first.lstrip(b"\xef\xbb\xbf \t").startswith(b"{") or len(first) == _HEAD:
        return False
    try:
        record = json.loads(first.decode("utf-8-sig", "replace"))
    except ValueError:
        return True
    return column not in record and not rest.strip()


def kind_of(path: str, column: str) -> Kind:
    """How a file is to be read.

    Plain text without a blank line in its first MiB has one document a line, if there is more than that: nobody writes
    so long a paragraph, and many corpora have a text a line.

    Raises:
        UserError: it is a table without the column, or cannot be read.
    """
    kind = _KINDS.get(ending(path), "text")
    if kind == "parquet":
        parquet_column(open_parquet(path), path, column)
    elif kind in ("csv", "tsv"):
        with open_binary(path) as (file, _):
            table_column(header(file, kind), path, column)
    elif kind == "text" and (os.path.getsize(path) > _HEAD or path.lower().endswith(COMPRESSED)):
        with open_binary(path) as (file, _):
            head = file.read(_HEAD + 1)
        lines = head.split(b"\n")[:-1]
        if len(head) > _HEAD and lines and all(line.strip() for line in lines):
            return "lines"
    return kind


@contextmanager
def open_binary(path: str) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """A file as bytes, uncompressed, and the file on the disk, whose position tells how much of it was read.

    Raises:
        UserError: it is damaged, or shorter than it should be.
    """
    with open(path, "rb", buffering=1 << 18) as raw:
        last = os.path.splitext(path)[1].lower()
        try:
            if last == ".gz":
                yield gzip.GzipFile(fileobj=raw), raw  # type: ignore[misc]
            elif last == ".bz2":
                yield bz2.BZ2File(raw), raw
            elif last == ".xz":
                yield lzma.LZMAFile(raw), raw  # noqa: SIM115  (raw is closed)
            elif last == ".zst":
                yield io.BufferedReader(_Zstandard(raw), 1 << 18), raw
            else:
                yield raw, raw
        except (EOFError, lzma.LZMAError, zlib.error) as error:
            raise UserError(f"input {path}: is damaged ({error}); get it anew") from error
        except OSError as error:
            if error.errno is None:  # what gzip, bz2 and zstd say of the content
                raise UserError(f"input {path}: is damaged ({error}); get it anew") from error
            raise


class _Zstandard(io.RawIOBase):
    """Python has it from 3.14 on; pyarrow's does not know its own position."""

    def __init__(self, raw: IO[bytes]) -> None:
        import pyarrow  # type: ignore[import-untyped]

        self._stream = pyarrow.CompressedInputStream(raw, "zstd")
        self._position = 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def header(file: IO[bytes], kind: Kind) -> list[str]:
    """Names of the columns: the first line of a table."""
    line = file.readline(_HEAD).decode("utf-8-sig", "replace").rstrip("\r\n")
    return next(csv.reader([line]), []) if kind == "csv" else line.split("\t")


def table_column(names: list[str], path: str, column: str) -> int:
    """Which column holds the text.

    Raises:
        UserError: none has this name.
    """
    if column not in names:
        raise UserError(
            f"input {path}: there is no column {column!r} among {', '.join(map(repr, names))}; name the one with the "
            f"text: {NAME_IT}"
        )
    return names.index(column)


def open_parquet(path: str) -> "ParquetFile":
    """Only its columns and groups of rows are known then.

    Raises:
        UserError: it is no parquet.
    """
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        return ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"input {path}: cannot be read as parquet ({error})") from error


def parquet_column(file: "ParquetFile", path: str, column: str) -> None:
    """Check that a column is there and holds text.

    Raises:
        UserError: it is not so.
    """
    import pyarrow.types as types  # type: ignore[import-untyped]

    schema = file.schema_arrow
    table_column(schema.names, path, column)
    kind: Any = schema.field(column).type
    kind = kind.value_type if types.is_dictionary(kind) else kind
    if not (types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)):
        raise UserError(f"input {path}: the column {column!r} holds {kind} and no text; name another: {NAME_IT}")


def parquet_groups(path: str) -> int:
    """Number of groups of rows."""
    return open_parquet(path).metadata.num_row_groups
