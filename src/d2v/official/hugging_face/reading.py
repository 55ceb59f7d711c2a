"""Folders of Hugging Face transformers: which model of data2vec one holds."""

from pathlib import Path

from d2v.checkpoints.layout import Imported, given
from d2v.errors import UserError
from d2v.official.hugging_face import speech as audio
from d2v.official.hugging_face import text, vision
from d2v.official.hugging_face.files import CONFIG, read_json, read_weights

_FAMILIES = {family.MODEL_TYPE: family for family in (audio, text, vision)}


def matches(folder: Path) -> bool:
    """Whether a folder is one of transformers."""
    return (folder / CONFIG).is_file() and "model_type" in read_json(folder / CONFIG)


def convert(folder: Path) -> tuple[Imported, list[Path]]:
    """Translate a folder; returns the checkpoint and the files of its weights.

    Raises:
        UserError: It is a model of another kind, is not whole, or its weights cannot be read.
    """
    config = given(read_json(folder / CONFIG))
    family = _FAMILIES.get(str(config.get("model_type")))
    if family is None:
        known = ", ".join(_FAMILIES)
        raise UserError(f"a Hugging Face model of type {config.get('model_type')!r}: only {known} can be imported")
    for key, value in family.WANTED.items():
        if config.get(key, value) != value:
            raise UserError(f"{CONFIG}: {key} is {config[key]!r}; d2v's encoder has {value} only")
    files, state = read_weights(folder)
    return family.convert(folder, config, state), files
