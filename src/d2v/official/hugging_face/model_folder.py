"""A folder of Hugging Face transformers, read and written. transformers itself is not needed for it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from d2v.checkpoints.folder import StateDict, read_tensors
from d2v.checkpoints.head_files import StoredHead
from d2v.checkpoints.unpickle import load_untrusted
from d2v.errors import UserError
from d2v.model.encoder import Encoder
from d2v.official.hugging_face import eat
from d2v.official.hugging_face.own_class import own_class
from d2v.official.hugging_face.pantagruel import MODEL_TYPES, read_pantagruel
from d2v.official.hugging_face.speech_model import SPEECH
from d2v.official.hugging_face.terms import CONFIG, HuggingFaceModel
from d2v.official.hugging_face.text_model import TEXT
from d2v.official.hugging_face.vision_model import VISION
from d2v.official.imported import Imported
from d2v.official.names import given, official_names, split_qkv, without_prefix
from d2v.text_files import read_json

_FAMILIES = {SPEECH.model_type: SPEECH, TEXT.model_type: TEXT, VISION.model_type: VISION}
_DESCENDANTS = {**dict.fromkeys(MODEL_TYPES, read_pantagruel), eat.MODEL_TYPE: eat.read_eat_folder}
"""What reads folders of models that transformers itself does not know."""
_BY_FRONT_END = {SPEECH.front_end: SPEECH, TEXT.front_end: TEXT, VISION.front_end: VISION}
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def is_hugging_face(folder: Path) -> bool:
    """Whether a folder is one of transformers."""
    return (folder / CONFIG).is_file() and "model_type" in read_json(folder / CONFIG)


def read_model_folder(folder: Path) -> tuple[Imported, list[Path]]:
    """Translate a folder; returns the checkpoint and the files of its weights.

    Raises:
        UserError: It is a model of another kind, is not whole, or its weights cannot be read.
    """
    config = given(read_json(folder / CONFIG))
    model_type = str(config.get("model_type"))
    if model_type in _DESCENDANTS:
        files, state = _read_weights(folder)
        return _DESCENDANTS[model_type](folder, config, state), files
    family = _FAMILIES.get(model_type)
    if family is None:
        known = ", ".join([*_FAMILIES, *_DESCENDANTS])
        raise UserError(f"a Hugging Face model of type {model_type!r}: only {known} can be imported")
    for key, value in family.wanted.items():
        if config.get(key, value) != value:
            raise UserError(f"{CONFIG}: {key} is {config[key]!r}; d2v's encoder has {value} only")
    files, state = _read_weights(folder)
    return family.read(folder, config, without_prefix(state, family.prefix)), files


def write_model_folder(
    encoder: Encoder, head: StoredHead | None, assets: Mapping[str, str], source: Mapping[str, Any]
) -> tuple[str, StateDict, dict[str, str]]:
    """A model for transformers: of one of its own classes, or else of d2v's (``modeling_d2v.py``).

    Args:
        encoder: Ours.
        head: Its head, if it is fine-tuned.
        assets: Its text files.
        source: Where it comes from, as ``config.json`` of d2v says it.

    Returns:
        The class, its tensors, and the texts of its files by their names, ``config.json`` first.

    Raises:
        UserError: There is no such model; the message says what does not fit.
    """
    family = _BY_FRONT_END.get(encoder.recipe["front"]["class_path"])
    weights = split_qkv(encoder.state_dict())
    model = HuggingFaceModel(problems=["transformers has none of its medium"])
    body, prefix, model_type = {}, "", "d2v"
    if family is not None:
        model = family.write(encoder, weights, head, assets)
    if family is None or model.problems:
        model = own_class(encoder, head, assets, source, model.problems)
    else:
        body, model_type = official_names(model.weights, family.rows), family.model_type
        prefix = family.prefix if model.head else ""
    body |= model.extra
    config = {"architectures": [model.architecture], "model_type": model_type, "dtype": "float32"}
    texts = {}
    for name, content in {CONFIG: {**config, **model.config}, **model.files}.items():
        if not isinstance(content, str):
            content = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        texts[name] = content
    return model.architecture, {**{prefix + name: value for name, value in body.items()}, **model.head}, texts


def _read_weights(folder: Path) -> tuple[list[Path], dict[str, Any]]:
    """The files of a folder's weights, and the tensors in them."""
    for name in _WEIGHTS:
        files = []
        if (folder / name).is_file():
            files = [folder / name]
        elif (folder / f"{name}.index.json").is_file():
            files = _shards(folder / f"{name}.index.json")
        if files:
            state: dict[str, Any] = {}
            for file in files:
                state.update(_read_tensors(file))
            return files, state
    raise UserError(f"holds neither {' nor '.join(_WEIGHTS)}, nor an index of parts of one of them")


def _shards(index: Path) -> list[Path]:
    """The files that an index names, which lie beside it."""
    names = read_json(index).get("weight_map")
    if not (isinstance(names, dict) and names and all(isinstance(name, str) for name in names.values())):
        raise UserError(f"{index.name}: has no weight_map from tensors to files")
    files, missing = [], []
    for name in sorted(set(names.values())):
        if Path(name).name != name:
            raise UserError(f"{index.name}: names {name}, and its files lie beside it")
        files.append(index.with_name(name))
        if not files[-1].is_file():
            missing.append(name)
    if missing:
        raise UserError(f"{index.name}: {missing[0]} is missing ({len(missing)} of {len(files)} files)")
    return files


def _read_tensors(file: Path) -> dict[str, Any]:
    if file.suffix != ".safetensors":
        return load_untrusted(file)
    return dict(read_tensors(file))
