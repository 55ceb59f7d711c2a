"""What happened to a run, in its folder: each start with the machine and the versions, and how each ended."""

import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning as L
import torch

from d2v import __version__
from d2v.data.cores import available_cores
from d2v.data.joint import parts_of
from d2v.errors import Interrupted
from d2v.monitoring.history_file import HISTORY, SKIPPED
from d2v.service_keys import without_keys
from d2v.training.callbacks.run_plan import known_steps
from d2v.whole_files import write_text

_MOST_NAMES = 1000


class RunHistory(L.Callback):
    """Writes ``history.jsonl``, a line for each start and each end, and the names of skipped files, ``skipped.txt``.

    Args:
        run_dir: The run's folder.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self._num_skipped = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            trained = sum(p.numel() for p in pl_module.parameters() if p.requires_grad)
            self._append(trainer, {"event": "start", "trained_parameters": trained, **_environment(trainer)})

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.is_global_zero:
            self._write_skipped(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            self._write_skipped(trainer)
            self._append(trainer, {"event": "end", "how": "done"})

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if not trainer.is_global_zero or not (self.run_dir / HISTORY).is_file():
            return  # the run never started
        how = "failed"
        why = without_keys(f"{type(exception).__name__}: {' '.join(str(exception).split())}")
        if isinstance(exception, Interrupted):
            how, why = "stopped", f"by {signal.Signals(exception.signal_number).name}"
        elif isinstance(exception, KeyboardInterrupt):
            how, why = "stopped", "at once, by Ctrl-C"
        self._append(trainer, {"event": "end", "how": how, "why": why})

    def _append(self, trainer: L.Trainer, values: dict[str, Any]) -> None:
        event = {"time": time.time(), "step": trainer.global_step, "planned_steps": known_steps(trainer), **values}
        with (self.run_dir / HISTORY).open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps(event)}\n")

    def _write_skipped(self, trainer: L.Trainer) -> None:
        names: list[str] = []
        for part in parts_of(trainer.datamodule).values():  # type: ignore[attr-defined]
            names += part.skipped_names()
        if len(names) > self._num_skipped:
            self._num_skipped = len(names)
            write_text(self.run_dir / SKIPPED, "".join(f"{name}\n" for name in names[:_MOST_NAMES]))


def _environment(trainer: L.Trainer) -> dict[str, Any]:
    is_ours = Path(sys.argv[0]).stem in ("d2v", "cli") and len(sys.argv) > 1
    devices = [platform.processor() or platform.machine()]
    if trainer.strategy.root_device.type == "cuda":
        devices = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "command": without_keys(shlex.join(["d2v", *sys.argv[1:]])) if is_ours else None,
        "folder": os.getcwd(),
        "d2v": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": version("lightning"),
        "cuda": torch.version.cuda,
        "system": f"{platform.system()} {platform.machine()}",
        "host": platform.node(),
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
        "device": trainer.strategy.root_device.type,
        "devices": devices,
        "processes": trainer.world_size,
        "precision": str(trainer.precision),
    }


def _commit() -> str | None:
    """Of the checkout that d2v runs from, with + if something in it has changed since; None: it is none."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        tracked = subprocess.run([*git, "ls-files", "--error-unmatch", __file__], capture_output=True, timeout=10)
        if tracked.returncode:
            return None
        commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, timeout=10)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):  # there is no git
        return None
    return commit.stdout.strip() + ("+" if changed.stdout.strip() else "")
