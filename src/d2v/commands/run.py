"""``d2v fit``, ``validate``, ``test`` and ``predict``: LightningCLI, with its traps closed."""

import logging
import os
import re
import warnings
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jsonargparse
import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_only, rank_zero_warn

from d2v.configs import find_config
from d2v.errors import UserError
from d2v.training.callbacks.checkpoint import RunCheckpoint
from d2v.training.callbacks.progress import RunProgressBar

RUN_DIR_VARIABLE = "D2V_RUN_DIR"  # hands the run's folder to the processes that Lightning starts for other devices


def run_trainer(args: Sequence[str]) -> None:
    """Run a trainer command.

    Raises:
        UserError: A config, a value or the data is wrong.
    """
    _quieten()
    try:
        RunCLI(args=_prepare(list(args)))
    except (jsonargparse.ArgumentError, MisconfigurationException) as error:
        raise UserError(_readable(error)) from error


class RunCLI(LightningCLI):
    """LightningCLI for all our modules and DataModules.

    What differs: values of a checkpoint never override the config; checkpointing and what the method needs cannot be
    dropped by a list of callbacks in a YAML file; each run has a folder of its own, with its config in it.
    """

    def __init__(self, args: ArgsType) -> None:
        super().__init__(
            save_config_callback=None,
            trainer_defaults={
                "default_root_dir": "runs",
                "use_distributed_sampler": False,  # ours divides the data among the devices and can resume
                "callbacks": [RunProgressBar()],
                "enable_model_summary": False,
            },
            seed_everything_default=1,
            parser_kwargs={"exit_on_error": False},
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=args,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        parser.add_argument("--run_name", type=str | None, default=None, help="Name of the run's folder; default: the time.")
        parser.link_arguments("seed_everything", "model.init_args.seed", compute_fn=int)
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=int)

    def _parse_ckpt_path(self) -> None:
        """Lightning would merge the checkpoint's hyperparameters over the config and the command line. Never."""

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        if config.get("data") is None:
            raise UserError("no data: the config needs a `data:` section, or give --data CLASS --data.root DIR")
        self.run_dir = _make_run_dir(Path(config.trainer.default_root_dir), config.run_name)
        config.trainer.default_root_dir = str(self.run_dir)
        config.checkpoint.dirpath = str(self.run_dir / "checkpoints")
        if isinstance(config.trainer.logger, (list, jsonargparse.Namespace)):
            loggers = config.trainer.logger
            for logger in loggers if isinstance(loggers, list) else [loggers]:
                _direct_logger(logger, self.run_dir)
        self._write_config()

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except (TypeError, ValueError) as error:  # a part refused its values
            raise UserError(_readable(error)) from error

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> L.Trainer:
        if config["logger"] is not False:  # metrics.csv is always written, whatever other loggers there are
            others = [] if config["logger"] in (None, True) else config["logger"]
            others = others if isinstance(others, list) else [others]
            config["logger"] = [CSVLogger(str(self.run_dir), name="", version=""), *others]
        return super()._instantiate_trainer(config, callbacks)

    def before_fit(self) -> None:
        rank_zero_info(f"run folder: {self.run_dir}")
        trainable = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        rank_zero_info(f"{type(self.model).__name__}: {trainable / 1e6:,.2f} million trainable parameters")

    def after_fit(self) -> None:
        rank_zero_info(f"done: {self.run_dir}")

    def predict(self, **kwargs: Any) -> None:
        """Write what the module predicts to ``features.npz`` in the run's folder."""
        import numpy as np

        batches = self.trainer.predict(self.model, **{**kwargs, "return_predictions": True})
        path = self.run_dir / f"features-rank{self.trainer.global_rank}.npz"
        np.savez(path, features=torch.cat([batch.float().cpu() for batch in batches or []]).numpy())
        rank_zero_info(f"features: {path}")

    @rank_zero_only
    def _write_config(self) -> None:
        parser = self._parser(self.subcommand)
        parser.save(self.config[self.subcommand], self.run_dir / "config.yaml", skip_validation=True, overwrite=True)


def _prepare(args: list[str]) -> list[str]:
    """Find configs by name, and turn ``--resume auto|PATH`` into the path of a checkpoint."""
    prepared: list[str] = []
    resume = None
    words = iter([part for arg in args for part in _split_option(arg)])
    for word in words:
        if word == "--config":
            prepared += [word, str(find_config(_value_of(word, words)))]
        elif word == "--resume":
            resume = _value_of(word, words)
        else:
            prepared.append(word)
    if resume is None:
        return prepared
    if args[0] != "fit":
        raise UserError(f"--resume continues `d2v fit`; `d2v {args[0]}` takes --ckpt_path FILE")
    if resume == "auto":
        return [*prepared, *_auto_resume(prepared)]
    if not Path(resume).is_file():
        raise UserError(f"--resume {resume}: no such file; give a checkpoint, or `auto` for the newest run's")
    return [*prepared, "--ckpt_path", resume]


def _split_option(arg: str) -> list[str]:
    """``--config=x`` as two words; only for the options that are looked at here."""
    for option in ("--config", "--resume"):
        if arg.startswith(option + "="):
            return [option, arg.removeprefix(option + "=")]
    return [arg]


def _value_of(option: str, words: Any) -> str:
    value = next(words, None)
    if value is None:
        raise UserError(f"{option}: a value is missing")
    return value


def _auto_resume(args: list[str]) -> list[str]:
    """The newest checkpoint of the runs that share this command's root folder; nothing if there is none."""
    root = Path("runs")
    for i, arg in enumerate(args):
        if arg.startswith("--trainer.default_root_dir="):
            root = Path(arg.partition("=")[2])
        elif arg == "--trainer.default_root_dir" and i + 1 < len(args):
            root = Path(args[i + 1])
    found = sorted(root.glob("*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)
    if not found:
        rank_zero_info(f"--resume auto: no checkpoint under {root}, starting from the beginning")
        return []
    rank_zero_info(f"--resume auto: continuing from {found[-1]}")
    return ["--ckpt_path", str(found[-1])]


def _make_run_dir(root: Path, name: str | None) -> Path:
    """A folder of its own for this run, the same for all of its processes."""
    if RUN_DIR_VARIABLE in os.environ and _local_rank() > 0:
        return Path(os.environ[RUN_DIR_VARIABLE])
    # On other nodes nothing is written by name: Lightning sends the checkpoint folder of rank zero to all.
    stem = name or datetime.now().strftime("%Y%m%d-%H%M%S")
    number = 1
    while True:
        run_dir = root / (stem if number == 1 else f"{stem}-{number}")
        try:
            if rank_zero_only.rank in (None, 0):
                run_dir.mkdir(parents=True)
            break
        except FileExistsError:
            number += 1
        except OSError as error:
            raise UserError(f"--trainer.default_root_dir {root}: cannot be written ({error.strerror})") from error
    os.environ[RUN_DIR_VARIABLE] = str(run_dir)
    return run_dir


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))


def _direct_logger(logger: jsonargparse.Namespace, run_dir: Path) -> None:
    """Make a configured logger write into the run's folder, and W&B run offline where nobody is logged in."""
    init_args = logger.init_args
    init_args.save_dir = str(run_dir)
    if logger.class_path.endswith("TensorBoardLogger"):
        init_args.name, init_args.version = "", "tensorboard"
    if logger.class_path.endswith("WandbLogger") and not init_args.get("offline") and not _wandb_login():
        rank_zero_warn("W&B: not logged in, so this run is kept offline in its folder; `wandb sync` uploads it later")
        init_args.offline = True


def _wandb_login() -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_MODE"):
        return True
    from netrc import NetrcParseError, netrc

    try:
        return any("wandb" in host for host in netrc(os.environ.get("NETRC")).hosts)
    except (OSError, NetrcParseError):
        return False


def _readable(error: Exception) -> str:
    """One message from an error of a parser or a constructor: which key, what is wrong with it."""
    text = str(error)
    keys = re.findall(r'Parser key "([^"]+)"', text)
    if not keys:
        return " ".join(text.split()) or type(error).__name__
    # jsonargparse nests one explanation in another; the innermost names the culprit, the outer ones its path.
    path = ".".join(dict.fromkeys(keys))
    reason = text[text.rindex(f'Parser key "{keys[-1]}":') + len(f'Parser key "{keys[-1]}":') :]
    reason = re.split(r"- Expected a <class 'NoneType'>|Given value type:", reason)[0]
    return f"{path}: {' '.join(reason.split())}"


def _quieten() -> None:
    """Hide advice that does not fit how d2v runs."""
    for message in (
        ".*does not have many workers.*",  # data.num_workers is chosen with care
        ".*exists and is not empty.*",  # the run's folder: it holds config.yaml
        ".*module.s. in eval mode at the start of training.*",  # the teacher
        ".*LightningCLI's args parameter is intended.*",
        ".*isinstance.treespec, LeafSpec.*",  # Lightning's own use of torch
    ):
        warnings.filterwarnings("ignore", message=message)
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(name).addFilter(lambda record: not record.getMessage().startswith(("💡", "TPU available")))
