"""The teacher: an exponential moving average of the student (1.0, equation 1)."""

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from d2v.model.encoder import Encoder
from d2v.types import Batch, EncoderOutput, TokenSequence

if TYPE_CHECKING:
    from d2v.model.joint_data2vec import EncodersOnOneTrunk

Part = Literal["feature_extractor", "positions", "input_norm"]
"""A part of the front end that a teacher may borrow."""


class EMATeacher(nn.Module):
    """Averages the student's weights in fp32 and encodes unmasked input without gradients.

    Shared parts are the student's own modules, borrowed at each call: no copy, no average, no gradient. The averaged
    parts live in the state dict; gradients, the optimizer, weight decay and DDP's reducer never see them.

    Args:
        student: The encoder to follow, or several on one trunk.
        shared: By the names of encoders (an only one is called ``""``), parts of the front end that are borrowed: none
            (vision), the feature extractor (2.0 speech), it and the positions (1.0 speech), or all that lies before
            the blocks (text).
    """

    def __init__(self, student: "Encoder | EncodersOnOneTrunk", shared: Mapping[str, Sequence[Part]]) -> None:
        super().__init__()
        self.shared = {name: tuple(parts) for name, parts in shared.items()}
        borrowed: dict[tuple[str, Part], nn.Module] = {}
        for name, encoder in student.by_name.items():
            for part in self.shared.get(name, ()):
                module = getattr(encoder.front, part)
                if module is None:
                    raise ValueError(f"shared_with_teacher names {part!r}, but the student has none")
                borrowed[name, part] = module
        not_copied = {id(module): None for module in borrowed.values()}
        self.encoder = copy.deepcopy(student, not_copied)
        for (name, part), module in borrowed.items():
            # In the instance's dict and not in _modules: found by attribute lookup, seen by nothing else.
            front = self.encoder.by_name[name].front
            del front._modules[part]
            front.__dict__[part] = module
        self.encoder.requires_grad_(False)
        self.encoder.eval()

    def train(self, mode: bool = True) -> "EMATeacher":
        """Stays in eval mode: the teacher has no dropout."""
        self.training = mode
        return self

    @torch.no_grad()
    def forward(self, batch: Batch, tokens: TokenSequence, name: str = "") -> EncoderOutput:
        """Encode all of the input of an encoder; ``tokens`` is what the student's feature extractor made of it."""
        encoder = self.encoder.by_name[name]
        if "feature_extractor" not in self.shared.get(name, ()):
            tokens = encoder.extract(batch.inputs, batch.padding_mask)
        return encoder.encode(tokens.detach())

    @torch.no_grad()
    def update(self, student: nn.Module, decay: float) -> None:
        """Move towards the student: ``teacher = decay * teacher + (1 - decay) * student``.

        Buffers and what the student does not train (fixed positions) are copied, as in fairseq's ``EMAModule``.
        """
        source = dict(student.named_parameters())
        trained: list[Tensor] = []
        learned: list[Tensor] = []
        for name, parameter in self.encoder.named_parameters():
            if source[name].requires_grad:
                trained.append(parameter)
                learned.append(source[name].detach())
            else:
                parameter.copy_(source[name])
        if trained:
            torch._foreach_lerp_(trained, learned, 1 - decay)
        buffers: dict[str, Tensor] = dict(student.named_buffers())
        own = dict(self.encoder.named_buffers())
        if own:
            torch._foreach_copy_(list(own.values()), [buffers[name] for name in own])
