"""A folder with ``model.safetensors`` and ``config.json``: what `d2v import` and `d2v export` write."""

import json
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch import contiguous_format as CONTIGUOUS

from d2v.errors import UserError
from d2v.text_files import read_json, read_text
from d2v.whole_files import whole_folder

StateDict = dict[str, Tensor]

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
FORMAT = 1
"""Version of ``config.json``, raised with each change that an older d2v cannot read."""

_CHECKSUM = "crc32"
_PARTS = {"student": "student.", "teacher": "teacher.", "head": "task."}
"""Parts of a method's state dict, and the prefix of their tensors' names."""


def prefixed(state: Mapping[str, Any], prefix: str) -> StateDict:
    """The tensors whose names begin with ``prefix``."""
    return {name: value for name, value in state.items() if name.startswith(prefix)}


def part_of(state: Mapping[str, Any], prefix: str) -> StateDict:
    """The tensors whose names begin with ``prefix``, under their names without it."""
    return {name.removeprefix(prefix): value for name, value in prefixed(state, prefix).items()}


def any_begins(names: Iterable[str], *beginnings: str) -> bool:
    """Whether a name begins with one of the beginnings."""
    return any(name.startswith(beginnings) for name in names)


def is_folder(path: Path) -> bool:
    """Whether ``path`` is a folder as d2v writes it, and not one of transformers, whose files have the same names."""
    if not (path / WEIGHTS).is_file() or not (path / CONFIG).is_file():
        return False
    try:
        config = read_json(path / CONFIG)
    except UserError:
        return True  # who reads it says what is wrong
    return "model_type" not in config or "method" in config


def require_empty(folder: Path) -> None:
    """Raise a UserError if something is there already."""
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists() or folder.is_symlink():
        raise UserError(f"--output {folder}: there is something already; give a new folder, or remove it first")


def write_folder(
    folder: Path,
    weights: StateDict,
    config: dict[str, Any],
    model_card: str,
    more: Mapping[str, StateDict] | None = None,
    assets: Mapping[str, str] | None = None,
) -> None:
    """Write a folder completely or not at all: into a folder beside it, which is renamed at the end.

    Args:
        folder: A new one.
        weights: State dict of the method.
        config: Content of ``config.json``.
        model_card: Content of ``README.md``.
        more: Further files of tensors, by their names.
        assets: Text files, by their names.

    Raises:
        UserError: Something is there already, or the place cannot be written to.
    """
    config = {"format": FORMAT, **config}
    if assets:
        config["assets"] = list(assets)
    texts = {**(assets or {}), CONFIG: json.dumps(config, indent=2) + "\n", "README.md": model_card}
    write_files(folder, {WEIGHTS: weights, **(more or {})}, texts)


def write_files(folder: Path, tensors: Mapping[str, StateDict], texts: Mapping[str, str]) -> None:
    """Write a new folder of files, all of them or none.

    Args:
        folder: A new one.
        tensors: Files in safetensors, by their names.
        texts: Files of text, by their names.

    Raises:
        UserError: Something is there already, or the place cannot be written to.
    """
    with new_folder(folder) as unfinished:
        for name, state in tensors.items():
            # safetensors refuses tensors that share memory.
            separate = {key: value.detach().clone(memory_format=CONTIGUOUS) for key, value in state.items()}
            save_file(separate, unfinished / name, {"format": "pt", _CHECKSUM: _checksum(separate)})
            _order_notes(unfinished / name)
        for name, text in texts.items():
            (unfinished / name).write_text(text, encoding="utf-8")
            for file in tensors:  # safetensors makes its files readable for their owner only
                shutil.copymode(unfinished / name, unfinished / file)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder to write into, which becomes ``folder`` at the end, and is removed after an error.

    Raises:
        UserError: Something is there already, or the place cannot be written to.
    """
    require_empty(folder)
    folder = folder.absolute()
    try:
        with whole_folder(folder) as unfinished:
            yield unfinished
    except OSError as error:
        raise UserError(f"--output {folder}: cannot be written ({error.strerror or error})") from error


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a folder.

    Raises:
        UserError: It is no such file, or one of a later format.
    """
    path = folder / CONFIG
    config = read_json(path)
    if not isinstance(config.get("method"), dict) or "format" not in config:
        raise UserError(f"{path}: was not written by `d2v import` or `d2v export`")
    if config["format"] != FORMAT:
        raise UserError(f"{path}: has format {config['format']}, this version of d2v reads {FORMAT}; update d2v")
    return config


def read_assets(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Text files beside the weights that ``config`` names.

    Raises:
        UserError: One is missing or no text.
    """
    assets = {}
    for name in checked_names(config.get("assets", []), folder / CONFIG):
        assets[name] = read_text(folder / name, f"{CONFIG} names")
    return assets


def checked_names(names: Any, where: Path) -> list[str]:
    """Names of assets, which become names of files. They may come from anybody, so none may lead to another folder.

    Raises:
        UserError: A name is not the plain name of a text file; the message begins with ``where``.
    """
    if not isinstance(names, list | dict):
        names = [names]
    for name in names:
        if not isinstance(name, str) or name != Path(name).name or "\\" in name or not name.endswith((".json", ".txt")):
            raise UserError(f"{where}: names the asset {name!r:.80}, which is no name of a file; it is refused")
    return list(names)


def read_weights(folder: Path) -> StateDict:
    """``model.safetensors`` of a folder.

    Raises:
        UserError: It is damaged.
    """
    return read_tensors(folder / WEIGHTS)


def read_tensors(file: Path) -> StateDict:
    """The content of a file in safetensors. The format has no checksum: what d2v writes has one among its notes.

    Raises:
        UserError: It is damaged.
    """
    try:
        tensors = load_file(file)
        with safe_open(file, "pt") as opened:
            stored = (opened.metadata() or {}).get(_CHECKSUM)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file}: not readable ({error}); if its download broke off, get it once more") from error
    if stored is not None and stored != _checksum(tensors):
        raise UserError(f"{file}: is damaged (its checksum is wrong); write it anew with d2v import or d2v export")
    return tensors


def _order_notes(file: Path) -> None:
    """The library writes the notes of a file in random order: make equal files equal."""
    with file.open("r+b") as opened:
        size = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        opened.seek(8)
        opened.write(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size))


def _checksum(tensors: StateDict) -> str:
    """Of names, types, shapes and numbers."""
    value = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        value = zlib.crc32(f"{name} {tensor.dtype} {list(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, value)
    return f"{value:08x}"


def require_fit(method: nn.Module, weights: StateDict) -> None:
    """Check that weights fit a method: those of the student, and those of the teacher and the head if there are any.

    Raises:
        UserError: Tensors are missing, too many or of another shape; the message names them.
    """
    expected = method.state_dict()
    problems = []
    for prefix in _PARTS.values():
        found = prefixed(weights, prefix)
        if found or prefix == "student.":
            problems += mismatches(prefixed(expected, prefix), found)
    for name in weights:
        if not name.startswith(tuple(_PARTS.values())):
            problems.append(f"{name} is unknown")
    if problems:
        raise UserError(f"the weights do not fit the model: {in_short(problems)}")


def parts_in(weights: StateDict) -> list[str]:
    """The parts, out of student, teacher and head, that a state dict contains."""
    return [part for part, prefix in _PARTS.items() if any_begins(weights, prefix)]


def mismatches(expected: StateDict, found: StateDict) -> list[str]:
    """What is wrong with ``found``: numbers that are not finite; else tensors that are missing, unknown or of another
    shape, with one phrase for each."""
    missing, unknown, odd = [], [], []
    for name, value in expected.items():
        if name not in found:
            missing.append(f"{name} is missing")
        elif found[name].shape != value.shape:
            odd.append(f"{name} has the shape {list(found[name].shape)} and not {list(value.shape)}")
    for name in found:
        if name not in expected:
            unknown.append(f"{name} is unknown")
    broken = [name for name in expected if name in found and not found[name].isfinite().all()]
    if broken:
        where = f"{broken[0]} and {len(broken) - 1} more tensors"
        return [f"{where} hold numbers that are not finite, as after a training that went wrong; take an earlier one"]
    return missing + unknown + odd


def in_short(problems: list[str], shown: int = 8) -> str:
    """The first ``shown`` problems, and the number of the others."""
    text = "; ".join(problems[:shown])
    if len(problems) > shown:
        text += f"; and {len(problems) - shown} more"
    return text
