"""Which run `--resume` continues, and what it finds there."""

import csv
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from filelock import FileLock, Timeout
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_info

from d2v.checkpoints.unpickle import refusal
from d2v.configs import read_config
from d2v.errors import UserError

CONFIG, METRICS, LOCK = "config.yaml", "metrics.csv", ".lock"
_AUTO = "auto"
_OF_THE_MACHINE = ("num_workers", "max_skipped_fraction")
_OF_TRAINING = ("optimizer", "schedule", "ema", "init_from", "checkpoint")


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
        run = checkpoint.parent.parent
        if checkpoint.parent.name != "checkpoints" or not (run / CONFIG).is_file():
            run = None
        return cls(checkpoint, int(read_checkpoint(checkpoint).get("global_step", 0)), run)

    def is_the_run(self, name: str | None) -> bool:
        """Whether the same run goes on, rather than a new one of another name that begins here."""
        return self.run is not None and (name is None or _is_named(self.run, name))


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a run's checkpoint; tensors are read when they are used.

    Raises:
        UserError: It is damaged, or no checkpoint of a run.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        content["state_dict"]
    except Exception as error:  # torch raises half a dozen types
        damaged = UserError(f"{path}: no checkpoint of a run of d2v, or a damaged one; give another")
        raise refusal(path, error) or damaged from error
    return dict(content)


def checkpoint_of(option: str, name: str) -> Path:
    """A checkpoint given by its path or by its run's folder.

    Raises:
        UserError: There is none.
    """
    path = Path(name).expanduser()
    for candidate in (path, path / "checkpoints" / "last.ckpt"):
        if candidate.is_file():
            return candidate
    choice = ", or `auto` for the newest run" if option == "--resume" else ""
    raise UserError(f"{option} {name}: no checkpoint there; give its file or a run's folder{choice}")


def config_of_resumed_run(words: list[str]) -> str | None:
    """The config, as YAML, of the run that a command line resumes by its path; without the run's name."""
    resume = None
    for word, following in zip(words, [*words[1:], ""], strict=True):
        option, equals, value = word.partition("=")
        if option == "--resume":
            resume = value if equals else following
    if not resume or resume == _AUTO:
        return None
    run = Origin.of(checkpoint_of("--resume", resume)).run
    if run is None:
        return None
    config = read_config(run / CONFIG)
    config.pop("run_name", None)
    return yaml.safe_dump(config, sort_keys=False)


def find_origin(resume: str, root: Path, name: str | None, config: str) -> Origin | None:
    """What `--resume` means.

    Args:
        resume: A checkpoint, a run's folder or ``auto``: the newest run of the same experiment. That is one whose config
            has the same model, data and seed; of runs whose name is given, one with the same network.
        root: Of the runs.
        name: Given by the user: of the runs to choose from.
        config: Of this run, as it will be written.

    Returns:
        None: start from the beginning.
    """
    if resume != _AUTO:
        return Origin.of(checkpoint_of("--resume", resume))
    checkpoints = sorted(root.glob("*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    wanted = _experiment(yaml.safe_load(config), name)
    others = ""
    for checkpoint in checkpoints:
        run = checkpoint.parent.parent
        if (name and not _is_named(run, name)) or not (run / CONFIG).is_file():
            continue
        difference = next(_differences(wanted, _experiment(read_config(run / CONFIG), name)), None)
        if difference is None:
            return Origin.of(checkpoint)
        others = others or f" ({run} differs in {difference}; --resume {run} would go on with it)"
    called = f" called {name}" if name else ""
    rank_zero_info(f"--resume auto: no run of this config{called} under {root}{others}: starting from the beginning")
    return None


def _is_named(run: Path, name: str) -> bool:
    return re.fullmatch(rf"{re.escape(name)}(-\d+)?", run.name) is not None


def _experiment(config: dict[str, Any], name: str | None) -> dict[str, Any]:
    """What makes an experiment: a config without what may change when it goes on."""
    model, data = _flat(config.get("model")), _flat(config.get("data"))
    if name:  # the user knows which one it is: only the network must be the same
        model = {key: value for key, value in model.items() if key not in _OF_TRAINING}
        return {"model": model}
    for key in _OF_THE_MACHINE:
        data.pop(key, None)
    if data.get("global_batch_size") is not None:
        data.pop("batch_size", None)
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


def lock_run(run_dir: Path) -> FileLock:
    """Let no other process train in this folder as long as this one lives.

    Raises:
        UserError: Another one does.
    """
    lock = FileLock(run_dir / LOCK)
    try:
        lock.acquire(timeout=10)  # loading processes of one that was killed go within some seconds
    except Timeout:
        raise UserError(
            f"{run_dir}: another process is training in it; wait until it ends, or give --run_name for a run beside it"
        ) from None
    return lock


class RunMetrics(CSVLogger):
    """``metrics.csv`` of a run's folder, written at once, and continued if it is there already."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__(str(run_dir), name="", version="", flush_logs_every_n_steps=1)

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        if self._experiment is None:
            self._experiment = _Continued(self.log_dir)
        return self._experiment


class _Continued(ExperimentWriter):
    def _check_log_dir_exists(self) -> None:
        """Lightning would delete what is there."""
        path = Path(self.metrics_file_path)
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                self.metrics_keys = next(csv.reader(file), [])


def go_on(run_dir: Path, step: int, config: str) -> None:
    """Prepare a run's folder for training from a step on: what it wrote about later ones goes, its config is renewed.

    Args:
        run_dir: The folder.
        step: Optimizer steps done.
        config: As it is now. If it was another one, that stays as ``config-until-STEP.yaml``.
    """
    metrics, unfinished = run_dir / METRICS, run_dir / f"{METRICS}.unfinished"
    if metrics.is_file():
        with metrics.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            kept = [row for row in rows if _was_logged_before(row, step)]
        with unfinished.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows.fieldnames or ["step"])
            writer.writeheader()
            writer.writerows(kept)
        os.replace(unfinished, metrics)
    path, old = run_dir / CONFIG, run_dir / f"config-until-{step}.yaml"
    if path.read_text(encoding="utf-8") != config:
        if not old.exists():  # else nothing was trained with the one that is there
            path.rename(old)
        path.write_text(config, encoding="utf-8")


def _was_logged_before(row: dict[str, str], step: int) -> bool:
    """Whether a row belongs to the steps done. Training and validation count from 0, probes count the steps done."""
    logged = int(row["step"])
    probed = any(value for name, value in row.items() if name.startswith("probe/"))
    return logged < step or (probed and logged == step)
