"""Lines of text from files, compressed or not."""

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

from d2v.data.unpacking import Counted
from d2v.errors import UserError
from d2v.text_files import UTF16, why_not_text

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
BOM = b"\xef\xbb\xbf"
"""What some editors write at the beginning of a file in UTF-8; it is not part of the text."""
END = 1 << 62
"""The end of a file whose size is not known before it is read."""
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


class NumberedLines:
    """The lines of a file as text without their ends, one after the other.

    Args:
        file: A file whose position is the beginning of a line.
        position: That position in uncompressed bytes.
        line: The number of that line.
        stop: Where those end that :meth:`numbered` gives.
    """

    def __init__(self, file: IO[bytes], position: int = 0, line: int = 1, stop: int = END) -> None:
        self.position, self.line = position, line
        self.invalid = 0
        """Places that were no valid UTF-8."""
        self.stop = stop
        self._file = file

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline()
        if not line:
            raise StopIteration
        start, self.position = self.position, self.position + len(line)
        self.line += 1
        line = line.removesuffix(b"\n").removesuffix(b"\r")
        if start == 0:
            line = line.removeprefix(BOM)
        text, invalid = decode(line)
        self.invalid += invalid
        return text

    def numbered(self) -> Iterator[tuple[int, str]]:
        """Those that begin before the stop, with their numbers."""
        while self.position < self.stop:
            text = next(self, None)
            if text is None:
                return
            yield self.line - 1, text


def decode(data: bytes) -> tuple[str, int]:
    """A text from UTF-8, and how many places were no valid UTF-8 and became U+FFFD."""
    try:
        return data.decode(), 0
    except UnicodeDecodeError:
        text = data.decode(errors="replace")
        return text, text.count("\ufffd") - data.count(b"\xef\xbf\xbd")
