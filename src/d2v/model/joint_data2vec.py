"""Several kinds of input on one trunk, in one student and one teacher."""

from collections.abc import Callable, Mapping
from typing import Any, final

from torch import nn

from d2v.model.data2vec import Data2Vec
from d2v.model.encoder import Encoder
from d2v.model.front_end import FrontEnd
from d2v.model.task import Task
from d2v.nn.transformer import Transformer

_TRUNK = "trunk"


@final
class Medium:
    """One kind of input of a joint model: what a recipe for it alone has, but the trunk.

    Args:
        front: Built for the shared trunk; its ``prenet_depth`` blocks are its own.
        weight: Of its loss in that of a step. At 0 its figures are still logged.
        lr_scale: Of its front end and head, times the rate of the trunk.
        init_from: Checkpoint with an encoder of this kind, whose front end and head it starts from; ``model.init_from``
            is for the trunk, too.
        task: Arguments of :class:`~d2v.model.task.Task`.
    """

    def __init__(
        self,
        front: Callable[[Transformer], FrontEnd],
        weight: float = 1.0,
        lr_scale: float = 1.0,
        init_from: str | None = None,
        **task: Any,
    ) -> None:
        if weight < 0:
            raise ValueError(f"weight must be 0 or more, not {weight}")
        if lr_scale <= 0:
            raise ValueError(f"lr_scale must be above 0, not {lr_scale}; model.freeze keeps a part as it is")
        self.front = front
        self.weight = weight
        self.lr_scale = lr_scale
        self.init_from = init_from
        self._task = task

    def task(self, student: Encoder) -> Task:
        """What an encoder of this kind must do."""
        return Task(student, **self._task)


class EncodersOnOneTrunk(nn.Module):
    """Encoders by name. The trunk is one module and one part of the state dict; each encoder borrows it.

    Args:
        fronts: Front ends, by the names of the encoders.
        trunk: What they stand in front of.

    Raises:
        ValueError: A name cannot be that of a module.
    """

    def __init__(self, fronts: Mapping[str, Callable[[Transformer], FrontEnd]], trunk: Transformer) -> None:
        super().__init__()
        self.trunk = trunk
        prenets = set()
        for name, front in fronts.items():
            if not name.isidentifier() or hasattr(self, name) or hasattr(nn.ModuleDict, name):
                raise ValueError(f"media: {name!r} cannot be the name of one; take a word such as speech or sensors")
            encoder = Encoder(front, trunk)
            # In the instance's dict and not in _modules: found by attribute lookup, seen by nothing else.
            del encoder._modules[_TRUNK]
            encoder.__dict__[_TRUNK] = trunk
            self.add_module(name, encoder)
            prenets.add(len(encoder.front.prenet))
        if trunk.drop_path and len(prenets) > 1:
            raise ValueError("drop_path of a shared trunk grows over the blocks of all media alike: give every front "
                             "end the same prenet_depth, or set it to 0")  # fmt: skip

    @property
    def by_name(self) -> Mapping[str, Encoder]:
        """The encoders."""
        found = {}
        for name, module in self.named_children():
            if isinstance(module, Encoder):
                found[name] = module
        return found


class JointData2Vec(Data2Vec):
    """One student and one teacher of several kinds of input. A step takes a batch of each, and their losses add up.

    Args:
        trunk: The shared blocks.
        media: What stands in front of them and what must be predicted, by name.
    """

    def __init__(self, trunk: Transformer, media: Mapping[str, Medium]) -> None:
        if not media:
            raise ValueError("media: there is none; name a recipe of each, such as media: {speech: v2/speech.yaml}")
        fronts = {name: medium.front for name, medium in media.items()}
        student = EncodersOnOneTrunk(fronts, trunk)
        tasks = nn.ModuleDict()
        for name, medium in media.items():
            try:
                tasks[name] = medium.task(student.by_name[name])
            except ValueError as error:
                raise ValueError(f"media.{name}: {error}") from error
        super().__init__(student, tasks)  # type: ignore[arg-type]
        self._weights = {name: medium.weight for name, medium in media.items()}

    @property
    def tasks(self) -> Mapping[str, Task]:
        return dict(self.task.items())  # type: ignore[operator]

    def loss_weight(self, name: str) -> float:
        return self._weights[name]
