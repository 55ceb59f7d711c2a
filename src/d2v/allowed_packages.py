"""Packages outside d2v whose classes a checkpoint may name, and whose code therefore runs when it is loaded.

The user allows them, never a file: by installing a distribution that declares itself with an entry point of the group
``d2v.packages``, by ``--allow PACKAGE`` on the command line, or by ``d2v.load(path, allow=["package"])``.
"""

import functools
import importlib.metadata
import sys
from collections.abc import Iterable
from pathlib import Path

from d2v.errors import UserError

ENTRY_POINTS = "d2v.packages"

_allowed: set[str] = set()


def allow_packages(packages: Iterable[str]) -> None:
    """Allow packages for all checkpoints that this process reads (``--allow``).

    Raises:
        UserError: One is no name of a top-level package.
    """
    _allowed.update(_checked(packages))


def is_allowed(package: str, allow: Iterable[str] = ()) -> bool:
    """Whether the user allows a package, by ``allow`` or in general.

    Raises:
        UserError: ``allow`` holds something that is no name of a top-level package.
    """
    return bool(package) and (package in _checked(allow) | _allowed or package in _declared_packages())


def _checked(packages: Iterable[str]) -> set[str]:
    names = {packages} if isinstance(packages, str) else set(packages)
    for name in names:
        if not isinstance(name, str) or not name.isidentifier():
            raise UserError(f"allow {name!r}: give the name of a top-level package, such as sensors")
    return names


def _declared_packages() -> frozenset[str]:
    """Packages that installed distributions declare. What merely lies in the working directory is not installed: it may
    have come with the checkpoint."""
    return _declared(Path.cwd().resolve(), tuple(sys.path))


@functools.cache  # it reads the metadata of every distribution
def _declared(here: Path, searched: tuple[str, ...]) -> frozenset[str]:
    declared = set()
    for distribution in importlib.metadata.distributions(path=list(searched)):
        if Path(str(distribution.locate_file(""))).resolve() == here:
            continue
        for entry in distribution.entry_points.select(group=ENTRY_POINTS):
            declared.add(entry.module.partition(".")[0])
    return frozenset(declared)
