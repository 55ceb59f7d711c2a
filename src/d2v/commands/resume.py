"""Which run `--resume` continues, and what it finds there."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from lightning.pytorch.utilities import rank_zero_info

from d2v.commands.run_folder import CONFIG, checkpoint_to_resume, read_checkpoint, run_of
from d2v.commands.run_metrics import drop_rows_after
from d2v.commands.started_again import is_of_this_job
from d2v.configs import read_config
from d2v.whole_files import write_text

_AUTO = "auto"
_OF_THE_MACHINE = ("num_workers", "max_skipped_fraction")
_OF_TRAINING = ("optimizer", "schedule", "ema", "init_from", "init_teacher", "checkpoint", "seed")


@dataclass(frozen=True)
class Origin:
    """A checkpoint that training goes on from."""

    checkpoint: Path
    step: int
    """Optimizer steps done."""
    run: Path | None
    """The folder of its run; None: it lies in none."""

    @classmethod
    def of(cls, checkpoint: Path) -> "Origin":
        """Of a file.

        Raises:
            UserError: It is no checkpoint of a run.
        """
        return cls(checkpoint, int(read_checkpoint(checkpoint).get("global_step", 0)), run_of(checkpoint))

    def is_the_run(self, name: str | None) -> bool:
        """Whether the same run goes on, rather than a new one of another name that begins here."""
        return self.run is not None and (name is None or _is_named(self.run, name))


def find_origin(resume: str, root: Path, name: str | None, config: str) -> Origin | None:
    """What `--resume` means.

    Args:
        resume: A checkpoint, a run's folder or ``auto``: the newest run of the same experiment. That is one whose
            config has the same model, data and seed; of runs whose name is given, one with the same network.
        root: Of the runs.
        name: Given by the user: of the runs to choose from.
        config: Of this run, as it will be written.

    Returns:
        None: start from the beginning.
    """
    if resume != _AUTO:
        return Origin.of(checkpoint_to_resume(resume))
    wanted = _experiment(yaml.safe_load(config), name)
    others = ""
    for run in _runs(root):
        if name and not _is_named(run, name):
            continue
        difference = next(_differences(wanted, _experiment(read_config(run / CONFIG), name)), None)
        if difference is None:
            return Origin.of(checkpoint_to_resume(run))
        others = others or f" ({run} differs in {difference}; --resume {run} would go on with it)"
    called = f" called {name}" if name else ""
    rank_zero_info(f"--resume auto: no run of this config{called} under {root}{others}: starting from the beginning")
    return None


def run_of_this_job(root: Path, config: str) -> Origin | None:
    """Where a job goes on that SLURM or torchrun has started once more, with the same command.

    Args:
        root: Of the runs.
        config: Of this run, as it will be written.

    Returns:
        None: it is no such job, or it had not saved anything.
    """
    wanted = _experiment(yaml.safe_load(config), None)
    for run in _runs(root):
        if is_of_this_job(run) and wanted == _experiment(read_config(run / CONFIG), None):
            rank_zero_info(f"this job was started again: {run} goes on")
            return Origin.of(checkpoint_to_resume(run))
    return None


def _runs(root: Path) -> list[Path]:
    """Folders of runs with checkpoints, the newest first."""
    newest: dict[Path, int] = {}
    for file in root.glob("*/checkpoints/*.ckpt"):
        run = run_of(file)
        if run is not None:
            newest[run] = max(newest.get(run, 0), file.lstat().st_mtime_ns)
    return sorted(newest, key=lambda run: newest[run], reverse=True)


def _is_named(run: Path, name: str) -> bool:
    return re.fullmatch(rf"{re.escape(name)}(-\d+)?", run.name) is not None


def _experiment(config: dict[str, Any], name: str | None) -> dict[str, Any]:
    """What makes an experiment: a config without what may change when it goes on."""
    model, data = _flat(config.get("model")), _flat(config.get("data"))
    if name:  # the user knows which one it is: only the network must be the same
        model = {key: value for key, value in model.items() if key not in _OF_TRAINING}
        return {"model": model}
    parts = {name: _flat(part) for name, part in (data.get("parts") or {}).items()}
    for part in (data, *parts.values()):
        for key in _OF_THE_MACHINE:
            part.pop(key, None)
        if part.get("global_batch_size") is not None:
            part.pop("batch_size", None)
    data |= {"parts": parts}
    return {"model": model, "data": data, "seed_everything": config.get("seed_everything")}


def _flat(section: Any) -> dict[str, Any]:
    """A section of a config without the level ``init_args``."""
    if not isinstance(section, dict):
        return {}
    return {"class_path": section.get("class_path"), **(section.get("init_args") or {})}


def _differences(ours: Any, theirs: Any, key: str = "") -> Iterator[str]:
    """Keys, as the user writes them, under which two configs differ."""
    if not isinstance(ours, dict) or not isinstance(theirs, dict):
        if ours != theirs:
            yield key.removesuffix(".").replace(".init_args.", ".")
        return
    for name in [*ours, *(name for name in theirs if name not in ours)]:
        yield from _differences(ours.get(name), theirs.get(name), f"{key}{name}.")


class ContinuedRun(L.Callback):
    """Prepares a run's folder for training from a step on, once it is known that training can start.

    Args:
        run_dir: The folder.
        step: Optimizer steps done.
        config: As it is now. If it was another one, that stays as ``config-until-STEP.yaml``.
    """

    def __init__(self, run_dir: Path, step: int, config: str) -> None:
        self.run_dir, self.step, self.config = run_dir, step, config

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        drop_rows_after(self.run_dir, self.step)
        path, old = self.run_dir / CONFIG, self.run_dir / f"config-until-{self.step}.yaml"
        if path.read_text(encoding="utf-8") != self.config:
            if not old.exists():  # else nothing was trained with the one that is there
                write_text(old, path.read_text(encoding="utf-8"))
            write_text(path, self.config)
