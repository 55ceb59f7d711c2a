"""Sheets of small pictures: inputs, and what a model makes of each of their tokens, drawn over the same places."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

_GREY = 0.55
_TILE, _STRIP_WIDTH, _STRIP_HEIGHT, _SHORT_STRIP, _THIN = 128, 960, 72, 156, 18
_COLUMNS, _STRIPS, _MASKS = 6, 3, 3
"""How many inputs are drawn beside one another, or as strips; and how many masks of one that is no strip."""
_STRIP_FROM = 3
"""From this ratio of width and height on, inputs lie below one another."""
_GAP, _LARGE_GAP = 4, 14
_PALETTE = np.array([(0, 0, 4), (81, 18, 124), (183, 55, 121), (252, 137, 97), (252, 253, 191)]) / 255
"""Of levels, dark to light: five colours of matplotlib's magma."""


@dataclass(frozen=True)
class Places:
    """Where the tokens of an input lie."""

    grid: tuple[int, ...]
    turned: bool = False
    """See :class:`d2v.model.shown_inputs.ShownInputs`."""

    def map_of(self, values: Float[Tensor, "n *c"]) -> Float[np.ndarray, "rows columns *c"]:
        """A value for each token as a picture with a pixel for each."""
        values = values.unflatten(0, (-1, self.grid[-1]))  # a sequence is one row
        if self.turned:
            values = values.transpose(0, 1).flip(0)
        return values.float().cpu().numpy()


def colours(levels: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w 3"]:
    """Levels from 0 to 1 in the colours of the palette."""
    places = np.linspace(0, 1, len(_PALETTE))
    return np.stack([np.interp(levels, places, _PALETTE[:, channel]) for channel in range(3)], axis=-1)


def picture_of(picture: Float[Tensor, "c h w"]) -> Float[np.ndarray, "h w 3"]:
    """A shown input."""
    array = picture.float().cpu().permute(1, 2, 0).numpy()
    if array.shape[2] == 1:
        return colours(array[:, :, 0])
    return array


def resized(array: Float[np.ndarray, "h w 3"], tile: tuple[int, int]) -> np.ndarray:
    """A picture at the size (height, width) of a tile; where it is larger its pixels stay squares."""
    height, width = tile
    image = Image.fromarray((np.nan_to_num(array).clip(0, 1) * 255).astype(np.uint8))
    resampling = Image.Resampling.NEAREST
    if image.height > height or image.width > width:
        resampling = Image.Resampling.BOX
    return np.asarray(image.resize((width, height), resampling))


class Sheet:
    """Groups of pictures of one size, one group an input: columns of pictures, or rows of long strips.

    Args:
        size: (height, width) of an input's picture; None: inputs have none, and strips are thin.
        places: Of the tokens. Those of a sequence, and of pictures that are long, are drawn in strips.
    """

    def __init__(self, size: tuple[int, int] | None, places: Places) -> None:
        self.is_column = False
        self.tile = self.small_tile = (_STRIP_HEIGHT, _STRIP_WIDTH)
        self.most_inputs, self.most_masks = _STRIPS, 1
        if size is None:
            self.tile = (_THIN, _STRIP_WIDTH)
        elif len(places.grid) == 2 and size[1] < _STRIP_FROM * size[0]:
            self.is_column = True
            self.tile = self.small_tile = (_TILE, round(_TILE * size[1] / size[0]))
            self.most_inputs, self.most_masks = _COLUMNS, _MASKS
        else:
            self.small_tile = (_STRIP_HEIGHT, _SHORT_STRIP)

    def tile_of(self, array: Float[np.ndarray, "h w 3"]) -> np.ndarray:
        """A picture at the size of a tile."""
        return resized(array, self.tile)

    def hidden(self, picture: Float[np.ndarray, "h w 3"], masked: Bool[Tensor, "n"], places: Places) -> np.ndarray:
        """A tile with what is masked in grey."""
        over = self.tile_of(np.repeat(places.map_of(masked.float())[..., None], 3, axis=-1)) > 127
        return np.where(over, np.uint8(255 * _GREY), self.tile_of(picture))

    def draw(self, groups: Sequence[Sequence[np.ndarray]]) -> Image.Image:
        """All groups, on white."""
        drawn = [_joined(group, 0, _GAP) for group in groups]
        if self.is_column:
            return Image.fromarray(_joined(drawn, 1, _GAP))
        return Image.fromarray(_joined(drawn, 0, _LARGE_GAP))


def table_of(rows: Sequence[Sequence[np.ndarray]]) -> Image.Image:
    """Rows of tiles of one size."""
    return Image.fromarray(_joined([_joined(row, 1, _GAP) for row in rows], 0, _GAP))


def square(levels: Float[Tensor, "n n"], side: int = 220) -> np.ndarray:
    """A matrix, from its least to its largest value, as a tile."""
    low, high = levels.min(), levels.max()
    return resized(colours(((levels - low) / (high - low).clamp(min=1e-6)).cpu().numpy()), (side, side))


def _joined(tiles: Sequence[np.ndarray], axis: int, gap: int) -> np.ndarray:
    """Tiles in a row (axis 1) or a column (axis 0), with white between them."""
    shape = list(tiles[0].shape)
    shape[axis] = gap
    white = np.full(shape, 255, np.uint8)
    pieces = [tiles[0]]
    for tile in tiles[1:]:
        pieces += [white, tile]
    return np.concatenate(pieces, axis=axis)


def evenly(tokens: Float[Tensor, "n d"], most: int) -> Float[Tensor, "k d"]:
    """At most so many rows, evenly spaced."""
    count = min(most, len(tokens))
    return tokens[torch.arange(count, device=tokens.device) * len(tokens) // max(count, 1)]
