"""Which part of the work a process has."""

import pytest

from d2v.errors import UserError
from d2v.shares import ALONE, Share, own_share

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
SRUN = {
    "SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "6", "SLURM_LOCALID": "1", "SLURM_STEP_TASKS_PER_NODE": "2(x3)",
}  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "given", "expected"),
    [
        ({}, None, ALONE),
        ({}, "1/3", Share(1, 3)),
        (TORCHRUN, None, Share(5, 8, 1, 4)),
        (SRUN, None, Share(3, 6, 1, 2)),
        (SRUN | TORCHRUN, None, Share(5, 8, 1, 4)),  # torchrun, started by srun on each machine
        (TORCHRUN, "0/1", Share(0, 1, 1, 4)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, None, ALONE),  # sbatch without srun: one process
        ({"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "4"}, None, ALONE),  # may be of other work each
        ({"RANK": "2"}, None, ALONE),
    ],
)
def test_own_share(monkeypatch, environment, given, expected) -> None:
    for name in TORCHRUN | SRUN | {"SLURM_NTASKS": "", "SLURM_ARRAY_TASK_ID": ""}:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert own_share(given) == expected


@pytest.mark.parametrize("given", ["3/3", "1", "-1/2", "a/b", "0/0", "1/2/3", "1.0/2"])
def test_shares_that_are_none(given) -> None:
    with pytest.raises(UserError, match=f"--share {given}: give this process's number, from 0, "):
        own_share(given)


def test_shares_are_everything_once() -> None:
    for total in (0, 1, 7, 100):
        ranges = [range(*Share(rank, 4).bounds(total)) for rank in range(4)]
        assert [number for part in ranges for number in part] == list(range(total))
