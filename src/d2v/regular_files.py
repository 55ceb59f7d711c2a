"""Files of a user's are opened here: what has the name of a file may be a pipe or a device, which never end."""

import errno
import os
import stat
from typing import BinaryIO

_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe"}


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """A file opened for reading, without a buffer.

    Raises:
        OSError: it cannot be opened, or is no regular file; ``strerror`` says why in either case.
    """
    # Else a pipe would be waited for, until somebody writes into it.
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise _irregular(path, "a socket") from error
        raise
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        raise _irregular(path, _KINDS.get(stat.S_IFMT(mode), "a device"))
    return open(handle, "rb", buffering=0)


def read_regular(path: str | os.PathLike[str]) -> bytes:
    """All bytes of a file; raises OSError as :func:`open_regular` does."""
    with open_regular(path) as file:
        return file.read()


def _irregular(path: str | os.PathLike[str], kind: str) -> OSError:
    return OSError(errno.EINVAL, f"it is {kind} and no file", os.fspath(path))
