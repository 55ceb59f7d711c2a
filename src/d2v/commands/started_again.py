"""Whether a job is one that SLURM or torchrun has started once more, and which run it was."""

import json
import os
import platform
import socket
from pathlib import Path

from d2v.whole_files import write_text

JOB = ".job"


def _starts() -> dict[str, int]:
    """How often each job that this process belongs to has been started before, by the job's name."""
    starts = {}
    if job := os.environ.get("SLURM_JOB_ID"):
        starts[f"slurm {job}"] = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
    if job := os.environ.get("TORCHELASTIC_RUN_ID"):
        if job == "none":  # nobody named it: then it is the process that starts the others
            job = f"{platform.node()} {os.getppid()}"
        starts[f"torchrun {job}"] = int(os.environ.get("TORCHELASTIC_RESTART_COUNT") or 0)
    return starts


def mark(run: Path) -> None:
    """Write into a run's folder which job trains in it."""
    starts = _starts()
    if starts:
        write_text(run / JOB, json.dumps(starts))


def is_of_this_job(run: Path) -> bool:
    """Whether an earlier start of this job has trained in a run's folder."""
    starts = _starts()
    if not any(starts.values()):
        return False
    try:
        before = json.loads((run / JOB).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    # Rank zero may have marked this start already, before another process asks.
    own = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))) == 0
    for job, number in starts.items():
        if job in before and (before[job] < number or (before[job] == number and not own)):
            return True
    return False


def meet_anew() -> None:
    """Let the processes that torchrun has started again meet at a place of their own.

    Since torchrun shares one store among all starts, they would read the addresses of those that were killed, and wait
    for them (torch 2.14, ``torch/distributed/rendezvous.py``).
    """
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if start == "0" or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != str(True):
        return
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    host = os.environ["MASTER_ADDR"]
    store = TCPStore(host, int(os.environ["MASTER_PORT"]), is_master=False)
    key = f"d2v.port.{start}"
    if os.environ["RANK"] == "0":
        with socket.socket() as free:
            free.bind(("", 0))
            store.set(key, str(free.getsockname()[1]))
    os.environ["MASTER_PORT"] = store.get(key).decode()
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = str(False)
