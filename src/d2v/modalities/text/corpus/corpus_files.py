"""The files of a corpus: which ones, of what kind, and how to cut them into pieces of work.

The cut depends on names and sizes alone, never on the number of workers.
"""

import glob
import itertools
import json
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from d2v.data.file_index import fingerprint, list_files
from d2v.errors import UserError
from d2v.modalities.text.line_blocks import COMPRESSED, ending_of, open_binary
from d2v.modalities.text.records import END, Parquet, Reading, open_records

log = logging.getLogger(__name__)

Kind = Literal["text", "lines", "json", "csv", "tsv", "parquet"]
"""``text``: documents between blank lines; ``lines``: one document a line."""

NAME_IT = "--text_column NAME"
"""How `d2v prepare text` is told of another column."""

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
            return [Segment(self.path, self.kind, 0, END, self.size)]
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
            file = _text_file(path, column)
            if file is not None:
                files.append(file)
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


def reading_of(segment: Segment, exact: bool) -> Reading:
    """How its records are read: each must have a text.

    Args:
        segment: of a file with records.
        exact: whether one must know after each how many bytes were read.
    """
    return Reading("input", segment.start, segment.stop, NAME_IT, exact)


def _text_file(path: str, column: str) -> TextFile | None:
    """None if there is nothing in it.

    Plain text without a blank line in its first MiB has one document a line, if there is more than that: nobody writes
    so long a paragraph, and many corpora have a text a line.

    Raises:
        UserError: it is a table without the column, or cannot be read.
    """
    try:
        size = os.path.getsize(path)
    except OSError as error:
        raise UserError(f"input {path}: cannot be read ({error.strerror})") from error
    if not size:
        return None
    kind = _KINDS.get(ending_of(path), "text")
    if kind in ("csv", "tsv", "parquet"):
        records = open_records(Path(path), reading=Reading("input", how_to_name=NAME_IT))
        if column not in records.columns:
            raise UserError(
                f"input {path}: there is no column {column!r} among {', '.join(map(repr, records.columns))}; name the "
                f"one with the text: {NAME_IT}"
            )
        if isinstance(records, Parquet):
            records.require_text(column)
            return TextFile(path, size, kind, records.num_groups) if records.num_groups else None
    elif kind == "text" and (size > _HEAD or path.lower().endswith(COMPRESSED)):
        with open_binary(path, "input") as (file, _):
            head = file.read(_HEAD + 1)
        lines = head.split(b"\n")[:-1]
        if len(head) > _HEAD and lines and all(line.strip() for line in lines):
            kind = "lines"
    return TextFile(path, size, kind)


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


def is_text(path: str, column: str) -> bool:
    """Whether a file that nobody named is read: by its ending, else by having no NUL at its beginning.

    What lies beside data is not: README, LICENSE, and JSON that describes or configures something.
    """
    name, kind = os.path.basename(path).lower(), _KINDS.get(ending_of(path))
    if kind in (None, "text") and _ABOUT_DATA.match(name):
        return False
    if ending_of(path) == ".json":
        return name not in _OF_DATASETS and not _is_one_object(path, column)
    if kind is not None:
        return True
    try:
        with open_binary(path, "input") as (file, _):
            return b"\0" not in file.read(8192)
    except UserError:
        return False


def _is_one_object(path: str, column: str) -> bool:
    """Whether JSON is an object on several lines, or the only one and without the text."""
    try:
        with open_binary(path, "input") as (file, _):
            first, rest = file.readline(_HEAD), file.read(1024)
    except UserError:
        return False  # whoever reads it says so
    if not first.lstrip(b"\xef\xbb\xbf \t").startswith(b"{") or len(first) == _HEAD:
        return False
    try:
        record = json.loads(first.decode("utf-8-sig", "replace"))
    except ValueError:
        return True
    return column not in record and not rest.strip()
