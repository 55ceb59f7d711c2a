"""Rows of features on the disk as they come, so that a run that was stopped, however roughly, can go on."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from d2v.errors import UserError
from d2v.features.encode import Row

COMMIT_SECONDS = 5.0
"""Most that a run loses when it is killed, the input that it was at aside."""

_SETTINGS, _ROWS, _VECTORS, _TIMES = "settings.json", "rows.jsonl", "embedding.f32", "times.f64"


@dataclass(frozen=True)
class RowIndex:
    """All rows of a journal but for their vectors; n of them."""

    names: list[str]
    ends: np.ndarray
    """int64 [n]: behind its last vector, among those of all rows."""
    num_frames: np.ndarray
    """int64 [n]."""
    first_frames: np.ndarray
    """int64 [n]."""
    durations: np.ndarray | None
    """float64 [n], seconds."""


class RowJournal:
    """A folder ``OUTPUT.unfinished`` that rows are appended to, until an output file is made of them.

    Vectors go to one file, and what is known about each row to another, a line each, which is written when the vectors
    are safely on the disk. So what the lines tell is true after any end of the process or of the machine; what was
    appended behind it is cut off when the journal is opened again. Inputs come in their order, and one counts when all
    of its rows are there, or when it is known to have none.

    Args:
        folder: that holds it.
        settings: what the features are; a journal of others is not continued.
        width: of the vectors, D.
        pooled: whether a row has one vector.

    Raises:
        UserError: another process writes it, or nothing can be written there.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], width: int, pooled: bool) -> None:
        self.folder, self.width, self.pooled = folder, width, pooled
        self.num_done = 0
        """Inputs that need not be read again."""
        self.num_vectors = 0
        self.num_skipped = 0
        """Those of the done inputs that have no row."""
        self._pending: list[str] = []
        self._last_commit = time.monotonic()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lines = (folder / _ROWS).open("a+b")
            _lock(self._lines, folder)
            if not (folder / _SETTINGS).is_file():
                (folder / f"{_SETTINGS}.new").write_text(json.dumps(settings))
                (folder / f"{_SETTINGS}.new").replace(folder / _SETTINGS)
            self._times: IO[bytes] = (folder / _TIMES).open("ab")
            self._vectors: IO[bytes] = (folder / _VECTORS).open("ab")
            self._recover()
        except OSError as error:
            raise UserError(f"--output: {folder} cannot be written ({error.strerror}); give another place") from error

    def write(self, row: Row) -> None:
        """Append a row."""
        self._vectors.write(np.ascontiguousarray(row.features).data)
        if row.times is not None:
            self._times.write(np.ascontiguousarray(row.times).data)
        count = 1 if row.features.ndim == 1 else len(row.features)
        is_last = self.pooled or row.first_frame + count == row.num_frames
        self.num_vectors += count
        self._append([row.name, count, row.num_frames, row.first_frame, row.duration, int(is_last)])
        self.num_done += is_last

    def skip(self, name: str) -> None:
        """Note that the next input has no row."""
        self._append([name])
        self.num_done += 1
        self.num_skipped += 1

    def commit(self) -> None:
        """Put all that was appended on the disk."""
        for file in (self._vectors, self._times):
            file.flush()
            os.fsync(file.fileno())
        lines, self._pending = self._pending, []  # first: an interrupt must not leave them to be written twice
        self._lines.write("".join(lines).encode())
        self._lines.flush()
        os.fsync(self._lines.fileno())
        self._last_commit = time.monotonic()

    def index(self) -> RowIndex:
        """All rows, in their order."""
        self.commit()
        rows = [entry for entry, _ in self._entries() if len(entry) > 1]
        columns = np.array([entry[1:4] for entry in rows], dtype=np.int64).reshape(-1, 3)
        has_durations = bool(rows) and rows[0][4] is not None
        return RowIndex(
            names=[entry[0] for entry in rows],
            ends=np.cumsum(columns[:, 0]),
            num_frames=columns[:, 1],
            first_frames=columns[:, 2],
            durations=np.array([entry[4] for entry in rows], dtype=np.float64) if has_durations else None,
        )

    def vectors(self) -> np.ndarray:
        """float32 [vectors, D], on the disk."""
        return np.memmap(self.folder / _VECTORS, np.float32, "r", shape=(self.num_vectors, self.width))

    def times(self) -> np.ndarray | None:
        """float64 [vectors], seconds at the centres of frames, on the disk; None where there are none."""
        if not (self.folder / _TIMES).stat().st_size:
            return None
        return np.memmap(self.folder / _TIMES, np.float64, "r", shape=(self.num_vectors,))

    def close(self) -> None:
        """Release what is open; what was appended stays, unless it is not one input."""
        if self._lines.closed:
            return
        if not self.num_done:
            self.remove()
            return
        with suppress(OSError):  # no space is left, say: what was committed before is still true
            self.commit()
        for file in (self._vectors, self._times, self._lines):
            file.close()

    def remove(self) -> None:
        """Delete it."""
        for file in (self._vectors, self._times, self._lines):
            file.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _append(self, entry: list[Any]) -> None:
        self._pending.append(json.dumps(entry) + "\n")
        if time.monotonic() - self._last_commit >= COMMIT_SECONDS:
            self.commit()

    def _entries(self) -> Iterator[tuple[list[Any], int]]:
        """Each line, and the position behind it; no unfinished one."""
        self._lines.seek(0)
        position = 0
        for line in self._lines:
            if not line.endswith(b"\n"):
                return
            position += len(line)
            yield json.loads(line), position

    def _recover(self) -> None:
        """Find what is there, and cut off what belongs to an input that is not complete."""
        end = vectors = counted = 0
        for entry, position in self._entries():
            if len(entry) == 1:
                self.num_skipped += 1
            else:
                counted += entry[1]
            if len(entry) == 1 or entry[5]:
                self.num_done += 1
                end, vectors = position, counted
        timed = vectors if (self.folder / _TIMES).stat().st_size else 0
        self.num_vectors = vectors
        self._lines.truncate(end)
        self._vectors.truncate(vectors * self.width * 4)
        self._times.truncate(timed * 8)


def discard(folder: Path) -> None:
    """Delete the journal in a folder.

    Raises:
        UserError: another process writes it.
    """
    with (folder / _ROWS).open("a+b") as lines:
        _lock(lines, folder)
        shutil.rmtree(folder, ignore_errors=True)


def _lock(lines: IO[bytes], folder: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows has none; two processes there must not write one output
        return
    try:
        fcntl.flock(lines, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lines.close()
        raise UserError(f"--output: another d2v embed is writing {folder}; wait for it, or stop it") from error


def read_settings(folder: Path) -> dict[str, Any] | None:
    """What the journal in a folder holds features of; None if there is none, or nothing to continue."""
    try:
        settings = json.loads((folder / _SETTINGS).read_text())
    except (OSError, ValueError):
        return None
    return settings if isinstance(settings, dict) else None
