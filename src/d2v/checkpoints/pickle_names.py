"""What a pickle names, found by reading its opcodes: nothing is imported or called."""

import io
import pickle
import pickletools
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

_HARMLESS = ("torch.", "torch._utils ", "collections ", "numpy", "argparse ", "omegaconf.")
_LARGEST = 64_000_000
"""Bytes of pickles that are looked at; those of a checkpoint are a few hundred kilobytes."""


def foreign_names(path: Path) -> list[str]:
    """Functions and classes, as "module.name", that pickles in a file name and a checkpoint has no need of.

    A help for messages: a file can hide them, and none is a proof that it is harmless.

    Args:
        path: A torch file of any age, or a bare pickle.
    """
    names: dict[str, None] = {}
    try:
        for data in _pickles(path):
            names.update(dict.fromkeys(_named(data)))
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error):
        pass
    return [name.replace(" ", ".") for name in names if not name.startswith(_HARMLESS)]


def _pickles(path: Path) -> Iterator[io.BytesIO]:
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            yield io.BytesIO(file.read(_LARGEST))
        return
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.filename.endswith(".pkl") and entry.file_size <= _LARGEST:
                yield io.BytesIO(archive.read(entry))


def _named(stream: io.BytesIO) -> Iterator[str]:
    """Names, as "module name", in the pickles that follow each other in a stream."""
    strings: list[str] = []  # STACK_GLOBAL takes the last two
    memo: dict[int, str] = {}
    try:
        while True:
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name in ("GLOBAL", "INST"):
                    yield str(argument)
                elif opcode.name == "STACK_GLOBAL" and len(strings) > 1:
                    yield " ".join(strings[-2:])
                elif isinstance(argument, str):
                    strings.append(argument)
                elif opcode.name == "MEMOIZE" and strings:
                    memo[len(memo)] = strings[-1]
                elif opcode.name in ("BINGET", "LONG_BINGET") and argument in memo:
                    strings.append(memo[argument])
    except (ValueError, pickle.UnpicklingError, UnicodeDecodeError, IndexError, OverflowError):
        return  # the storages behind them, or the end
