"""Checkpoints are on the disk as a whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO


class SafeCheckpointIO(TorchCheckpointIO):
    """Writes into a file beside the checkpoint, waits until the disk has it, and gives it the checkpoint's name.

    Lightning's own way leads through the system's folder for temporary files, which may be small or on another disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            OSError: It cannot be written; what was there before is still there.
        """
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _unfinished(path) as file, file.open("wb") as opened:
                torch.save(checkpoint, opened)
                opened.flush()
                os.fsync(opened.fileno())
            _sync_folder(path.parent)
        except (OSError, RuntimeError) as error:  # torch has a RuntimeError for a full disk
            raise OSError(_why_not(path, error)) from error


def replace_link(link: Path, target: Path) -> None:
    """Let a name lead to a file of the same folder; without a moment in which it leads nowhere."""
    with _unfinished(link) as new:
        try:
            new.symlink_to(target.name)
        except OSError:  # Windows wants a permission for links, some file systems have none
            shutil.copyfile(target, new)


def remove_unfinished(folder: Path) -> None:
    """Remove what a process left that was killed while it saved."""
    for file in folder.glob(".*.unfinished"):
        file.unlink(missing_ok=True)


@contextmanager
def _unfinished(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write to; the file is then renamed, or removed after an error."""
    file = path.with_name(f".{path.name}.unfinished")
    file.unlink(missing_ok=True)
    try:
        yield file
        os.replace(file, path)
    finally:
        file.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Wait until the disk has the names, too, where a folder can be opened for that (not on Windows)."""
    if os.name == "posix":
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def _why_not(path: Path, error: Exception) -> str:
    reason = getattr(error, "strerror", None) or str(error)
    free = shutil.disk_usage(path.parent).free
    if isinstance(error, RuntimeError) or free < 10_000_000:
        reason = f"no space left on the disk, or too little: {free / 1e6:,.1f} MB are free"
    return (
        f"{path}: the checkpoint cannot be written ({reason}). Earlier ones stay: make room, and continue with "
        f"--resume {path.parent.parent}"
    )
