"""Cores of the machine that this process may use."""

import os


def available_cores() -> int:
    """How many they are: fewer than the machine has where a process is bound to some of them (SLURM, containers)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def most_workers() -> int:
    """Loading processes that a machine bears: more wait for each other, and thousands bring it down."""
    return 8 * (os.cpu_count() or 1)
