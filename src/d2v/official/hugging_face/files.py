"""Reading the files of a folder of Hugging Face transformers."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from d2v.checkpoints.unpickle import load_untrusted
from d2v.errors import UserError

CONFIG = "config.json"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def read_weights(folder: Path) -> tuple[list[Path], dict[str, Any]]:
    """The files of a folder's weights, and the tensors in them.

    Raises:
        UserError: There are none, one of several is missing, or one cannot be read.
    """
    for name in _WEIGHTS:
        for listed, files in ((name, _alone), (f"{name}.index.json", _shards)):
            if (folder / listed).is_file():
                found = files(folder / listed)
                state: dict[str, Any] = {}
                for file in found:
                    state.update(_read(file))
                return found, state
    raise UserError(f"holds neither {' nor '.join(_WEIGHTS)}, nor an index of parts of one of them")


def _alone(file: Path) -> list[Path]:
    return [file]


def _shards(index: Path) -> list[Path]:
    """The files that an index names, which lie beside it.

    Raises:
        UserError: One is missing, or does not lie there.
    """
    names = read_json(index).get("weight_map")
    if not (isinstance(names, dict) and names and all(isinstance(name, str) for name in names.values())):
        raise UserError(f"{index.name}: has no weight_map from tensors to files")
    files = [index.with_name(name) for name in sorted(set(names.values())) if Path(name).name == name]
    outside = [name for name in names.values() if Path(name).name != name]
    if outside:
        raise UserError(f"{index.name}: names {outside[0]}, and its files lie beside it")
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise UserError(f"{index.name}: {missing[0]} is missing ({len(missing)} of {len(files)} files)")
    return files


def _read(file: Path) -> dict[str, Any]:
    if file.suffix != ".safetensors":
        return load_untrusted(file)
    try:
        return dict(load_file(file))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file.name}: not readable ({error})") from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: It cannot be read, or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path.name}: not readable ({error})") from error
    if not isinstance(value, dict):
        raise UserError(f"{path.name}: holds a {type(value).__name__}, where an object belongs")
    return value
