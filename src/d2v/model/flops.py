"""How many operations a pretraining step takes, from the shapes of its parts: a multiply-add is two.

Counted are products of matrices and convolutions, forward and backward, as the method needs them: of the student's
visible tokens (1.0: of all), of all tokens for the teacher, of masked positions alone for projections. Not counted are
norms, softmax and the like, the optimizer, and what is computed twice to save memory (checkpointed blocks, the scores
of attention in its backward pass). Padding counts as tokens, since it is computed as they are.
"""

from collections.abc import Sequence
from typing import Any

from torch import Size, nn

from d2v.model.encoder import Encoder
from d2v.model.front_end import FrontEnd
from d2v.model.heads import ConvDecoder, Head, IdentityHead, LinearHead, MLPHead
from d2v.nn.feature_extractor import ConvFeatureExtractor, PatchEmbedding, TokenEmbedding
from d2v.nn.grouped_convolution import GroupedConvolution
from d2v.nn.positional import ConvPositions, LearnedPositions, PositionTable
from d2v.nn.transformer import BlockStack
from d2v.types import Mask

FORWARD, BACKWARD, NO_INPUT_GRADIENT = 1, 2, 1
"""Passes as expensive as a forward pass; the backward pass makes the gradients of weights and of inputs."""


class NotCounted(Exception):
    """A part that is not d2v's."""


def step_flops(
    student: Encoder, teacher: Encoder, shared: Sequence[str], head: Head, inputs: Size, mask: Mask
) -> float:
    """Operations of one micro-batch; of LayerDrop what is to be expected.

    Args:
        student: As it is trained.
        teacher: The encoder that gives targets.
        shared: Parts of the front end that the teacher borrows.
        head: Of the student.
        inputs: Shape of the batch's inputs.
        mask: Of the student.

    Raises:
        NotCounted: Nobody has told here how many operations a part takes.
    """
    rows, num_tokens = mask.masked.shape
    batch, num_masked = rows // mask.num_masks, mask.masked_index.shape[1]
    seen = mask.visible_index.shape[1]
    if student.front.masked_input.visible_index(mask) is None:
        seen = num_tokens
    trained = FORWARD + BACKWARD
    total: float = _extractor(student.front, inputs, num_tokens, trained)
    total += trained * _positions(student.front, rows * num_tokens)
    total += trained * _head(head, rows * num_tokens, rows * num_masked)
    if "feature_extractor" not in shared:
        total += _extractor(teacher.front, inputs, num_tokens, FORWARD)
    total += FORWARD * _positions(teacher.front, batch * num_tokens)
    for stack in (student.front.prenet, student.trunk.blocks):
        total += trained * _blocks(stack, rows, student.front.num_cls + seen)
    for stack in (teacher.front.prenet, teacher.trunk.blocks):
        total += FORWARD * _blocks(stack, batch, teacher.front.num_cls + num_tokens)
    return total


def _product(layer: Any, positions: int) -> int:
    """Of a linear layer or a convolution, grouped or not, at so many places of its output."""
    return 2 * positions * layer.weight.numel()


def _blocks(stack: BlockStack, rows: int, length: int) -> float:
    depth = len(stack)
    if depth == 0:
        return 0
    block: Any = stack[0]  # all are alike
    total = 0
    for layer in (block.attention.qkv, block.attention.proj, block.mlp[0], block.mlp[2]):
        total += _product(layer, rows * length)
    total += 2 * 2 * rows * length * length * block.attention.proj.in_features  # scores, and the sums that they weigh
    if not stack.training or stack.layer_drop == 0:
        return depth * total
    return total * (depth * (1 - stack.layer_drop) + stack.layer_drop**depth)  # one stays, if all are drawn


def _extractor(front: FrontEnd, inputs: Size, num_tokens: int, passes: int) -> int:
    extractor = front.feature_extractor
    first = passes - NO_INPUT_GRADIENT if passes > FORWARD else passes
    if isinstance(extractor, TokenEmbedding):
        return 0
    if isinstance(extractor, PatchEmbedding):
        return first * _product(extractor.proj, inputs[0] * num_tokens)
    if not isinstance(extractor, ConvFeatureExtractor):
        raise NotCounted(f"{type(extractor).__name__} has no count of its operations")
    total, length = 0, inputs[1]
    for number, layer in enumerate(extractor.layers):
        conv: Any = layer.conv
        length = (length - conv.kernel_size[0]) // conv.stride[0] + 1
        total += (passes if number else first) * _product(conv, inputs[0] * length)
    return total + passes * _product(extractor.proj, inputs[0] * length)


def _positions(front: FrontEnd, positions: int) -> int:
    encoding = front.positions
    if isinstance(encoding, ConvPositions):
        total = 0
        for conv in encoding.layers:
            total += _product(conv, positions)
        return total
    if not isinstance(encoding, PositionTable | LearnedPositions | None):
        raise NotCounted(f"{type(encoding).__name__} has no count of its operations")
    return 0


def _head(head: Head, positions: int, masked: int) -> int:
    if not isinstance(head, ConvDecoder | LinearHead | MLPHead | IdentityHead):
        raise NotCounted(f"{type(head).__name__} has no count of its operations")
    total = 0
    for layer in head.modules():
        if isinstance(layer, nn.Linear):
            total += _product(layer, masked)
        elif isinstance(layer, GroupedConvolution):
            total += _product(layer, positions)
    return total
