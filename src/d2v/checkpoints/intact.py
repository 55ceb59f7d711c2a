"""Whether a checkpoint's file is what was written: torch stores a checksum of each tensor."""

import zipfile
import zlib
from pathlib import Path


def damage(file: Path) -> str | None:
    """What is wrong with a torch file, all of which is read; None: nothing, or it is of a kind without checksums."""
    try:
        if file.stat().st_size == 0:
            return "it is empty"
        with file.open("rb") as opened:
            if not zipfile.is_zipfile(opened):
                return "it is cut off, or no checkpoint"
        with zipfile.ZipFile(file) as archive:
            broken = archive.testzip()
    except FileNotFoundError:
        return "it leads to a file that is not there" if file.is_symlink() else "it does not exist"
    except (OSError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        return str(error) or type(error).__name__
    return broken and f"the checksum of {broken} is wrong"


def newest_intact(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint in a folder that can be read, and what is wrong with those that are newer.

    Args:
        folder: Of a run's checkpoints; ``last.ckpt`` counts as the newest.
    """
    files: dict[Path, Path] = {}
    for file in sorted(folder.glob("*.ckpt"), key=lambda file: file.name != "last.ckpt"):
        files.setdefault(file.resolve(), file)
    last = [file for file in files.values() if file.name == "last.ckpt"]
    others = [file for file in files.values() if file not in last and file.exists()]
    others.sort(key=lambda file: file.stat().st_mtime_ns, reverse=True)
    damaged: list[str] = []
    for file in [*last, *others]:
        wrong = damage(file)
        if wrong is None:
            return file, damaged
        damaged.append(f"{file} is damaged ({wrong})")
    return None, damaged
