"""Whole lines of text from files, compressed or not, block by block."""

import bz2
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from d2v.data.unpacking import Counted
from d2v.errors import UserError
from d2v.text_files import UTF16, why_not_text

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
BOM = b"\xef\xbb\xbf"
"""What some editors write at the beginning of a file in UTF-8; it is not part of the text."""
_HEAD = 1 << 13


def ending_of(path: str | Path) -> str:
    """The ending of a file's name in lower case, without the one of a compression: ``.csv`` for ``a.CSV.gz``."""
    stem, last = os.path.splitext(os.path.basename(path).lower())
    if last in COMPRESSED:
        last = os.path.splitext(stem)[1]
    return last


@contextmanager
def open_binary(path: str | Path, source: str) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """A file as bytes of UTF-8, uncompressed, and the file on the disk, whose position tells how much of it was read.

    What begins with the byte order mark of UTF-16 is recoded.

    Raises:
        UserError: The file is damaged, cut short, or cannot be read.
    """
    try:
        with open(path, "rb", buffering=1 << 18) as raw:
            last = os.path.splitext(path)[1].lower()
            file: Any = raw
            if last == ".gz":
                file = gzip.GzipFile(fileobj=raw)
            elif last == ".bz2":
                file = bz2.BZ2File(raw)
            elif last == ".xz":
                file = lzma.LZMAFile(raw)  # noqa: SIM115  (raw is closed)
            elif last == ".zst":
                import pyarrow as pa  # type: ignore[import-untyped]  # Python has it from 3.14 on

                file = pa.CompressedInputStream(raw, "zstd")
            if file is not raw:
                file = io.BufferedReader(Counted(file, raw, path), 1 << 18)
            if file.peek(2).startswith(UTF16):
                file = io.BufferedReader(_Recoded(file), 1 << 18)
            yield file, raw
    except (EOFError, lzma.LZMAError, zlib.error) as error:
        raise UserError(f"{source} {path}: is damaged ({error}); get it again") from error
    except OSError as error:
        if error.errno is None:  # gzip, bz2 and zstd complain about the content
            raise UserError(f"{source} {path}: is damaged ({error}); get it again") from error
        raise UserError(f"{source} {path}: cannot be read ({error.strerror})") from error


def require_text(path: str | Path, source: str) -> None:
    """Look at the beginning of a file, compressed or not.

    Raises:
        UserError: It is not text in UTF-8 or UTF-16, is damaged, or cannot be read.
    """
    with open_binary(path, source) as (file, _):
        reason = why_not_text(file.peek(_HEAD)[:_HEAD], path)  # type: ignore[attr-defined]  # it is buffered
    if reason is not None:
        raise UserError(f"{source} {path}: {reason}")


class _Recoded(io.RawIOBase):
    """UTF-16 with its byte order mark, as UTF-8 without one."""

    def __init__(self, file: IO[bytes]) -> None:
        self._text = io.TextIOWrapper(file, encoding="utf-16", errors="replace", newline="")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._text.read(len(buffer) // 4).encode()  # a character takes at most 4 bytes
        buffer[: len(data)] = data
        return len(data)


class LineBlocks:
    """The lines of a file, block by block.

    Args:
        file: A file whose position is the beginning of a line.
        position: That position in uncompressed bytes.
        line: The number of that line.
        stop: No block begins at this byte or later.
        size: Approximate bytes of a block.
    """

    def __init__(self, file: IO[bytes], position: int, line: int, stop: int, size: int) -> None:
        self.position, self.line = position, line
        self.invalid = 0
        self._file, self._stop, self._size = file, stop, size

    def next(self, quoted: bool) -> tuple[int, bytes]:
        """The number of the first line and the next block of lines, which is empty at the end.

        Args:
            quoted: Whether to keep the lines of a quoted cell together, if there are not too many of them.
        """
        first_line, at_start = self.line, self.position == 0
        block = self._file.read(max(0, min(self._size, self._stop - self.position)))
        if block and not block.endswith(b"\n"):
            block += self._file.readline()
        if quoted and self._size > 1 and _count(block, b'"') % 2:
            block += self._rest_of_cell()
        self.position += len(block)
        self.line += count_lines(block)
        if at_start:
            block = block.removeprefix(BOM)
        return first_line, block

    def lines(self, block: bytes) -> Iterator[str]:
        """The lines of a block without their ends, and, if more are asked for, the lines after it."""
        for line in block.removesuffix(b"\n").split(b"\n"):
            yield self._decode(line)
        while line := self._file.readline():
            self.position += len(line)
            self.line += 1
            yield self._decode(line.removesuffix(b"\n"))

    def _rest_of_cell(self) -> bytes:
        lines: list[bytes] = []
        size = 0
        while size < self._size and (line := self._file.readline()):
            lines.append(line)
            size += len(line)
            if line.count(b'"') % 2:
                break
        return b"".join(lines)

    def _decode(self, line: bytes) -> str:
        text, invalid = decode(line.removesuffix(b"\r"))
        self.invalid += invalid
        return text


def decode(data: bytes) -> tuple[str, int]:
    """A text from UTF-8, and how many places were no valid UTF-8 and became U+FFFD."""
    try:
        return data.decode(), 0
    except UnicodeDecodeError:
        text = data.decode(errors="replace")
        return text, text.count("\ufffd") - data.count(b"\xef\xbf\xbd")


def count_lines(block: bytes) -> int:
    """The number of lines in a block; the last need not have an end."""
    return _count(block, b"\n") + (not block.endswith(b"\n"))


def _count(block: bytes, byte: bytes) -> int:
    # several times as fast as bytes.count
    return int(np.count_nonzero(np.frombuffer(block, np.uint8) == ord(byte)))
