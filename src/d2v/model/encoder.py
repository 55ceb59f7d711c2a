"""The network that is pretrained and kept: feature extractor, positions, Transformer."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from d2v.model.masked_input import MaskedInput, gather_tokens
from d2v.nn.positional import AttentionBias, PositionalEncoding
from d2v.nn.transformer import Transformer
from d2v.types import EncoderOutput, Mask, TokenSequence

Pooling = Literal["mean", "cls", "none"]
Layer = int | Literal["mean"] | Sequence[int] | None
"""Whose features: see :meth:`Encoder.embed`."""


class Encoder(nn.Module):
    """Student, teacher and, after pretraining, the model that gives features.

    Each modality builds one from parts (``modalities/*/encoder.py``).

    Args:
        feature_extractor: Raw input to a :class:`TokenSequence`; the only part that knows what the input is.
        transformer: The stack of blocks.
        masked_input: What the student sees of masked tokens.
        positions: Absolute positions, added to the tokens; None: none.
        attention_bias: Bias of the attention by relative position; None: none.
        num_cls: C, learned tokens put before the others.
        first_is_cls: Whether the first token of an input stands for all of it, as ``<s>`` of a text does. It is one of
            the tokens and is called CLS too, unless a mask may have dropped it.
        width: D.
        recipe: The plain values that build this encoder again, ``{"class_path": ..., "init_args": {...}}``.
    """

    def __init__(
        self,
        feature_extractor: Callable[..., TokenSequence],
        transformer: Transformer,
        masked_input: MaskedInput,
        *,
        width: int,
        recipe: dict[str, Any],
        positions: PositionalEncoding | None = None,
        attention_bias: AttentionBias | None = None,
        num_cls: int = 0,
        first_is_cls: bool = False,
    ) -> None:
        super().__init__()
        self.width = width
        self.num_cls = num_cls
        self.first_is_cls = first_is_cls
        self.licence: str | None = None
        """Of weights that come from somewhere else; what is trained from them is bound by it, too."""
        self.assets: dict[str, str] = {}
        """Text files that go with the weights, by name: the tokenizer of a text encoder."""
        self.recipe = recipe
        self.feature_extractor = feature_extractor
        self.masked_input = masked_input
        self.positions = positions
        self.cls_token = nn.Parameter(torch.zeros(num_cls, width)) if num_cls else None
        self.attention_bias = attention_bias
        self.transformer = transformer

    def forward(self, x: Tensor, padding_mask: Bool[Tensor, "b _"] | None = None) -> EncoderOutput:
        """Encode a whole input: ``x`` as the feature extractor wants it; padding (True) at the rate of ``x``."""
        return self.encode(self.extract(x, padding_mask))

    def extract(self, x: Tensor, padding_mask: Bool[Tensor, "b _"] | None = None) -> TokenSequence:
        """Raw input to tokens without positions."""
        return self.feature_extractor(x, padding_mask)

    def encode(self, sequence: TokenSequence, mask: Mask | None = None) -> EncoderOutput:
        """Contextualise tokens; with a mask, only what the student may see of them, one row a mask."""
        x, padding_mask = sequence.tokens, sequence.padding_mask  # [B, N, D]
        visible_index = None
        if mask is not None:
            visible_index = self.masked_input.visible_index(mask)
            x = self.masked_input.hide(sequence, mask, self.positions is not None and self.positions.mixes_tokens)
            if padding_mask is not None:
                padding_mask = padding_mask.repeat_interleave(mask.num_masks, dim=0)
        if self.positions is not None:
            hidden = x.shape[0] != sequence.tokens.shape[0]  # or still one row a sample, which all its masks read
            x = x + self.positions(TokenSequence(x, sequence.grid, padding_mask if hidden else sequence.padding_mask))
        if visible_index is not None:
            x = gather_tokens(x, visible_index)  # [B or R, N, D] -> [R, V, D]
            padding_mask = None if padding_mask is None else padding_mask.gather(1, visible_index)

        x = self._prepend_cls(x)  # [R, T, D]
        bias = None if self.attention_bias is None else self.attention_bias(sequence.grid, self.num_cls, visible_index)
        key_padding = padding_mask
        if padding_mask is not None and self.num_cls:
            key_padding = torch.nn.functional.pad(padding_mask, (self.num_cls, 0))
        output = self.transformer(x, bias, key_padding)
        return EncoderOutput(
            tokens=output.x[:, self.num_cls :],
            layers=tuple(block.end[:, self.num_cls :] for block in output.blocks),
            ffn_outputs=tuple(block.ffn[:, self.num_cls :] for block in output.blocks),
            cls=output.x[:, : max(self.num_cls, 1)] if self.num_cls or (self.first_is_cls and mask is None) else None,
            padding_mask=padding_mask,
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
            pool: Mean over the tokens that are no padding, the first CLS token, or nothing.
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
            return output.cls[:, 0]
        tokens = select_layer(output, layer)
        return tokens if pool == "none" else mean_of_tokens(tokens, output.padding_mask)

    def _prepend_cls(self, x: Float[Tensor, "r v d"]) -> Float[Tensor, "r t d"]:
        if self.cls_token is None:
            return x
        cls = self.cls_token.expand(x.shape[0], -1, -1).to(x.dtype)
        if self.positions is not None:
            cls = self.positions.encode_cls(cls)
        return torch.cat([cls, x], dim=1)


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
