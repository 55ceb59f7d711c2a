"""The teacher: an exponential moving average of the student (1.0, equation 1)."""

import copy
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from d2v.model.encoder import Encoder
from d2v.types import Batch, EncoderOutput, TokenSequence

Part = Literal["feature_extractor", "positions", "input_norm"]
"""A part of the front end that a teacher may borrow."""


class EMATeacher(nn.Module):
    """Averages the student's weights in fp32 and encodes unmasked input without gradients.

    Shared parts are the student's own modules, borrowed at each call: no copy, no average, no gradient. The averaged
    parts live in the state dict; gradients, the optimizer, weight decay and DDP's reducer never see them.

    Args:
        student: The encoder to follow.
        shared: Parts of the front end that are borrowed: none (vision), the feature extractor (2.0 speech), it and
            the positions (1.0 speech), or all that lies before the blocks (text).
    """

    def __init__(self, student: Encoder, shared: Sequence[Part] = ()) -> None:
        super().__init__()
        self.shared = tuple(shared)
        borrowed = {name: getattr(student.front, name) for name in shared}
        for name, part in borrowed.items():
            if part is None:
                raise ValueError(f"shared_with_teacher names {name!r}, but the student has none")
        not_copied = {id(part): None for part in borrowed.values()}
        self.encoder = copy.deepcopy(student, not_copied)
        front = self.encoder.front
        for name, part in borrowed.items():
            # In the instance's dict and not in _modules: found by attribute lookup, seen by nothing else.
            del front._modules[name]
            front.__dict__[name] = part
        self.encoder.requires_grad_(False)
        self.encoder.eval()

    def train(self, mode: bool = True) -> "EMATeacher":
        """Stays in eval mode: the teacher has no dropout."""
        self.training = mode
        return self

    @torch.no_grad()
    def forward(self, batch: Batch, tokens: TokenSequence) -> EncoderOutput:
        """Encode all of the input; ``tokens`` is what the student's feature extractor made of it."""
        if "feature_extractor" not in self.shared:
            tokens = self.encoder.extract(batch.inputs, batch.padding_mask)
        return self.encoder.encode(tokens.detach())

    @torch.no_grad()
    def update(self, student: Encoder, decay: float) -> None:
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
