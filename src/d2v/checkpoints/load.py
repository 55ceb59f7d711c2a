"""Pretrained weights in: an encoder for features, or the start of another pretraining."""

import inspect
from pathlib import Path
from typing import Any, Literal, get_args

from d2v.checkpoints import hub
from d2v.checkpoints.changes import adapt_weights
from d2v.checkpoints.folder import (
    checked_names,
    in_short,
    is_folder,
    mismatches,
    read_assets,
    read_config,
    read_weights,
    require_fit,
)
from d2v.checkpoints.layout import StateDict, build_method
from d2v.checkpoints.recipe import build_encoder, part_class
from d2v.checkpoints.unpickle import load_untrusted
from d2v.errors import UserError
from d2v.model.data2vec import Data2Vec
from d2v.model.encoder import Encoder
from d2v.model.teacher import Part
from d2v.nn.transformer import Transformer

Weights = Literal["student", "teacher"]

_STUDENT, _TEACHER, _HEAD = "student.", "teacher.encoder.", "task.head."


def load(path: str | Path, weights: Weights = "student", **changes: Any) -> Encoder:
    """The pretrained encoder of a checkpoint, in eval mode, on the CPU, in fp32.

    Args:
        path: A ``.ckpt`` of ours, the folder of a run (its ``checkpoints/last.ckpt``, else the newest), or a folder
            that `d2v import` or `d2v export` wrote; ``hf://owner/name[@revision]``: such a folder, downloaded from the
            Hugging Face hub.
        weights: The student's, or the teacher's moving average of them.
        changes: Arguments of the encoder that differ from the checkpoint's, such as ``layer_drop=0.1``. At another
            ``image_size`` tables of positions are interpolated.

    Raises:
        UserError: There is no such checkpoint, it is a foreign one, it is damaged, or the encoder has no such argument.
    """
    if weights not in get_args(Weights):
        raise UserError(f"weights={weights!r}: give one of {', '.join(get_args(Weights))}")
    recipe, state, assets, licence = _read(_local(path))
    encoder = build_encoder(_changed(recipe, changes))
    found = _part(state, _STUDENT)
    if weights == "teacher":
        found = _with_borrowed(_part(state, _TEACHER), found)
        if not found:
            raise UserError(f"{path}: holds no teacher; load it with weights='student'")
    if changes:
        found = adapt_weights(found, recipe, encoder, changes)
    problems = mismatches(encoder.state_dict(), found)
    if problems:
        raise UserError(f"{path}: the weights do not fit the encoder: {in_short(problems)}")
    encoder.load_state_dict(found)
    encoder.assets, encoder.licence = assets, licence
    return encoder.eval()


def _changed(recipe: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The recipe of an encoder with other arguments."""
    if not changes:
        return recipe
    front = part_class(recipe["front"])
    of_front = list(inspect.signature(front).parameters)[1:]
    of_trunk = list(inspect.signature(Transformer).parameters)
    changed_front, changed_trunk = dict(recipe["front"]["init_args"]), dict(recipe["trunk"])
    for name, value in changes.items():
        if name in of_front:
            changed_front[name] = value
        elif name in of_trunk:
            changed_trunk[name] = value
        else:
            known = ", ".join([*of_front, *of_trunk])
            raise UserError(f"{name}={value!r}: {front.__name__} on a trunk has no such argument; it has {known}")
    return {"front": {**recipe["front"], "init_args": changed_front}, "trunk": changed_trunk}


def load_method(folder: str | Path) -> Data2Vec:
    """The whole method of a folder that `d2v import` wrote: its recipe with its weights.

    Raises:
        UserError: It is no such folder, or it is damaged.
    """
    path = Path(folder)
    if not is_folder(path):
        raise UserError(f"{path}: no folder with config.json and model.safetensors")
    method = build_method(read_config(path)["method"])
    require_fit(method, read_weights(path))
    init_weights(method, path)
    return method


def init_weights(method: Data2Vec, path: str | Path) -> list[str]:
    """Start a pretraining from the weights of another (``model.init_from``).

    The student's are all taken. The teacher takes those of the checkpoint's teacher, and where it has none, the
    student's. The head is taken if it is the same one.

    Args:
        method: Changed in place.
        path: As in :func:`load`.

    Returns:
        What does not come from the same part of the checkpoint, for the log.

    Raises:
        UserError: The student or the teacher has other tensors than the checkpoint; the message names them.
    """
    _, state, assets, licence = _read(_local(path))
    student, head = _part(state, _STUDENT), _part(state, _HEAD)
    problems = mismatches(method.student.state_dict(), student)
    if problems:
        raise UserError(f"model.init_from {path}: the weights do not fit the student: {in_short(problems)}")
    notes = []
    averaged = method.teacher.encoder.state_dict()
    teacher = _part(state, _TEACHER)
    missing = [name for name in averaged if name not in teacher]
    if missing:
        parts = sorted({name.partition(".")[0] for name in missing})
        notes.append("the teacher starts as the student" + (f" in {', '.join(parts)}" if teacher else ""))
    teacher = {name: teacher[name] if name in teacher else student[name] for name in averaged}
    problems = mismatches(averaged, teacher)
    if problems:
        raise UserError(f"model.init_from {path}: the weights do not fit the teacher: {in_short(problems)}")
    if problems := mismatches(method.task.head.state_dict(), head):
        notes.append(f"the head starts anew: {in_short(problems, shown=3)}")
    else:
        method.task.head.load_state_dict(head)
    method.student.load_state_dict(student)
    method.student.licence = licence
    method.student.assets = assets  # data with another tokenizer are refused when they meet the encoder
    method.teacher.encoder.load_state_dict(teacher)
    return notes


def _local(path: str | Path) -> Path:
    """The path, or where a model of the hub was downloaded to."""
    folder = hub.local_path(path)
    if hub.is_remote(path):
        try:
            read_config(folder)
        except UserError as error:
            how = f"import it first (d2v import {path} --output FOLDER), and load FOLDER"
            raise UserError(f"{path}: no model of d2v; {how}") from error
    return folder


def _read(path: Path) -> tuple[dict[str, Any], StateDict, dict[str, str], str | None]:
    """Recipe of the student, the method's state dict, and the encoder's assets and licence."""
    path = path.expanduser()
    if is_folder(path):
        config = read_config(path)
        licence = config.get("source", {}).get("licence")
        return config["method"].get("student", {}), read_weights(path), read_assets(path, config), licence
    if is_folder(path.parent) and path.suffix == ".safetensors":
        raise UserError(f"{path}: give the folder that it lies in, {path.parent}")
    file = newest_checkpoint(path) if path.is_dir() else path
    content = load_untrusted(file)
    state = content.get("state_dict")
    ours = content.get("d2v")
    if not isinstance(state, dict) or not isinstance(ours, dict) or "" not in ours.get("encoders", {}):
        raise UserError(
            f"{file}: no checkpoint of d2v. One of fairseq or BEiT is imported first: "
            f"d2v import {file} --output FOLDER, and then FOLDER is loaded"
        )
    ours = ours["encoders"][""]
    return ours["recipe"], _part(state, "method."), checkpoint_assets(ours, file), ours.get("licence")


def checkpoint_assets(ours: dict[str, Any], file: Path) -> dict[str, str]:
    """Assets of the encoder in a checkpoint of ours.

    Raises:
        UserError: They are no texts with names of files.
    """
    assets = ours.get("assets", {})
    names = checked_names(assets, file)
    if not isinstance(assets, dict) or not all(isinstance(text, str) for text in assets.values()):
        raise UserError(f"{file}: its assets are no texts; it is refused")
    return {name: assets[name] for name in names}


def newest_checkpoint(folder: Path) -> Path:
    """``last.ckpt`` of a run, else its newest checkpoint."""
    places = [place for place in (folder / "checkpoints", folder) if place.is_dir()]
    for place in places:
        if (place / "last.ckpt").is_file():
            return place / "last.ckpt"
    found = [file for place in places for file in place.glob("*.ckpt") if file.is_file()]
    if not found:
        raise UserError(
            f"{folder}: holds neither config.json and model.safetensors, nor a checkpoint (checkpoints/*.ckpt)"
        )
    return max(found, key=lambda file: (file.stat().st_mtime_ns, file.name))


def _part(state: dict[str, Any], prefix: str) -> StateDict:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _with_borrowed(teacher: StateDict, student: StateDict) -> StateDict:
    """The teacher's tensors with those of the parts that it borrows from the student."""
    if not teacher:
        return {}
    prefixes = [f"front.{part}." for part in get_args(Part)]
    borrowed = tuple(prefix for prefix in prefixes if not any(name.startswith(prefix) for name in teacher))
    return {**teacher, **{name: value for name, value in student.items() if name.startswith(borrowed)}}
