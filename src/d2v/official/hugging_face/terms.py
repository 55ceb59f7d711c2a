"""What the three models of Hugging Face transformers share, read and written."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from d2v.checkpoints.folder import StateDict
from d2v.checkpoints.head_files import HeadTask, StoredHead
from d2v.model.encoder import Encoder
from d2v.official.imported import Imported
from d2v.official.names import Rows

CONFIG = "config.json"
_TASKS: dict[str, HeadTask] = {
    "single_label_classification": "single",
    "multi_label_classification": "multi",
    "regression": "regression",
}
_PROBLEM_TYPES = dict(zip(_TASKS.values(), _TASKS, strict=True))


@dataclass(frozen=True)
class Family:
    """A model of transformers that one of our encoders can be, with its heads."""

    model_type: str
    front_end: str
    """Class path of our front end."""
    prefix: str
    """Of the encoder's tensors in a model with a head."""
    rows: Rows
    """The encoder's tensors, official and ours."""
    wanted: Mapping[str, Any]
    """The only values of these settings that d2v's encoder has."""
    read: Callable[[Path, dict[str, Any], dict[str, Any]], Imported]
    """From a folder, the content of ``config.json``, and tensors without the prefix."""
    write: Callable[[Encoder, StateDict, StoredHead | None, Mapping[str, str]], "HuggingFaceModel"]
    """From an encoder, its tensors with queries, keys and values apart, its head and its assets."""


@dataclass(frozen=True)
class HuggingFaceModel:
    """A model of ours in Hugging Face's terms."""

    architecture: str = ""
    """Class of transformers that loads it."""
    config: dict[str, Any] = field(default_factory=dict)
    """Content of ``config.json``."""
    weights: StateDict = field(default_factory=dict)
    """The encoder's tensors, not yet under official names."""
    extra: StateDict = field(default_factory=dict)
    """Tensors of the official encoder that ours has no name for."""
    head: StateDict = field(default_factory=dict)
    """Tensors of the head, by their official names."""
    files: dict[str, Any] = field(default_factory=dict)
    """Further files by their names: texts, or what becomes JSON."""
    problems: list[str] = field(default_factory=list)
    """What the official model cannot hold; if there is anything, nothing else counts."""


Settings = tuple[tuple[str, str, Any], ...]
"""(name in ``config.json``, argument of our trunk, default there) of a model."""


def read_settings(config: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """Arguments of our trunk that ``config.json`` says."""
    return {ours: config.get(theirs, default) for theirs, ours, default in settings}


def written_settings(trunk: Mapping[str, Any], weights: StateDict, settings: Settings) -> dict[str, Any]:
    """What ``config.json`` says of a trunk: the opposite."""
    sizes = {"hidden_size": trunk["width"], "num_hidden_layers": trunk["depth"]}
    hidden = len(weights["trunk.blocks.0.mlp.0.bias"])
    written = {theirs: trunk[ours] for theirs, ours, _ in settings}
    return {**sizes, "intermediate_size": hidden, "hidden_act": "gelu", **written}


def refused(*checks: tuple[bool, str]) -> list[str]:
    """The texts of the checks that hold."""
    return [text for holds, text in checks if holds]


def read_class_settings(config: dict[str, Any], state: Mapping[str, Any], bias: str) -> dict[str, Any]:
    """``names`` and ``task`` of a classifier: names by ``id2label``, unless they are LABEL_0, LABEL_1, ...; its task by
    ``problem_type``. Either is None if it is not said.

    Args:
        config: Content of ``config.json``.
        state: Official tensors.
        bias: Name of the one that has a number for each class.
    """
    task = _TASKS.get(str(config.get("problem_type")))
    labels, outputs = config.get("id2label"), len(state.get(bias, ()))
    if not isinstance(labels, dict) or len(labels) != outputs:
        return {"names": None, "task": task}
    names = tuple(str(labels.get(str(number), "")).strip() for number in range(outputs))
    numbered = all(re.fullmatch(r"LABEL_\d+", name) for name in names)
    known = len(set(names)) == outputs and "" not in names and not numbered
    return {"names": names if known else None, "task": task}


def class_settings(head: StoredHead) -> dict[str, Any]:
    """What ``config.json`` says about the classes of a classifier: the opposite."""
    names: dict[str, str] = {}
    numbers: dict[str, int] = {}
    for number in range(head.num_outputs):
        name = head.names[number] if head.names else f"LABEL_{number}"
        names[str(number)], numbers[name] = name, number
    return {"problem_type": _PROBLEM_TYPES[head.task], "id2label": names, "label2id": numbers}


def head_tensors(head: StoredHead, layers: Mapping[str, str]) -> StateDict:
    """A classifier's tensors by their official names; ``layers`` as :func:`~d2v.official.foreign_heads.take_classifier`
    reads them."""
    tensors = {}
    for ours, theirs in layers.items():
        for part in ("weight", "bias"):
            tensors[f"{theirs}.{part}"] = head.weights[f"{ours}.{part}"]
    return tensors
