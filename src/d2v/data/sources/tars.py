"""Files in uncompressed tars (WebDataset) with random access."""

import io
import os
import tarfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from tqdm import tqdm

from d2v.data.dataset import BrokenSample
from d2v.data.files import PackedStrings, cached_arrays, fingerprint
from d2v.errors import UserError

# Open files are limited to 1024 a process on most systems, and a data set may have more shards than that.
_OPEN_TARS = 64

ParseSidecar = Callable[[bytes, str, str], str | None]
"""From content, suffix and place (for messages) to what is kept, on one line; None: nothing."""


class TarMembers:
    """The members of one kind in several tars, and what the files beside them (``KEY.cls``, ``KEY.json``) say.

    Where each lies is found once by reading all headers, and kept in the user's cache folder (``XDG_CACHE_HOME``);
    members are then read by seeking.

    Args:
        files: the tars, in their order.
        what: the members' name in messages: images.
        suffixes: endings of the members, in lower case.
        sidecars: endings of the files beside them, in lower case.
        parse: makes of the content of a file beside a member what is kept of it.

    Raises:
        UserError: a tar cannot be read, or there are no such members.
    """

    def __init__(
        self, files: list[Path], what: str, suffixes: Sequence[str], sidecars: Sequence[str], parse: ParseSidecar
    ) -> None:
        key = fingerprint(files)
        index = cached_arrays(f"tar-index-{what}", key, lambda: _scan(files, what, suffixes, sidecars, parse))
        self._tars = [str(file) for file in files]
        self._tar, self._offset, self._size = index["tar"], index["offset"], index["size"]
        self._names = PackedStrings(_lines(index["names"]))
        self.beside = {suffix: PackedStrings(_lines(index[suffix])) for suffix in sidecars}
        """By suffix, what was kept of the file beside each member; "" where there is none."""
        self._open: OrderedDict[int, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._tar)

    def read(self, index: int) -> bytes:
        """A whole member.

        Raises:
            BrokenSample: it cannot be read, or the tar ends in it.
        """
        with self.open(index) as member:
            data = member.read()
        if len(data) < self._size[index]:
            raise BrokenSample("the tar ends in the middle of this file")
        return data

    def open(self, index: int) -> BinaryIO:
        """A member to read and seek in.

        Raises:
            BrokenSample: the tar cannot be opened.
        """
        try:
            handle = self._handle(int(self._tar[index]))
        except OSError as error:
            raise BrokenSample(error.strerror or str(error)) from error
        return io.BufferedReader(_Slice(handle, int(self._offset[index]), int(self._size[index])))

    def place(self, index: int) -> tuple[str, str]:
        """The tar that a member lies in, and what it is called there."""
        return self._tars[self._tar[index]], self._names[index]

    def name(self, index: int) -> str:
        return ": ".join(self.place(index))

    def fingerprint(self) -> str:
        """Changes when a tar does."""
        return fingerprint(self._tars)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": OrderedDict()}

    def _handle(self, tar: int) -> int:
        # pread carries its own offset, so handles that were open before a fork may be shared.
        if tar not in self._open:
            if len(self._open) >= _OPEN_TARS:
                os.close(self._open.popitem(last=False)[1])
            self._open[tar] = os.open(self._tars[tar], os.O_RDONLY)
        self._open.move_to_end(tar)
        return self._open[tar]


class _Slice(io.RawIOBase):
    """Part of an open file as a file of its own, which may outlive the other."""

    def __init__(self, handle: int, offset: int, size: int) -> None:
        self._handle, self._offset, self._size = os.dup(handle), offset, size
        self._position = 0

    def close(self) -> None:
        if not self.closed:
            os.close(self._handle)
        super().close()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: object, /) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]  # typeshed's buffers are newer than Python 3.11
        data = os.pread(
            self._handle, max(0, min(len(view), self._size - self._position)), self._offset + self._position
        )
        view[: len(data)] = data
        self._position += len(data)
        return len(data)


def _lines(joined: np.ndarray) -> list[str]:
    return os.fsdecode(joined.tobytes()).split("\n")


def _scan(
    files: list[Path], what: str, suffixes: Sequence[str], sidecars: Sequence[str], parse: ParseSidecar
) -> dict[str, np.ndarray]:
    rows: list[tuple[int, int, int]] = []
    names: list[str] = []
    keys: list[str] = []
    kept: dict[str, dict[str, str]] = {suffix: {} for suffix in sidecars}
    for number, file in enumerate(tqdm(files, desc="reading tar headers", unit="tar")):
        try:
            with tarfile.open(file, "r:") as tar:
                for member in tar:
                    folder, _, base = member.name.rpartition("/")
                    stem, _, extension = base.partition(".")
                    if not member.isfile() or not stem:
                        continue
                    key = f"{number}:{folder}/{stem}"
                    suffix = "." + extension.lower().rpartition(".")[2]
                    if suffix in suffixes:
                        rows.append((number, member.offset_data, member.size))
                        names.append(member.name)
                        keys.append(key)
                    elif suffix in kept:
                        stream = tar.extractfile(member)
                        assert stream is not None
                        if (value := parse(stream.read(), suffix, f"{file}: {member.name}")) is not None:
                            kept[suffix][key] = value
        except (tarfile.TarError, OSError) as error:
            raise UserError(f"data.root: {file} cannot be read as an uncompressed tar: {error}") from error
    if not rows:
        raise UserError(f"data.root: no {what} ({', '.join(suffixes)}) in {files[0].parent}/*.tar.")
    tar_column, offset, size = np.array(rows, dtype=np.int64).T.copy()
    return {
        "tar": tar_column.astype(np.int32),
        "offset": offset,
        "size": size,
        "names": np.frombuffer(os.fsencode("\n".join(names)), dtype=np.uint8),
        **{
            suffix: np.frombuffer(os.fsencode("\n".join(values.get(key, "") for key in keys)), dtype=np.uint8)
            for suffix, values in kept.items()
        },
    }
