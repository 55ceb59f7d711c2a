"""Raw text on a disk: which files, of what kind, and how to cut them into pieces of work.

The cut depends on names and sizes alone, never on the number of workers.
"""

import glob
import itertools
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from d2v.data.file_index import fingerprint, list_files
from d2v.errors import UserError
from d2v.modalities.text.raw_files import COMPRESSED, Kind, is_text, kind_of, parquet_groups

log = logging.getLogger(__name__)

WHOLE = 1 << 62
"""The end of a file whose positions are not known before it is read."""

_GOLDEN = 0.6180339887498949
_FEWEST_JOBS = 64
_JOB_BYTES = (8 << 20, 256 << 20)


@dataclass(frozen=True)
class Segment:
    """Part of a file: what begins in it is read from it, to its end."""

    path: str
    kind: Kind
    start: int
    """Byte; of parquet the first group of rows."""
    stop: int
    size: int
    """Bytes on the disk, about."""


@dataclass(frozen=True)
class TextFile:
    """A file with text."""

    path: str
    size: int
    kind: Kind
    groups: int = 0
    """Of rows, of parquet."""

    @property
    def divisible(self) -> bool:
        """Whether one can begin to read at any byte."""
        return self.kind in ("text", "lines", "json", "tsv") and not self.path.lower().endswith(COMPRESSED)

    def segments(self, size: int) -> list[Segment]:
        """Cut into parts of about this size; what cannot be cut is one part."""
        units = self.groups if self.kind == "parquet" else self.size
        if not (self.divisible or self.kind == "parquet"):
            return [Segment(self.path, self.kind, 0, WHOLE, self.size)]
        count = max(1, min(units, round(self.size / size)))
        ends = [units * i // count for i in range(count + 1)]
        return [
            Segment(self.path, self.kind, start, stop, self.size * stop // units - self.size * start // units)
            for start, stop in itertools.pairwise(ends)
        ]


class Corpus:
    """Files of text in their order.

    Args:
        files: of which at least one is not empty.
        column: the column, or key of JSON, that holds the text.
    """

    def __init__(self, files: Sequence[TextFile], column: str) -> None:
        self.files = list(files)
        self.column = column
        self.size = sum(file.size for file in files)

    @classmethod
    def open(cls, inputs: Sequence[str], column: str = "text", exclude: Path | None = None) -> "Corpus":
        """Find the files.

        Args:
            inputs: files, folders (all text files below, in the order of their names, but no README, LICENSE and
                JSON about the data) and globs.
            column: of csv, tsv and parquet, or key of JSON lines, that holds the text.
            exclude: folder whose files are left out: it is written into.

        Raises:
            UserError: one does not exist or cannot be read, a table has no such column, or there is no text at all.
        """
        paths = list(dict.fromkeys(path for given in inputs for path in _files(given, column, exclude)))
        files = []
        for path in paths:
            try:
                size = os.path.getsize(path)
                kind = kind_of(path, column) if size else "text"
            except OSError as error:
                raise UserError(f"input {path}: cannot be read ({error.strerror or error})") from error
            groups = parquet_groups(path) if kind == "parquet" else 0
            if size and (groups or kind != "parquet"):
                files.append(TextFile(path, size, kind, groups))
        if not files:
            raise UserError(f"input {', '.join(inputs)}: there is no text, all {len(paths)} files are empty")
        return cls(files, column)

    @property
    def fingerprint(self) -> str:
        """Changes when a file is changed, added or removed."""
        return fingerprint(file.path for file in self.files)

    @property
    def line_files(self) -> list[str]:
        """Files of plain text in which each line is taken for a document."""
        return [file.path for file in self.files if file.kind == "lines"]

    def jobs(self) -> list[list[Segment]]:
        """Pieces of work of about the same size, in the order of the text."""
        least, most = _JOB_BYTES
        size = min(most, max(least, self.size // _FEWEST_JOBS))
        jobs: list[list[Segment]] = []
        room = 0
        for segment in (segment for file in self.files for segment in file.segments(size)):
            if room < segment.size // 2 or not jobs:
                jobs.append([])
                room = size
            jobs[-1].append(segment)
            room -= segment.size
        return jobs


def spread(number: int, count: int) -> int:
    """A place among ``count`` for each number: like multiples of the golden ratio, the first few lie far apart."""
    return int(number * _GOLDEN % 1 * count)


def _files(given: str, column: str, exclude: Path | None) -> list[str]:
    path = Path(given).expanduser()
    if path.is_dir():
        found = [os.path.join(path, name) for name in list_files(path, ("",))]
        if exclude is not None:
            below = os.path.join(os.path.realpath(exclude), "")
            found = [name for name in found if not os.path.realpath(name).startswith(below)]
        texts, others = list[str](), list[str]()
        for name in found:
            (texts if is_text(name, column) else others).append(name)
        if not texts:
            what = f"; {len(others)} files are none, such as {others[0]}" if others else ""
            raise UserError(f"input {given}: the folder holds no text{what}")
        if others:
            log.warning("%s: %d files are no text and are left out, such as %s", given, len(others), others[0])
        return [os.path.abspath(name) for name in texts]
    if path.exists():
        return [os.path.abspath(path)]
    matches = sorted(glob.glob(str(path), recursive=True))
    if not matches:
        what = "matches nothing" if glob.has_magic(given) else "does not exist"
        raise UserError(f"input {given}: {what}; give files, folders or globs")
    return [name for match in matches for name in _files(match, column, exclude)]
