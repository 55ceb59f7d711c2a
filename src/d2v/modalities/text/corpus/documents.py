"""The documents of a part of a corpus, line by line.

Large files, long lines and long documents are never in memory as a whole; only a single record of JSON lines or of a
table is.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from d2v.modalities.text.corpus.corpus_files import NAME_IT, Segment
from d2v.modalities.text.numbered_lines import BOM, decode, open_binary
from d2v.modalities.text.records import Reading, Records, open_records

PART, LINE, END = range(3)
"""What an item is: part of a long line that goes on; a line, or the last part of one; the end of a document."""

Item = tuple[str, int]

_END_OF_RECORD: tuple[Item, Item] = (("", LINE), ("", END))
_LONGEST = 1 << 16
# GPT-2's regular expression always splits at a single space within a line and at the end of punctuation. So cutting a
# line there does not change its tokens.
_BORDER = re.compile(r"(?<=\S) (?=\S)|(?<=[^\s\w'])(?=[^\W_])")


class SegmentReader:
    """Reads one segment.

    Args:
        segment: the part of a file.
        column: the column that holds the text.
    """

    def __init__(self, segment: Segment, column: str) -> None:
        self.segment = segment
        self._column = column
        self._invalid = 0
        self._raw: IO[bytes] | None = None
        self._records: Records | None = None
        self._position = 0  # of plain text: byte of the next line
        self._done = False

    def read(self) -> Iterator[Item]:
        """Lines without the blanks around them, and ends of documents; each document has at least one line with text.

        As in fairseq (``multiprocessing_bpe_encoder.py --keep-empty``) empty lines between documents are lines: they
        come with the document before them. A line or record that is a document has one after it.

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
                if kind == "text":
                    yield from self._text(file)
                else:
                    yield from self._lines(file)
        else:
            reading = Reading("input", self.segment.start, self.segment.stop, NAME_IT)
            self._records = open_records(Path(self.segment.path), reading=reading)
            for _, (text,) in self._records.rows([self._column]):
                if text:
                    yield from document(text)
        self._done = True

    @property
    def invalid_bytes(self) -> int:
        """Sequences of bytes that were no valid UTF-8, each replaced by U+FFFD."""
        if self._records is not None:
            return self._records.invalid
        return self._invalid

    @property
    def read_bytes(self) -> int:
        """Bytes of the segment on the disk that were read so far."""
        if self._done:
            return self.segment.size
        read = 0
        if self._records is not None:
            read = self._records.read_bytes
        elif self._raw is not None:
            read = self._raw.tell() - self.segment.start
        return min(read, self.segment.size)  # the last line may end after it

    def _text(self, file: IO[bytes]) -> Iterator[Item]:
        """Documents whose preceding blank line begins in the segment, and the first document of the file."""
        ours, inside, blanks = self.segment.start == 0, False, 0
        while True:
            position = self._position
            line = self._read_line(file, _LONGEST)
            whole = len(line) < _LONGEST or line.endswith(b"\n")
            if line and whole and not line.strip():
                ours = position < self.segment.stop
                blanks += inside or self.segment.start == 0
                continue
            if not line and inside and not self.segment.in_last_file:
                blanks = max(blanks, 1)
            if inside and (blanks or not line):
                yield from [("", LINE)] * blanks
                yield "", END
                inside, blanks = False, 0
            if not line or (position >= self.segment.stop and not ours):
                return
            if ours:
                yield from [("", LINE)] * blanks  # that the file begins with
                inside, blanks = True, 0
                yield from self._long_line(line, file, first=position == 0)
            elif not whole:
                self._skip_line(file)

    def _lines(self, file: IO[bytes]) -> Iterator[Item]:
        while (start := self._position) < self.segment.stop:
            line = self._read_line(file, _LONGEST)
            if not line:
                return
            if line.strip() or (len(line) == _LONGEST and not line.endswith(b"\n")):  # words may come yet
                yield from self._long_line(line, file, first=start == 0)
                yield from _END_OF_RECORD

    def _long_line(self, line: bytes, file: IO[bytes], first: bool) -> Iterator[Item]:
        """A line whose beginning was read already, in parts if it is long."""
        if first:
            line = line.removeprefix(BOM)
        rest, begun = "", False
        while len(line) == _LONGEST and not line.endswith(b"\n"):
            line, broken = _whole_characters(line)
            text = rest + self._decode(line)
            if not begun:
                text = text.lstrip()
            cut = min(last_border(text), len(text.rstrip()))
            if cut:
                yield text[:cut], PART
                begun = True
            rest = text[cut:]
            line = broken + self._read_line(file, _LONGEST - len(broken))
        text = (rest + self._decode(line)).rstrip()
        yield text if begun else text.lstrip(), LINE

    def _read_line(self, file: IO[bytes], limit: int) -> bytes:
        line = file.readline(limit)
        self._position += len(line)
        return line

    def _skip_line(self, file: IO[bytes]) -> None:
        while (line := self._read_line(file, _LONGEST)) and not line.endswith(b"\n"):
            pass

    def _decode(self, line: bytes) -> str:
        text, invalid = decode(line.rstrip(b"\r\n"))
        self._invalid += invalid
        return text


def document(text: str) -> Iterator[Item]:
    """The lines of a whole document that are not blank, and its end; nothing if all are blank."""
    empty = True
    for line in text.split("\n"):
        line = line.strip()
        if not line:
            continue
        empty = False
        while len(line) > _LONGEST:
            cut = last_border(line[:_LONGEST])
            yield line[:cut], PART
            line = line[cut:]
        yield line, LINE
    if not empty:
        yield from _END_OF_RECORD


def last_border(text: str) -> int:
    """Where to cut a long text: at the last border between words in its second half, or else at its end."""
    cut = len(text)
    for match in _BORDER.finditer(text, len(text) // 2):
        cut = match.start()
    return cut


def utf8_size(text: str) -> int:
    """Bytes of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


def _whole_characters(data: bytes) -> tuple[bytes, bytes]:
    """Split off a character at the end whose UTF-8 is incomplete."""
    for length in range(1, min(4, len(data)) + 1):
        byte = data[-length]
        if byte >= 0xC0:  # begins a character of 2, 3 or 4 bytes
            if length < 2 + (byte >= 0xE0) + (byte >= 0xF0):
                return data[:-length], data[-length:]
            break
        if byte < 0x80:
            break
    return data, b""
