"""How much of the machine is ours."""

import os


def available_cores() -> int:
    """Cores that this process may use: fewer than the machine has where it is bound to some (SLURM, containers)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
