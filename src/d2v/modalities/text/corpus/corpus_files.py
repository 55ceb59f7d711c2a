"""The files of a corpus: which they are, of what kind, and how they are cut into jobs.

The cut depends only on names and sizes, never on the number of workers.
"""

import glob
import itertools
import json
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from d2v.data.file_index import fingerprint, list_files
from d2v.data.sources.endings import count_endings, in_words
from d2v.data.sources.stores import require_disk
from d2v.errors import UserError
from d2v.modalities.text.numbered_lines import COMPRESSED, END, ending_of, open_binary, require_text
from d2v.modalities.text.records import Parquet, Reading, open_records
from d2v.text_files import UTF16

log = logging.getLogger(__name__)

Kind = Literal["text", "lines", "json", "csv", "tsv", "parquet"]
"""``text``: documents between blank lines; ``lines``: one document per line."""

NAME_IT = "--text_column NAME"
"""The option of `d2v prepare text` that names another column."""

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
    """Part of a file: the documents and records that begin in it, which may end after it."""

    path: str
    kind: Kind
    start: int
    """First byte; for Parquet the first row group."""
    stop: int
    size: int
    """Approximate bytes on the disk."""
    in_last_file: bool = False
    """Whether no other file comes after its own."""


@dataclass(frozen=True)
class TextFile:
    """A file with text."""

    path: str
    size: int
    kind: Kind
    groups: int = 0
    """Number of row groups, for Parquet."""
    utf16: bool = False
    """Whether it is in UTF-16, and recoded from its beginning on."""
    is_last: bool = False
    """Whether no other file comes after it."""

    @property
    def compressed(self) -> bool:
        return self.path.lower().endswith(COMPRESSED)

    @property
    def divisible(self) -> bool:
        """Whether reading can begin at any byte."""
        return self.kind in ("text", "lines", "json", "tsv") and not (self.compressed or self.utf16)

    def segments(self, size: int) -> list[Segment]:
        """Cut into parts of about this size; a file that cannot be cut is one part."""
        if not (self.divisible or self.groups):
            return [Segment(self.path, self.kind, 0, END, self.size, self.is_last)]
        units = self.groups or self.size
        count = max(1, min(units, round(self.size / size)))
        ends = [units * i // count for i in range(count + 1)]
        return [
            Segment(
                self.path, self.kind, start, stop, self.size * stop // units - self.size * start // units, self.is_last
            )
            for start, stop in itertools.pairwise(ends)
        ]


class Corpus:
    """Files of text in order.

    Args:
        files: at least one that is not empty.
        column: the column, or key in JSON, that holds the text.
    """

    def __init__(self, files: Sequence[TextFile], column: str) -> None:
        self.files = [*files[:-1], replace(files[-1], is_last=True)]
        self.column = column
        self.size = sum(file.size for file in files)

    @classmethod
    def open(cls, inputs: Sequence[str], column: str = "text", exclude: Path | None = None) -> "Corpus":
        """Find the files.

        Args:
            inputs: files, folders (all text files in them, in the order of their names, except README, LICENSE and
                JSON about the data) and globs.
            column: column of csv, tsv and parquet, or key in JSON lines, that holds the text.
            exclude: folder whose files are left out, because the output is written there.

        Raises:
            UserError: one does not exist or cannot be read, a table has no such column, or there is no text at all.
        """
        paths: dict[str, None] = {}  # each once, in order
        for given in inputs:
            paths.update(dict.fromkeys(_files(given, column, exclude)))
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
        """Files of plain text in which each line is taken as a document."""
        return [file.path for file in self.files if file.kind == "lines"]

    def jobs(self) -> list[list[Segment]]:
        """The segments of each job, in the order of the text; jobs have about the same size."""
        least, most = _JOB_BYTES
        size = min(most, max(least, self.size // _FEWEST_JOBS))
        jobs: list[list[Segment]] = []
        room = 0
        for file in self.files:
            for segment in file.segments(size):
                if room < segment.size // 2 or not jobs:
                    jobs.append([])
                    room = size
                jobs[-1].append(segment)
                room -= segment.size
        return jobs


def _text_file(path: str, column: str) -> TextFile | None:
    """Look at a file; None if it is empty.

    Plain text of more than one MiB without a blank line in the first MiB has one document per line: nobody writes
    such long paragraphs, and many corpora have one text per line.

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
            if not records.num_groups:
                return None
            return TextFile(path, size, kind, records.num_groups)
    require_text(path, "input")
    with open_binary(path, "input") as (file, raw):
        utf16 = raw.peek(2).startswith(UTF16)  # type: ignore[attr-defined]  # it is buffered
        head = b""
        if kind == "text" and (size > _HEAD or path.lower().endswith(COMPRESSED)):
            head = file.read(_HEAD + 1)
    lines = head.split(b"\n")[:-1]
    if len(head) > _HEAD and lines and all(map(bytes.strip, lines)):
        kind = "lines"
    return TextFile(path, size, kind, utf16=utf16)


def spread(number: int, count: int) -> int:
    """One of ``count`` places for each number; as multiples of the golden ratio, the first few lie far apart."""
    return int(number * _GOLDEN % 1 * count)


def _files(given: str, column: str, exclude: Path | None) -> list[str]:
    """Absolute paths of the files that a file, folder or glob stands for."""
    path = Path(given).expanduser()
    require_disk(given, "input")
    if path.is_dir():
        return _files_below(path, given, column, exclude)
    if path.exists():
        return [os.path.abspath(path)]
    matches = sorted(glob.glob(str(path), recursive=True))
    if not matches:
        what = "matches nothing" if glob.has_magic(given) else "does not exist"
        raise UserError(f"input {given}: {what}; give files, folders or globs")
    files: list[str] = []
    for match in matches:
        files += _files(match, column, exclude)
    return files


def _files_below(folder: Path, given: str, column: str, exclude: Path | None) -> list[str]:
    texts: list[str] = []
    others: list[str] = []
    for name in list_files(folder, ("",)):
        path = os.path.join(folder, name)
        if exclude is not None and os.path.realpath(path).startswith(os.path.join(os.path.realpath(exclude), "")):
            continue
        if is_text(path, column):
            texts.append(os.path.abspath(path))
        else:
            others.append(path)
    if not texts:
        what = f"; {len(others)} other files are not text, such as {others[0]}" if others else ""
        raise UserError(f"input {given}: the folder holds no text{what}")
    if others:
        kinds = in_words(count_endings(others))
        log.warning("%s: %d files are not text and are left out (%s), such as %s", given, len(others), kinds, others[0])
    return texts


def is_text(path: str, column: str) -> bool:
    """Whether to read a file of a folder: its ending decides, or whether its beginning is text.

    Files that only come with data are left out: README, LICENSE, and JSON that describes or configures something.
    """
    name, kind = os.path.basename(path).lower(), _KINDS.get(ending_of(path))
    if kind in (None, "text") and _ABOUT_DATA.match(name):
        return False
    if ending_of(path) == ".json":
        return name not in _OF_DATASETS and not _is_one_object(path, column)
    if kind is not None:
        return True
    try:
        require_text(path, "input")
    except UserError:
        return False
    return True


def _is_one_object(path: str, column: str) -> bool:
    """Whether JSON is a single object: one on several lines, or on one line and without the text."""
    try:
        with open_binary(path, "input") as (file, _):
            first, rest = file.readline(_HEAD), file.read(1024)
    except UserError:
        return False  # reading it will raise the error
    if not first.lstrip(b"\xef\xbb\xbf \t").startswith(b"{") or len(first) == _HEAD:
        return False
    try:
        record = json.loads(first.decode("utf-8-sig", "replace"))
    except ValueError:
        return True
    return column not in record and not rest.strip()
