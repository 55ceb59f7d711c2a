"""What the settings of a Hugging Face classifier say about its classes."""

import re
from typing import Any

from d2v.checkpoints.layout import ClassifierTask

_TASKS: dict[Any, ClassifierTask] = {
    "single_label_classification": "single",
    "multi_label_classification": "multi",
    "regression": "regression",
}


def class_names(config: dict[str, Any], outputs: int) -> tuple[str, ...] | None:
    """Names by ``id2label``; None if there are none, or only LABEL_0, LABEL_1, ..."""
    labels = config.get("id2label")
    if not isinstance(labels, dict):
        return None
    names = tuple(str(labels.get(str(number), "")).strip() for number in range(outputs))
    if len(labels) != outputs or len(set(names)) != outputs or "" in names:
        return None
    return None if all(re.fullmatch(r"LABEL_\d+", name) for name in names) else names


def task(config: dict[str, Any]) -> ClassifierTask | None:
    """By ``problem_type``; None if it is not said."""
    return _TASKS.get(config.get("problem_type"))
