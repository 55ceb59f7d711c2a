"""The head of a fine-tuned model beside an encoder: ``head.safetensors``, and ``head`` in ``config.json``."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from d2v.checkpoints.folder import (
    CONFIG,
    WEIGHTS,
    StateDict,
    in_short,
    mismatches,
    part_of,
    read_config,
    read_tensors,
)
from d2v.checkpoints.places import place_of
from d2v.checkpoints.recipe import build
from d2v.errors import UserError
from d2v.nn.task_heads import CTCHead, TanhHead, TaskHead

FILE = "head.safetensors"

HeadTask = Literal["ctc", "single", "multi", "regression"]
"""Predicts symbols for each frame, one class, any number of labels, or a score."""
HeadInput = Literal["none", "mean", "cls"]
"""How tokens are pooled in front of the head."""


@dataclass(frozen=True)
class StoredHead:
    """A trained head and what its outputs mean."""

    module: TaskHead
    task: HeadTask
    pool: HeadInput
    names: tuple[str, ...] | None = None
    """Names of the outputs: classes, or symbols, the blank first. None: not known; classes then have numbers only."""

    @property
    def weights(self) -> StateDict:
        """State dict of the module: ``norm`` (where it has one), ``hidden`` (of two layers), ``proj``."""
        return self.module.state_dict()

    @property
    def num_outputs(self) -> int:
        return self.module.proj.out_features

    @property
    def kind(self) -> str:
        """The value of a classifier's ``model.head``."""
        if isinstance(self.module, TanhHead):
            return "tanh"
        return "linear"

    @property
    def has_norm(self) -> bool:
        return "norm.weight" in self.weights

    @property
    def entry(self) -> dict[str, Any]:
        """The entry ``head`` of ``config.json``."""
        names = self.names and list(self.names)
        return {"recipe": head_recipe(self.module), "task": self.task, "pool": self.pool, "names": names}


def head_recipe(module: nn.Module) -> dict[str, Any]:
    """Plain values from which the same head can be built."""
    head = type(module)
    return {"class_path": f"{head.__module__}.{head.__qualname__}", "init_args": module.init_args}


def to_files(head: StoredHead | None) -> tuple[dict[str, StateDict], dict[str, Any]]:
    """What is written for a head beside an encoder: files of tensors by name, and entries of ``config.json``."""
    if head is None:
        return {}, {}
    return {FILE: head.weights}, {"head": head.entry}


def restore_head(entry: Mapping[str, Any], weights: StateDict, width: int) -> StoredHead:
    """A head from its entry and tensors.

    Args:
        entry: As :attr:`StoredHead.entry`; a run's own may also hold ``score_scale``, in which the scores of a
            regression are multiples.
        weights: State dict of the module.
        width: D of the encoder in front of it.

    Raises:
        ValueError, KeyError, TypeError, UserError: They do not fit each other.
    """
    with torch.device("meta"):  # the weights come from the file, and no random numbers are drawn
        module = build(entry["recipe"], get_args(TaskHead))
    if problems := mismatches(module.state_dict(), weights):
        raise ValueError(in_short(problems))
    scale = entry.get("score_scale", 1)
    if scale != 1:  # stored in the units of the data
        weights = {**weights, "proj.weight": scale * weights["proj.weight"], "proj.bias": scale * weights["proj.bias"]}
    module.load_state_dict(weights, assign=True)
    names = entry.get("names")
    if names is not None:
        names = tuple(names)
    head = StoredHead(module.requires_grad_(False).eval(), entry["task"], entry["pool"], names)
    if module.proj.in_features != width:
        raise ValueError(f"it reads {module.proj.in_features} features, the encoder has {width}")
    if head.task not in get_args(HeadTask) or head.pool not in get_args(HeadInput):
        raise ValueError(f"task {head.task!r}, pool {head.pool!r}")
    if (head.task == "ctc") != isinstance(module, CTCHead) or (head.task == "ctc") != (head.pool == "none"):
        raise ValueError(f"a {type(module).__name__} for task {head.task!r}, pool {head.pool!r}")
    if names is None and head.task != "ctc":
        return head
    texts = {name for name in names or () if isinstance(name, str)}
    if len(texts) != head.num_outputs or len(names or ()) != head.num_outputs:
        raise ValueError(f"{len(names or ())} names for {head.num_outputs} outputs")
    return head


def read_head(folder: Path, config: Mapping[str, Any], width: int) -> StoredHead | None:
    """The head in a folder whose ``config.json`` is known; None if it holds none.

    Raises:
        UserError: It is damaged.
    """
    if config.get("head") is None:
        return None
    file, prefix = folder / FILE, ""
    if "model_type" in config:  # for transformers, which reads a single file
        file, prefix = folder / WEIGHTS, "head."
    try:
        return restore_head(config["head"], part_of(read_tensors(file), prefix), width)
    except (LookupError, TypeError, ValueError, AttributeError, UserError) as error:
        raise UserError(f"{file}: does not go with {folder / CONFIG} ({error}); import it again") from error


def load_head(folder: str | Path) -> StoredHead | None:
    """The head in a folder that `d2v import` or `d2v export` wrote, or in a checkpoint of others; None if it has none.

    Raises:
        UserError: It is damaged, or no checkpoint.
    """
    path = place_of(folder)
    if not path.is_dir():
        return None
    config = read_config(path)
    return read_head(path, config, config["method"]["student"]["trunk"]["width"])
