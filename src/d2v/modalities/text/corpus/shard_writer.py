"""Writing token shards: a file is either complete or not there."""

import hashlib
import json
import os
from array import array
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from d2v.modalities.text.corpus.shards import FORMAT, INDEX, SPLITS
from d2v.modalities.text.tokenizer import TextTokenizer
from d2v.modalities.text.tokenizer_files import TOKENIZER
from d2v.whole_files import sync, write_text

PART = ".part"
"""Ending of a file that is being written."""


def dtype_for(tokenizer: TextTokenizer) -> str:
    """The smaller type that holds all ids: ``uint16`` or ``uint32``."""
    return "uint16" if len(tokenizer) <= 1 << 16 else "uint32"


class ShardWriter:
    """One shard, which gets its name when it is complete.

    Args:
        folder: the folder to write into.
        split: ``train`` or ``val``.
        number: number of the shard.
        dtype: type of the ids.
    """

    def __init__(self, folder: Path, split: str, number: int, dtype: str) -> None:
        self._path = folder / f"{split}-{number:05d}.bin"
        self._part = folder / f"{self._path.name}.{os.getpid()}{PART}"
        self._file = self._part.open("wb", buffering=1 << 20)
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._digest = hashlib.blake2b(digest_size=16)
        self._size = 0
        self._ends = array("q")

    def write(self, ids: bytes) -> None:
        """Add ids, as bytes of the type of the shard."""
        self._file.write(ids)
        self._digest.update(ids)
        self._size += len(ids)

    def end_document(self) -> None:
        """Finish a document, which must have at least one id."""
        self._ends.append(self._size // self._dtype.itemsize)

    def close(self) -> dict[str, Any] | None:
        """Finish the shard; returns its entry for the index, or None, and leaves no file, if it has no document."""
        if not self._ends:
            self.discard()
            return None
        _settle(self._file)
        ends = np.array(self._ends, dtype="<i8")
        ends_path = self._path.with_suffix(".ends.npy")
        ends_part = self._part.with_suffix(".ends" + PART)
        with ends_part.open("wb") as file:
            np.save(file, ends)
            _settle(file)
        digest = hashlib.blake2b(ends_part.read_bytes(), digest_size=16).hexdigest()
        ends_part.replace(ends_path)
        self._part.replace(self._path)
        sync(self._path.parent)
        return {
            "file": self._path.name,
            "ends": ends_path.name,
            "tokens": self._ends[-1],
            "documents": len(ends),
            "blake2b": self._digest.hexdigest(),
            "ends_blake2b": digest,
        }

    def discard(self) -> None:
        """Remove what was written so far."""
        self._file.close()
        with suppress(OSError):
            self._part.unlink(missing_ok=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a file completely or not at all."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=True) + "\n")


def write_index(
    folder: Path, tokenizer: TextTokenizer, splits: dict[str, list[dict[str, Any]]], more: dict[str, Any]
) -> None:
    """Finish a folder of shards.

    Args:
        folder: the folder with the shards; ``tokenizer.json`` is written if it is not there.
        tokenizer: the tokenizer that made the ids.
        splits: entries of the shards, as :meth:`ShardWriter.close` returns them, by split.
        more: further entries of the index.
    """
    if not (folder / TOKENIZER).is_file():
        write_text(folder / TOKENIZER, tokenizer.to_json())
    write_json(
        folder / INDEX,
        {
            "format": FORMAT,
            "tokenizer": tokenizer.fingerprint,
            "dtype": dtype_for(tokenizer),
            **more,
            "splits": {split: splits.get(split, []) for split in SPLITS},
        },
    )


def _settle(file: Any) -> None:
    """Force a file onto the disk before it is renamed, so that a power cut leaves no empty file of that name."""
    file.flush()
    os.fsync(file.fileno())
    file.close()
