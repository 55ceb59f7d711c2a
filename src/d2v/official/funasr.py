"""What lies beside the weights of emotion2vec in a model folder of FunASR, the same on ModelScope and Hugging Face."""

import re
from pathlib import Path
from typing import Any

from d2v import text_files
from d2v.checkpoints.folder import any_begins
from d2v.configs import read_values
from d2v.official.fairseq.cfg import model_settings
from d2v.official.foreign_heads import with_outputs
from d2v.official.imported import Imported
from d2v.official.names import given, model_state

SETTINGS, CLASSES, _CONTENTS = "config.yaml", "tokens.txt", "configuration.json"
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d*)?[eE][-+]?\d+")
_UNUSED = "unuse_"


def named_weights(folder: Path) -> Path | None:
    """The file of weights that ``configuration.json`` in a model folder names; None if it names none.

    Raises:
        UserError: It cannot be read.
    """
    if not (folder / _CONTENTS).is_file():
        return None
    named = given(text_files.read_json(folder / _CONTENTS).get("file_path_metas")).get("init_param")
    return next((file for file in folder.glob("*.pt") if file.name == named), None)


def with_settings(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A checkpoint of 2.0 that holds no settings, with those of ``config.yaml`` beside it in their place.

    Raises:
        UserError: That file cannot be read.
    """
    if model_settings(content) or not any_begins(model_state(content), "modality_encoders."):
        return content
    if not (folder / SETTINGS).is_file():
        return content
    stated = given(given(read_values(folder / SETTINGS, named="")).get("model_conf"))
    return {**content, "cfg": {"model": _with_numbers(stated)}}


def name_classes(found: Imported, folder: Path) -> None:
    """Name the classes of emotion2vec+ after ``tokens.txt``; outputs that it calls unused are taken out.

    Raises:
        UserError: That file cannot be read.
    """
    head, file = found.head, folder / CLASSES
    if head is None or head.task != "single" or head.names is not None or not file.is_file():
        return
    names = tuple(filter(None, map(str.strip, text_files.read_lines(file, "", text_files.SETTINGS))))
    used = [number for number, name in enumerate(names) if not name.startswith(_UNUSED)]
    if len(names) != head.num_outputs or len(set(names)) != head.num_outputs or len(used) < 2:
        found.notes.append(
            f"{CLASSES} names {len(set(names))} classes, {len(used)} of them used, and the classifier has "
            f"{head.num_outputs} outputs: the names are not taken"
        )
        return
    if len(used) < len(names):
        found.notes.append(f"{len(names) - len(used)} outputs of the classifier that nobody uses are left out")
    found.head = with_outputs(head, used, tuple(names[number] for number in used))


def _with_numbers(value: Any) -> Any:
    """Values in which 1e-05, which YAML 1.1 takes for a text, is the number that OmegaConf reads."""
    if isinstance(value, dict):
        return {key: _with_numbers(item) for key, item in value.items()}
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value)
    return value
