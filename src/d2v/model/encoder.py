"""The network that is pretrained and kept: a front end on a trunk."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from d2v.model.front_end import FrontEnd
from d2v.nn.block import spread_drop_path
from d2v.nn.transformer import Transformer
from d2v.types import EncoderOutput, Mask, TokenSequence

Pooling = Literal["mean", "cls", "none"]
Layer = int | Literal["mean"] | Sequence[int] | None
"""Whose features: see :meth:`Encoder.embed`."""


@final
class Encoder(nn.Module):
    """Student, teacher and, after pretraining, the model that gives features.

    Args:
        front: Built for the trunk: what is of one modality alone (``modalities/*/front_end.py``).
        trunk: The stack of blocks, which knows of no modality.
    """

    def __init__(self, front: Callable[[Transformer], FrontEnd], trunk: Transformer) -> None:
        super().__init__()
        self.front = front(trunk)
        self.trunk = trunk
        spread_drop_path([*self.front.prenet, *trunk.blocks], trunk.drop_path)
        self.licence: str | None = None
        """Of weights that come from somewhere else; what is trained from them is bound by it, too."""
        self.assets: dict[str, str] = {}
        """Text files that go with the weights, by name: the tokenizer of a text encoder."""

    @property
    def recipe(self) -> dict[str, Any]:
        """The plain values that build it again: ``{"front": {"class_path", "init_args"}, "trunk": {...}}``."""
        front = type(self.front)
        class_path = f"{front.__module__}.{front.__qualname__}"
        return {"front": {"class_path": class_path, "init_args": self.front.init_args}, "trunk": self.trunk.init_args}

    @property
    def width(self) -> int:
        """D."""
        return self.trunk.width

    @property
    def by_name(self) -> Mapping[str, "Encoder"]:
        """Itself, as the only one; see :class:`d2v.model.joint_data2vec.EncodersOnOneTrunk`."""
        return {"": self}

    @property
    def has_cls(self) -> bool:
        """Whether a whole input has a CLS token: one of its own, or its first token."""
        return bool(self.front.num_cls) or self.front.first_is_cls

    def train(self, mode: bool = True) -> "Encoder":
        """The trunk too, where it is not a child of this encoder because several stand on it."""
        self.trunk.train(mode)
        return super().train(mode)

    def forward(self, x: Tensor, padding_mask: Bool[Tensor, "b _"] | None = None) -> EncoderOutput:
        """Encode a whole input: ``x`` as the feature extractor wants it; padding (True) at the rate of ``x``."""
        return self.encode(self.extract(x, padding_mask))

    def extract(self, x: Tensor, padding_mask: Bool[Tensor, "b _"] | None = None) -> TokenSequence:
        """Raw input to tokens without positions."""
        return self.front.extract(x, padding_mask)

    def encode(self, sequence: TokenSequence, mask: Mask | None = None) -> EncoderOutput:
        """Contextualise tokens; with a mask, only what the student may see of them, one row a mask."""
        opened = self.front.open(sequence, mask)  # [R, T, D]
        output = self.trunk(opened.x, opened.bias)
        num_cls = self.front.num_cls
        cls = None
        if num_cls or (self.front.first_is_cls and mask is None):
            cls = output.x[:, : max(num_cls, 1)]
        return EncoderOutput(
            tokens=output.x[:, num_cls:],
            layers=tuple(block.end[:, num_cls:] for block in output.blocks),
            ffn_outputs=tuple(block.ffn[:, num_cls:] for block in output.blocks),
            cls=cls,
            padding_mask=opened.padding_mask,
        )

    def embed(
        self,
        x: Tensor,
        layer: Layer = None,
        pool: Pooling = "mean",
        padding_mask: Bool[Tensor, "b _"] | None = None,
    ) -> Float[Tensor, "b *n d"]:
        """Features of a batch, [B, D] (``pool="none"``: [B, N, D]), without gradients.

        Args:
            x: As in :meth:`forward`.
            layer: None: after the last norm; K: end of block K, counted from 0 or, below 0, from the last; several
                such numbers: their mean; "mean": the mean of all blocks.
            pool: Mean over the tokens that are no padding, the CLS token (of several their mean), or nothing.
            padding_mask: As in :meth:`forward`.

        Raises:
            ValueError: The encoder has no such layer, no CLS token, or CLS of an inner layer was asked for.
        """
        with torch.no_grad():
            output = self(x, padding_mask)
        if pool == "cls":
            if output.cls is None:
                raise ValueError("pool='cls': this encoder has no CLS token; use pool='mean'")
            if layer is not None:
                raise ValueError("pool='cls' is there for the last layer only; leave `layer` out or use pool='mean'")
            return output.mean_cls
        tokens = select_layer(output, layer)
        return tokens if pool == "none" else mean_of_tokens(tokens, output.padding_mask)


def select_layer(output: EncoderOutput, layer: Layer) -> Float[Tensor, "b n d"]:
    """Tokens of one layer, or the mean of several; see :meth:`Encoder.embed`."""
    if layer is None:
        return output.tokens
    depth = len(output.layers)
    if layer == "mean":
        layer = range(depth)
    numbers = [layer] if isinstance(layer, int) else list(layer)
    for number in numbers:
        if not -depth <= number < depth:
            raise ValueError(f"layer {number} is not there: the encoder has {depth} layers, 0 to {depth - 1}")
    if not numbers or len({number % depth for number in numbers}) < len(numbers):
        raise ValueError(f"layers {numbers}: name one or more of 0 to {depth - 1}, each of them once")
    chosen = [output.layers[number] for number in numbers]
    return chosen[0] if len(chosen) == 1 else torch.stack(chosen).mean(dim=0)


def mean_of_tokens(
    tokens: Float[Tensor, "b n d"], padding_mask: Bool[Tensor, "b n"] | None = None
) -> Float[Tensor, "b d"]:
    """Mean over the tokens that are no padding; zeros where there are none, as for a clip without a frame."""
    if padding_mask is None:
        return tokens.mean(dim=1)
    count = (~padding_mask).sum(dim=1, keepdim=True).clamp(min=1)
    return tokens.masked_fill(padding_mask[..., None], 0).sum(dim=1) / count
