"""Token shards: a folder of token ids, read by position, with the ends of the documents and checksums.

    tokenizer.json            the tokenizer that made the ids
    index.json                written last: with it the folder is complete
    train-00000.bin           the ids as uint16 (or uint32), little-endian
    train-00000.ends.npy      int64: the position in the shard after the last id of each document
    val-00000.bin ...

A document is its lines, each followed by ``</s>`` (as fairseq's preprocessing has them); there is no ``<s>``.
"""

import errno
import hashlib
import json
import os
from bisect import bisect_right
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from d2v.errors import UserError
from d2v.modalities.text.tokenizer import TextTokenizer
from d2v.modalities.text.tokenizer_files import TOKENIZER
from d2v.progress_bar import Progress
from d2v.regular_files import open_regular

INDEX = "index.json"
FORMAT = 1
"""Version of the layout; raised when an older d2v could not read the new one."""

SPLITS = ("train", "val")

_MOST_OPEN = 128
"""Shards that are open at the same time: a process can often have only 1,024 files."""

_ENTRY_KEYS = ("file", "ends", "tokens", "documents", "blake2b", "ends_blake2b")


class Shards:
    """The token ids of one split as one stream, shard after shard; cheap to send to a worker process.

    Args:
        folder: a folder that `d2v prepare text` has written.
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
        self._open: dict[int, BinaryIO] = {}

    @classmethod
    def open(cls, folder: str | Path, split: str) -> "Shards | None":
        """Open a split and check the sizes of its files; None if the folder has no such split.

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
                f"and the index says {shards._tokenizer}); put the right one back, or prepare the folder again."
            )
        return shards

    @cached_property
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer that made the ids."""
        return TextTokenizer.open(self.folder / TOKENIZER)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the tokens, the ends of documents and the tokenizer."""
        digests = [self._tokenizer]
        for entry in self._entries:
            digests += [entry["blake2b"], entry["ends_blake2b"]]
        return hashlib.blake2b(" ".join(digests).encode(), digest_size=12).hexdigest()

    @cached_property
    def document_ends(self) -> np.ndarray:
        """Positions in the stream after the last token of each document, int64 [num_documents]."""
        parts = [self._ends(entry) + start for entry, start in zip(self._entries, self._starts, strict=False)]
        return np.concatenate(parts)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens of the stream, int64 [stop - start].

        Raises:
            IndexError: the span is not within the stream.
            OSError: a file is missing, or has become shorter. (Of a memory map the process would die there.)
        """
        if not 0 <= start <= stop <= self.num_tokens:
            raise IndexError(f"tokens {start} to {stop} of {self.num_tokens}")
        tokens = np.empty(stop - start, dtype=np.int64)
        shard = bisect_right(self._starts, start) - 1
        done = 0
        while done < len(tokens):
            inside = start + done - self._starts[shard]
            count = min(len(tokens) - done, self._starts[shard + 1] - self._starts[shard] - inside)
            file = self._file(shard)
            size = self._dtype.itemsize  # pread: loading processes share the position of a file
            part = np.frombuffer(os.pread(file.fileno(), count * size, inside * size), self._dtype)
            if len(part) < count:
                raise OSError(errno.EIO, f"{self.folder / self._entries[shard]['file']} has become shorter")
            tokens[done : done + len(part)] = part
            done += len(part)
            shard += 1
        return tokens

    def verify(self) -> None:
        """Read all files and compare their checksums, with a progress bar.

        Raises:
            UserError: a file was changed since it was written.
        """
        files: dict[Path, str] = {}
        for entry in self._entries:
            files[self.folder / entry["file"]] = entry["blake2b"]
            files[self.folder / entry["ends"]] = entry["ends_blake2b"]
        size = sum(file.stat().st_size for file in files)
        with Progress(total=size, unit="B", unit_scale=True, desc=f"verify {self.split}") as bar:
            for file, digest in files.items():
                if _digest(file, bar) != digest:
                    raise UserError(f"{file} was changed since it was written; prepare it again.")

    def __getstate__(self) -> dict[str, Any]:
        # Each process opens the files and reads the ends for itself.
        state = self.__dict__ | {"_open": {}}
        state.pop("document_ends", None)
        state.pop("tokenizer", None)
        return state

    def _file(self, shard: int) -> BinaryIO:
        opened = self._open.pop(shard, None)
        if opened is None:
            opened = open_regular(self.folder / self._entries[shard]["file"])
        self._open[shard] = opened  # at the end, as the one used last
        if len(self._open) > _MOST_OPEN:
            self._open.pop(next(iter(self._open))).close()
        return opened

    def _ends(self, entry: dict[str, Any]) -> np.ndarray:
        path = self.folder / entry["ends"]
        try:
            ends = np.load(path, mmap_mode="r", allow_pickle=False)  # which checks the size that its header states
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
    """The content of ``index.json``.

    Raises:
        UserError: it is missing, damaged, or written by a later d2v.
    """
    path = folder / INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        what = "holds no token shards"
        if (folder / TOKENIZER).exists() or any(folder.glob("train-*.bin")):
            what = "is unfinished: run the same `d2v prepare text` again"
        raise UserError(f"{folder} {what} (there is no {INDEX}).") from None
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    try:
        if index["format"] > FORMAT:
            raise UserError(f"{path} was written by a later d2v (format {index['format']}); use that one.")
        for entries in index["splits"].values():
            for entry in entries:
                _ = [entry[key] for key in _ENTRY_KEYS], index["tokenizer"] + ""
                for name in (entry["file"], entry["ends"]):
                    if Path(name).name != name or min(entry["tokens"], entry["documents"]) < 1:
                        raise TypeError(repr(name))
        if index["dtype"] not in ("uint16", "uint32"):
            raise TypeError("'dtype'")
    except (KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, f"its entry {error} is missing or wrong") from error
    return index


def is_prepared(folder: str | Path) -> bool:
    """Whether a folder holds finished token shards."""
    return (Path(folder).expanduser() / INDEX).is_file()


def _digest(path: Path, bar: Progress) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


def _damaged(path: Path, what: str) -> UserError:
    return UserError(f"{path} is damaged ({what}); delete its folder and prepare it again.")
