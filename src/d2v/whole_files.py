"""Files and folders that are on the disk as a whole or not at all, however the process or the machine ends.

Each is written under another name in its own folder, so on the same disk, and gets its name when the disk has it.
Several processes may write the same one at once: each writes its own, and the last to end wins.
"""

import errno
import io
import itertools
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_ENDING = ".unfinished"
_LONGEST = 60  # letters of a name, so that there is room for the ending in what file systems allow


@contextmanager
def whole_file(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write to, which becomes ``path`` at the end of the block; after an error nothing is left of it.

    Raises:
        OSError: It cannot be written; what was there before is still there.
    """
    path = Path(path)
    if path.exists() and not path.is_file():  # a device or a pipe, such as /dev/stdout
        with path.open("wb") as file:
            yield file
        return
    with _own_name(path) as own:
        try:
            with own.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(own, path)
        except BaseException:
            own.unlink(missing_ok=True)
            raise
    sync(path.parent)


@contextmanager
def whole_text_file(path: str | Path, errors: str = "strict") -> Iterator[TextIO]:
    """The same for text in UTF-8, whose lines end as they are written."""
    with whole_file(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="", errors=errors)
        yield text
        text.detach()


def write_text(path: str | Path, text: str, errors: str = "strict") -> None:
    """Write a text file as a whole, in UTF-8."""
    with whole_text_file(path, errors) as file:
        file.write(text)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, which becomes ``folder`` at the end of the block; after an error nothing is left of it.

    Args:
        folder: Not there yet, or empty.

    Raises:
        OSError: It cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _own_name(folder, is_folder=True) as own:
        try:
            for left in own.iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            yield own
            for path in own.rglob("*"):
                sync(path)
            sync(own)
            os.replace(own, folder)
        finally:
            shutil.rmtree(own, ignore_errors=True)
    sync(folder.parent)


def replace_link(link: Path, target: Path) -> None:
    """Let a name lead to a file of the same folder; without a moment in which it leads nowhere."""
    new = link.with_name(f".{link.name}{_ENDING}")
    new.unlink(missing_ok=True)
    try:
        new.symlink_to(target.name)
    except OSError:  # Windows wants a permission for links, some file systems have none
        with target.open("rb") as file, whole_file(link) as copy:
            shutil.copyfileobj(file, copy)
        return
    os.replace(new, link)
    sync(link.parent)


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes left in a folder that no other process writes to."""
    for file in folder.glob(f".*{_ENDING}"):
        file.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until the disk has the content of a file, or the names in a folder."""
    if os.name != "posix" and path.is_dir():  # Windows opens no folders
        return
    opened = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno != errno.EINVAL:  # else the file system knows no such thing
            raise
    finally:
        os.close(opened)


@contextmanager
def _own_name(path: Path, is_folder: bool = False) -> Iterator[Path]:
    """A name beside ``path`` that no other living process writes to; an empty file or folder has it.

    A lock tells: the system takes it from a process that is killed, and the next one writes over what that has left.
    """
    make, stem = Path.mkdir if is_folder else Path.touch, f".{path.name[:_LONGEST]}"
    for number in itertools.count():
        own = path.with_name(f"{stem}.{number}{_ENDING}")
        make(own, exist_ok=True)
        try:
            lock = _lock(own)
        except OSError:  # there are no locks here
            own, lock = path.with_name(f"{stem}.{os.getpid()}{_ENDING}"), None
            make(own, exist_ok=True)
            break
        if lock is not None:
            break
    try:
        yield own
    finally:
        if lock is not None:
            os.close(lock)


def _lock(path: Path) -> int | None:
    """What holds a lock on a file or folder until it is closed; None: another process has it."""
    if fcntl is None:
        raise OSError("no locks")
    lock = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_still_there = os.path.samestat(os.stat(path), os.fstat(lock))  # else it has just been given its name
    except (BlockingIOError, FileNotFoundError):
        is_still_there = False
    except OSError:
        os.close(lock)
        raise
    if not is_still_there:
        os.close(lock)
    return lock if is_still_there else None
