"""``d2v fit``, ``validate``, ``test`` and ``predict``: LightningCLI, with its traps closed."""

import inspect
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import jsonargparse
import lightning as L
from filelock import BaseFileLock
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info
from lightning_utilities.core.rank_zero import rank_zero_only

from d2v.built_parts import limit_imports, require_inside, require_parts
from d2v.commands.caption_files import CaptionFiles
from d2v.commands.early_checks import SECTIONS
from d2v.commands.failure_message import cause_of
from d2v.commands.predictions import FeatureFile, Table, metrics_line, read_another_root
from d2v.commands.quiet import quieten
from d2v.commands.resume import ContinuedRun, Origin, find_origin, run_of_this_job
from d2v.commands.run_folder import (
    CONFIG,
    checkpoint_of,
    direct_logger,
    enter_run_dir,
    hand_over_checkpoint,
    is_started_by_lightning,
    lock_run,
    make_run_dir,
    remove_unused,
    require_fitting,
    run_of,
)
from d2v.commands.run_metrics import METRICS, RunMetrics
from d2v.commands.run_summary import summary
from d2v.commands.stacked_configs import contents_of, places_given, require_stores_given
from d2v.commands.started_again import mark, meet_anew
from d2v.commands.stated_length import settle
from d2v.commands.value_ranges import require_consistent, require_sensible
from d2v.config_messages import key_of, one_line, parser_message
from d2v.configs import read_config
from d2v.data.loading_processes import signals_held_back
from d2v.errors import Interrupted, UserError
from d2v.finetuning.finetuning_module import FinetuningModule
from d2v.joint_configs import origins_of
from d2v.model.front_end import FrontEnd
from d2v.model.heads import Head
from d2v.monitoring.faults import find_faults
from d2v.monitoring.run_history import RunHistory
from d2v.nn.transformer import Transformer
from d2v.nn.trial import on_trial
from d2v.training.callbacks.checkpoint import RunCheckpoint
from d2v.training.callbacks.compiled_blocks import CompiledBlocks
from d2v.training.callbacks.monitor import Monitor
from d2v.training.callbacks.progress import Announcement, RunProgressBar
from d2v.training.callbacks.run_plan import NEVER, RunPlan
from d2v.training.module import Data2VecModule


def run_trainer(args: Sequence[str], cli: "RunCLI | None" = None) -> None:
    """Run a trainer command.

    Args:
        args: Its words, configs by their paths (:func:`d2v.commands.early_checks.checked_words`).
        cli: What runs it, whose constructor was not called: that runs everything.

    Raises:
        UserError: A config, a value or the data is wrong. A run's folder that holds nothing but its config is removed.
        KeyboardInterrupt: It was stopped at once.
    """
    quieten()
    with signals_held_back():  # starts what belongs to all processes to come, before a progress bar does
        pass
    if cli is None:
        cli = RunCLI.__new__(RunCLI)  # so that the folder is known if the constructor fails
    try:
        cli.__init__(list(args))  # type: ignore[misc]
    except (jsonargparse.ArgumentError, MisconfigurationException, UserError) as error:
        remove_unused(cli.run_dir)
        if isinstance(error, jsonargparse.ArgumentError):
            raise UserError(parser_message(error, _options())) from error
        raise UserError(str(error)) from error
    except Interrupted:
        remove_unused(cli.run_dir)
        raise
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning makes an exit of it
            raise KeyboardInterrupt from stop
        raise
    except Exception as error:
        cause = cause_of(error)
        if isinstance(cause, Interrupted):  # an error on the way out hides it
            remove_unused(cli.run_dir)
            raise cause from None
        if cli.run_dir is None and isinstance(error, (TypeError, ValueError, LookupError, ArithmeticError)):
            raise UserError(f"the config cannot be read: {one_line(error)}") from error
        if cli.run_dir is not None:
            error.add_note(f"run folder: {cli.run_dir}")
        raise
    finally:
        if cli.lock is not None:
            cli.lock.release()
            if cli.is_trial and cli.run_dir is not None:
                shutil.rmtree(cli.run_dir, ignore_errors=True)


class _Parser(LightningArgumentParser):
    """jsonargparse makes a parser of this class for each part, too: none takes a key's beginning for the key."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})


class RunCLI(LightningCLI):
    """LightningCLI for all our modules and DataModules; each run has a folder of its own, with its config in it.

    Values of a checkpoint never override the config, and a list of callbacks in a YAML file cannot drop checkpointing
    or what the method needs.
    """

    subcommand: str
    run_dir: Path | None = None
    lock: BaseFileLock | None = None
    is_trial = False
    _origin: Origin | None = None
    _going_on: ContinuedRun | None = None
    _refusal: UserError | None = None

    def __init__(self, args: ArgsType) -> None:
        self._words = list(map(str, args)) if isinstance(args, list) else []
        limit_imports([self._words, *contents_of(self._words)])
        super().__init__(
            save_config_callback=None,
            trainer_defaults={
                "default_root_dir": "runs",
                "use_distributed_sampler": False,  # ours divides the data among the devices and can resume
                "enable_model_summary": False,
            },
            seed_everything_default=1,
            parser_class=_Parser,
            parser_kwargs={"exit_on_error": False, "prog": "d2v"},
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=args,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The one that was asked for: each has a parser of its own, which takes time to build."""
        return {name: skip for name, skip in super().subcommands().items() if name in self._words[:1]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        parser.add_argument("--run_name", type=str | None, help="Name of the run's folder; null: the time.")
        text = (
            "How long to train: auto (from the size of the data), '100 epochs', '20 minutes', '2 hours', '5000 steps'; "
            "null: trainer.max_steps, max_epochs or max_time."
        )
        parser.add_argument("--length", type=int | str | None, help=text)
        text = (
            "Between two validations: below 1 a share of the run, from 1 on optimizer steps; null: as the trainer's "
            "val_check_interval and check_val_every_n_epoch say."
        )
        parser.add_argument("--validate_every", type=float | None, default=0.05, help=text)
        text = (
            "Let torch.compile have the Transformer blocks (it needs a C++ compiler, on a GPU Triton): the first steps "
            "take longer, the others less."
        )
        parser.add_argument("--compile", type=bool, default=False, help=text)
        text = "What to do when the monitor finds that something is wrong with a pretraining: say it, or also stop."
        parser.add_argument("--on_fault", type=Literal["warn", "stop"], default="warn", help=text)
        parser.add_argument("--for", type=str | list[str] | None, help="Recipes that an overlay is meant for.")
        parser.link_arguments("seed_everything", "model.init_args.seed", compute_fn=int)
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=int)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        kwargs["description"] = (
            f"`d2v configs` lists the recipes. What the keys of one mean: d2v {subcommand} --config NAME.yaml "
            "--model.help, --data.help, or of a part --model.masking.help; their values: --print_config. Below: what "
            "all recipes have."
        )
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "fit":
            text = "Continue a run: its folder, one of its checkpoints, or `auto`: the newest run of this config."
            parser.add_argument("--resume", type=str | None, help=text)
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        for name, subcommand_parser in self._subcommand_parsers.items():
            subcommand_parser.prog = f"d2v {name}"  # for --help
        super().parse_arguments(parser, args)
        require_sensible(self.config[self.config.subcommand])
        require_parts(self.config[self.config.subcommand])
        require_inside(self.config[self.config.subcommand], places_given(self._words))
        require_stores_given(self.config[self.config.subcommand].as_dict(), self._words)

    def _parse_ckpt_path(self) -> None:
        """Lightning would merge the checkpoint's hyperparameters over the config and the command line. Never."""

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        meet_anew()
        settle(config, self._words)
        require_consistent(config, self.subcommand)
        if self.subcommand == "predict":
            read_another_root(config.data, self._words)
        root = Path(config.trainer.default_root_dir)
        resume = config.pop("resume", None)
        if config.ckpt_path is not None:
            config.ckpt_path = str(checkpoint_of("--ckpt_path", config.ckpt_path))
        text = self._config_text()  # before the run's folder enters it: used again, it makes a new run
        self.is_trial = bool(config.trainer.fast_dev_run)
        self.run_dir = self._make_run_dir(root, resume, text)
        if self.subcommand == "fit" and getattr(rank_zero_only, "rank", None) in (None, 0):
            self.lock = lock_run(self.run_dir)
            mark(self.run_dir)
        config.trainer.default_root_dir = str(self.run_dir)
        config.checkpoint.dirpath = str(self.run_dir / "checkpoints")
        for logger in _as_list(config.trainer.logger):
            direct_logger(logger, self.run_dir, self._going_on.step if self._going_on else 0)

    def _make_run_dir(self, root: Path, resume: str | None, text: str) -> Path:
        """The run's folder: that of the run that goes on, or a new one."""
        config, fits = self.config[self.subcommand], self.subcommand == "fit"
        name, suffix = config.run_name, ""
        if not fits:
            read = run_of(config.ckpt_path)
            name, suffix = name or (read and read.name), f"-{self.subcommand}"
        if resume is not None and not is_started_by_lightning():
            self._origin = find_origin(resume, root, name, text)
        elif fits and not config.trainer.fast_dev_run and not is_started_by_lightning():
            self._origin = run_of_this_job(root, text)
        if self._origin is not None:
            config.ckpt_path = str(self._origin.checkpoint)
        config.ckpt_path = hand_over_checkpoint(config.ckpt_path)
        if self._origin is not None and self._origin.is_the_run(name) and not config.trainer.fast_dev_run:
            assert self._origin.run is not None
            config.run_name = read_config(self._origin.run / CONFIG).get("run_name")  # as when it began
            self._going_on = ContinuedRun(self._origin.run, self._origin.step, self._config_text())
            return enter_run_dir(self._origin.run)
        if config.ckpt_path and fits:
            text = f"# continued from {config.ckpt_path}\n{text}"
        return make_run_dir(root, name, suffix, text)

    def instantiate_classes(self) -> None:
        self.parser.add_instantiator(self._build, object, subclasses=True)
        try:
            super().instantiate_classes()
        except Exception as error:
            if self._refusal is not None:
                raise self._refusal from error
            if isinstance(error, (TypeError, ValueError, LookupError, ArithmeticError, ImportError)):
                raise UserError(one_line(error)) from error
            raise
        require_fitting(self.config[self.subcommand].ckpt_path, self.model)

    def _build(self, class_type: type, *args: Any, **kwargs: Any) -> Any:
        """Build one object of the config; if it refuses its values, say under which key they stand."""
        try:
            if isinstance(class_type, type) and issubclass(class_type, (Transformer, FrontEnd, Head)):
                with on_trial():
                    class_type(*args, **kwargs)
            return class_type(*args, **kwargs)
        except Exception as error:
            text = str(error) if isinstance(error, UserError) else one_line(error)
            if "parameter groups" in text:
                text += ": take one that does, such as torch.optim.AdamW"
            key = key_of(self.config[self.subcommand], class_type, kwargs) or class_type.__name__
            if key.startswith("data.parts."):
                text = re.sub(r"\bdata\.(?=[a-z_]+)", f"{key}.", text)
            if not text.startswith(("data.", "model.", "model:", "trainer.", "checkpoint.")):  # else it names its key
                text = f"{key}: {text}"
            self._refusal = UserError(text)
            raise self._refusal from error

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> L.Trainer:
        assert self.run_dir is not None
        if config["logger"] is not False:  # metrics.csv is always written, whatever other loggers there are
            others = [logger for logger in _as_list(config["logger"]) if logger is not True]
            config["logger"] = [RunMetrics(self.run_dir), *others]
        configured = _as_list(config["callbacks"])
        if config["enable_progress_bar"] is not False and not any(isinstance(c, ProgressBar) for c in configured):
            callbacks = [*callbacks, RunProgressBar()]
        values = self.config[self.subcommand]
        callbacks = [*callbacks, Announcement(self.run_dir, values.ckpt_path, origins_of(self._words))]
        if self.subcommand == "fit":
            callbacks.append(RunHistory(self.run_dir))
        if self._going_on is not None:
            callbacks = [self._going_on, *callbacks]
        if self.subcommand == "fit":
            config["callbacks"] = [RunPlan(values.length, values.validate_every), *configured]
            if isinstance(self.model, Data2VecModule):
                config["callbacks"].append(Monitor(find_faults, self.run_dir, values.on_fault))
            if values.compile:
                config["callbacks"].append(CompiledBlocks())
            if values.validate_every is not None:  # the plan decides; Lightning takes no share of a run
                config["val_check_interval"], config["check_val_every_n_epoch"] = NEVER, None
        try:
            trainer = super()._instantiate_trainer(config, callbacks)
        except (MisconfigurationException, ValueError, TypeError, ImportError) as error:
            keys = ("accelerator", "devices", "num_nodes", "strategy", "precision")
            named = [f"{key} {self._named(key)}" for key in keys if config[key] is not None]
            text = f"trainer: {one_line(error)} (with {', '.join(named)}); `d2v doctor` shows what this machine has"
            raise UserError(text) from error
        cores, devices = os.cpu_count() or 1, trainer.num_devices
        if isinstance(trainer.accelerator, CPUAccelerator) and devices > cores:
            raise UserError(f"trainer.devices is {devices}, and this machine has {cores} CPU cores: set it to 1.")
        environment = getattr(trainer.strategy, "cluster_environment", None)
        if trainer.num_nodes > 1 and type(environment) is LightningEnvironment and "MASTER_ADDR" not in os.environ:
            text = "nothing says where the others are; start it with srun or torchrun, or set it to 1"
            raise UserError(f"trainer.num_nodes is {trainer.num_nodes}: {text}")
        return trainer

    def _named(self, key: str) -> Any:
        """A value of the trainer's section as it is written: a class by its name."""
        value = self.config[self.subcommand].trainer[key]
        return getattr(value, "class_path", value)

    def after_fit(self) -> None:
        if self.is_trial:
            rank_zero_info("done: trainer.fast_dev_run keeps nothing")
            return
        if self._origin is not None and self.trainer.global_step <= self._origin.step:
            rank_zero_info(
                f"nothing to train: {self._origin.checkpoint} has its {self._origin.step:,} steps already; a larger "
                "trainer.max_steps, trainer.max_epochs or length goes on"
            )
            return
        found = metrics_line(self.trainer.callback_metrics, "val")
        if found:
            found = f"; last validation: {found}"
        kept = ""
        for callback in self.trainer.checkpoint_callbacks:
            if isinstance(callback, RunCheckpoint):
                kept = f": {callback.described()}"
        rank_zero_info(f"done: {self.run_dir}{kept}{found}")
        if self.trainer.is_global_zero:
            assert self.run_dir is not None
            for line in summary(self.run_dir, self.model):
                rank_zero_info(line)

    def after_validate(self) -> None:
        self._report_metrics("val")

    def before_test(self) -> None:
        self._add_table()

    def after_test(self) -> None:
        self._report_metrics("test")

    def predict(self, **kwargs: Any) -> None:
        """Write what the module predicts into the run's folder: a table with names, or ``features.npz``."""
        assert self.run_dir is not None
        kwargs["return_predictions"] = False
        if self._add_table():
            if times := getattr(self.model, "times", None):
                self.trainer.callbacks.append(CaptionFiles(self.run_dir, times))  # type: ignore[attr-defined]
            self.trainer.predict(**kwargs)
            return
        features = FeatureFile()
        self.trainer.callbacks.append(features)  # type: ignore[attr-defined]
        self.trainer.predict(**kwargs)
        features.save(self.trainer, self.run_dir)

    def _add_table(self) -> bool:
        """Let the module's rows be written, if it is one that makes rows."""
        if not isinstance(self.model, FinetuningModule):
            return False
        assert self.run_dir is not None
        self.trainer.callbacks.append(Table(self.run_dir / self.model.tables[self.subcommand]))  # type: ignore[attr-defined]
        return True

    def _report_metrics(self, kind: Literal["val", "test"]) -> None:
        if line := metrics_line(self.trainer.callback_metrics, kind):
            rank_zero_info(line)
        rank_zero_info(f"metrics: {self.run_dir}/{METRICS}")

    def _config_text(self) -> str:
        """The parsed config, for any trainer command: without what belongs to this call alone."""
        config = self.config[self.subcommand].clone()
        for name in ("for", *self._subcommand_method_arguments[self.subcommand]):
            config.pop(name, None)
        # `null` stays: it differs from a default that is not null.
        return self._parser(self.subcommand).dump(_without_enums(config), skip_none=False, skip_validation=True)


def _options() -> dict[str, Iterable[str]]:
    """Keys of the sections that are always there, and the sections themselves under ""."""
    return {
        "": SECTIONS,
        "trainer": tuple(inspect.signature(L.Trainer).parameters),
        "checkpoint": tuple(inspect.signature(RunCheckpoint).parameters),
    }


def _as_list(value: Any) -> list[Any]:
    """The values of a key that takes one, several or none."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _without_enums(value: Any) -> Any:
    """Lightning's Timer, for one, has an enum as the default of a text, and the parser cannot write that."""
    if isinstance(value, jsonargparse.Namespace):
        return jsonargparse.Namespace({name: _without_enums(item) for name, item in vars(value).items()})
    if isinstance(value, list):
        return [_without_enums(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    return value
