"""A run's folder: made, found again, and where its loggers write."""

import os
import secrets
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import jsonargparse
import lightning as L
import torch
from filelock import BaseFileLock, FileLock, Timeout
from lightning.pytorch.utilities import rank_zero_info
from lightning_utilities.core.rank_zero import rank_zero_only

from d2v.checkpoints.folder import in_short, mismatches
from d2v.checkpoints.intact import newest_intact, require_intact
from d2v.checkpoints.places import checkpoint_of_run
from d2v.checkpoints.unpickle import refusal
from d2v.commands.started_again import JOB
from d2v.commands.wandb_connection import why_offline
from d2v.errors import UserError
from d2v.monitoring.history_file import HISTORY
from d2v.training.step import TrainingModule
from d2v.whole_files import write_text

CONFIG, LOCK = "config.yaml", ".lock"
_WANDB_ID = "wandb_id.txt"
_PATIENCE = 10  # seconds: the loading processes of a run that was killed hold its lock until they notice
# They hand the run's folder and where it starts to the processes that Lightning starts for other devices.
RUN_DIR_VARIABLE, CHECKPOINT_VARIABLE = "D2V_RUN_DIR", "D2V_CHECKPOINT"


def checkpoint_of(option: str, name: str) -> str:
    """A checkpoint given by its path or by its run's folder: the best to read from, else the last one.

    Raises:
        UserError: There is none.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        try:
            found = checkpoint_of_run(path)
        except UserError as error:
            raise UserError(f"{option} {name}: {error}") from error
        rank_zero_info(f"{option} {name}: takes {found}")
        return str(found)
    if not path.is_file():
        raise UserError(f"{option} {name}: no checkpoint there; give its file or a run's folder")
    require_intact(path, option)
    return str(path)


def checkpoint_to_resume(name: str | Path) -> Path:
    """The checkpoint that a run goes on from: a file, or the newest intact one of a run's folder.

    Raises:
        UserError: There is none, or the file is damaged.
    """
    path = Path(name).expanduser()
    if path.is_file() or path.is_symlink():
        require_intact(path, "--resume")
        return path
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    intact, damaged = newest_intact(folder)
    if intact is not None:
        for text in damaged:
            rank_zero_info(f"warning: --resume: {text}; the one before it is taken, {intact}")
        rank_zero_info(f"--resume {name}: takes {intact}")
        return intact
    if damaged:
        text = f"--resume {name}: {'; '.join(damaged)}, and there is no other; start a new run (without --resume)"
        raise UserError(text)
    raise UserError(f"--resume {name}: no checkpoint there; give its file or a run's folder, or `auto`: the newest run")


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


def require_fitting(path: str | None, model: L.LightningModule) -> None:
    """Compare a checkpoint, if one was asked for, with the model that is to read it, before anything runs.

    Raises:
        UserError: It is damaged, or of another model.
    """
    if path is None:
        return
    content = read_checkpoint(path)
    found = content["state_dict"]
    if isinstance(model, TrainingModule):
        try:
            model.prepare_for(content)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
    stored, encoders = content.get("d2v", {}).get("encoders", {}), getattr(model, "encoders", {})
    if stored and encoders and stored.keys() != encoders.keys():
        has, wants = (", ".join(map(repr, names)) for names in (stored, encoders))
        text = "start a new run from it instead, without --resume: --model.init_from"
        raise UserError(f"{path}: has the encoders {has}, and this config {wants}: {text} {path}")
    problems = mismatches(model.state_dict(), found)
    if problems:
        raise UserError(f"{path}: does not fit the model of this config: {in_short(problems, shown=3)}")


def run_of(checkpoint: str | Path | None) -> Path | None:
    """The folder of the run that a checkpoint lies in; None: it lies in none."""
    if checkpoint is None:
        return None
    folder = Path(checkpoint).parent
    if folder.name == "checkpoints" and (folder.parent / CONFIG).is_file():
        return folder.parent
    return None


def is_started_by_lightning() -> bool:
    """Whether this is a process for one more device, which takes the run's folder and checkpoint from the first."""
    return RUN_DIR_VARIABLE in os.environ and int(os.environ.get("LOCAL_RANK", "0")) > 0


def enter_run_dir(run_dir: Path) -> Path:
    """Let this run, in all of its processes, be the one that has this folder."""
    os.environ[RUN_DIR_VARIABLE] = str(run_dir)
    return run_dir


def hand_over_checkpoint(path: str | None) -> str | None:
    """The checkpoint to start from: the same one for all processes, though there are newer ones later."""
    if is_started_by_lightning():
        return os.environ.get(CHECKPOINT_VARIABLE) or None
    os.environ[CHECKPOINT_VARIABLE] = path or ""
    return path


def lock_run(run_dir: Path) -> BaseFileLock:
    """Let no other process train in this folder as long as this one lives.

    Raises:
        UserError: Another one does.
    """
    lock = FileLock(run_dir / LOCK)
    try:
        lock.acquire(timeout=_PATIENCE)
    except Timeout:
        raise UserError(
            f"{run_dir}: another process is training in it; wait until it ends, or give --run_name for a run beside it"
        ) from None
    return lock


def make_run_dir(root: Path, name: str | None, suffix: str, config: str = "") -> Path:
    """A folder of its own for this run, with its config in it, the same for all of its processes."""
    if is_started_by_lightning():
        return Path(os.environ[RUN_DIR_VARIABLE])
    # On other nodes nothing is written by name: Lightning sends the checkpoint folder of rank zero to all.
    stem = (name or datetime.now().strftime("%Y%m%d-%H%M%S")) + suffix
    run_dir, number = root / stem, 1
    while getattr(rank_zero_only, "rank", None) in (None, 0):
        try:
            run_dir.mkdir(parents=True)  # fails if another run has just made it
            write_text(run_dir / CONFIG, config)
            break
        except FileExistsError:
            number += 1
            run_dir = root / f"{stem}-{number}"
        except OSError as error:
            text = f"trainer.default_root_dir {root}: cannot be written ({error.strerror}); set another"
            raise UserError(text) from error
    return enter_run_dir(run_dir)


@rank_zero_only
def remove_unused(run_dir: Path | None) -> None:
    """A run that could not start leaves nothing behind."""
    if run_dir is None:
        return
    if {path.name for path in run_dir.rglob("*") if path.is_file()} <= {CONFIG, LOCK, JOB, HISTORY}:
        shutil.rmtree(run_dir, ignore_errors=True)


def direct_logger(logger: jsonargparse.Namespace | bool, run_dir: Path, steps_done: int = 0) -> None:
    """Make a configured logger write into the run's folder, and W&B run offline where it cannot be reached.

    Where a run goes on, TensorBoard hides what it knows of later steps, and W&B continues under the same id.
    """
    if isinstance(logger, bool):  # Lightning's own, or none
        return
    init_args = logger.init_args
    init_args.save_dir = str(run_dir)
    if logger.class_path.endswith("TensorBoardLogger"):
        init_args.name, init_args.version = "", "tensorboard"
        if steps_done:
            init_args.purge_step = steps_done + 1
    if logger.class_path.endswith("WandbLogger"):
        init_args.name = init_args.get("name") or run_dir.name
        init_args.id = init_args.get("id") or _wandb_id(run_dir / _WANDB_ID)
        if not init_args.get("offline") and (reason := why_offline()):
            rank_zero_info(f"W&B: {reason}, so this run stays offline; later: wandb sync {run_dir}/wandb/offline-*")
            init_args.offline = True
        if init_args.offline:
            os.environ.setdefault("WANDB_SILENT", "true")


def _wandb_id(path: Path) -> str:
    if not path.is_file():
        write_text(path, secrets.token_hex(4))
    return path.read_text()
