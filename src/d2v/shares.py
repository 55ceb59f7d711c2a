"""Work that several processes share, each by its rank, on machines that see the same files: no network, no group."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from d2v.errors import UserError


@dataclass(frozen=True)
class Share:
    """The part of the work that is this process's."""

    rank: int = 0
    count: int = 1
    """Processes, on all machines together."""
    local_rank: int = 0
    """Among those of this machine."""
    local_count: int = 1

    def bounds(self, total: int) -> tuple[int, int]:
        """Its range of so many things that lie in a row."""
        return total * self.rank // self.count, total * (self.rank + 1) // self.count


ALONE = Share()


def own_share(given: str | None = None) -> Share:
    """What torchrun or srun says of this process, or the user, who may have another launcher.

    Args:
        given: ``RANK/COUNT``, the rank counted from 0, such as 0/4; it overrides both.

    Raises:
        UserError: There is no such share.
    """
    values = dict.fromkeys(("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"), "")
    for name, of_srun in zip(values, ("PROCID", "STEP_NUM_TASKS", "LOCALID", "STEP_TASKS_PER_NODE"), strict=True):
        values[name] = os.environ.get(f"SLURM_{of_srun}", "")
    source = "the environment of srun (SLURM_PROCID/SLURM_STEP_NUM_TASKS)"
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        source = "the environment of torchrun (RANK/WORLD_SIZE)"
        values = {name: os.environ.get(name, "") for name in values}
    local_rank, local_count = (_first_number(values[name]) for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    text = f"{values['RANK']}/{values['WORLD_SIZE']}"
    if given is not None:
        source, text = "--share", given
    elif not values["RANK"] or not values["WORLD_SIZE"]:
        return ALONE
    rank, _, count = text.partition("/")
    if not (rank.isdecimal() and count.isdecimal() and int(rank) < int(count)):
        raise UserError(f"{source} {text}: give this process's number, from 0, and how many there are, such as 0/4")
    return Share(int(rank), int(count), local_rank, max(1, local_count))


def _first_number(text: str) -> int:
    """0 if there is none; SLURM writes 4(x2) for two machines with four each."""
    found = re.match(r"\d+", text)
    return int(found[0]) if found else 0


@dataclass(frozen=True)
class ShareDone:
    """What one of several processes has to say, where others are still at work; printed, it is a line."""

    share: Share
    output: Path
    left: int
    total: int
    unit: str

    def __str__(self) -> str:
        return (
            f"share {self.share.rank} of {self.share.count} is done; {self.left:,} of {self.total:,} {self.unit} are "
            f"left to the others, and who ends last writes {self.output}. If none is at work, give the same command "
            "again"
        )
