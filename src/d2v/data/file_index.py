"""Find files, and hold many names in little memory."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np

from d2v.data.user_cache import entry_path, load_arrays, store_arrays

MANY = 100_000
"""Files of a folder from which on their list is kept, and the folders are asked for changes instead of each file."""
_SETTLED_NS = 2 * 10**9  # so old a change of a folder is surely another one than the next, whatever the disk's clock


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

    @classmethod
    def joined(cls, parts: "Sequence[tuple[str, PackedStrings]]") -> "PackedStrings":
        """The strings of all parts, each with its part's prefix before it."""
        whole, size = cls(()), 0
        contents, ends = [], [np.zeros(1, dtype=np.int64)]
        for prefix, strings in parts:
            letters = os.fsencode(prefix)
            own_ends = strings._ends + np.arange(len(strings) + 1) * len(letters)
            content = np.empty(len(strings._bytes) + len(strings) * len(letters), dtype=np.uint8)
            own = np.ones(len(content), dtype=bool)
            for place, letter in enumerate(letters):
                content[own_ends[:-1] + place] = letter
                own[own_ends[:-1] + place] = False
            content[own] = strings._bytes
            contents.append(content)
            ends.append(size + own_ends[1:])
            size += len(content)
        whole._bytes, whole._ends = np.concatenate(contents), np.concatenate(ends)
        return whole

    def select(self, chosen: Iterable[int]) -> "PackedStrings":
        """The strings at these positions."""
        return PackedStrings(map(self.__getitem__, chosen))

    def __iter__(self) -> Iterator[str]:
        return map(self.__getitem__, range(len(self)))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        return os.fsdecode(self._bytes[self._ends[index] : self._ends[index + 1]].tobytes())


def list_files(folder: Path, suffixes: tuple[str, ...]) -> list[str]:
    """Paths of files below a folder, at any depth, relative to it and sorted; links are followed.

    Args:
        folder: where to look; names that begin with a dot are left out.
        suffixes: possible endings of the files in lower case; the files' own case does not matter.
    """
    return [name for name in _walked(folder, None)[0] if name.lower().endswith(suffixes)]


def _walked(folder: Path, exclude: str | None) -> tuple[list[str], list[str]]:
    """The files below a folder, sorted, and the folders that they were looked for in."""
    found, visited, parents = [], set(), []
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
        parents.append(prefix)
        for name in files:
            if not name.startswith("."):
                found.append(os.path.join(prefix, name))
    return sorted(found), parents


def folder_index(
    folder: Path,
    exclude: str | None,
    made_for: object,
    compute: Callable[[list[str]], dict[str, np.ndarray]],
) -> dict[str, np.ndarray]:
    """What is computed from the names of all files below a folder; kept in the user's cache folder if they are many.

    It is computed anew when a folder has changed since, as it does when a file in it is made, renamed or removed. That
    a file was written over is not to be seen there: ``stamp`` in the result, uint8 [12], changes with names and
    folders alone.

    Args:
        folder: where the files lie.
        exclude: name of a folder directly below it to leave out.
        made_for: as in :func:`fingerprint`.
        compute: computes it from paths relative to the folder, sorted.
    """
    key = fingerprint((), (os.path.abspath(folder), exclude, made_for))
    cache = entry_path("file-index", f"{key}.npz", folder)
    from lightning.pytorch.utilities import rank_zero_info

    stored = load_arrays(cache)
    if stored is not None and np.array_equal(
        _changes(folder, PackedStrings.unpacked(stored, "folders")), stored["changes"]
    ):
        rank_zero_info(f"data: {folder} is as it was listed in {cache}, which you may remove to have it listed anew")
        return stored
    began = time.time_ns()
    names, parents = _walked(folder, exclude)
    arrays = compute(names)
    if len(names) < MANY:
        return arrays
    arrays |= PackedStrings(parents).packed("folders")
    changes = _changes(folder, parents)
    digest = blake2b(digest_size=12)
    for part in (*arrays.values(), changes):
        digest.update(part.tobytes())
    arrays["stamp"] = np.frombuffer(digest.digest(), dtype=np.uint8)
    arrays["changes"] = np.where(changes > began - _SETTLED_NS, -1, changes)
    store_arrays(cache, arrays)
    return arrays


def _changes(folder: Path, parents: Iterable[str]) -> np.ndarray:
    """int64 [n]: when each folder was changed, in nanoseconds; 0 where there is none any more."""
    changes = []
    for parent in parents:
        try:
            changes.append(os.stat(os.path.join(folder, parent)).st_mtime_ns)
        except OSError:
            changes.append(0)
    return np.array(changes, dtype=np.int64)


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
