"""A run's folder: made, found again, and where its loggers write."""

import os
import re
import shutil
from datetime import datetime
from pathlib import Path

import jsonargparse
import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from lightning_utilities.core.rank_zero import rank_zero_only

from d2v.checkpoints.folder import in_short, mismatches
from d2v.checkpoints.unpickle import refusal
from d2v.commands.wandb_connection import why_offline
from d2v.errors import UserError
from d2v.training.callbacks.best import BEST
from d2v.training.step import TrainingModule

RUN_DIR_VARIABLE = "D2V_RUN_DIR"  # hands the run's folder to the processes that Lightning starts for other devices


def checkpoint_of(option: str, name: str) -> str:
    """A checkpoint given by its path or by its run's folder: the last one to resume, else the best if there is one."""
    path = Path(name).expanduser()
    kinds = (BEST, "last.ckpt")
    if option == "--resume":
        kinds = ("last.ckpt", BEST)
    for candidate in (path, *(path / "checkpoints" / kind for kind in kinds)):
        if candidate.is_file():
            if candidate != path:
                rank_zero_info(f"{option} {name}: takes {candidate}")
            return str(candidate)
    choice = ", or `auto` for the newest run" if option == "--resume" else ""
    raise UserError(f"{option} {name}: no checkpoint there; give its file or a run's folder{choice}")


def require_fitting(path: str | None, model: L.LightningModule) -> None:
    """Compare a checkpoint, if one was asked for, with the model that is to read it, before anything runs.

    Raises:
        UserError: It is damaged, or of another model.
    """
    if path is None:
        return
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        found = content["state_dict"]
    except Exception as error:  # torch raises half a dozen types
        damaged = UserError(f"{path}: no checkpoint of a run of d2v, or a damaged one; give another")
        raise refusal(path, error) or damaged from error
    if isinstance(model, TrainingModule):
        try:
            model.prepare_for(content)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
    problems = mismatches(model.state_dict(), found)
    if problems:
        raise UserError(f"{path}: does not fit the model of this config: {in_short(problems, shown=3)}")


def newest_checkpoint(root: Path, name: str | None) -> str | None:
    """The newest checkpoint of the runs under a root, of those with a name if one is given; None if there is none."""
    found = list(root.glob("*/checkpoints/last.ckpt"))
    if name:
        pattern = re.compile(rf"{re.escape(name)}(-\d+)?")
        found = [path for path in found if pattern.fullmatch(path.parts[-3])]
    if not found:
        rank_zero_info(f"--resume auto: no checkpoint under {root}, starting from the beginning")
        return None
    return str(max(found, key=lambda path: path.stat().st_mtime_ns))


def make_run_dir(root: Path, name: str | None, suffix: str, config: str = "") -> Path:
    """A folder of its own for this run, with its config in it, the same for all of its processes."""
    if RUN_DIR_VARIABLE in os.environ and int(os.environ.get("LOCAL_RANK", "0")) > 0:
        return Path(os.environ[RUN_DIR_VARIABLE])
    # On other nodes nothing is written by name: Lightning sends the checkpoint folder of rank zero to all.
    stem = (name or datetime.now().strftime("%Y%m%d-%H%M%S")) + suffix
    run_dir, number = root / stem, 1
    while getattr(rank_zero_only, "rank", None) in (None, 0):
        try:
            run_dir.mkdir(parents=True)  # fails if another run has just made it
            (run_dir / "config.yaml").write_text(config)
            break
        except FileExistsError:
            number += 1
            run_dir = root / f"{stem}-{number}"
        except OSError as error:
            text = f"trainer.default_root_dir {root}: cannot be written ({error.strerror}); set another"
            raise UserError(text) from error
    os.environ[RUN_DIR_VARIABLE] = str(run_dir)
    return run_dir


@rank_zero_only
def remove_unused(run_dir: Path | None) -> None:
    """A run that could not start leaves nothing behind."""
    if run_dir is not None and {path.name for path in run_dir.rglob("*") if path.is_file()} <= {"config.yaml"}:
        shutil.rmtree(run_dir, ignore_errors=True)


def direct_logger(logger: jsonargparse.Namespace | bool, run_dir: Path) -> None:
    """Make a configured logger write into the run's folder, and W&B run offline where it cannot be reached."""
    if isinstance(logger, bool):  # Lightning's own, or none
        return
    init_args = logger.init_args
    init_args.save_dir = str(run_dir)
    if logger.class_path.endswith("TensorBoardLogger"):
        init_args.name, init_args.version = "", "tensorboard"
    if logger.class_path.endswith("WandbLogger"):
        init_args.name = init_args.get("name") or run_dir.name
        if not init_args.get("offline") and (reason := why_offline()):
            rank_zero_info(f"W&B: {reason}, so this run stays offline; later: wandb sync {run_dir}/wandb/offline-*")
            init_args.offline = True
        if init_args.offline:
            os.environ.setdefault("WANDB_SILENT", "true")
