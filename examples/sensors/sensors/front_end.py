"""Multichannel time series to tokens: the only part of the encoder that is ours."""

from torch import Tensor, nn

from d2v.model.example_inputs import ExampleInputs
from d2v.model.front_end import FrontEnd
from d2v.model.masked_input import DropMasked
from d2v.nn.positional import ALiBi, ConvPositions
from d2v.nn.transformer import Transformer
from d2v.types import TokenSequence


class Patches(nn.Module):
    """A vector for every ``patch`` steps of time."""

    def __init__(self, width: int, channels: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv1d(channels, width, patch, stride=patch)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> TokenSequence:
        tokens = self.proj(x).transpose(1, 2)  # [B, C, T] -> [B, N, D]
        return TokenSequence(tokens, grid=(tokens.shape[1],))


class SensorFrontEnd(FrontEnd):
    """Reads recordings [B, C, T] of any length.

    Args:
        trunk: The blocks behind it.
        channels: C.
        patch: Steps of time in a token.
    """

    def __init__(self, trunk: Transformer, channels: int = 3, patch: int = 8) -> None:
        super().__init__(
            trunk,
            Patches(trunk.width, channels, patch),
            DropMasked(),
            positions=ConvPositions(trunk.width, num_layers=2, kernel_size=5, groups=4),
            attention_bias=ALiBi(trunk.num_heads),
        )
        self.channels, self.patch = channels, patch

    def example_inputs(self) -> ExampleInputs:
        described = f"[B, {self.channels}, T], T a multiple of {self.patch}"
        return ExampleInputs.unpadded(described, (self.channels, (self.patch, 4, 4096)))
