"""What stands between a raw input and the trunk, one kind a modality."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from d2v.errors import UserError
from d2v.model.example_inputs import ExampleInputs
from d2v.model.masked_input import MaskedInput, gather_tokens
from d2v.model.shown_inputs import ShownInputs
from d2v.nn.block import attention_bias
from d2v.nn.dropout import Dropout
from d2v.nn.positional import AttentionBias, PositionalEncoding
from d2v.nn.remembered_arguments import remember_arguments
from d2v.nn.transformer import Transformer
from d2v.types import Mask, TokenSequence


@dataclass(frozen=True)
class TrunkInput:
    """What a front end hands to the trunk, one row a mask (R = B*M) or, without a mask, one a sample."""

    x: Float[Tensor, "r t d"]
    """CLS tokens, then the tokens that go on."""
    bias: Float[Tensor, "l #r #h #t t"] | None
    """Of the attention of each of the trunk's blocks, or (L = 1) of all of them; -inf hides keys that are padding."""
    padding_mask: Bool[Tensor, "r v"] | None
    """True = padding, CLS left out."""


class FrontEnd(nn.Module):
    """From a raw input to what the trunk reads. A modality makes one by handing its parts to this constructor.

    Each subclass takes the trunk first and plain values after it, which checkpoints hold as its ``init_args``.

    Args:
        trunk: What it stands in front of: gives the width, and norms, dropout and prenet blocks like its own.
        feature_extractor: Raw input to a :class:`TokenSequence`; the only part that knows what the input is.
        masked_input: What the student sees of masked tokens.
        positions: Absolute positions, added to the tokens; None: none.
        attention_bias: Bias of the attention by relative position; None: none.
        num_cls: C, learned tokens put before the others.
        cls_std: Standard deviation of their first values.
        first_is_cls: Whether the first token of an input stands for all of it, as ``<s>`` of a text does. It is one of
            the tokens and is called CLS too, unless a mask may have dropped it.
        prenet_depth: Blocks that no target is taken from, before the trunk's (2.0).
    """

    init_args: dict[str, Any]
    """The plain values that it was built with."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        remember_arguments(cls)

    def __init__(
        self,
        trunk: Transformer,
        feature_extractor: Callable[..., TokenSequence],
        masked_input: MaskedInput,
        *,
        positions: PositionalEncoding | None = None,
        attention_bias: AttentionBias | None = None,
        num_cls: int = 0,
        cls_std: float = 0.02,
        first_is_cls: bool = False,
        prenet_depth: int = 0,
    ) -> None:
        super().__init__()
        self.width = trunk.width
        self.num_cls = num_cls
        self.first_is_cls = first_is_cls
        self.feature_extractor = feature_extractor
        self.masked_input = masked_input
        self.positions = positions
        self.attention_bias = attention_bias
        self.cls_token = None
        if num_cls:
            self.cls_token = nn.Parameter(torch.randn(num_cls, trunk.width) * cls_std)
        self.input_norm = trunk.input_norm()
        self.input_dropout = Dropout(trunk.dropout)
        self.prenet = trunk.stack(prenet_depth)
        self._num_blocks = prenet_depth + trunk.depth

    def extract(self, x: Tensor, padding_mask: Bool[Tensor, "b _"] | None = None) -> TokenSequence:
        """Raw input to tokens without positions; padding (True) at the rate of ``x``.

        Raises:
            TypeError: The feature extractor gives no :class:`TokenSequence`.
            ValueError: It gives tokens of another width than the trunk's.
        """
        sequence = self.feature_extractor(x, padding_mask)
        extractor = type(self.feature_extractor).__name__
        if not isinstance(sequence, TokenSequence):
            raise TypeError(f"{extractor} returned a {type(sequence).__name__}; it must return a TokenSequence")
        if sequence.tokens.ndim != 3 or sequence.tokens.shape[2] != self.width:
            shape = list(sequence.tokens.shape)
            raise ValueError(f"{extractor} returned tokens {shape}; they must be [batch, tokens, {self.width}]")
        return sequence

    def num_tokens(self, num_values: Int64[np.ndarray, "b"]) -> Int64[np.ndarray, "b"] | None:
        """Tokens of inputs of so many values; None if the feature extractor does not say how many values one sees."""
        extractor: Any = self.feature_extractor
        if not hasattr(extractor, "stride") or not hasattr(extractor, "receptive_field"):
            return None
        return np.maximum((num_values - extractor.receptive_field) // extractor.stride + 1, 0)

    def grid_of(self) -> Callable[[tuple[int, ...]], tuple[int, ...]] | None:
        """A function, without weights, from the shape of a batch's inputs to the grid of their tokens; None: there is
        none. With it, masks can be drawn before the inputs reach the model."""
        return None

    def example_inputs(self) -> ExampleInputs:
        """What an exported program is called with; only `d2v export` to a program asks.

        Raises:
            UserError: A front end that says nothing of it cannot be exported as a program.
        """
        raise UserError(
            f"--format: {type(self).__name__} has no example_inputs(), so nobody knows what a program could be called "
            "with; --format safetensors can hold it"
        )

    def show(self, inputs: Tensor, assets: Mapping[str, str]) -> ShownInputs | None:
        """What a person can look at of a batch of inputs, as this front end reads them; None: nothing, and tokens are
        shown as colours."""
        return None

    def open(self, sequence: TokenSequence, mask: Mask | None = None) -> TrunkInput:
        """Hide what is masked, add positions, select who goes on, put CLS first; norm and prenet."""
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
            if padding_mask is not None:
                padding_mask = padding_mask.gather(1, visible_index)

        bias = None
        if self.attention_bias is not None:
            bias = self.attention_bias(sequence.grid, self.num_cls, visible_index)
        bias = self._hide_padding(bias, padding_mask)
        x = self.input_dropout(self.input_norm(self._prepend_cls(x)))  # [R, T, D]
        bias = attention_bias(bias, x)  # once, for prenet and trunk
        if bias is not None and len(bias) not in (1, self._num_blocks):
            raise ValueError(f"attention_bias has {len(bias)} tables for {self._num_blocks} blocks, prenet included")
        trunk_bias = bias
        if bias is not None and len(bias) > 1:  # one entry a block
            bias, trunk_bias = bias[: len(self.prenet)], bias[len(self.prenet) :]
        x, _ = self.prenet(x, bias)
        return TrunkInput(x, trunk_bias, padding_mask)

    def _prepend_cls(self, x: Float[Tensor, "r v d"]) -> Float[Tensor, "r t d"]:
        if self.cls_token is None:
            return x
        cls = self.cls_token.expand(x.shape[0], -1, -1).to(x.dtype)
        if self.positions is not None:
            cls = self.positions.encode_cls(cls)
        return torch.cat([cls, x], dim=1)

    def _hide_padding(self, bias: Tensor | None, padding_mask: Tensor | None) -> Float[Tensor, "l #r #h #t t"] | None:
        """The bias with -inf at keys that are padding."""
        if padding_mask is None:
            return bias
        padding_mask = F.pad(padding_mask, (self.num_cls, 0))  # [R, T]; CLS is none
        hidden = torch.zeros(padding_mask.shape, device=padding_mask.device).masked_fill(padding_mask, -torch.inf)
        hidden = hidden[None, :, None, None, :]  # [1, R, 1, 1, T]
        return hidden if bias is None else bias + hidden
