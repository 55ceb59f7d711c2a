"""From a part of a corpus to lines of documents.

Neither a large file, nor a long line, nor a long document fills the memory; only a record of JSON lines or of a table
is held as a whole.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from d2v.modalities.text.corpus.corpus_files import Segment, reading_of
from d2v.modalities.text.line_blocks import BOM, decode, open_binary
from d2v.modalities.text.records import Records, open_records

PART, LINE, END = range(3)
"""What a text is: a part of a long line that goes on; a line, or the last part of one; the end of a document."""

Item = tuple[str, int]

_LONGEST = 1 << 16
# GPT-2's regular expression never looks over these: one space within a line, and the end of punctuation. So a line that
# is cut here has the same tokens.
_BORDER = re.compile(r"(?<=\S) (?=\S)|(?<=[^\s\w'])(?=[^\W_])")
_BLANK = " \t\r\v\f"


class SegmentReader:
    """Reads one segment.

    Args:
        segment: of a corpus.
        column: that holds the text.
        exact: whether :attr:`read_bytes` must be right after each text and not only now and then; that is slower.
    """

    def __init__(self, segment: Segment, column: str, exact: bool = False) -> None:
        self.segment = segment
        self._column, self._exact = column, exact
        self._invalid = 0
        self._raw: IO[bytes] | None = None
        self._records: Records | None = None
        self._position = 0  # of plain text: byte of the next line
        self._done = False

    def read(self) -> Iterator[Item]:
        """Lines that are not blank, and ends of documents; each document has a line.

        Raises:
            UserError: the file is damaged, or not what its name says.
        """
        kind = self.segment.kind
        if kind in ("text", "lines"):
            with open_binary(self.segment.path, "input") as (file, self._raw):
                if self.segment.start:
                    file.seek(self.segment.start - 1)
                    self._position = self.segment.start - 1
                    self._skip_line(file)
                yield from self._text(file) if kind == "text" else self._lines(file)
        else:
            self._records = open_records(Path(self.segment.path), reading=reading_of(self.segment, self._exact))
            for _, (text,) in self._records.rows([self._column]):
                if text:
                    yield from document(text)
        self._done = True

    @property
    def invalid_bytes(self) -> int:
        """Sequences of bytes that were no UTF-8, each now U+FFFD."""
        return self._invalid + (0 if self._records is None else self._records.invalid)

    @property
    def read_bytes(self) -> int:
        """How much of the segment was read so far, in bytes of the disk."""
        if self._done:
            return self.segment.size
        read = 0
        if self._records is not None:
            read = self._records.read_bytes
        elif self._raw is not None:
            read = self._raw.tell() - self.segment.start
        return min(read, self.segment.size)  # the last line may end behind it

    def _text(self, file: IO[bytes]) -> Iterator[Item]:
        """Documents before which the last blank line begins in the segment, and the first document of the file."""
        begun, inside = self.segment.start == 0, False
        while True:
            position = self._position
            line = self._read_line(file)
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
        while (start := self._position) < self.segment.stop:
            line = self._read_line(file)
            if not line:
                return
            if line.strip():
                yield from self._long_line(line, file, first=start == 0)
                yield "", END

    def _long_line(self, line: bytes, file: IO[bytes], first: bool) -> Iterator[Item]:
        """A line of which the beginning was read, in parts if it is long."""
        if first:
            line = line.removeprefix(BOM)
        rest = ""
        while len(line) == _LONGEST and not line.endswith(b"\n"):
            line, broken = _whole_characters(line)
            text = rest + self._decode(line)
            cut = last_border(text)
            yield text[:cut], PART
            rest = text[cut:]
            line = broken + self._read_line(file, _LONGEST - len(broken))
        yield rest + self._decode(line), LINE

    def _read_line(self, file: IO[bytes], limit: int | None = None) -> bytes:
        line = file.readline(_LONGEST if limit is None else limit)
        self._position += len(line)
        return line

    def _skip_line(self, file: IO[bytes]) -> None:
        while (line := self._read_line(file)) and not line.endswith(b"\n"):
            pass

    def _decode(self, line: bytes) -> str:
        text, invalid = decode(line.rstrip(b"\r\n"))
        self._invalid += invalid
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
