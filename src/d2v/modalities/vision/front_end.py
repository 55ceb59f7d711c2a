"""The front end of pictures: patches and where they stand."""

import functools
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from d2v.data.normalisation import read_normalisation
from d2v.model.example_inputs import ExampleInputs
from d2v.model.front_end import FrontEnd
from d2v.model.masked_input import DropMasked, MaskedInput, ReplaceMasked
from d2v.model.shown_inputs import ShownInputs
from d2v.nn.feature_extractor import PatchEmbedding
from d2v.nn.initial_weights import draw, init_weights
from d2v.nn.positional import AttentionBias, PositionalEncoding, PositionTable, RelativePositionBias
from d2v.nn.transformer import Transformer


class VisionFrontEnd(FrontEnd):
    """Reads pictures [B, 3, H, W] of any height and width that the patch divides.

    Args:
        trunk: The blocks behind it.
        image_size: (height, width) in pixels that the position tables are made for, or one number for a square.
        patch_size: Side of a patch in pixels.
        in_channels: Channels of a picture.
        masked_input: "drop" masked tokens (2.0), or "replace" them by a learned embedding (1.0).
        positions: Fixed "sincos" (2.0), "learned" (with one for CLS), or null.
        relative_bias: Relative position bias, one table "shared" by all blocks (1.0), one "per_block", or null.
        num_cls: CLS tokens.
        prenet_depth: Blocks before those that targets can be taken from (2.0).
    """

    def __init__(
        self,
        trunk: Transformer,
        image_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_channels: int = 3,
        masked_input: Literal["drop", "replace"] = "drop",
        positions: Literal["sincos", "learned"] | None = "sincos",
        relative_bias: Literal["shared", "per_block"] | None = None,
        num_cls: int = 1,
        prenet_depth: int = 0,
    ) -> None:
        size = (image_size, image_size) if isinstance(image_size, int) else image_size
        height, width = size
        if height % patch_size or width % patch_size:
            raise ValueError(f"image_size {image_size} does not divide into patches of {patch_size} pixels")
        grid = (height // patch_size, width // patch_size)
        hidden: MaskedInput = DropMasked() if masked_input == "drop" else ReplaceMasked(trunk.width)
        table: PositionalEncoding | None = None
        if positions == "sincos":
            table = PositionTable(grid, trunk.width, sincos=True)
        elif positions == "learned":
            table = PositionTable(grid, trunk.width, sincos=False, num_cls=num_cls)
        patches = PatchEmbedding(patch_size, trunk.width, in_channels)
        bias: AttentionBias | None = None
        if relative_bias is not None:
            num_tables = 1 if relative_bias == "shared" else prenet_depth + trunk.depth
            bias = RelativePositionBias(grid, trunk.num_heads, num_tables)
        super().__init__(
            trunk,
            patches,
            hidden,
            positions=table,
            attention_bias=bias,
            num_cls=num_cls,
            cls_std=1.0,  # fairseq's images: `init_extra_token_zero: false`
            prenet_depth=prenet_depth,
        )
        self.image_size = size
        self.patch_size = patch_size
        if trunk.weight_init == "beit":
            init_weights(patches, "beit")
            for name, parameter in self.named_parameters():
                if parameter.requires_grad and name.startswith(("cls_token", "masked_input.", "positions.")):
                    draw(parameter, "beit")

    def grid_of(self) -> Callable[[tuple[int, ...]], tuple[int, ...]]:
        return functools.partial(_grid_of, self.patch_size)

    def example_inputs(self) -> ExampleInputs:
        patches = (self.patch_size, 2, 4096)
        channels = self.get_parameter("feature_extractor.proj.weight").shape[1]
        return ExampleInputs.unpadded(
            f"[B, {channels}, H, W], normalised as preprocessor_config.json says (without one by ImageNet's mean and "
            f"deviation); H and W are multiples of {self.patch_size}, at least {2 * self.patch_size}",
            (channels, patches, patches),
        )

    def show(self, inputs: Tensor, assets: Mapping[str, str]) -> ShownInputs:
        """The pictures: their normalisation is undone if it is known, else each is stretched to its own range."""
        normalisation = read_normalisation(assets)
        if normalisation is not None and inputs.shape[1] == len(normalisation.mean):
            mean, std = (torch.tensor(values, device=inputs.device).view(-1, 1, 1) for values in normalisation)
            return ShownInputs((inputs * std + mean).clamp(0, 1))
        low, high = inputs.amin(dim=(1, 2, 3), keepdim=True), inputs.amax(dim=(1, 2, 3), keepdim=True)
        stretched = (inputs - low) / (high - low).clamp(min=1e-6)
        return ShownInputs(stretched if inputs.shape[1] == 3 else stretched.mean(dim=1, keepdim=True))


def _grid_of(patch_size: int, shape: tuple[int, ...]) -> tuple[int, int]:
    return shape[-2] // patch_size, shape[-1] // patch_size
