"""What is told apart: bad input, a sample that cannot be read, and a run that a signal stopped."""

from collections.abc import Sequence
from importlib import metadata


class UserError(ValueError):
    """Bad input: a config value, a path, a file or a checkpoint.

    The message names the key or file, the value and what to do. The command line prints it without a traceback and
    exits with code 2; everything else that is raised exits with code 1.
    """


class BrokenSample(Exception):
    """One sample cannot be read or decoded; the message is the reason. It is skipped and counted."""


class Interrupted(BaseException):
    """A signal stopped the run, and its checkpoint is written. The message says how to continue.

    Args:
        message: For the user.
        signal_number: Of the signal; the exit code is 128 more, as shells have it.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number


def how_to_install(extra: str) -> str:
    """The command that installs what an optional part of d2v needs, such as ``onnx``.

    It names the packages themselves and not ``d2v[onnx]``: d2v is on no package index, and whoever takes its name there
    could hand out anything.

    Args:
        extra: a name under ``[project.optional-dependencies]`` in pyproject.toml.
    """
    try:
        requirements = metadata.requires("d2v") or []
    except metadata.PackageNotFoundError:
        return f"pip install -e '.[{extra}]' in the folder with d2v's pyproject.toml"
    packages = []
    for requirement in requirements:
        package, _, marker = requirement.partition(";")
        if marker.strip() == f"extra == '{extra}'":
            packages.append(f"'{package.strip()}'")
    return f"pip install {' '.join(packages)}"


def some_of(names: Sequence[str], most: int) -> str:
    """Names for a message: all, or so many of them and dots."""
    if len(names) > most:
        names = [*names[:most], "..."]
    return ", ".join(names)
