"""Find files, hold many names in little memory, and cache what was computed from files."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

import numpy as np

log = logging.getLogger(__name__)


class PackedStrings:
    """Many strings in two arrays, which worker processes share by fork.

    A list of a million Python strings would be copied page by page, because counting references writes to it.
    """

    def __init__(self, strings: Iterable[str]) -> None:
        encoded = list(map(os.fsencode, strings))
        self._bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self._ends = np.zeros(len(encoded) + 1, dtype=np.min_scalar_type(-len(self._bytes) - 1))
        np.cumsum(list(map(len, encoded)), out=self._ends[1:])

    @classmethod
    def unpacked(cls, arrays: Mapping[str, np.ndarray], name: str) -> "PackedStrings":
        """The strings that :meth:`packed` stored under this name."""
        strings = cls(())
        strings._bytes, strings._ends = arrays[name], arrays[f"{name} ends"]
        return strings

    def packed(self, name: str) -> dict[str, np.ndarray]:
        """The two arrays, to be stored in a file."""
        return {name: self._bytes, f"{name} ends": self._ends}

    def select(self, chosen: Iterable[int]) -> "PackedStrings":
        """The strings at these positions."""
        return PackedStrings(map(self.__getitem__, chosen))

    def __iter__(self) -> Iterator[str]:
        return map(self.__getitem__, range(len(self)))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        return os.fsdecode(self._bytes[self._ends[index] : self._ends[index + 1]].tobytes())


def list_files(folder: Path, suffixes: tuple[str, ...], exclude: str | None = None) -> list[str]:
    """Paths of files below a folder, at any depth, relative to it and sorted; links are followed.

    Args:
        folder: where to look; names that begin with a dot are left out.
        suffixes: possible endings of the files in lower case; the files' own case does not matter.
        exclude: name of a folder directly below ``folder`` to leave out.
    """
    found, visited = [], set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in visited:  # a link to a folder above would never end
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if parent == str(folder) and exclude in folders:
            folders.remove(exclude)
        prefix = parent.removeprefix(str(folder)).lstrip(os.sep)
        for name in files:
            if name.lower().endswith(suffixes) and not name.startswith("."):
                found.append(os.path.join(prefix, name))
    return sorted(found)


def fingerprint(files: Iterable[str | Path], made_for: object = None) -> str:
    """A hash that changes when a file is changed, renamed, replaced or missing.

    Args:
        files: paths of the files.
        made_for: settings of whatever is computed from the files, such as endings and names of columns, as plain values
            with a ``repr`` of their own. Two readers of the same files then have different fingerprints.
    """
    digest = blake2b(digest_size=12)
    if made_for is not None:
        digest.update(f"{made_for!r}\n".encode())
    for file in files:
        try:
            stat = os.stat(file)
            digest.update(f"{os.path.abspath(file)}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode("utf-8", "replace"))
        except OSError:
            digest.update(f"{os.path.abspath(file)}\0missing\n".encode("utf-8", "replace"))
    return digest.hexdigest()


def cache_folder() -> Path:
    """Folder of this user's caches of d2v (below ``XDG_CACHE_HOME``), which need not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "d2v"


def cached_arrays(
    name: str,
    key: str,
    compute: Callable[[], dict[str, np.ndarray]],
    renew: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] | None = None,
) -> dict[str, np.ndarray]:
    """Arrays from the user's cache folder (``XDG_CACHE_HOME``), computed and kept there if they are not in it.

    Args:
        name: what the arrays are, for the file's name and messages.
        key: :func:`fingerprint` of what they are computed from.
        compute: computes them.
        renew: updates the cached arrays, or returns the same ones if they are still valid.
    """
    cache = cache_folder() / f"{name}-{key}.npz"
    stored = _load(cache)
    if stored is None:
        arrays = compute()
    elif renew is None:
        return stored
    else:
        arrays = renew(stored)
        if arrays is stored:
            return stored
    part = cache.with_suffix(f".{os.getpid()}.npz")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.savez(part, **arrays)  # type: ignore[arg-type]  # numpy's stubs confuse the names with allow_pickle
        part.replace(cache)
    except OSError as error:
        log.warning("data: the %s could not be kept in %s (%s); it is built anew each time", name, cache, error)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    return arrays


def _load(cache: Path) -> dict[str, np.ndarray] | None:
    """None if it is not there, or damaged."""
    if not cache.is_file():
        return None
    try:
        with np.load(cache) as stored:
            return dict(stored)
    except Exception:  # zipfile, zlib and numpy raise many types of their own at a damaged file
        log.warning("data: %s is damaged and is made anew", cache)
        return None
