"""The front end of spectrograms: patches of log-mel filter banks (EAT, arXiv 2401.03497)."""

from collections.abc import Mapping

from torch import Tensor

from d2v.data.filter_banks import levels
from d2v.model.example_inputs import ExampleInputs
from d2v.model.front_end import FrontEnd
from d2v.model.masked_input import DropMasked
from d2v.model.shown_inputs import ShownInputs
from d2v.nn.feature_extractor import PatchEmbedding
from d2v.nn.positional import PositionTable
from d2v.nn.transformer import Transformer


class AudioFrontEnd(FrontEnd):
    """Reads normalised log-mel filter banks [B, 1, frames, mel bins]; the patch divides the number of frames.

    Args:
        trunk: The blocks behind it.
        max_frames: Longest spectrogram, in frames of 10 ms, that the table of positions is made for.
        mel_bins: Filters of a spectrogram.
        patch_size: Side of a patch in frames and in filters.
    """

    def __init__(self, trunk: Transformer, max_frames: int = 12288, mel_bins: int = 128, patch_size: int = 16) -> None:
        if max_frames % patch_size or mel_bins % patch_size:
            raise ValueError(f"max_frames {max_frames} and mel_bins {mel_bins} must be multiples of {patch_size}")
        grid = (max_frames // patch_size, mel_bins // patch_size)
        super().__init__(
            trunk,
            PatchEmbedding(patch_size, trunk.width, in_channels=1),
            DropMasked(),
            positions=PositionTable(grid, trunk.width, sincos=True, cut=True),
            num_cls=1,
            cls_std=1.0,  # `init_extra_token_zero: false`
        )
        self.max_frames, self.mel_bins, self.patch_size = max_frames, mel_bins, patch_size

    def show(self, inputs: Tensor, assets: Mapping[str, str]) -> ShownInputs:
        """The spectrograms [B, 1, frames, mel bins], with time to the right and frequency upwards."""
        return ShownInputs(levels(inputs.transpose(2, 3).flip(2)), turned=True)

    def example_inputs(self) -> ExampleInputs:
        frames = (self.patch_size, 2, self.max_frames // self.patch_size)
        return ExampleInputs.unpadded(
            f"[B, 1, T, {self.mel_bins}], log-mel filter banks of 16 kHz sound, normalised as preprocessor_config.json "
            f"says, (x - mean) / (2 std); T, frames of 10 ms, is a multiple of {self.patch_size}, at least "
            f"{2 * self.patch_size} and at most {self.max_frames}",
            (1, frames, self.mel_bins),
        )
