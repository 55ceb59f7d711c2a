"""Text files that a user hands in: small ones are read here and nowhere else; and which bytes are text at all."""

import codecs
import json
import re
from pathlib import Path
from typing import Any

from d2v.errors import UserError

UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
"""What UTF-16 begins with, as Windows writes it ("Unicode")."""

_SHOULD_BE_UTF8 = (
    "save it as UTF-8, or convert it: `iconv -f ENCODING -t UTF-8 {path} > NEW`, where ENCODING is what it was written "
    "in, such as WINDOWS-1251 (Cyrillic), WINDOWS-1252 (Western), GB18030 (Chinese), UTF-16LE"
)
SETTINGS, _SMALL = 20_000_000, 200_000_000
"""Most bytes of a file of settings or names, and of any that is read as a whole: a tokenizer, a list of files."""
_CONTROL = re.compile(r"[\0-\x08\x0e-\x1a]")
_MOST_WRONG, _FREE = 0.01, 3


def read_text(path: str | Path, named: str = "", errors: str = "strict", most: int = _SMALL) -> str:
    """The content of a small file in UTF-8, or in UTF-16 with its byte order mark; a mark is no part of it.

    Args:
        path: The file.
        named: The key or option with which the user named it.
        errors: What becomes of bytes that are not UTF-8, as for :meth:`bytes.decode`.
        most: Bytes that it may have: it may be a stranger's, or a device that never ends.

    Raises:
        UserError: It cannot be read, is too large, or is in another encoding.
    """
    where = f"{named} {path}".strip()
    try:
        with Path(path).expanduser().open("rb") as file:
            data = file.read(most + 1)
        if len(data) > most:
            raise UserError(f"{where}: has more than {most / 1e6:,.0f} MB, which no such file has; give another")
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


def read_lines(path: str | Path, named: str, most: int = _SMALL) -> list[str]:
    """The lines of a small file without their ends; only line feeds and carriage returns end a line.

    Args and errors are those of :func:`read_text`.
    """
    return read_text(path, named, most=most).removesuffix("\n").split("\n")


def read_json(path: str | Path, named: str = "") -> dict[str, Any]:
    """The object in a JSON file of settings or names.

    Args and errors are those of :func:`read_text`; it is also an error if the file holds something else.
    """
    where = f"{named} {path}".strip()
    try:
        value = json.loads(read_text(path, named, most=SETTINGS))
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not readable as JSON ({error})") from error
    if not isinstance(value, dict):
        raise UserError(f"{where}: holds a {type(value).__name__}, where an object belongs")
    return value


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
