"""Whether a checkpoint's file is what was written: torch stores a checksum of each tensor."""

import re
import zipfile
from functools import cache
from pathlib import Path

import torch

from d2v.checkpoints.unpickle import foreign_names, refusal
from d2v.errors import UserError

BEST, LAST = "best.ckpt", "last.ckpt"


def damage(file: Path, of_a_run: bool = True) -> str | None:
    """What is wrong with a torch file, all of which is read once; None: nothing, or it was written without checksums.

    Args:
        file: One that torch wrote in its present format, which is a zip archive.
        of_a_run: Whether it must be a checkpoint of Lightning's.
    """
    try:
        stat = file.stat()
    except FileNotFoundError:
        return "it leads to a file that is not there" if file.is_symlink() else "it does not exist"
    return _damage(file, of_a_run, stat.st_size, stat.st_mtime_ns)


@cache
def _damage(file: Path, of_a_run: bool, size: int, changed: int) -> str | None:
    if size == 0:
        return "it is empty"
    try:
        with file.open("rb") as opened:
            if not zipfile.is_zipfile(opened):
                return None if foreign_names(file) else "it is cut off, or no checkpoint"
            with zipfile.ZipFile(opened) as archive:
                entries = archive.infolist()
                # Torch packs nothing; a file that does could take hours to read.
                if sum(entry.file_size for entry in entries) > size or any(entry.compress_type for entry in entries):
                    return "its directory is wrong"
                if any(entry.CRC for entry in entries) and (broken := archive.testzip()):
                    return f"the checksum of {broken} is wrong"
    except Exception as error:  # zipfile raises half a dozen types
        return str(error) or type(error).__name__
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        refused = refusal(file, error) is not None  # which who opens it says
        return None if refused else "it cannot be read as a checkpoint"
    if of_a_run and not (isinstance(content, dict) and isinstance(content.get("state_dict"), dict)):
        return "it is no checkpoint of a run"
    return None


def require_intact(file: Path, option: str = "", of_a_run: bool = True) -> None:
    """Refuse a file that the user has named (with an option), if it is damaged.

    Raises:
        UserError: It is; the message says what there is in its place.
    """
    if wrong := damage(file, of_a_run):
        intact, _ = newest_intact(file.parent)
        instead = "give another" if intact is None else f"beside it is {f'{option} {intact}'.strip()}"
        raise UserError(f"{f'{option} {file}'.strip()}: is damaged ({wrong}); {instead}")


def newest_intact(folder: Path, best_first: bool = False) -> tuple[Path | None, list[str]]:
    """The newest checkpoint in a folder that can be read, and what is wrong with those that would come before it.

    Args:
        folder: Of a run's checkpoints.
        best_first: Whether ``best.ckpt`` comes before the newest.
    """
    found: list[Path] = []
    last = folder / LAST
    for file in folder.glob("*.ckpt"):
        if file.exists() and file.resolve() != last.resolve():
            found.append(file)
    found.sort(key=_written, reverse=True)
    if last.exists():  # it counts as the newest, but for one that was written when a kill left no time for the link
        newer = [file for file in found if _step(file) > _step(last) and _written(file) > _written(last)]
        found = [*newer, last, *(file for file in found if file not in newer)]
    elif last.is_symlink():
        found.insert(0, last)
    if best_first:
        found.sort(key=lambda file: file.name != BEST)
    damaged: list[str] = []
    for file in found:
        wrong = damage(file)
        if wrong is None:
            return file, damaged
        damaged.append(f"{file} is damaged ({wrong})")
    return None, damaged


def _written(file: Path) -> int:
    return file.stat().st_mtime_ns


def _step(file: Path) -> float:
    """As its name tells; one without is no newer than ``last.ckpt``."""
    found = re.fullmatch(r"step-(\d+)\.ckpt", file.resolve().name)
    if found:
        return int(found[1])
    return float("inf") if file.name == LAST else -1
