"""What the exporters to Hugging Face make of a model."""

from dataclasses import dataclass, field
from typing import Any

from d2v.checkpoints.layout import ImportedClassifier, StateDict


@dataclass(frozen=True)
class Official:
    """A model in Hugging Face's terms."""

    config: dict[str, Any] = field(default_factory=dict)
    """Content of ``config.json``."""
    weights: StateDict = field(default_factory=dict)
    """The encoder's tensors."""
    extra: StateDict = field(default_factory=dict)
    """Tensors of the official encoder that ours has no name for."""
    head: StateDict = field(default_factory=dict)
    """Tensors of the head, by their official names."""
    files: dict[str, Any] = field(default_factory=dict)
    """Further files by their names: texts, or what becomes JSON."""
    problems: list[str] = field(default_factory=list)
    """What the official model cannot hold; if there is anything, nothing else counts."""


def refused(*checks: tuple[bool, str]) -> list[str]:
    """The texts of the checks that hold."""
    return [text for holds, text in checks if holds]


def class_settings(head: ImportedClassifier) -> dict[str, Any]:
    """What ``config.json`` says about the classes."""
    names = head.names or tuple(f"LABEL_{number}" for number in range(len(head.weights["proj.bias"])))
    kinds = {"single": "single_label_classification", "multi": "multi_label_classification", "regression": "regression"}
    return {
        "problem_type": kinds[head.task],
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
    }
