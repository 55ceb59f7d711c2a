"""The most memory that a run has held."""

import sys
from pathlib import Path

import torch

_PROC = Path("/proc/self")


def reset_peak(device: torch.device) -> None:
    """Forget what was held before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        (_PROC / "clear_refs").write_text("5")


def peak_gigabytes(device: torch.device) -> float | None:
    """Of tensors on a GPU, or of this whole process; None where neither is known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    if sys.platform != "linux":
        return None
    for line in (_PROC / "status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e9
    return None
