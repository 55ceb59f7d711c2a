"""From what the student encoded to a prediction at each masked position."""

from abc import abstractmethod
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from d2v.model.masked_input import gather_tokens
from d2v.nn.autocast import autocast_dtype
from d2v.nn.dropout import Dropout
from d2v.nn.grouped_convolution import GroupedConvolution
from d2v.nn.initial_weights import WeightInit, init_weights
from d2v.nn.norm_gelu import norm_gelu
from d2v.types import EncoderOutput, Mask


class Head(nn.Module):
    """Predicts at the masked positions only, since nothing else enters the loss.

    ``reads_masked_tokens`` declares whether the encoder must carry masked tokens along for it (1.0).
    """

    reads_masked_tokens: bool = False
    dimensions: ClassVar[int | None] = None
    """Of the grids that it reads: 1 of sequences, 2 of pictures; None: any."""

    @abstractmethod
    def forward(self, context: EncoderOutput, mask: Mask, grid: tuple[int, ...]) -> Float[Tensor, "r k d"]:
        """Predictions in the order of ``mask.masked_index``."""


class LinearHead(Head):
    """One linear layer on the encoded mask embeddings (1.0 vision and speech).

    Args:
        width: D of encoder and targets.
        weight_init: First weights, "beit" in 1.0 vision (``d2v.nn.initial_weights``).
    """

    reads_masked_tokens = True

    def __init__(self, width: int, weight_init: WeightInit = "torch") -> None:
        super().__init__()
        self.proj = nn.Linear(width, width)
        init_weights(self.proj, weight_init)

    def forward(self, context: EncoderOutput, mask: Mask, grid: tuple[int, ...]) -> Float[Tensor, "r k d"]:
        return self.proj(gather_tokens(context.tokens, mask.masked_index))


class MLPHead(Head):
    """Linear, GELU, Linear on the encoded masked tokens, twice as wide inside (1.0 text, section 4.3; fairseq
    ``head_layers: 2``).

    Args:
        width: D of encoder and targets.
    """

    reads_masked_tokens = True

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        init_weights(self.proj, "bert")

    def forward(self, context: EncoderOutput, mask: Mask, grid: tuple[int, ...]) -> Float[Tensor, "r k d"]:
        return self.proj(gather_tokens(context.tokens, mask.masked_index))


class IdentityHead(Head):
    """The encoder's output is the prediction: fairseq's 1.0 vision, whose projection never received a gradient.

    Args:
        width: D of encoder and targets.
    """

    reads_masked_tokens = True

    def __init__(self, width: int) -> None:
        super().__init__()

    def forward(self, context: EncoderOutput, mask: Mask, grid: tuple[int, ...]) -> Float[Tensor, "r k d"]:
        return gather_tokens(context.tokens, mask.masked_index)


class ConvDecoder(Head):
    """A light convolutional decoder over the grid (2.0, section 3.3; fairseq ``Decoder1d``, ``Decoder2d``).

    Visible tokens return to their places, noise fills the others; each layer is a grouped convolution, a layer norm
    without parameters and GELU, with a residual where the widths agree; then a projection, at masked positions only.
    Under autocast the sums of the residuals are in its type, like what goes into each convolution.
    Padding stays zero throughout, which is what the end of a sequence looks like to a convolution.

    Args:
        width: D of encoder and targets.
        decoder_width: Channels of the convolutions.
        num_layers: Convolutions.
        kernel_size: Side of a kernel in tokens; odd.
        groups: Groups of channels.
        mask_noise: Standard deviation of what stands at masked positions.
        input_dropout: Of the visible tokens.
        residual: Whether a layer's input is added to its output where their widths agree.
        projection_layers: 1, or 2 with GELU between them (text).
        projection_ratio: Hidden width of a projection of two layers over ``decoder_width``.
        projection_init: First weights of the projection, "bert" in text (``d2v.nn.initial_weights``).
    """

    dimensions: ClassVar[Literal[1, 2]]

    def __init__(
        self,
        width: int,
        decoder_width: int = 768,
        num_layers: int = 6,
        kernel_size: int = 3,
        groups: int = 16,
        mask_noise: float = 0.01,
        input_dropout: float = 0.0,
        residual: bool = True,
        projection_layers: Literal[1, 2] = 1,
        projection_ratio: float = 2.0,
        projection_init: WeightInit = "torch",
    ) -> None:
        super().__init__()
        self.mask_noise = mask_noise
        self.residual = residual
        widths = [width] + [decoder_width] * num_layers
        self.input_dropout = Dropout(input_dropout)
        self.layers = nn.ModuleList(
            GroupedConvolution(in_width, decoder_width, kernel_size, groups, self.dimensions)
            for in_width in widths[:-1]
        )
        self.proj: nn.Module = nn.Linear(decoder_width, width)
        if projection_layers == 2:
            hidden = int(decoder_width * projection_ratio)
            if hidden < 1:
                raise ValueError(f"projection_ratio {projection_ratio} leaves nothing of decoder_width {decoder_width}")
            self.proj = nn.Sequential(nn.Linear(decoder_width, hidden), nn.GELU(), nn.Linear(hidden, width))
        init_weights(self.proj, projection_init)

    def forward(self, context: EncoderOutput, mask: Mask, grid: tuple[int, ...]) -> Float[Tensor, "r k d"]:
        visible = self.input_dropout(context.tokens)
        noise = torch.randn(*mask.masked_index.shape, visible.shape[-1], device=visible.device, dtype=visible.dtype)
        x = gather_tokens(torch.cat([visible, noise * self.mask_noise], dim=1), mask.restore_index)  # [R, N, D]
        padding = None if mask.padding is None else mask.padding.unflatten(1, grid)[..., None]
        # [R, *grid, D]; channels last until the end, as the norm wants it
        x = x.to(autocast_dtype(x)).unflatten(1, grid)
        for conv in self.layers:
            if padding is not None:
                x = x.masked_fill(padding, 0)
            y = conv(x)
            x = norm_gelu(y, x if self.residual and x.shape == y.shape else None)
        return self.proj(gather_tokens(x.flatten(1, -2), mask.masked_index))


class ConvDecoder1d(ConvDecoder):
    """Over a sequence: speech, text."""

    dimensions = 1


class ConvDecoder2d(ConvDecoder):
    """Over the patches of a picture."""

    dimensions = 2
