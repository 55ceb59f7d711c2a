"""A run's folder: made, found again, and where its loggers write."""

import os
import re
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import jsonargparse
from lightning.pytorch.utilities import rank_zero_info
from lightning_utilities.core.rank_zero import rank_zero_only

from d2v.errors import UserError

RUN_DIR_VARIABLE = "D2V_RUN_DIR"  # hands the run's folder to the processes that Lightning starts for other devices


def checkpoint_of(option: str, name: str) -> str:
    """A checkpoint given by its path or by its run's folder."""
    path = Path(name).expanduser()
    for candidate in (path, path / "checkpoints" / "last.ckpt"):
        if candidate.is_file():
            return str(candidate)
    choice = ", or `auto` for the newest run" if option == "--resume" else ""
    raise UserError(f"{option} {name}: no checkpoint there; give its file or a run's folder{choice}")


def newest_checkpoint(root: Path, name: str | None) -> str | None:
    """The newest checkpoint of the runs under a root, of those with a name if one is given; None if there is none."""
    pattern = re.compile(rf"{re.escape(name)}(-\d+)?" if name else ".*")
    found = [path for path in root.glob("*/checkpoints/last.ckpt") if pattern.fullmatch(path.parts[-3])]
    if not found:
        rank_zero_info(f"--resume auto: no checkpoint under {root}, starting from the beginning")
        return None
    return str(max(found, key=lambda path: path.stat().st_mtime_ns))


def make_run_dir(root: Path, name: str | None, suffix: str) -> Path:
    """A folder of its own for this run, the same for all of its processes."""
    if RUN_DIR_VARIABLE in os.environ and int(os.environ.get("LOCAL_RANK", "0")) > 0:
        return Path(os.environ[RUN_DIR_VARIABLE])
    # On other nodes nothing is written by name: Lightning sends the checkpoint folder of rank zero to all.
    stem = (name or datetime.now().strftime("%Y%m%d-%H%M%S")) + suffix
    number = 1
    while True:
        run_dir = root / (stem if number == 1 else f"{stem}-{number}")
        try:
            if getattr(rank_zero_only, "rank", None) in (None, 0):
                run_dir.mkdir(parents=True)  # fails if another run has just made it
            break
        except FileExistsError:
            number += 1
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


def configured_loggers(configured: Any) -> Iterator[jsonargparse.Namespace]:
    """The loggers of a config, however many it names."""
    for logger in configured if isinstance(configured, list) else [configured]:
        if isinstance(logger, jsonargparse.Namespace):
            yield logger


def direct_logger(logger: jsonargparse.Namespace, run_dir: Path) -> None:
    """Make a configured logger write into the run's folder, and W&B run offline where nobody is logged in."""
    init_args = logger.init_args
    init_args.save_dir = str(run_dir)
    if logger.class_path.endswith("TensorBoardLogger"):
        init_args.name, init_args.version = "", "tensorboard"
    if logger.class_path.endswith("WandbLogger"):
        init_args.name = init_args.get("name") or run_dir.name
        if not init_args.get("offline") and not _wandb_login():
            rank_zero_info(
                f"W&B: not logged in, so this run stays offline; later: wandb sync {run_dir}/wandb/offline-*"
            )
            init_args.offline = True
        if init_args.offline:
            os.environ.setdefault("WANDB_SILENT", "true")


def _wandb_login() -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_MODE"):
        return True
    from netrc import NetrcParseError, netrc

    try:
        return any("wandb" in host for host in netrc(os.environ.get("NETRC")).hosts)
    except (OSError, NetrcParseError):
        return False
