"""Files in uncompressed tars (WebDataset) with random access."""

import io
import json
import os
import tarfile
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from d2v.data.file_index import PackedStrings, fingerprint
from d2v.data.sources.source import COLUMNS, Categories, Medium, Source, printable
from d2v.data.sources.stores import announce, fetched_ahead, named, open_shard
from d2v.data.user_cache import cached_arrays
from d2v.errors import BrokenSample, UserError
from d2v.progress_bar import Progress

# Open files are limited to 1024 a process on most systems, and a data set may have more shards than that.
_OPEN_TARS = 64
_SIDECARS = {".txt": "text", ".cls": "label", ".json": ""}


class Tars(Source):
    """Members of one medium, ``KEY.jpg``, with the content of ``KEY.txt``, ``KEY.cls`` or ``KEY.json`` beside them.

    The position of each is found once by reading all headers, and kept in the user's cache folder
    (``XDG_CACHE_HOME``); members are then read by seeking.

    Args:
        files: the tars, in their order.
        medium: medium of the members.
        folder: results name the tars relative to it.

    Raises:
        UserError: a tar or a file beside a member cannot be read, or there are no such members.
    """

    def __init__(self, files: Sequence[Path], medium: Medium, folder: Path) -> None:
        self.archives = list(map(str, files))
        self.folder = os.path.abspath(folder)
        self._made_for = (medium.suffixes, medium.columns, COLUMNS)
        index = cached_arrays("tar-index", self.fingerprint(), lambda: _scan(files, medium), made_of=folder)
        self._is_local = named(self.archives[0]) == self.archives[0]
        self._tar, self._offset, self._size = index["tar"], index["offset"], index["size"]
        self._names = PackedStrings.unpacked(index, "names")
        self._known = {column: PackedStrings.unpacked(index, column) for column in medium.columns}
        self._open: OrderedDict[int, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._tar)

    def read(self, index: int) -> bytes:
        with self.open(index) as member:
            data = member.read()
        if len(data) < self._size[index]:
            raise BrokenSample("the tar ends in the middle of this file")
        return data

    def open(self, index: int) -> BinaryIO:
        try:
            handle = self._handle(int(self._tar[index]))
        except OSError as error:
            raise BrokenSample(error.strerror or str(error)) from error
        return io.BufferedReader(_Slice(handle, int(self._offset[index]), int(self._size[index])))

    def name(self, index: int) -> str:
        return f"{named(self.archives[self._tar[index]])}: {self._names[index]}"

    def ids(self) -> list[str]:
        """``TAR/MEMBER``."""
        tars = [os.path.relpath(tar, self.folder) for tar in self.archives]
        return [printable(f"{tars[tar]}/{name}") for tar, name in zip(self._tar, self._names, strict=True)]

    def fingerprint(self) -> str:
        """Depends on the medium too, because each finds other members, and caches about them have this key."""
        return fingerprint(self.archives, self._made_for)

    def categories(self, column: str) -> Categories | None:
        if column not in self._known:
            return None
        if column == "label":
            return Categories.of_labels(self._known[column])
        return Categories.of(self._known[column])

    def texts(self) -> PackedStrings | None:
        return self._known.get("text")

    def __getstate__(self) -> dict[str, object]:
        # Worker processes get labels and texts from elsewhere.
        return {**self.__dict__, "_open": OrderedDict(), "_known": {}}

    def _handle(self, tar: int) -> int:
        """An open file that belongs to the caller."""
        # What the cache has removed takes room on the disk as long as it is open.
        if not self._is_local:
            return open_shard(self.archives[tar])
        # pread carries its own offset, so handles that were open before a fork may be shared.
        if tar not in self._open:
            if len(self._open) >= _OPEN_TARS:
                os.close(self._open.popitem(last=False)[1])
            self._open[tar] = os.open(self.archives[tar], os.O_RDONLY)
        self._open.move_to_end(tar)
        return os.dup(self._open[tar])


class _Slice(io.RawIOBase):
    """Part of an open file, which it closes, as a file of its own."""

    def __init__(self, handle: int, offset: int, size: int) -> None:
        self._handle, self._offset, self._size = handle, offset, size
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


def _scan(files: Sequence[Path], medium: Medium) -> dict[str, np.ndarray]:
    """Arrays of the index: tar, offset and size of each member, its name, and its columns."""
    rows: list[tuple[int, int, int]] = []
    names: list[str] = []
    keys: list[str] = []
    known: dict[str, dict[str, str]] = {column: {} for column in medium.columns}
    announce(files)
    for number, file in enumerate(Progress(fetched_ahead(files), "reading tar headers", len(files), unit="tar")):
        try:
            with open(open_shard(str(file)), "rb") as opened, tarfile.open(fileobj=opened, mode="r:") as tar:
                for member in tar:
                    folder, _, base = member.name.rpartition("/")
                    stem, _, extension = base.partition(".")
                    if not member.isfile() or not stem:
                        continue
                    key = f"{number}:{folder}/{stem}"
                    suffix = "." + extension.lower().rpartition(".")[2]
                    if suffix in medium.suffixes:
                        rows.append((number, member.offset_data, member.size))
                        names.append(member.name)
                        keys.append(key)
                    elif suffix == ".json" or _SIDECARS.get(suffix) in known:
                        stream = tar.extractfile(member)
                        assert stream is not None
                        where = f"{named(str(file))}: {member.name}"
                        for column, value in _facts(stream.read(), suffix, where).items():
                            # -1 is the label of a sample that has none; a file of its own says more than a .json.
                            if column in known and value != "-1" and (suffix != ".json" or key not in known[column]):
                                known[column][key] = value
        except (tarfile.TarError, OSError) as error:
            raise UserError(f"data.root: {named(str(file))} cannot be read as an uncompressed tar: {error}") from error
    if not rows:
        raise UserError(f"data.root: no {medium.noun} ({', '.join(medium.suffixes)}) in {files[0].parent}/*.tar.")
    tar_column, offset, size = np.array(rows, dtype=np.int64).T.copy()
    index = {"tar": tar_column.astype(np.int32), "offset": offset, "size": size, **PackedStrings(names).packed("names")}
    for column, values in known.items():
        index |= PackedStrings(values.get(key, "") for key in keys).packed(column)
    return index


def _facts(data: bytes, suffix: str, where: str) -> dict[str, str]:
    """The values in a file beside a member, each on one line, by the names of :data:`COLUMNS`."""
    try:
        text = " ".join(data.decode("utf-8-sig").split())
        if suffix != ".json":
            return {_SIDECARS[suffix]: text}
        entry = json.loads(text)
    except ValueError as error:
        raise UserError(f"data.root: {where} cannot be read: {error}.") from error
    facts = {}
    if isinstance(entry, dict):
        for column, names in COLUMNS.items():
            value = None
            for name in names:
                if value is None:
                    value = entry.get(name)
            if isinstance(value, (str, int)):
                facts[column] = str(value)
    return facts
