"""A recipe's speed as a function: real steps in the trainer, one after the other, on made or real data."""

import importlib.util
import logging
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch

import d2v
from d2v.bench.made_batches import MadeBatches
from d2v.bench.result import StepResult
from d2v.bench.step_parts import StepParts
from d2v.bench.steps import TimedSteps
from d2v.commands.early_checks import checked_words
from d2v.commands.pretrain import Recipe, of_each_part, words_of
from d2v.commands.run import RunCLI, run_trainer
from d2v.commands.run_metrics import RunMetrics
from d2v.data.joint import parts_of
from d2v.errors import UserError
from d2v.evaluation.frozen import find_device
from d2v.joint_configs import parts_named
from d2v.training.callbacks.compiled_blocks import CompiledBlocks
from d2v.training.callbacks.run_plan import UNKNOWN_STEPS, RunPlan
from d2v.training.module import Data2VecModule

_WANTED = "`d2v bench` times recipes of pretraining, such as v2/vision.yaml"
_PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


def bench_recipe(
    recipe: Recipe,
    *,
    steps: int = 10,
    batch_size: float | str | None = None,
    precision: str | None = None,
    device: str = "auto",
    lengths: Literal["equal", "drawn"] = "equal",
    peers: bool = False,
    **overrides: Any,
) -> StepResult:
    """Time a recipe of pretraining: its own module, optimizer, clipping, teacher and logging, in Lightning's loop.

    Args:
        recipe: As in :func:`d2v.pretrain`.
        steps: Steps that count, of each kind: timed alone, timed by parts, beside each peer.
        batch_size: In the unit of the data; None: the recipe's. One micro-batch is a step: nothing is accumulated.
        precision: 32, bf16, 16, or another of the trainer's; None: the recipe's.
        device: auto, cpu, cuda, cuda:1, mps.
        lengths: Of made clips: "equal", or "drawn" as those of LibriSpeech.
        peers: Whether to time what other packages make of the recipe, step by step beside it.
        overrides: As in :func:`d2v.pretrain`. With ``data.root``, data are read; else batches are made.

    Returns:
        What `d2v bench` prints as JSON: times in seconds, rates a second, memory in GB (10^9 bytes), operations.

    Raises:
        UserError: A config or a value is wrong, the recipe is none of pretraining, or a package is missing.
    """
    if steps < 1:
        raise UserError(f"--steps is {steps}: it must be at least 1")
    words = words_of(recipe, overrides, {})
    if batch_size is not None:
        if parts_named(words):
            raise UserError("--batch_size: each medium has its own; give --data.parts.NAME.batch_size")
        words.append(f"--data.batch_size={batch_size}")
    words += of_each_part(words, "global_batch_size", "null")
    reads = any(re.fullmatch(r"(data(\.parts\.\w+)?\.)?(root|dataset)", key.replace("__", ".")) for key in overrides)
    cli = _Timed.__new__(_Timed)
    cli.device, cli.precision = find_device(device), precision
    cli.lengths = None if reads else lengths
    cli.parts, make_peers = StepParts(), None
    if peers:
        if lengths != "equal" or reads:
            raise UserError("--peers: peers read made batches of one length; leave --lengths and --data.root out")
        make_peers = _peers()
    cli.timed = TimedSteps(cli.parts, steps, make_peers)
    with tempfile.TemporaryDirectory() as folder:
        cli.run_folder = Path(folder)
        run_trainer(checked_words("fit", words if reads else [*words, *of_each_part(words, "root", ".")]), cli)
        cli.time()
    names = [recipe] if isinstance(recipe, str | Path) else recipe
    found = {
        "config": [str(name) for name in names],
        "overrides": {key: str(value) for key, value in overrides.items()},
        "data": "read" if reads else lengths,
        "device": _described(cli.device),
        "threads": torch.get_num_threads(),
        "precision": str(cli.trainer.precision),
        "torch": torch.__version__,
        "steps": steps,
    }
    return StepResult(found | cli.timed.result)


class _Timed(RunCLI):
    """Builds model, data and trainer as the command does, without a run's folder, and trains some steps."""

    device: torch.device
    precision: str | None
    lengths: Literal["equal", "drawn"] | None
    """Of made batches; None: data are read."""
    parts: StepParts
    timed: TimedSteps
    run_folder: Path

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        if config.model is not None and str(config.model.class_path).startswith("d2v.finetuning."):
            named = config.model.class_path.rpartition(".")[2]
            raise UserError(f"--config: {named} fine-tunes, and {_WANTED}")
        config.trainer.logger = config.trainer.callbacks = None

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[L.Callback]) -> L.Trainer:
        callbacks = [RunPlan(), self.timed]
        if self.config[self.subcommand].compile:
            callbacks.append(CompiledBlocks())
        config |= {
            "accelerator": self.device.type,
            "devices": 1 if self.device.index is None else [self.device.index],
            "num_nodes": 1,
            "strategy": "auto",
            "callbacks": callbacks,
            "logger": RunMetrics(self.run_folder),
            "profiler": self.parts,
            "max_epochs": -1,
            "max_time": None,
            "accumulate_grad_batches": 1,
            "limit_val_batches": 0,
            "num_sanity_val_steps": 0,
            "fast_dev_run": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "default_root_dir": str(self.run_folder),
        }
        config["max_steps"] = max(config["max_steps"] or 0, UNKNOWN_STEPS)  # also of a recipe of three steps
        if self.precision is not None:
            config["precision"] = _PRECISIONS.get(self.precision, self.precision)
        try:
            return L.Trainer(**config)
        except (ValueError, RuntimeError) as error:
            raise UserError(f"trainer: {error} (with precision {config['precision']})") from error

    def _run_subcommand(self, subcommand: str) -> None:
        """Later, where what fails is nothing about a config."""

    def time(self) -> None:
        """Train some steps.

        Raises:
            UserError: Model or data are of a kind that cannot be timed.
        """
        model, data = self.model, self.datamodule
        if not isinstance(model, Data2VecModule):
            raise UserError(f"--config: the model is {type(model).__name__}, and {_WANTED}")
        parts = parts_of(data)
        if not parts:
            raise UserError(f"data: {type(data).__name__} does not say how large its batches are, and {_WANTED}")
        if self.timed.make_peers is not None and len(parts) > 1:
            raise UserError("--peers: nobody else trains on several media in one step; leave it out")
        if self.lengths is not None:
            data = MadeBatches(parts, model, self.lengths)
        told = logging.getLogger("lightning.pytorch.utilities.rank_zero")
        level = told.level
        told.setLevel(logging.WARNING)  # what a run of this recipe is going to do is not done here
        try:
            self.trainer.fit(model, datamodule=data)
        finally:
            told.setLevel(level)


def _peers() -> Callable[[Data2VecModule, torch.device], Any]:
    """Those of the repository, which lie beside the package and not in it: they need packages that d2v does not."""
    path = Path(d2v.__file__).parents[2] / "benchmarks" / "peers.py"
    spec = importlib.util.spec_from_file_location("peers", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise UserError("--peers: they are in benchmarks/peers.py of the repository; install d2v from a checkout of it")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        raise UserError(f"--peers needs a package: {error}; pip install transformers") from error
    return module.make_peers


def _described(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "cpu"
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "cpu")
