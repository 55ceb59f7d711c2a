"""What every importer makes of a foreign checkpoint."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from d2v.checkpoints.recipe import build
from d2v.model.data2vec import Data2Vec

StateDict = dict[str, Tensor]


@dataclass(frozen=True)
class Imported:
    """A checkpoint in our terms."""

    layout: str
    """Where it comes from, in words."""
    licence: str
    method: dict[str, Any]
    """Arguments of :class:`Data2Vec`, parts as recipe nodes."""
    ema: dict[str, Any]
    """Arguments of the EMA decay schedule."""
    weights: StateDict
    """State dict of :class:`Data2Vec`; without a teacher if the checkpoint has none."""
    left_out: list[str] = field(default_factory=list)
    """Entries of the source that nothing of ours corresponds to."""
    notes: list[str] = field(default_factory=list)
    """What the user should know: values that contradict each other, or that had to be guessed."""


def build_method(method: Mapping[str, Any]) -> Data2Vec:
    """Build the method from plain values, as ``config.json`` holds them."""
    parts = {name: method[name] for name in ("student", "masking", "targets", "loss")}
    return Data2Vec(
        **{name: build(part) for name, part in parts.items()},
        head=lambda width: build(method["head"], width),
        cls_loss=build(method["cls_loss"]) if method.get("cls_loss") else None,
        num_masks=method["num_masks"],
        shared_with_teacher=method["shared_with_teacher"],
    )


def rename(state: Mapping[str, Tensor], rules: Callable[[str], str | None]) -> tuple[StateDict, list[str]]:
    """Apply renaming rules; returns the renamed tensors in fp32 and the names that no rule knows."""
    renamed: StateDict = {}
    unknown: list[str] = []
    for name, value in state.items():
        new = rules(name)
        if new is None:
            unknown.append(name)
        else:
            renamed[new] = value.float()
    return renamed, unknown
