"""Checkpoints are on the disk as a whole or not at all."""

import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from d2v.whole_files import whole_file


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
            with whole_file(path) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:  # torch has a RuntimeError for a full disk
            raise OSError(_why_not(path, error)) from error


def _why_not(path: Path, error: Exception) -> str:
    reason = getattr(error, "strerror", None) or str(error)
    free = shutil.disk_usage(path.parent).free
    if isinstance(error, RuntimeError) or free < 10_000_000:
        reason = f"no space left on the disk, or too little: {free / 1e6:,.1f} MB are free"
        others = [file.stat().st_size for file in path.parent.glob("*.ckpt") if file.exists()]
        if others:
            reason += f", and one takes about {max(others) / 1e6:,.1f} MB until an older one is removed"
    return (
        f"{path}: the checkpoint cannot be written ({reason}). Earlier ones stay: make room, and continue with "
        f"--resume {path.parent.parent}"
    )
