"""Folders of object stores (s3://, gs://, hf://datasets/..., whatever fsspec knows) as roots of tars and Parquet files.

The store is listed once at the start. The list becomes a folder of the user's cache with the same names, each file of
which says where its shard is, so that splits, order, indexes and results are those of a local folder. A shard is
fetched as a whole into the user's cache when it is first read, by the process that reads it; where all are read one
after the other, the next ones are fetched meanwhile.
"""

import errno
import json
import logging
import os
import re
import shutil
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import Any

from d2v.data.sources.source import Medium
from d2v.data.user_cache import SIZE, bound_size, cache_folder, entry_path, hold, largest_size, making
from d2v.errors import UserError, some_of
from d2v.progress_bar import Progress
from d2v.service_keys import without_keys
from d2v.whole_files import whole_file, whole_folder

log = logging.getLogger(__name__)

SHARDS = (".tar", ".parquet")
"""Endings of what is read from a store."""
_LISTS, _FETCHED = "store-lists", "store-shards"
_ADDRESS = re.compile(r"(?!.*::|hf://(?!datasets/[^/]+/[^/]))[a-z][a-z0-9+.-]+://.+")  # hf://OWNER/NAME: `datasets`
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
_VERSIONS = ("ETag", "etag", "md5Hash", "lfs", "blob_id", "mtime", "LastModified", "last_modified", "created")
"""What stores call what changes with a file, in the order in which it is looked for."""
_AHEAD = 2  # shards that are fetched while one is read
_WAITS = (1.0, 4.0, 16.0)
"""Seconds before each further try."""


@dataclass(frozen=True)
class Shard:
    """A file of a store."""

    address: str
    size: int
    """In bytes."""
    version: str
    """Changes when the file does."""

    @property
    def key(self) -> str:
        """A hash of all that is known."""
        return blake2b(repr(self).encode(), digest_size=12).hexdigest()

    @property
    def place(self) -> Path:
        """Where it lies once it is fetched."""
        name = PurePosixPath(self.address).name
        return entry_path(_FETCHED, self.key, name) / name


def is_store(root: object) -> bool:
    """Whether a root is an address of a store."""
    return _ADDRESS.fullmatch(str(root)) is not None


def require_given(root: object, is_given: bool, key: str = "data.root") -> None:
    """Check that the user named a store that data would be fetched from: a config may be a stranger's.

    Raises:
        UserError: Only a config names it.
    """
    if is_store(root) and not is_given:
        raise UserError(f"{key} is {root}: nothing is fetched because a config says so; give it on the command line")


def list_store(address: str, medium: Medium) -> Path:
    """List a store, and return the folder (or the file, if the address is one's) that stands for it.

    Raises:
        UserError: The store cannot be listed, or holds no shards; the message names the address.
    """
    shards = _listed(address, medium)
    key = blake2b(repr(sorted(shards.items())).encode(), digest_size=12).hexdigest()
    folder = entry_path(_LISTS, key, address)
    hold(folder)
    try:
        if not folder.is_dir():
            with whole_folder(folder) as new:
                for name, shard in shards.items():
                    (new / name).parent.mkdir(parents=True, exist_ok=True)
                    (new / name).write_text(json.dumps(asdict(shard)))
                    os.utime(new / name, ns=(0, _moment(shard)))  # the index goes by it
    except OSError as error:
        if not folder.is_dir():  # else another process was faster
            raise UserError(f"data.root {address}: its list cannot be kept in {folder}: {error.strerror}") from error
    size = sum(shard.size for shard in shards.values())
    if size > largest_size():
        log.warning(
            "data: %s holds %.1f GB, and the cache at most %.1f GB: in random order nearly every sample then waits for "
            "a whole shard. Set %s to at least %.0f",
            *(address, size / 1e9, largest_size() / 1e9, SIZE, size / 1e9 + 1),
        )
    if list(shards) == [PurePosixPath(address).name]:  # the address of a file
        return folder / PurePosixPath(address).name
    return folder


def open_shard(path: str) -> int:
    """A file opened for reading; one of a store's list: its shard, fetched if need be.

    It can be read to its end even if another process removes it from the cache.

    Raises:
        OSError: It cannot be opened.
        UserError: The shard is not there any more, or may not be read.
        RuntimeError: It cannot be fetched, however often it is tried, or there is no room for it.
    """
    shard = _shard(path)
    if shard is None:
        return os.open(path, os.O_RDONLY)
    try:
        handle = os.open(shard.place, os.O_RDONLY)
    except FileNotFoundError:
        return _fetch(shard)
    with suppress(OSError):  # it has just been removed
        os.utime(shard.place.parent)
    return handle


def fetched(files: Sequence[Path]) -> list[Path]:
    """Local copies of files of a store's list, which stay as long as this process; other files as they are.

    Raises:
        UserError: There is no room for all.
        RuntimeError: One cannot be fetched.
    """
    shards = list(filter(None, map(_shard, map(str, files))))
    if not shards:
        return [*files]
    size = sum(shard.size for shard in shards) / 1e9
    if size > largest_size() / 1e9:
        raise UserError(
            f"data.root: {shards[0].address} and those beside it have {size:.2f} GB, all read at once, and "
            f"the cache holds {largest_size() / 1e9:g} GB at most: set {SIZE} to {size + 1:.0f}, or pack tars"
        )
    announce(files)
    for shard in shards:
        hold(shard.place.parent)
    for file in Progress(fetched_ahead(files), desc="fetching", unit="file", total=len(files)):
        _make_local(file)  # again, if another process has removed it
    return [shard.place for shard in shards]


def fetched_ahead(files: Sequence[Path]) -> Iterator[Path]:
    """Files in their order; of a store's list the next two are fetched meanwhile, if the cache has room for them.

    Raises:
        UserError, RuntimeError: As :func:`open_shard`, when it is a file's turn.
    """
    sizes = [shard.size for shard in map(_shard, map(str, files)) if shard is not None]
    if not sizes or (_AHEAD + 1) * max(sizes) > largest_size():
        yield from files
        return
    pool = ThreadPoolExecutor(_AHEAD)
    try:
        waiting = deque(pool.submit(_make_local, file) for file in files[: _AHEAD + 1])
        for number, file in enumerate(files, _AHEAD + 1):
            waiting.popleft().result()
            if number < len(files):
                waiting.append(pool.submit(_make_local, files[number]))
            yield file
    finally:  # also where the reader has failed
        pool.shutdown(wait=False, cancel_futures=True)


def _make_local(file: Path) -> None:
    os.close(open_shard(str(file)))


def require_disk(root: str, key: str) -> None:
    """Check that text is not named by an address.

    Raises:
        UserError: It is; the message names the key.
    """
    if is_store(root):
        raise UserError(
            f"{key} {root}: text is not read from an object store, only tars and Parquet files of pictures and sound "
            "are; copy it to a disk (such as by `aws s3 sync` or `gcloud storage cp -r`) and name the copy"
        )


def announce(files: Sequence[Path]) -> None:
    """Say how much is fetched now, if all of these files are read.

    Raises:
        UserError: There is no room on the disk.
    """
    shards = list(filter(None, map(_shard, map(str, files))))
    missing = [shard for shard in shards if not shard.place.is_file()]
    if not missing:
        return
    size = sum(shard.size for shard in missing)
    folder = cache_folder() / _FETCHED
    folder.mkdir(parents=True, exist_ok=True)
    needed, free = min(size, largest_size()), shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"data.root: {needed / 1e9:.1f} GB are to be fetched to {folder}, and its disk has {free / 1e9:.1f} GB "
            f"left. Make room, let XDG_CACHE_HOME name another disk, or lower {SIZE}."
        )
    log.warning(
        "data: fetching %d of %d files, %.2f GB, such as %s, to %s",
        *(len(missing), len(shards), size / 1e9, missing[0].address, folder),
    )


def named(path: str) -> str:
    """What to call a file in messages: a file of a store's list by its address."""
    shard = _shard(path)
    return path if shard is None else shard.address


def _shard(path: str) -> Shard | None:
    if not path.startswith(os.path.join(os.path.abspath(cache_folder() / _LISTS), "")):
        return None
    with open(path, encoding="utf-8") as file:
        return Shard(**json.load(file))


def _moment(shard: Shard) -> int:
    """A time of change, in nanoseconds, that only this version of the shard has."""
    return int(shard.key[:14], 16)


def _listed(address: str, medium: Medium) -> dict[str, Shard]:
    """The shards of a store by their names, relative to the address."""
    system, top = _system(address)
    try:
        found = system.find(top, detail=True)
    except Exception as error:  # each store raises types of its own
        raise _failed(address, "be listed", error) from error
    shards, others = {}, []
    for place, entry in sorted(found.items()):
        name = place.removeprefix(top).lstrip("/") or PurePosixPath(place).name
        if ".." in PurePosixPath(name).parts or "\0" in name:
            raise UserError(f"data.root {address}: the name {name!r} leads out of it; rename the file")
        if name.lower().endswith(SHARDS):
            version = next((str(entry[key]) for key in _VERSIONS if entry.get(key) is not None), "")
            whole = address if place == top else f"{address.rstrip('/')}/{name}"
            shards[name] = Shard(whole, int(entry["size"]), version)
        elif name.lower().endswith(medium.suffixes) or not name.rpartition("/")[2].startswith("."):
            others.append(name)
    loose = [name for name in others if name.lower().endswith(medium.suffixes)]
    if loose or not shards:
        there = f"it holds {some_of(loose or others, 3)}" if others else "there is nothing"
        raise UserError(
            f"data.root {address}: {there}, and only tars (WebDataset) and Parquet files are read from a store: pack "
            f"the {medium.noun} into some, or copy them to a disk"
        )
    return shards


def _fetch(shard: Shard) -> int:
    """A shard opened for reading, after it is fetched into the cache, unless another process does so meanwhile."""
    place = shard.place
    try:
        with making(place.parent):
            if not place.is_file():
                _download(shard, place)
            handle = os.open(place, os.O_RDONLY)
    except OSError as error:
        raise RuntimeError(f"{shard.address}: cannot be kept in {place.parent} ({error.strerror or error})") from error
    bound_size(place.parent)
    return handle


def _download(shard: Shard, place: Path) -> None:
    for wait in (*_WAITS, None):
        try:
            system, path = _system(shard.address)
            with whole_file(place) as file:
                system.get_file(path, file.name)
                size = os.path.getsize(file.name)
                if size != shard.size:
                    raise ValueError(f"it has {size} bytes, and had {shard.size} when it was listed")
                os.utime(file.name, ns=(0, _moment(shard)))
            return
        except Exception as error:  # each store raises types of its own
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise
            if isinstance(error, UserError | FileNotFoundError | PermissionError):
                raise _failed(shard.address, "be fetched", error) from error
            if wait is None:  # no error that a decoder takes for a broken sample
                raise RuntimeError(str(_failed(shard.address, "be fetched", error))) from error
            log.warning("data: %s: %s; trying again in %.0f s", shard.address, _reason(error), wait)
            time.sleep(wait)


def _system(address: str) -> tuple[Any, str]:
    """The file system of an address, made in this process, and the path in it."""
    import fsspec

    protocol = address.partition("://")[0]
    try:
        return fsspec.core.url_to_fs(address)
    except ImportError as error:
        package = _PACKAGES.get(protocol)
        how = f"pip install {package}" if package else str(error)
        raise UserError(f"data.root {address}: {protocol}:// needs another package: {how}") from error
    except Exception as error:  # each store raises types of its own
        raise _failed(address, "be opened", error) from error


def _failed(address: str, what: str, error: Exception) -> UserError:
    return UserError(
        f"data.root {address}: cannot {what} ({_reason(error)}). Check the address, the network, and that this "
        "machine's credentials may read there"
    )


def _reason(error: Exception) -> str:
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return without_keys(f"{type(error).__name__}: {line}".removesuffix(": "))
