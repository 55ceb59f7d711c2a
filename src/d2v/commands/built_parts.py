"""What a config may have built: parts of a training, and nothing else that Python could call.

A shared config is a stranger's file. Where a key takes a function (a head, an optimizer), any function would be called.
"""

import inspect
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonargparse
import lightning as L
from lightning.fabric.plugins import CheckpointIO, ClusterEnvironment
from lightning.fabric.plugins.precision.precision import Precision
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import Strategy
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import Dataset

from d2v.allowed_packages import is_allowed
from d2v.config_messages import class_at
from d2v.errors import UserError

_OURS = "d2v"
_PARTS = (
    *(nn.Module, Optimizer, Dataset, L.LightningModule, L.LightningDataModule, L.Callback, Logger, Strategy),
    *(Accelerator, Profiler, Precision, CheckpointIO, ClusterEnvironment),
)


def require_parts(config: jsonargparse.Namespace) -> None:
    """Check all that a parsed config would build.

    Raises:
        UserError: Something is neither a part of a training, nor of a package that the user allows.
    """
    for key, class_path in _named(config, ""):
        _require_whole(key, class_path)
        package = class_path.partition(".")[0]
        if package == _OURS or is_allowed(package) or _is_part(class_path):
            continue
        raise UserError(
            f"{key}: {class_path} is no part of a training (a module, an optimizer, a data set, a callback), and its "
            f"code would run. If you trust it: --allow {package}"
        )


def _require_whole(key: str, class_path: str) -> None:
    """A base class lacks what its subclasses define; torch's modules do not check that when they are built."""
    found = _found(class_path)
    for name in dir(found) if isinstance(found, type) else ():
        if getattr(getattr(found, name, None), "__isabstractmethod__", False):
            raise UserError(f"{key}: {class_path} is only a base, without {name}(); name a class that is made of it")


def _found(class_path: str) -> Any:
    try:
        return class_at(class_path)
    except (ImportError, AttributeError, ValueError):
        return None


def _named(node: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, list):
        for item in node:
            yield from _named(item, key)
    elif isinstance(node, jsonargparse.Namespace | dict):
        values = vars(node) if isinstance(node, jsonargparse.Namespace) else node
        if isinstance(values.get("class_path"), str):
            yield key, values["class_path"]
        for name, value in values.items():
            yield from _named(value, key if name == "init_args" else f"{key}.{name}".removeprefix("."))


def _is_part(class_path: str) -> bool:
    found = _found(class_path)
    if found is None:
        return False
    if _lies_here(found):  # it came with what the user works on
        return True
    if not isinstance(found, type):
        found = typing.get_type_hints(found).get("return") if inspect.isfunction(found) else None
    return isinstance(found, type) and issubclass(found, _PARTS)


def _lies_here(found: Any) -> bool:
    try:
        return Path(inspect.getfile(found)).resolve().is_relative_to(Path.cwd().resolve())
    except (TypeError, OSError):
        return False
