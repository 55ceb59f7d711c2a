"""From what the student encoded to a prediction at each masked position."""

from abc import abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from d2v.model.masked_input import gather_tokens
from d2v.types import EncoderOutput, Mask


class Head(nn.Module):
    """Predicts at the masked positions only, since nothing else enters the loss.

    ``reads_masked_tokens`` declares whether the encoder must carry masked tokens along for it (1.0).
    """

    reads_masked_tokens: bool = False

    @abstractmethod
    def forward(self, context: EncoderOutput, mask: Mask, grid: tuple[int, ...]) -> Float[Tensor, "r k d"]:
        """Predictions in the order of ``mask.masked_index``."""


class LinearHead(Head):
    """One linear layer on the encoded mask embeddings (1.0 vision and speech).

    Args:
        width: D of encoder and targets.
    """

    reads_masked_tokens = True

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, width)

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


class ConvDecoder2d(Head):
    """A light convolutional decoder over the grid (2.0, section 3.3; fairseq ``Decoder2d``).

    Visible tokens return to their places, noise fills the others; each layer is a grouped convolution, a layer norm
    without parameters and GELU, with a residual where the widths agree; then one projection, at masked positions only.

    Args:
        width: D of encoder and targets.
        decoder_width: Channels of the convolutions.
        num_layers: Convolutions.
        kernel_size: Side of a kernel in patches; odd.
        groups: Groups of channels.
        mask_noise: Standard deviation of what stands at masked positions.
    """

    def __init__(
        self,
        width: int,
        decoder_width: int = 768,
        num_layers: int = 6,
        kernel_size: int = 3,
        groups: int = 16,
        mask_noise: float = 0.01,
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, so that the grid keeps its size, not {kernel_size}")
        self.mask_noise = mask_noise
        widths = [width] + [decoder_width] * num_layers
        self.layers = nn.ModuleList(
            nn.Conv2d(in_width, decoder_width, kernel_size, padding="same", groups=groups) for in_width in widths[:-1]
        )
        self.norm = nn.LayerNorm(decoder_width, elementwise_affine=False)
        self.activation = nn.GELU()
        self.proj = nn.Linear(decoder_width, width)

    def forward(self, context: EncoderOutput, mask: Mask, grid: tuple[int, ...]) -> Float[Tensor, "r k d"]:
        visible = context.tokens
        noise = torch.randn(*mask.masked_index.shape, visible.shape[-1], device=visible.device, dtype=visible.dtype)
        x = gather_tokens(torch.cat([visible, noise * self.mask_noise], dim=1), mask.restore_index)  # [R, N, D]
        x = x.unflatten(1, grid)  # [R, rows, columns, D]; channels last until the end, as the norm wants it
        for conv in self.layers:
            y = conv(x.movedim(-1, 1)).movedim(1, -1)
            y = self.activation(self.norm(y))
            x = x + y if x.shape == y.shape else y
        return self.proj(gather_tokens(x.flatten(1, 2), mask.masked_index))
