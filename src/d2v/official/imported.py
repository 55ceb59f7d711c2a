"""What every reader makes of a foreign checkpoint."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from d2v.checkpoints.folder import StateDict
from d2v.checkpoints.head_files import StoredHead
from d2v.official.names import Rule, rename, trunk_sizes

Recipe = dict[str, Any]


@dataclass
class Imported:
    """A checkpoint in our terms. A reader begins with official tensors and settings, and fills in all else."""

    state: dict[str, Any]
    """Official tensors."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Official settings of the model."""
    weights: StateDict = field(default_factory=dict)
    """State dict of our method; without a teacher or a head if the checkpoint has none."""
    left_out: list[str] = field(default_factory=list)
    """Entries of the source that nothing of ours corresponds to."""
    notes: list[str] = field(default_factory=list)
    """What the user should know: values that contradict each other, that had to be guessed, or that we cannot keep."""
    layout: str = ""
    """Where it comes from, in words."""
    licence: str = ""
    method: Recipe = field(default_factory=dict)
    """As :func:`method_recipe` makes it."""
    ema: dict[str, Any] = field(default_factory=dict)
    """Arguments of the EMA decay schedule."""
    head: StoredHead | None = None
    """Of a recogniser or classifier, if it is one that ours can be; a recogniser's symbols may not be known yet."""
    kept: dict[str, StateDict] = field(default_factory=dict)
    """Official tensors that go into files of their own, by the names of these, because d2v computes nothing of them."""
    assets: dict[str, str] = field(default_factory=dict)
    """Text files of the encoder that the source holds, by name."""

    @property
    def front(self) -> dict[str, Any]:
        """Arguments of the encoder's front end."""
        return self.method["student"]["front"]["init_args"]

    @property
    def trunk(self) -> dict[str, Any]:
        """Arguments of the encoder's trunk."""
        return self.method["student"]["trunk"]

    @property
    def width(self) -> int:
        """D, by the student's tensors."""
        return trunk_sizes(self.weights)["width"]

    def rename(self, rule: Rule) -> None:
        """Take the official tensors; what the rule does not know is left out."""
        weights, left_out = rename(self.state, rule)
        self.weights |= weights
        self.leave_out(left_out)

    def leave_out(self, names: Iterable[str], prefix: str = "") -> None:
        """Note entries of the source, below ``prefix``, that nothing of ours corresponds to."""
        self.left_out += [prefix + name for name in names]

    def finish(self, layout: str, licence: str, method: Recipe, ema: dict[str, Any]) -> "Imported":
        """The same with what is known at the end."""
        self.layout, self.licence, self.method, self.ema = layout, licence, method, ema
        return self


def method_recipe(
    student: Recipe,
    masking: Recipe,
    targets: Recipe,
    head: Recipe,
    loss: Recipe,
    shared: list[str],
    cls_loss: Recipe | None = None,
    num_masks: int = 1,
) -> Recipe:
    """The recipe of the method from its parts, those of 1.0 by default."""
    parts = {"student": student, "masking": masking, "targets": targets, "head": head, "loss": loss}
    return {**parts, "cls_loss": cls_loss, "num_masks": num_masks, "shared_with_teacher": shared}


def one_norm(asked: Mapping[str, Any], where: str, notes: list[str]) -> str | None:
    """The norm, of those that are asked for in this order, that ours can do; ``notes`` tells what is lost."""
    names = [name for name, on in asked.items() if on]
    kept = None
    for name in names:  # of two, the later one decides what the targets look like
        if name != "batch":
            kept = name
    if names not in ([], [kept]):
        notes.append(
            f"norms {where}: {' and '.join(names)} are asked for, {kept} is kept; d2v has one, and no batch norm"
        )
    return kept
