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


def read_weights(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The file of a folder's weights, and the tensors in it.

    Raises:
        UserError: There is none, it is one of several, or it cannot be read.
    """
    for name in _WEIGHTS:
        file = folder / name
        if not file.is_file():
            continue
        if file.suffix != ".safetensors":
            return file, load_untrusted(file)
        try:
            return file, dict(load_file(file))
        except (OSError, SafetensorError) as error:
            raise UserError(f"{name}: not readable ({error})") from error
    if (folder / "model.safetensors.index.json").is_file():
        raise UserError(
            "its weights are in several files; save it in one: model.save_pretrained(FOLDER, max_shard_size='99GB')"
        )
    raise UserError(f"holds neither {' nor '.join(_WEIGHTS)}")


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
