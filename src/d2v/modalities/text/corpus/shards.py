"""Token shards: a folder of token ids, memory-mapped, with the ends of the documents and checksums.

    tokenizer.json            what made the ids
    index.json                written last: the folder is whole when it is there
    train-00000.bin           ids one after the other, uint16 (or uint32), little-endian
    train-00000.ends.npy      int64: positions in the shard behind the last id of each document
    val-00000.bin ...

A document is its lines, each followed by ``</s>`` (as fairseq's preprocessing has them); there is no ``<s>``.
"""

import hashlib
import json
from bisect import bisect_right
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from d2v.errors import UserError
from d2v.modalities.text.tokenizer import TextTokenizer
from d2v.modalities.text.tokenizer_files import TOKENIZER

INDEX = "index.json"
FORMAT = 1
"""Counts the changes of the layout that an older d2v could not read."""

SPLITS = ("train", "val")

_MOST_OPEN = 128
"""Maps of shards at once: each holds a file open, and a process may often have 1,024 only."""


class Shards:
    """The token ids of one split as one stream, all shards one after the other; cheap to send to a worker process.

    Args:
        folder: that `d2v prepare text` has written.
        split: ``train`` or ``val``.
        index: content of the folder's ``index.json``.
    """

    def __init__(self, folder: Path, split: str, index: dict[str, Any]) -> None:
        self.folder = folder
        self.split = split
        self._entries: list[dict[str, Any]] = index["splits"][split]
        self._dtype = np.dtype(index["dtype"]).newbyteorder("<")
        self._tokenizer: str = index["tokenizer"]
        self._starts = [0]
        for entry in self._entries:
            self._starts.append(self._starts[-1] + entry["tokens"])
        self.num_tokens: int = self._starts[-1]
        self.num_documents: int = sum(entry["documents"] for entry in self._entries)
        self._open: dict[int, np.memmap] = {}

    @classmethod
    def open(cls, folder: str | Path, split: str) -> "Shards | None":
        """None if the folder has no such split.

        Raises:
            UserError: the folder is unfinished or damaged, or its tokenizer is not the one that made the ids.
        """
        folder = Path(folder).expanduser()
        index = read_index(folder)
        if not index["splits"].get(split):
            return None
        shards = cls(folder, split, index)
        shards._check_sizes()
        if shards.tokenizer.fingerprint != shards._tokenizer:
            raise UserError(
                f"{folder / TOKENIZER} is not the tokenizer that made these shards ({shards.tokenizer.fingerprint}, "
                f"and the index says {shards._tokenizer}); put the right one back, or prepare the folder anew."
            )
        return shards

    @cached_property
    def tokenizer(self) -> TextTokenizer:
        """What made the ids."""
        return TextTokenizer.open(self.folder / TOKENIZER)

    @cached_property
    def fingerprint(self) -> str:
        """Changes when a token, a document's end or the tokenizer does."""
        digests = [self._tokenizer, *(entry[key] for entry in self._entries for key in ("blake2b", "ends_blake2b"))]
        return hashlib.blake2b(" ".join(digests).encode(), digest_size=12).hexdigest()

    @cached_property
    def document_ends(self) -> np.ndarray:
        """Positions in the stream behind the last token of each document, int64 [num_documents]."""
        parts = [self._ends(entry) + start for entry, start in zip(self._entries, self._starts, strict=False)]
        return np.concatenate(parts)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens of the stream, int64 [stop - start].

        Raises:
            IndexError: that is not within the stream.
        """
        if not 0 <= start <= stop <= self.num_tokens:
            raise IndexError(f"tokens {start} to {stop} of {self.num_tokens}")
        tokens = np.empty(stop - start, dtype=np.int64)
        shard = bisect_right(self._starts, start) - 1
        done = 0
        while done < len(tokens):
            inside = start + done - self._starts[shard]
            part = self._map(shard)[inside : inside + len(tokens) - done]
            tokens[done : done + len(part)] = part
            done += len(part)
            shard += 1
        return tokens

    def verify(self) -> None:
        """Read all of it and compare the checksums, with a progress bar.

        Raises:
            UserError: a file is not as it was written.
        """
        size = sum((self.folder / entry[key]).stat().st_size for entry in self._entries for key in ("file", "ends"))
        with tqdm(total=size, unit="B", unit_scale=True, desc=f"verify {self.split}", disable=None) as bar:
            for entry in self._entries:
                for name, digest in ((entry["file"], entry["blake2b"]), (entry["ends"], entry["ends_blake2b"])):
                    if _digest(self.folder / name, bar) != digest:
                        raise UserError(f"{self.folder / name} was changed since it was written; prepare it anew.")

    def __getstate__(self) -> dict[str, Any]:
        # Each process maps the files and reads the ends for itself.
        left_out = ("document_ends", "tokenizer")
        return {key: value for key, value in self.__dict__.items() if key not in left_out} | {"_open": {}}

    def _map(self, shard: int) -> np.memmap:
        opened = self._open.pop(shard, None)
        if opened is None:
            opened = np.memmap(self.folder / self._entries[shard]["file"], self._dtype, mode="r")
        self._open[shard] = opened  # the one that was used last is last
        if len(self._open) > _MOST_OPEN:
            del self._open[next(iter(self._open))]
        return opened

    def _ends(self, entry: dict[str, Any]) -> np.ndarray:
        path = self.folder / entry["ends"]
        try:
            ends = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise _damaged(path, str(error)) from error
        if ends.shape != (entry["documents"],) or ends[-1] != entry["tokens"] or (np.diff(ends, prepend=0) <= 0).any():
            raise _damaged(path, "its positions do not fit the index")
        return ends.astype(np.int64)

    def _check_sizes(self) -> None:
        for entry in self._entries:
            path = self.folder / entry["file"]
            if not path.is_file() or not (self.folder / entry["ends"]).is_file():
                raise _damaged(path, "it or its .ends.npy is missing")
            size, expected = path.stat().st_size, entry["tokens"] * self._dtype.itemsize
            if size != expected:
                raise _damaged(path, f"{size:,} bytes in place of {expected:,}")


def read_index(folder: Path) -> dict[str, Any]:
    """Content of ``index.json``.

    Raises:
        UserError: it is not there, damaged, or of a later d2v.
    """
    path = folder / INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        unfinished = (folder / TOKENIZER).exists() or any(folder.glob("train-*.bin"))
        what = "is unfinished: type the same `d2v prepare text` again" if unfinished else "holds no token shards"
        raise UserError(f"{folder} {what} (there is no {INDEX}).") from None
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    try:
        if index["format"] > FORMAT:
            raise UserError(f"{path} was written by a later d2v (format {index['format']}); use that one.")
        for entry in [entry for split in index["splits"].values() for entry in split]:
            _ = [entry[key] for key in ("file", "ends", "tokens", "documents", "blake2b", "ends_blake2b")]
        _ = index["tokenizer"], np.dtype(index["dtype"])
    except (KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, f"its entry {error} is missing or wrong") from error
    return index


def is_prepared(folder: str | Path) -> bool:
    """Whether a folder holds finished token shards."""
    return (Path(folder).expanduser() / INDEX).is_file()


def _digest(path: Path, bar: tqdm) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


def _damaged(path: Path, what: str) -> UserError:
    return UserError(f"{path} is damaged ({what}); delete its folder and prepare it anew.")
