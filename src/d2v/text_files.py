"""Text files that a user hands in: small ones are read here and nowhere else; and which bytes are text at all."""

import codecs
import re
from pathlib import Path

from d2v.errors import UserError

UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
"""What UTF-16 begins with, as Windows writes it ("Unicode")."""

_SHOULD_BE_UTF8 = (
    "save it as UTF-8, or convert it: `iconv -f ENCODING -t UTF-8 {path} > NEW`, where ENCODING is what it was written "
    "in, such as WINDOWS-1251 (Cyrillic), WINDOWS-1252 (Western), GB18030 (Chinese), UTF-16LE"
)
_CONTROL = re.compile(r"[\0-\x08\x0e-\x1a]")
_MOST_WRONG, _FREE = 0.01, 3


def read_text(path: str | Path, named: str = "", errors: str = "strict") -> str:
    """The content of a small file in UTF-8, or in UTF-16 with its byte order mark; a mark is no part of it.

    Args:
        path: The file.
        named: The key or option with which the user named it.
        errors: What becomes of bytes that are not UTF-8, as for :meth:`bytes.decode`.

    Raises:
        UserError: It cannot be read, or is in another encoding.
    """
    where = f"{named} {path}".strip()
    try:
        data = Path(path).expanduser().read_bytes()
        encoding = "utf-8-sig"
        if data.startswith(UTF16):
            encoding = "utf-16"
        text = data.decode(encoding, errors)
    except OSError as error:
        raise UserError(f"{where}: not readable ({error.strerror})") from error
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(
            f"{where}: is not UTF-8 (byte 0x{data[error.start]:02X} in line {line}); "
            f"{_SHOULD_BE_UTF8.format(path=path)}"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: str | Path, named: str) -> list[str]:
    """The lines of a small file without their ends; only line feeds and carriage returns end a line.

    Args and errors are those of :func:`read_text`.
    """
    return read_text(path, named).removesuffix("\n").split("\n")


def why_not_text(head: bytes, path: str | Path) -> str | None:
    """Why a file is not read as text, and what to do; None if it is UTF-8, or UTF-16 with its byte order mark.

    A few invalid bytes or control characters are no reason: whoever reads the text replaces them.

    Args:
        head: The first bytes of the file, some thousands.
        path: Its name for the message.
    """
    if head.startswith(UTF16):
        return None
    text = head.decode(errors="replace")
    wrong = text.count("\ufffd") - head.count("\ufffd".encode()) + 2 * len(_CONTROL.findall(text))
    if wrong - _FREE <= _MOST_WRONG * len(text):
        return None
    return f"is not UTF-8 text (or not text at all); {_SHOULD_BE_UTF8.format(path=path)}"
