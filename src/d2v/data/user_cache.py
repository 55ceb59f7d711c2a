"""The user's cache of d2v: what was computed from files, and can be computed again.

An entry is ``CACHE/KIND/NAME``: a file of arrays, which is read as a whole, or a folder, which a process holds as long
as it lives. Above a size the entries go that were not used for longest, but never one that is held.
"""

import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from d2v.errors import UserError
from d2v.whole_files import whole_file

log = logging.getLogger(__name__)

SIZE = "D2V_CACHE_GB"
"""Environment variable: the bound in GB (10^9 bytes)."""
DEFAULT_GB = 20.0
_LOCKS, _GATE = ".locks", "gate"  # a lock for each process and each folder that it holds, in KIND/NAME.PROCESS
_held: dict[Path, FileLock] = {}


@dataclass(frozen=True)
class Entry:
    """One file or folder of the cache."""

    kind: str
    path: Path
    size: int
    """In bytes."""
    used: float
    """When it was used last, in seconds since 1970."""


def cache_folder() -> Path:
    """Folder of this user's caches of d2v (below ``XDG_CACHE_HOME``), which need not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "d2v"


def largest_size() -> float:
    """The bound in bytes.

    Raises:
        UserError: The environment variable is no number.
    """
    text = os.environ.get(SIZE) or DEFAULT_GB
    with suppress(ValueError):
        if float(text) >= 0:
            return float(text) * 1e9
    raise UserError(f"{SIZE} is {text}: give the largest size of {cache_folder()} in GB, such as {DEFAULT_GB:g}")


def entry_path(kind: str, key: str, made_of: str | Path = "") -> Path:
    """Where an entry lies.

    Args:
        kind: What it is.
        key: A hash of what it is computed from and how.
        made_of: What it is computed from, for people: its last part becomes part of the name.

    Raises:
        UserError: As :func:`largest_size`; before anything is computed.
    """
    largest_size()
    name = re.sub(r"[^\w.-]", "_", Path(made_of).name).lstrip(".")[:60]
    return cache_folder() / kind / "-".join(filter(None, (name, key)))


def cached_arrays(
    kind: str,
    key: str,
    compute: Callable[[], dict[str, np.ndarray]],
    renew: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] | None = None,
    made_of: str | Path = "",
) -> dict[str, np.ndarray]:
    """Arrays from the user's cache, computed and kept there if they are not in it.

    Args:
        kind: As for :func:`entry_path`, and key and made_of too.
        key: :func:`d2v.data.file_index.fingerprint` of what they are computed from.
        compute: Computes them.
        renew: Updates the cached arrays, or returns the same ones if they are still valid.
        made_of: See there.
    """
    path = entry_path(kind, f"{key}.npz", made_of)
    stored = load_arrays(path)
    if stored is None:
        arrays = compute()
    elif renew is None:
        return stored
    else:
        arrays = renew(stored)
        if arrays is stored:
            return stored
    store_arrays(path, arrays)
    return arrays


def store_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write an entry, if that is possible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's stubs confuse the names with allow_pickle
    except OSError as error:
        log.warning("data: %s could not be kept (%s); it is made anew each time", path, error)
    bound_size(path)


def load_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """Read an entry; None if it is not there, or damaged."""
    if not path.is_file():
        return None
    try:
        with np.load(path) as stored:
            arrays = dict(stored)
    except Exception:  # zipfile, zlib and numpy raise many types of their own at a damaged file
        log.warning("data: %s is damaged and is made anew", path)
        return None
    _note_use(path)
    return arrays


def hold(folder: Path) -> None:
    """Let no process remove an entry that is a folder, as long as this one lives. It need not be there yet."""
    with suppress(OSError, NotImplementedError):  # where no lock can be made, such as a read-only disk
        with _gate():
            if folder not in _held or not Path(_held[folder].lock_file).exists():
                lock = FileLock(_locks_of(folder) / secrets.token_hex(8))
                Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
                lock.acquire(timeout=0)
                _held[folder] = lock
        _note_use(folder)


@contextmanager
def making(folder: Path) -> Iterator[None]:
    """The folder is there, and inside no other process makes this entry or removes it; one that wants to make it waits.

    Raises:
        OSError: The folder or a lock cannot be made.
    """
    place = _locks_of(folder) / "made"
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(place):
        with _gate():  # whoever began to remove it before has done so
            folder.mkdir(parents=True, exist_ok=True)
        yield


def entries() -> list[Entry]:
    """All entries, those first that were used last."""
    found = []
    for path in cache_folder().glob("*/*"):
        if path.parent.name != _LOCKS:
            with suppress(OSError):  # another process has just removed it
                found.append(Entry(path.parent.name, path, _size(path), path.lstat().st_mtime))
    return sorted(found, key=lambda entry: entry.used, reverse=True)


def remove(entry: Entry) -> bool:
    """Remove an entry; False if a process holds it, or it cannot be removed."""
    path = entry.path
    try:
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
            return True
        gone = path.with_name(f".{secrets.token_hex(8)}")
        with _gate():
            if _is_held(path):
                return False
            path.rename(gone)
        shutil.rmtree(gone)
    except (OSError, NotImplementedError) as error:
        log.warning("the cache: %s cannot be removed (%s)", path, error)
        return False
    return True


def bound_size(newest: Path) -> None:
    """Remove entries until the cache is no larger than it may be.

    Args:
        newest: The one that was made last, and stays.

    Raises:
        UserError: As :func:`largest_size`.
    """
    left = entries()
    total, largest = sum(entry.size for entry in left), largest_size()
    while total > largest and left:
        entry = left.pop()
        if entry.path != newest and remove(entry):
            total -= entry.size
            how = f"at most {largest / 1e9:g} GB are kept; {SIZE} sets another size"
            log.warning("the cache: removed %s, used %s (%s)", entry.path, time_ago(entry.used), how)


def time_ago(moment: float) -> str:
    """How long ago a moment was, in words."""
    seconds = max(0.0, time.time() - moment)
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return "just now"


def _size(path: Path) -> int:
    size = 0
    if not path.is_dir():
        size = path.lstat().st_size
    for parent, _, files in os.walk(path):
        for name in files:
            with suppress(OSError):
                size += os.lstat(os.path.join(parent, name)).st_size
    return size


def _note_use(path: Path) -> None:
    with suppress(OSError):  # not there yet, or not ours
        os.utime(path)


def _locks_of(folder: Path) -> Path:
    return cache_folder() / _LOCKS / folder.parent.name / folder.name


def _is_held(folder: Path) -> bool:
    """Whether a living process holds it; the locks of others are removed."""
    for file in _locks_of(folder).glob("*"):
        try:
            FileLock(file).acquire(timeout=0)
        except Timeout:
            return True
        file.unlink(missing_ok=True)
    return False


@contextmanager
def _gate() -> Iterator[None]:
    """Nobody begins to hold a folder while another process removes it."""
    gate = cache_folder() / _LOCKS / _GATE
    gate.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(gate):
        yield
