"""The head of a fine-tuned classifier: taken from foreign checkpoints, kept beside an imported encoder."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from d2v.checkpoints.folder import is_folder, read_config
from d2v.checkpoints.hub import local_path
from d2v.checkpoints.layout import ClassifierTask, ImportedClassifier, StateDict
from d2v.errors import UserError

FILE = "classifier_head.safetensors"

_FAIRSEQ_TEXT_HEAD = re.compile(r"classification_heads\.(?P<name>.+)\.(?:dense|out_proj)\.(?:weight|bias)")
_USUAL_NAME = "sentence_classification_head"


def take_head(
    state: Mapping[str, Any],
    parts: Mapping[str, str],
    *,
    width: int,
    pool: Literal["mean", "cls"],
    left_out: list[str],
    notes: list[str],
    names: tuple[str, ...] | None = None,
    task: ClassifierTask | None = None,
) -> ImportedClassifier | None:
    """A head from tensors of any layout; None if there is none, or, with a note, if ours cannot be such.

    Args:
        state: Official tensors.
        parts: Of our head ("norm", "hidden", "proj"), and the official layer that each is.
        width: D of the encoder.
        pool: What the head reads.
        left_out: Loses the head's names if it is taken.
        notes: Extended if it cannot be.
        names: Of its classes.
        task: None: a regression if it has one output, else one class each.
    """
    official = {f"{ours}.{kind}": f"{theirs}.{kind}" for ours, theirs in parts.items() for kind in ("weight", "bias")}
    if not any(official[f"proj.{kind}"] in state for kind in ("weight", "bias")):
        return None
    found = {ours: state[theirs] for ours, theirs in official.items() if isinstance(state.get(theirs), Tensor)}
    weights = {name: value.float() for name, value in found.items()}
    problem = _problem(weights, official, width)
    if problem:
        notes.append(f"the classifier ({', '.join(sorted(official.values()))}) is left out: {problem}")
        return None
    left_out[:] = [name for name in left_out if name not in official.values()]
    return make_head(weights, pool, names, task)


def make_head(
    weights: StateDict, pool: Literal["mean", "cls"], names: tuple[str, ...] | None, task: ClassifierTask | None
) -> ImportedClassifier:
    """A head from tensors in our names; see :func:`take_head`."""
    outputs = len(weights["proj.bias"])
    return ImportedClassifier(
        kind="tanh" if "hidden.weight" in weights else "linear",
        weights=weights,
        pool=pool,
        names=names,
        task=task or ("regression" if outputs == 1 else "single"),
    )


def take_fairseq_text_head(
    content: Mapping[str, Any], state: Mapping[str, Any], width: int, left_out: list[str], notes: list[str]
) -> ImportedClassifier | None:
    """The head of fairseq's sentence classifiers (``RobertaClassificationHead``): linear, tanh, linear on ``<s>``.

    Args:
        content: The file, for its settings.
        state, width, left_out, notes: See :func:`take_head`.
    """
    found = dict.fromkeys(match["name"] for name in state if (match := _FAIRSEQ_TEXT_HEAD.fullmatch(name)))
    if not found:
        return None
    name = _USUAL_NAME if _USUAL_NAME in found else next(iter(found))
    if len(found) > 1:
        notes.append(f"of its {len(found)} classifiers {name} is taken")
    model = (content.get("cfg") or {}).get("model") if isinstance(content.get("cfg"), dict) else None
    activation = model.get("pooler_activation_fn", "tanh") if isinstance(model, dict) else "tanh"
    if activation != "tanh":
        notes.append(f"the classifier is left out: its pooler_activation_fn is {activation}, and d2v's head has tanh")
        return None
    head = f"classification_heads.{name}"
    parts = {"hidden": f"{head}.dense", "proj": f"{head}.out_proj"}
    return take_head(state, parts, width=width, pool="cls", left_out=left_out, notes=notes)


def _problem(weights: StateDict, official: Mapping[str, str], width: int) -> str | None:
    missing = [theirs for ours, theirs in official.items() if ours not in weights]
    if missing:
        return f"it has no {missing[0]}"
    outputs = len(weights["proj.bias"]) if weights["proj.bias"].ndim == 1 else 0
    if not outputs:
        return "it has no outputs"
    shapes = {"norm.weight": (width,), "norm.bias": (width,), "hidden.weight": (width, width), "hidden.bias": (width,)}
    shapes |= {"proj.weight": (outputs, width), "proj.bias": (outputs,)}
    odd = [name for name, value in weights.items() if tuple(value.shape) != shapes[name]]
    if odd:
        return f"{official[odd[0]]} is {list(weights[odd[0]].shape)}, where d2v's head has {list(shapes[odd[0]])}"
    return None


def name_classes(head: ImportedClassifier, file: Path) -> ImportedClassifier:
    """The head with the classes of a file that the user names, one a line.

    Raises:
        UserError: The file cannot be read, or does not fit the head.
    """
    try:
        lines = file.expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"--classes {file}: not readable ({error})") from error
    names = tuple(line.strip() for line in lines if line.strip())
    outputs = len(head.weights["proj.bias"])
    if len(names) != outputs or len(set(names)) != outputs:
        raise UserError(
            f"--classes {file}: names {len(set(names))} classes, but the classifier has {outputs} outputs; give one "
            "name a line, in the order of its training"
        )
    return dataclasses.replace(head, names=names)


def head_files(head: ImportedClassifier) -> dict[str, StateDict]:
    """What is written beside the encoder, by file name."""
    return {FILE: head.weights}


def config_entry(head: ImportedClassifier) -> dict[str, Any]:
    """What ``config.json`` says of it under ``classifier``."""
    return {
        "kind": head.kind,
        "pool": head.pool,
        "names": None if head.names is None else list(head.names),
        "task": head.task,
        "norm": "norm.weight" in head.weights,
    }


def load_classifier_head(folder: str | Path) -> ImportedClassifier | None:
    """The classifier in a folder that `d2v import` or `d2v export` wrote; None if it holds none.

    Raises:
        UserError: The folder is damaged.
    """
    path = local_path(folder)
    if not is_folder(path):
        return None
    config = read_config(path)
    said = config.get("classifier")
    if said is None:
        return None
    try:
        weights = load_file(path / FILE)
        names = None if said["names"] is None else tuple(said["names"])
        task, pool, outputs = said["task"], said["pool"], len(weights["proj.bias"])
        _require(names is None or _are_names(names, outputs), f"{len(names or ())} names for {outputs} outputs")
        _require(task in get_args(ClassifierTask) and pool in ("mean", "cls"), f"task {task!r}, pool {pool!r}")
        parts = ["norm"] * bool(said["norm"]) + ["hidden"] * (said["kind"] == "tanh") + ["proj"]
        official = {f"{part}.{kind}": f"{part}.{kind}" for part in parts for kind in ("weight", "bias")}
        _require(weights.keys() == official.keys(), f"it holds {', '.join(sorted(weights))}")
        width = weights["proj.weight"].shape[-1]
        _require(width == config["method"]["student"]["init_args"]["width"], f"it reads {width} features")
        problem = _problem(weights, official, width)
        _require(problem is None, str(problem))
    except (OSError, SafetensorError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"{path / FILE}: does not go with {path / 'config.json'} ({error}); import it again") from error
    return make_head(weights, pool, names, task)


def _are_names(names: Sequence[Any], outputs: int) -> bool:
    return len(set(names)) == outputs == len(names) and all(isinstance(name, str) for name in names)


def _require(fits: bool, problem: str) -> None:
    if not fits:
        raise ValueError(problem)
