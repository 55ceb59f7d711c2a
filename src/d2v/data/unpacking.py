"""Files that unpack to far more than they are: an archive of a few megabytes can hold the whole memory of a machine."""

import io
import os
from pathlib import Path
from typing import IO, Any

from d2v.errors import UserError

_FREE, _BEGINNING = 1 << 28, 1 << 24
_LARGEST_RATIO = 100
"""Text, numbers and tables are packed to a tenth, seldom to a fiftieth; zeros by gzip to a thousandth."""


def require_plausible(path: str | Path, unpacked: int) -> None:
    """Refuse to unpack more than 268 MB out of a file that is less than a hundredth as large.

    Raises:
        UserError: That is so; the message begins with the path.
    """
    size = os.path.getsize(path)
    if unpacked > max(_FREE, _LARGEST_RATIO * size):
        raise UserError(
            f"{path}: {size / 1e6:,.1f} MB that unpack to {unpacked / 1e9:,.1f} GB or more are refused, because such a "
            "file would fill the memory; if it is right, write it anew without compression"
        )


class Counted(io.RawIOBase):
    """What is read from a packed file; how large all of it is, is told from the beginning.

    Args:
        file: Unpacks it.
        raw: The packed file, whose position tells how much of it was read.
        path: Its name.
    """

    def __init__(self, file: IO[bytes], raw: IO[bytes], path: str | Path) -> None:
        self._file, self._raw, self._path, self._unpacked = file, raw, path, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self._unpacked += len(data)
        if self._unpacked > _BEGINNING:
            require_plausible(self._path, self._unpacked * os.path.getsize(self._path) // max(1, self._raw.tell()))
        return len(data)


def require_plausible_parquet(path: str | Path, columns: Any = None) -> None:
    """Refuse a table whose equal cells were packed into almost nothing, before a group of rows is unpacked.

    Args:
        path: A Parquet file.
        columns: Names of the columns that are read; None: all.

    Raises:
        UserError: What it unpacks to is out of proportion.
        pyarrow.ArrowException: It is no Parquet file.
    """
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    metadata = pq.read_metadata(path)
    unpacked = 0
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(column)
            if columns is None or chunk.path_in_schema.partition(".")[0] in columns:
                unpacked += max(chunk.total_uncompressed_size, chunk.num_values)
    require_plausible(path, unpacked)
