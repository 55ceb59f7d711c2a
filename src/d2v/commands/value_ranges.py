"""Values of a config that would train something senseless, or fail with an error that names no key."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonargparse

from d2v.errors import UserError

_LARGEST = 1e15  # no count, size or rate of a training is larger, and arithmetic with whole numbers is exact below
_PROBABILITY = ("lie between 0 and 1, 1 left out", lambda value: 0 <= value < 1)
_POSITIVE = ("be above 0", lambda value: value > 0)
_AT_LEAST_ONE = ("be at least 1", lambda value: value >= 1)
_NOT_NEGATIVE = ("be 0 or more", lambda value: value >= 0)
_SHARE = ("lie between 0 and 1", lambda value: 0 <= value <= 1)
_SMALL = ("lie above 0 and below 1", lambda value: 0 < value < 1)
_FACTOR = ("lie between 0 and 10", lambda value: 0 <= value <= 10)
_WIDE = ("lie between 1 and 16,384", lambda value: 1 <= value <= 16_384)
_FEW = ("lie between 1 and 1,000", lambda value: 1 <= value <= 1000)
_FEW_OR_NONE = ("lie between 0 and 1,000", lambda value: 0 <= value <= 1000)
_SEED = ("lie between 0 and 4,294,967,295", lambda value: 0 <= value < 2**32)

_MUST = {
    "layer_drop drop_path dropout attention_dropout activation_dropout input_dropout final_dropout": _PROBABILITY,
    "eps output_eps": _SMALL,
    "mlp_ratio projection_ratio layer_scale lr std val_check_interval": _POSITIVE,
    "num_heads in_channels kernel_size groups rows span block_size top_k vocab_size max_positions": _AT_LEAST_ONE,
    "position_kernel position_groups accumulate_grad_batches min_block max_block extractor": _AT_LEAST_ONE,
    "check_val_every_n_epoch num_nodes log_every_n_steps": _AT_LEAST_ONE,
    "num_sanity_val_steps": ("be -1 (all), 0 or more", lambda value: value >= -1),
    "width decoder_width patch_size image_size": _WIDE,
    "depth num_layers position_layers num_masks": _FEW,
    "prenet_depth num_cls": _FEW_OR_NONE,
    "mask_noise weight gradient_clip_val after min_target_std min_prediction_std": _NOT_NEGATIVE,
    "weight_decay color_jitter": _FACTOR,
    "start_factor end_factor adjust": _SHARE,
    "seed seed_everything": _SEED,
}
"""By the names of keys, which mean the same in all of our classes. Of a list each number must."""

_CONTRADICT = (
    "StochasticWeightAveraging WeightAveraging EMAWeightAveraging BatchSizeFinder LearningRateFinder "
    "GradientAccumulationScheduler RunPlan RunCheckpoint"
)
"""Callbacks that would overrule what a recipe states elsewhere, or that are there anyway."""


def require_sensible(config: jsonargparse.Namespace) -> None:
    """Check the numbers of a config that is parsed.

    Raises:
        UserError: One of them is out of its range; the message names key, value and range.
    """
    musts = {}
    for names, must in _MUST.items():
        musts.update(dict.fromkeys(names.split(), must))
    for key, value in _numbers(config):
        name = key.rpartition(".")[2]
        if not -_LARGEST < value < _LARGEST:  # nor is it one that is none
            raise UserError(f"{key} is {value}: it must be a number, and none above {_LARGEST:g}.")
        if name in musts and not musts[name][1](value):
            raise UserError(f"{key} is {value}: it must {musts[name][0]}.")
    seed = config.get("seed_everything")
    if isinstance(seed, bool):
        raise UserError(f"seed_everything is {str(seed).lower()}: give a whole number, from which all else is drawn.")
    ema = config.get("model.init_args.ema")
    if isinstance(ema, jsonargparse.Namespace) and 1 >= ema.get("start", 0) > ema.get("end", 1):
        text = "the teacher gets slower during a run, so that its decay rises; give the smaller one as start"
        raise UserError(f"model.ema.start is {ema.start} and model.ema.end is {ema.end}: {text}.")


def require_consistent(config: jsonargparse.Namespace, command: str) -> None:
    """Check what keys say together, and against what d2v does by itself.

    Raises:
        UserError: They contradict each other, or leave nothing to do.
    """
    trainer = config.trainer
    if config.get("data") is None:
        raise UserError("data: the config has no such section; give one, or --data CLASS --data.root DIR")
    if config.get("resume") is not None and config.ckpt_path is not None:
        raise UserError(f"--resume {config.resume} and --ckpt_path {config.ckpt_path}: give one of them")
    name = config.run_name
    if name is not None and (not name.strip() or name == ".." or Path(name).name != name):
        raise UserError(f"--run_name {name}: must be a plain name; --trainer.default_root_dir sets the place")
    if config.checkpoint.dirpath is not None:
        text = "checkpoints lie in the run's folder; --trainer.default_root_dir and --run_name say where"
        raise UserError(f"checkpoint.dirpath is {config.checkpoint.dirpath}: {text}")
    if config.get("weights_only") is False:
        raise UserError("--weights_only false would run code out of the checkpoint: leave it out")
    limit = f"limit_{'val' if command == 'validate' else command}_batches"
    if trainer.get(limit) == 0:
        raise UserError(f"trainer.{limit} is 0: there would be nothing to {command}; leave it out")
    if str(trainer.precision) in ("16-true", "bf16-true", "transformer-engine", "transformer-engine-float16"):
        needed = "the teacher's average needs fp32 weights; set it to bf16-mixed"
        raise UserError(f"trainer.precision is {trainer.precision}: {needed}")
    limits = (config.length, trainer.max_steps, trainer.max_epochs, trainer.max_time)
    if command == "fit" and not set(limits) - {None, -1} and not trainer.fast_dev_run:
        raise UserError(
            "trainer.max_steps is not set, so training would never end: set it, or how long to train: --length auto, "
            "--length '20 minutes', --length '100 epochs'"
        )
    for unit in ("steps", "epochs"):
        least, most = trainer[f"min_{unit}"], trainer[f"max_{unit}"]
        if least is not None and most not in (None, -1) and least > most:
            raise UserError(f"trainer.min_{unit} is {least} and trainer.max_{unit} is {most}: leave the first one out")
    for key, value in (("enable_checkpointing", False), ("barebones", True)):
        if trainer[key] is value:
            text = "checkpoints and metrics are part of every run: leave it out"
            raise UserError(f"trainer.{key} is {str(value).lower()}: {text}")
    if trainer.overfit_batches:
        text = "it would replace the order of samples; data.max_samples takes few of them"
        raise UserError(f"trainer.overfit_batches is {trainer.overfit_batches}: {text}")
    if str(trainer.strategy).endswith("spawn"):
        raise UserError(f"trainer.strategy is {trainer.strategy}: set it to ddp, which starts whole processes")
    callbacks = trainer.callbacks if isinstance(trainer.callbacks, list) else [trainer.callbacks]
    for callback in callbacks:
        name = str(callback.get("class_path")).rpartition(".")[2] if callback is not None else ""
        if name in _CONTRADICT.split():
            raise UserError(f"trainer.callbacks: {name} would change what the recipe and d2v do already: leave it out")


def _numbers(node: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """Numbers with their keys as the user writes them, without those of classes that are not ours."""
    if isinstance(node, jsonargparse.Namespace):
        stated = node.get("class_path")
        if isinstance(stated, str) and not stated.startswith(("d2v.", "torch.optim.")):
            return
        for name, value in vars(node).items():
            yield from _numbers(value, key if name == "init_args" else f"{key}.{name}".removeprefix("."))
    elif isinstance(node, dict):
        for name, value in node.items():
            yield from _numbers(value, f"{key}.{name}")
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _numbers(value, key)
    elif isinstance(node, (int, float)) and not isinstance(node, bool):
        yield key, node
