"""Keeps rows of features on the disk as they are computed, so that a run that was killed can go on."""

import json
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
from d2v.whole_files import sync, write_text

PART_ROWS = 4_096
"""Most inputs of a part."""
PART_SECONDS = 10.0
"""Longest time between two parts: a killed run loses the work of so many seconds, and the current input."""

_PART_BYTES = 64 * 2**20  # vectors of a part, which are in memory until it is written
_SETTINGS, _LOCK = "settings.json", "lock"
_COUNTS = "d2v_counts"
_KNOWN = ["id", "num_frames", "first_frame", "duration"]


class RowJournal:
    """A folder ``OUTPUT.unfinished`` of Parquet files, which the output file is made of in the end.

    Rows are written in parts. A part is renamed to its final name when it is safely on the disk, and only then counts,
    however the process or the machine ends. Each part says how many inputs end in it; inputs without a row count, too.
    When a journal is opened again, rows of an input that was not complete are removed.

    Args:
        folder: Where it lies; it is made if it is not there.
        settings: How the features are made; kept in the folder.
        width: D.
        pooled: Whether each row has a single vector.
        share: Where several processes write, whose parts these are: :func:`named_share`. "": those of all of them.

    Raises:
        UserError: Another process has it open, or the folder cannot be written.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], width: int, pooled: bool, share: str = "") -> None:
        self.folder, self.width, self.pooled, self._share = folder, width, pooled, share
        self.num_done = 0
        """Inputs that need not be read again."""
        self.num_vectors = 0
        self.num_skipped = 0
        """Inputs among them that have no row."""
        self._waiting: list[Row | None] = []  # None is an input without a row
        self._waiting_bytes = 0
        self._last_commit = time.monotonic()
        vector = pa.list_(pa.float32(), width)
        self._schema = pa.schema(
            {
                "id": pa.string(),
                "num_frames": pa.int64(),
                "first_frame": pa.int64(),
                "duration": pa.float64(),
                "times": pa.large_list(pa.float64()),
                "embedding": vector if pooled else pa.large_list(vector),
            }
        )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(folder, share)
            if not (folder / _SETTINGS).is_file():
                write_text(folder / _SETTINGS, json.dumps(settings))
            self._recover()
        except OSError as error:
            raise UserError(f"--output: {folder} cannot be written ({error.strerror}); give another place") from error

    def write(self, row: Row) -> None:
        """Append a row."""
        if row.first_frame == 0 and not row.is_last:
            self.commit()  # so that a part in which no input ends holds the rows of one input
        self._waiting.append(row)
        self._waiting_bytes += row.features.nbytes
        self.num_vectors += row.num_vectors
        self.num_done += row.is_last
        self._commit_if_due()

    def skip(self) -> None:
        """Note that the next input has no row."""
        self._waiting.append(None)
        self.num_done += 1
        self.num_skipped += 1
        self._commit_if_due()

    def commit(self) -> None:
        """Write what was appended as a part, and wait until it is on the disk."""
        # Taken out first, so that after an interrupt in here no row is written twice.
        entries, self._waiting, self._waiting_bytes = self._waiting, [], 0
        if not entries:
            return
        rows = [row for row in entries if row is not None]
        num_skipped = len(entries) - len(rows)
        counts = {"inputs": num_skipped, "skipped": num_skipped, "vectors": 0}
        for row in rows:
            counts["inputs"] += row.is_last
            counts["vectors"] += row.num_vectors
        table = self._table(rows).replace_schema_metadata({_COUNTS: json.dumps(counts)})
        unfinished = self.folder / f"{self._share}part.unfinished"
        pq.write_table(table, unfinished, compression="none", use_dictionary=False, write_page_checksum=True)
        sync(unfinished)
        unfinished.replace(self.folder / f"{self._share}{len(self._parts()):06d}.parquet")
        sync(self.folder)
        self._last_commit = time.monotonic()

    def known(self) -> pa.Table:
        """The columns ``id``, ``num_frames``, ``first_frame`` and ``duration`` (seconds) of all rows."""
        self.commit()
        tables = []
        for part in self._parts():
            with pq.ParquetFile(part) as file:
                tables.append(file.read(_KNOWN))
        return pa.concat_tables(tables)

    def values(self, column: str) -> Iterator[np.ndarray]:
        """The column ``embedding`` (float32 [n, D]) or ``times`` (float64 [n]) of all rows, part by part."""
        for table in self._tables():
            array = flat_values(table[column])
            yield array.reshape(-1, self.width) if column == "embedding" else array

    def groups(self, most: int) -> Iterator[pa.Table]:
        """All rows in groups of at most ``most`` vectors (or one row). The groups do not depend on the parts."""
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
        """Write what was appended and release the lock; delete the folder if no input is done."""
        if not self._lock.is_locked:
            return
        if not self.num_done and not self._share:
            self.remove()
            return
        with suppress(OSError):  # such as a full disk: the parts before still count
            self.commit()
        self._lock.release()

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.release()

    def _commit_if_due(self) -> None:
        is_full = len(self._waiting) >= PART_ROWS or self._waiting_bytes >= _PART_BYTES
        if is_full or time.monotonic() - self._last_commit >= PART_SECONDS:
            self.commit()

    def _recover(self) -> None:
        """Count what is there, and remove the rows of an input that was not complete."""
        counts = [_counts(part) for part in self._parts()]
        for part in reversed(self._parts()):
            if counts[-1]["inputs"]:
                break
            part.unlink()
            counts.pop()
        for count in counts:
            self.num_done += count["inputs"]
            self.num_skipped += count["skipped"]
            self.num_vectors += count["vectors"]

    def _table(self, rows: list[Row]) -> pa.Table:
        none = np.empty((0, self.width), np.float32)
        vectors = np.concatenate([none, *(row.features.reshape(-1, self.width) for row in rows)])
        embedding = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), self.width)
        if not self.pooled:
            offsets = np.cumsum([0, *(row.num_vectors for row in rows)])
            embedding = pa.LargeListArray.from_arrays(pa.array(offsets), embedding)
        known = []
        for row in rows:
            values = (row.name, row.num_frames, row.first_frame, row.duration, row.times)
            known.append(dict(zip(self._schema.names, values, strict=False)))
        *fields, last = self._schema
        return pa.Table.from_pylist(known, pa.schema(fields)).append_column(last, embedding)

    def _parts(self) -> list[Path]:
        return _parts(self.folder, self._share)

    def _tables(self) -> Iterator[pa.Table]:
        """All rows, part by part."""
        self.commit()
        for part in self._parts():
            try:
                with pq.ParquetFile(part, page_checksum_verification=True) as file:
                    table = file.read().cast(self._schema)  # Parquet renames the items of lists
            except (OSError, pa.ArrowException) as error:
                raise _damaged(part, error) from error
            yield table


def named_share(rank: int) -> str:
    """What the names of its parts begin with: in the order of their ranks, shares follow each other."""
    return f"{rank:06d}-"


def inputs_done(folder: Path) -> int:
    """How many inputs the parts of all processes hold, whoever is writing."""
    return sum(_counts(part)["inputs"] for part in _parts(folder, ""))


def _parts(folder: Path, share: str) -> list[Path]:
    return sorted(folder.glob(f"{share}[0-9]*.parquet"))


def _counts(part: Path) -> dict[str, int]:
    try:
        return json.loads(pq.read_schema(part).metadata[_COUNTS.encode()])
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise _damaged(part, error) from error


def flat_values(column: pa.ChunkedArray) -> np.ndarray:
    """The numbers in a column of lists, or of lists of lists, as one array."""
    array = column.combine_chunks()
    while pa.types.is_nested(array.type):
        array = array.flatten()
    return array.to_numpy(zero_copy_only=False)


def _damaged(part: Path, error: Exception) -> UserError:
    reason = str(error).splitlines()[0]
    return UserError(f"{part} is damaged ({reason}): delete {part.parent}, or embed anew with --overwrite")


def discard(folder: Path) -> None:
    """Delete the journal in a folder.

    Raises:
        UserError: Another process has it open.
    """
    with _locked(folder):
        shutil.rmtree(folder, ignore_errors=True)


def read_settings(folder: Path) -> dict[str, Any] | None:
    """Settings of the journal in a folder; None if there is none."""
    try:
        settings = json.loads((folder / _SETTINGS).read_text())
    except (OSError, ValueError):
        return None
    return settings if isinstance(settings, dict) else None


def _locked(folder: Path, share: str = "") -> FileLock:
    lock = FileLock(folder / f"{share}{_LOCK}", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(f"--output: another d2v embed is writing {folder}; wait for it, or stop it") from error
    return lock
