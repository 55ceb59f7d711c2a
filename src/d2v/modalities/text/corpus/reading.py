"""From a part of a corpus to lines of documents.

Neither a large file, nor a long line, nor a long document fills the memory; only a record of JSON lines or of a table
is held as a whole.
"""

import csv
import json
import re
from collections.abc import Iterator
from typing import IO

from d2v.errors import UserError
from d2v.modalities.text.corpus.files import Segment
from d2v.modalities.text.raw_files import NAME_IT, header, open_binary, open_parquet, table_column
from d2v.modalities.text.tokenizer import without_surrogates

PART, LINE, END = range(3)
"""What a text is: a part of a long line that goes on; a line, or the last part of one; the end of a document."""

Item = tuple[str, int]

_LONGEST = 1 << 16
# GPT-2's regular expression never looks over these: one space within a line, and the end of punctuation. So a line that
# is cut here has the same tokens.
_BORDER = re.compile(r"(?<=\S) (?=\S)|(?<=[^\s\w'])(?=[^\W_])")
_BLANK = " \t\r\v\f"
_BOM = b"\xef\xbb\xbf"


class SegmentReader:
    """Reads one segment.

    Args:
        segment: of a corpus.
        column: that holds the text.
    """

    def __init__(self, segment: Segment, column: str) -> None:
        self.segment = segment
        self.invalid_bytes = 0
        """Sequences of bytes that were no UTF-8, each now U+FFFD."""
        self._column = column
        self._raw: IO[bytes] | None = None
        self._done = 0

    def read(self) -> Iterator[Item]:
        """Lines that are not blank, and ends of documents; each document has a line.

        Raises:
            UserError: the file is damaged, or not what its name says.
        """
        kind = self.segment.kind
        try:
            if kind == "parquet":
                yield from self._parquet()
                return
            with open_binary(self.segment.path) as (file, raw):
                if self.segment.start:
                    # To the first line that begins in the segment.
                    file.seek(self.segment.start - 1)
                    self._skip_line(file)
                self._raw = raw
                read = {
                    "text": self._text,
                    "lines": self._lines,
                    "json": self._json,
                    "csv": self._csv,
                    "tsv": self._tsv,
                }
                yield from read[kind](file)
        except OSError as error:
            raise UserError(f"input {self.segment.path}: cannot be read ({error.strerror or error})") from error
        finally:
            self._raw, self._done = None, self.segment.size

    @property
    def read_bytes(self) -> int:
        """How much of the segment was read so far, in bytes of the disk."""
        if self._raw is None:
            return self._done
        return min(self._raw.tell() - self.segment.start, self.segment.size)  # the last line may end behind it

    def _text(self, file: IO[bytes]) -> Iterator[Item]:
        """Documents before which the last blank line begins in the segment, and the first document of the file."""
        begun, inside = self.segment.start == 0, False
        while True:
            position = file.tell()
            line = file.readline(_LONGEST)
            whole = len(line) < _LONGEST or line.endswith(b"\n")
            if whole and not line.strip():  # blank, or the end of the file
                if inside:
                    yield "", END
                if not line or position >= self.segment.stop:
                    return
                begun, inside = True, False
            elif begun:
                inside = True
                yield from self._long_line(line, file, first=position == 0)
            elif position >= self.segment.stop:
                return
            elif not whole:
                self._skip_line(file)

    def _lines(self, file: IO[bytes]) -> Iterator[Item]:
        while (start := file.tell()) < self.segment.stop:
            line = file.readline(_LONGEST)
            if not line:
                return
            if line.strip():
                yield from self._long_line(line, file, first=start == 0)
                yield "", END

    def _json(self, file: IO[bytes]) -> Iterator[Item]:
        for start, line in self._records(file):
            where = f"input {self.segment.path}, the line at byte {start:,}"
            decoded = self._decode(line, first=start == 0)
            if decoded.lstrip().startswith("["):
                raise UserError(
                    f"{where}: is or begins an array; write one object a line (JSON lines), as `jq -c '.[]' FILE` does"
                )
            try:
                record = json.loads(decoded)
            except ValueError as error:
                raise UserError(
                    f"{where}: is no JSON ({error}); each line is an object, its text under a key"
                ) from error
            if not isinstance(record, dict) or self._column not in record:
                has = f"only {', '.join(map(repr, record))}" if isinstance(record, dict) else "no object"
                raise UserError(
                    f"{where}: expected an object with the key {self._column!r}, there is {has}; name the key of the "
                    f"text: {NAME_IT}"
                )
            text = record[self._column]
            if text is not None and not isinstance(text, str):
                raise UserError(f"{where}: {self._column!r} is no text but {type(text).__name__}")
            yield from document(without_surrogates(text or ""))

    def _tsv(self, file: IO[bytes]) -> Iterator[Item]:
        """A tab separates, a line is a row, and a quote is text."""
        with open_binary(self.segment.path) as (beginning, _):
            index = table_column(header(beginning, "tsv"), self.segment.path, self._column)
        for start, line in self._records(file):
            if start == 0:
                continue
            cells = self._decode(line).split("\t")
            if len(cells) <= index:
                raise UserError(
                    f"input {self.segment.path}, the line at byte {start:,}: has {len(cells)} cells, and the text "
                    f"should be in number {index + 1}"
                )
            yield from document(cells[index])

    def _csv(self, file: IO[bytes]) -> Iterator[Item]:
        csv.field_size_limit(1 << 31)
        lines = enumerate(iter(file.readline, b""))
        rows = csv.reader(self._decode(line, first=number == 0, keep_end=True) for number, line in lines)
        index = table_column(next(rows), self.segment.path, self._column)
        try:
            for row in rows:
                if row and len(row) <= index:
                    raise UserError(
                        f"input {self.segment.path}, line {rows.line_num}: has {len(row)} cells, and the text should "
                        f"be in number {index + 1}"
                    )
                if row:
                    yield from document(row[index])
        except csv.Error as error:
            raise UserError(f"input {self.segment.path}, line {rows.line_num}: is no csv ({error})") from error

    def _parquet(self) -> Iterator[Item]:
        import pyarrow  # type: ignore[import-untyped]

        file = open_parquet(self.segment.path)
        groups = range(self.segment.start, self.segment.stop)
        rows = max(1, sum(file.metadata.row_group(group).num_rows for group in groups))
        done = 0
        try:
            for batch in file.iter_batches(batch_size=64, row_groups=list(groups), columns=[self._column]):
                for text in batch.column(0).to_pylist():
                    yield from document(text or "")
                done += len(batch)
                self._done = self.segment.size * done // rows
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise UserError(f"input {self.segment.path}: cannot be read as parquet ({error})") from error

    def _records(self, file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
        """Lines that begin in the segment and are not blank, and where."""
        while (start := file.tell()) < self.segment.stop:
            line = file.readline()
            if not line:
                return
            if line.strip():
                yield start, line

    def _long_line(self, line: bytes, file: IO[bytes], first: bool) -> Iterator[Item]:
        """A line of which the beginning was read, in parts if it is long."""
        rest = ""
        while len(line) == _LONGEST and not line.endswith(b"\n"):
            line, broken = _whole_characters(line)
            text = rest + self._decode(line, first=first)
            cut = last_border(text)
            yield text[:cut], PART
            rest, first = text[cut:], False
            line = broken + file.readline(_LONGEST - len(broken))
        yield rest + self._decode(line, first=first), LINE

    def _skip_line(self, file: IO[bytes]) -> None:
        while (line := file.readline(_LONGEST)) and not line.endswith(b"\n"):
            pass

    def _decode(self, line: bytes, first: bool = False, keep_end: bool = False) -> str:
        if first:
            line = line.removeprefix(_BOM)
        if not keep_end:
            line = line.rstrip(b"\r\n")
        try:
            return line.decode()
        except UnicodeDecodeError:
            text = line.decode("utf-8", "replace")
            self.invalid_bytes += text.count("\ufffd") - line.count(b"\xef\xbf\xbd")
            return text


def document(text: str) -> Iterator[Item]:
    """Lines of a whole document that are not blank, and its end; nothing if all are."""
    empty = True
    for line in text.split("\n"):
        line = line.rstrip("\r")
        if not line.strip(_BLANK):
            continue
        empty = False
        while len(line) > _LONGEST:
            cut = last_border(line[:_LONGEST])
            yield line[:cut], PART
            line = line[cut:]
        yield line, LINE
    if not empty:
        yield "", END


def last_border(text: str) -> int:
    """Where to cut a long text: at the last border of two words, else at its end."""
    cut = len(text)
    for cut in (match.start() for match in _BORDER.finditer(text, len(text) // 2)):  # noqa: B007
        pass
    return cut


def _whole_characters(data: bytes) -> tuple[bytes, bytes]:
    """Cut off a character of UTF-8 that is not complete."""
    for length in range(1, min(4, len(data)) + 1):
        byte = data[-length]
        if byte >= 0xC0:  # begins a character of 2, 3 or 4 bytes
            complete = length >= (2 if byte < 0xE0 else 3 if byte < 0xF0 else 4)
            return (data, b"") if complete else (data[:-length], data[-length:])
        if byte < 0x80:
            break
    return data, b""
