"""Rows of features on the disk as they come, so that a run that was stopped, however roughly, can go on."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from filelock import FileLock, Timeout

from d2v.errors import UserError
from d2v.features.encode import Row

PART_ROWS = 4_096
"""Inputs of a part."""
PART_SECONDS = 10.0
"""A part ends earlier than that if so much time has passed: a killed run loses no more, the current input aside."""

_GROUP_BYTES = 16 * 2**20  # of vectors that wait in memory
_SETTINGS, _LOCK, _OPEN_PART = "settings.json", "lock", "part.unfinished"
_COUNTS = ("inputs", "skipped", "vectors")
_KNOWN = ["id", "num_frames", "first_frame", "duration"]


class RowJournal:
    """A folder ``OUTPUT.unfinished`` of Parquet files, until an output file is made of them.

    Rows are written to a part, which gets its name once it is complete and safely on the disk. Only parts with a name
    count, after any end of the process or of the machine; what was written of the next one is done again. A part holds
    whole inputs, in their order, and counts those that have no row.

    Args:
        folder: That holds it.
        settings: What the features are; a journal of others is not continued.
        width: Of the vectors, D.
        pooled: Whether a row has one vector.

    Raises:
        UserError: Another process writes it, or nothing can be written there.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], width: int, pooled: bool) -> None:
        self.folder, self.width, self.pooled = folder, width, pooled
        self.num_done = 0
        """Inputs that need not be read again."""
        self.num_vectors = 0
        self.num_skipped = 0
        """Those of the done inputs that have no row."""
        self._waiting: list[Row | None] = []  # None is an input without a row
        self._waiting_bytes = 0
        self._writer: Any = None
        self._counts = dict.fromkeys(_COUNTS, 0)  # of the open part
        self._torn = False  # the open part ends inside an input
        self._last_commit = time.monotonic()
        vector = pa.list_(pa.float32(), width)
        self._schema = pa.schema(
            {
                "id": pa.string(),
                "embedding": vector if pooled else pa.large_list(vector),
                "num_frames": pa.int64(),
                "first_frame": pa.int64(),
                "duration": pa.float64(),
                "times": pa.large_list(pa.float64()),
            }
        )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(folder)
            if not (folder / _SETTINGS).is_file():
                (folder / f"{_SETTINGS}.new").write_text(json.dumps(settings))
                (folder / f"{_SETTINGS}.new").replace(folder / _SETTINGS)
            for part in self._parts():
                counts = pq.read_metadata(part).metadata
                self.num_done += int(counts[b"inputs"])
                self.num_skipped += int(counts[b"skipped"])
                self.num_vectors += int(counts[b"vectors"])
        except OSError as error:
            raise UserError(f"--output: {folder} cannot be written ({error.strerror}); give another place") from error

    def write(self, row: Row) -> None:
        """Append a row."""
        if not row.is_last and row.first_frame == 0:
            self.commit()  # a long input has a part of its own, so that nothing else is lost with it
            self._torn = True
        self._waiting.append(row)
        self._waiting_bytes += row.features.nbytes
        self.num_vectors += row.num_vectors
        if self._waiting_bytes >= _GROUP_BYTES:
            self._flush()
        if row.is_last:
            self._torn = False
            self.num_done += 1
            self._commit_if_due()

    def skip(self) -> None:
        """Note that the next input has no row."""
        self._waiting.append(None)
        self.num_done += 1
        self.num_skipped += 1
        self._commit_if_due()

    def commit(self) -> None:
        """Complete the open part: all that was appended is safely on the disk."""
        self._flush()
        writer, self._writer = self._writer, None
        if writer is None:
            return
        writer.add_key_value_metadata({name: str(count) for name, count in self._counts.items()})
        writer.close()
        unfinished = self.folder / _OPEN_PART
        _sync(unfinished)
        unfinished.replace(self.folder / f"{len(self._parts()):06d}.parquet")
        _sync(self.folder)
        self._counts = dict.fromkeys(_COUNTS, 0)
        self._last_commit = time.monotonic()

    def known(self) -> pa.Table:
        """Of all rows, in their order: columns ``id``, ``num_frames``, ``first_frame`` and ``duration`` (seconds)."""
        self.commit()
        tables = []
        for part in self._parts():
            with pq.ParquetFile(part) as file:
                tables.append(file.read(_KNOWN))
        return pa.concat_tables(tables)

    def values(self, column: str) -> Iterator[np.ndarray]:
        """All of ``embedding`` (float32 [n, D]) or ``times`` (float64 [n]), some at a time."""
        for table in self._tables():
            array = flat_values(table[column])
            yield array.reshape(-1, self.width) if column == "embedding" else array

    def groups(self, most: int) -> Iterator[pa.Table]:
        """All rows in groups of at most so many vectors, or of one row, whatever the parts that they lie in."""
        group: list[pa.Table] = []
        size = 0
        for table in self._tables():
            lengths = np.ones(len(table), np.int64)
            if not self.pooled:
                lengths = table["embedding"].combine_chunks().value_lengths().to_numpy()
            begin = 0
            for row, length in enumerate(lengths.tolist()):
                if size and size + length > most:
                    yield pa.concat_tables([*group, table.slice(begin, row - begin)]).combine_chunks()
                    group, size, begin = [], 0, row
                size += length
            group.append(table.slice(begin))
        yield pa.concat_tables(group).combine_chunks()

    def close(self) -> None:
        """Release what is open; what was appended stays, unless it is not one input."""
        if not self._lock.is_locked:
            return
        if not self.num_done:
            self.remove()
            return
        with suppress(OSError):  # no space is left, say: what was committed before still counts
            if not self._torn:
                self.commit()
        self._lock.release()

    def remove(self) -> None:
        """Delete it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.release()

    def _commit_if_due(self) -> None:
        in_part = self._counts["inputs"] + len(self._waiting)
        if in_part >= PART_ROWS or time.monotonic() - self._last_commit >= PART_SECONDS:
            self.commit()

    def _flush(self) -> None:
        """Write what waits in memory to the open part."""
        if not self._waiting:
            return
        # An interrupt in here leaves half a group behind, and the part is given up.
        torn, self._torn = self._torn, True
        entries, self._waiting, self._waiting_bytes = self._waiting, [], 0
        if self._writer is None:
            path = self.folder / _OPEN_PART
            self._writer = pq.ParquetWriter(path, self._schema, compression="none", use_dictionary=False)
        rows = [row for row in entries if row is not None]
        if rows:
            self._writer.write_table(self._table(rows))
            self._counts["vectors"] += sum(row.num_vectors for row in rows)
            self._counts["inputs"] += sum(row.is_last for row in rows)
        self._counts["skipped"] += len(entries) - len(rows)
        self._counts["inputs"] += len(entries) - len(rows)
        self._torn = torn

    def _table(self, rows: list[Row]) -> pa.Table:
        vectors = np.concatenate([row.features.reshape(-1, self.width) for row in rows])
        embedding = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), self.width)
        if not self.pooled:
            offsets = np.cumsum([0, *(row.num_vectors for row in rows)])
            embedding = pa.LargeListArray.from_arrays(pa.array(offsets), embedding)
        columns = {
            "embedding": embedding,
            "id": [row.name for row in rows],
            "num_frames": [row.num_frames for row in rows],
            "first_frame": [row.first_frame for row in rows],
            "duration": [row.duration for row in rows],
            "times": [row.times for row in rows],
        }
        return pa.table({name: columns[name] for name in self._schema.names}, schema=self._schema)

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*.parquet"))

    def _tables(self) -> Iterator[pa.Table]:
        """All rows as they were written, about 16 MB at a time."""
        self.commit()
        for part in self._parts():
            with pq.ParquetFile(part) as file:
                for group in range(file.num_row_groups):
                    yield file.read_row_group(group).cast(self._schema)  # Parquet has names of its own for items


def flat_values(column: pa.ChunkedArray) -> np.ndarray:
    """All numbers of a column of lists, or of lists of lists, one after the other."""
    array = column.combine_chunks()
    while pa.types.is_nested(array.type):
        array = array.flatten()
    return array.to_numpy(zero_copy_only=False)


def discard(folder: Path) -> None:
    """Delete the journal in a folder.

    Raises:
        UserError: Another process writes it.
    """
    with _locked(folder):
        shutil.rmtree(folder, ignore_errors=True)


def read_settings(folder: Path) -> dict[str, Any] | None:
    """What the journal in a folder holds features of; None if there is none, or nothing to continue."""
    try:
        settings = json.loads((folder / _SETTINGS).read_text())
    except (OSError, ValueError):
        return None
    return settings if isinstance(settings, dict) else None


def _locked(folder: Path) -> FileLock:
    lock = FileLock(folder / _LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(f"--output: another d2v embed is writing {folder}; wait for it, or stop it") from error
    return lock


def _sync(path: Path) -> None:
    """Have the system put a file, or the names in a folder, on the disk."""
    flags = os.O_RDWR
    if path.is_dir():
        if os.name == "nt":  # Windows does not open folders
            return
        flags = os.O_RDONLY
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
