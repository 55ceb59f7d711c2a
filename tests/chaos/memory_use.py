"""A callback that writes down what a run and all of its processes use; Linux only."""

import json
import os
from pathlib import Path
from typing import Any

import lightning as L


def processes(first: int) -> list[int]:
    """A process and all that descend from it."""
    found = [first]
    for task in Path(f"/proc/{first}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += processes(int(child))
    return found


def memory(process: int) -> int:
    """Its share of memory that is no file's, in kB: what processes share counts once in their sum."""
    total = 0
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        if line.startswith(("Pss_Anon", "Pss_Shmem")):
            total += int(line.split()[1])
    return total


def usage() -> dict[str, int]:
    found = processes(os.getpid())
    return {
        "memory": sum(map(memory, found)),
        "files": sum(len(os.listdir(f"/proc/{process}/fd")) for process in found),
        "threads": sum(len(os.listdir(f"/proc/{process}/task")) for process in found),
        "processes": len(found),
    }


class MemoryUse(L.Callback):
    """
    Args:
        path: A line of JSON each time.
        every: Optimizer steps between two.
        leak: Bytes that each step keeps: the control.
    """

    def __init__(self, path: str, every: int = 50, leak: int = 0) -> None:
        self.path, self.every, self.leak, self.kept = path, every, leak, list[bytes]()

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        self.kept.append(os.urandom(self.leak))
        if trainer.global_step % self.every == 0:
            with open(self.path, "a") as file:
                file.write(json.dumps({"step": trainer.global_step, **usage()}) + "\n")
