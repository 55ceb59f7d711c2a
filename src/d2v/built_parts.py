"""What a config may have imported and built: parts of a training, out of packages that the user allows.

A shared config is a stranger's file. Where a key takes a function (a head, an optimizer), any function would be called,
and to look a class up runs the module that holds it.
"""

import inspect
import os
import re
import sys
import typing
from collections.abc import Collection, Iterator
from importlib.util import find_spec
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
from d2v.config_messages import class_at, no_part
from d2v.errors import UserError

_KNOWN = ("d2v", "torch.nn", "torch.optim", "torchvision", "torchaudio", "lightning")
_PARTS = (
    *(nn.Module, Optimizer, Dataset, L.LightningModule, L.LightningDataModule, L.Callback, Logger, Strategy),
    *(Accelerator, Profiler, Precision, CheckpointIO, ClusterEnvironment),
)
_FUNCTIONS = ("d2v.", "torch.nn.", "torchvision.transforms.", "torchvision.datasets.folder.")
"""What may stand where a class takes a function, such as an activation or what opens a picture."""
_WRITTEN = ("dirpath", "save_dir", "sub_dir", "dir", "log_dir", "filename", "name", "version", "prefix")
"""Arguments of loggers, callbacks and profilers that say where they write."""
_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


def limit_imports(contents: Any) -> None:
    """Let the parser import from a few known packages, from what the user allows, and from the user's own files.

    Args:
        contents: What configs and command line say; the user's own packages are found by the class paths in it.
    """
    jsonargparse.set_parsing_settings(
        import_path_denylist=["*"], import_path_allowlist=[*_KNOWN, *own_packages(contents)]
    )


def own_packages(contents: Any) -> set[str]:
    """Packages among the class paths of a config that the user allows, or that lie where the user works: in the working
    folder, or in a folder of ``PYTHONPATH``; and those that are nowhere, whose import fails."""
    own = set()
    for text in _texts(contents):
        package = text.partition(".")[0]
        if _PATH.fullmatch(text) and package not in own and (is_allowed(package) or _is_own(package)):
            own.add(package)
    return own


def _is_own(package: str) -> bool:
    spec = getattr(sys.modules[package], "__spec__", None) if package in sys.modules else find_spec(package)
    if spec is None:
        return package not in sys.modules
    places = list(spec.submodule_search_locations or [])
    if not places and spec.has_location and spec.origin:
        places = [spec.origin]
    folders = {Path(folder).resolve() for folder in [*os.environ.get("PYTHONPATH", "").split(os.pathsep), ""]}
    return bool(places) and {Path(place).resolve().parent for place in places} <= folders


def require_parts(config: jsonargparse.Namespace) -> None:
    """Check all that a parsed config would build.

    Raises:
        UserError: Something is neither a part of a training, nor of a package that the user allows.
    """
    named = list(_named(config, ""))
    own = own_packages([class_path for _, class_path in named])
    for key, class_path in named:
        if class_path.partition(".")[0] not in own and not _is_part(class_path):
            raise UserError(f"{key}: {no_part(class_path)}")
        _require_whole(key, class_path)


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


def require_inside(config: jsonargparse.Namespace, given: Collection[str]) -> None:
    """Check that runs, callbacks, loggers and profilers write nowhere but into the working folder, or where the user
    says on the command line.

    Args:
        config: Of a command, parsed.
        given: Places that the user gave on the command line.

    Raises:
        UserError: One of them would; the message names key and path.
    """
    own = {_whole(place) for place in given}
    trainer = config.trainer
    root = str(trainer.default_root_dir or ".")
    values = [("trainer.default_root_dir", root)]
    for section in ("callbacks", "logger", "profiler", "plugins"):
        values += _values(trainer.get(section), f"trainer.{section}")
    for key, value in values:
        whole = _whole(value)
        places = [Path.cwd()] if key == values[0][0] else [Path.cwd(), _whole(root)]
        inside = ".." not in Path(value).parts and any(whole.is_relative_to(place) for place in places)
        if not inside and whole not in own:
            raise UserError(
                f"{key} is {value}: it leads out of the run's folder and of the working folder; if it is right, give "
                "it, or trainer.default_root_dir, where runs are written, on the command line"
            )


def _whole(place: str) -> Path:
    return Path(os.path.abspath(Path(place).expanduser()))


def _values(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """The names and places that parts of a trainer write to."""
    if isinstance(node, list):
        for item in node:
            yield from _values(item, key)
    elif isinstance(node, jsonargparse.Namespace | dict):
        for name, value in (vars(node) if isinstance(node, jsonargparse.Namespace) else node).items():
            if name in _WRITTEN and isinstance(value, str | os.PathLike):
                yield f"{key}.{name}", str(value)
            yield from _values(value, key if name == "init_args" else f"{key}.{name}")


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node.rpartition("=")[2]
    elif isinstance(node, list | tuple | dict):
        for item in node.values() if isinstance(node, dict) else node:
            yield from _texts(item)


def _named(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """Keys, and the classes and functions that they name."""
    if isinstance(node, list):
        for item in node:
            yield from _named(item, key)
    elif isinstance(node, jsonargparse.Namespace | dict):
        values = vars(node) if isinstance(node, jsonargparse.Namespace) else node
        if isinstance(values.get("class_path"), str):
            yield key, values["class_path"]
        for name, value in values.items():
            yield from _named(value, key if name == "init_args" else f"{key}.{name}".removeprefix("."))
    elif inspect.isroutine(node):
        class_path = f"{node.__module__}.{node.__qualname__}"
        if not class_path.startswith(_FUNCTIONS):
            yield key, class_path


def _is_part(class_path: str) -> bool:
    found = _found(class_path)
    is_ours = class_path.startswith("d2v.")
    if is_ours and isinstance(found, type):
        return True
    if is_ours and inspect.isfunction(found):  # one that makes a part
        found = typing.get_type_hints(found).get("return")
    return isinstance(found, type) and issubclass(found, _PARTS)
