"""Draws what a model is shown and what it sees: masks, and the main directions of patch features."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from d2v.evaluation.principal_directions import principal_colours
from d2v.types import Mask

MAX_IMAGES = 8
MAX_MASKS = 4
_GREY = 0.55
_TILE_INCHES = 1.35
_DPI = 150


def denormalise(
    images: Float[Tensor, "b 3 h w"], mean: Sequence[float] | None, std: Sequence[float] | None
) -> Float[Tensor, "b 3 h w"]:
    """Undo the normalisation, to 0..1; without mean and std, stretch each picture from its lowest to highest value."""
    if mean is not None and std is not None:
        return (images * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)).clamp(0, 1)
    low, high = images.amin(dim=(1, 2, 3), keepdim=True), images.amax(dim=(1, 2, 3), keepdim=True)
    return (images - low) / (high - low).clamp(min=1e-6)


def draw_masks(images: Float[Tensor, "b 3 h w"], mask: Mask, grid: tuple[int, ...], path: Path) -> Path:
    """Draw pictures in a row, and below each its first masks, with masked patches greyed out.

    Args:
        images: Pixels, 0..1.
        mask: Of these pictures, R = B*M rows.
        grid: (rows, columns) of patches.
        path: The PNG to write.
    """
    images = images[:MAX_IMAGES].cpu()
    masks = mask.masked.cpu().unflatten(0, (-1, mask.num_masks))  # [B, M, N]
    tiles: dict[str, Float[Tensor, "b 3 h w"]] = {"picture": images}
    for number in range(min(mask.num_masks, MAX_MASKS)):
        masked = masks[: len(images), number].unflatten(1, grid)[:, None].float()  # [B, 1, rows, columns]
        tiles[f"mask {number + 1}"] = torch.lerp(images, torch.tensor(_GREY), F.interpolate(masked, images.shape[-2:]))
    share = mask.masked.float().mean().item()
    title = f"What the student sees: {share:.0%} of {grid[0]} x {grid[1]} patches masked"
    if mask.num_masks > MAX_MASKS:
        title += f", {MAX_MASKS} of {mask.num_masks} masks shown"
    return _draw_tiles(tiles, title, path)


def draw_feature_pca(
    images: Float[Tensor, "b 3 h w"],
    features: Mapping[str, Float[Tensor, "b n d"]],
    grid: tuple[int, ...],
    path: Path,
) -> Path:
    """Draw pictures in a row, and below them the patch features of each encoder: three principal components as RGB.

    The mean over the pictures is subtracted at each position first. Else the components of a pretrained encoder show
    where a patch is, and not what it is.

    Args:
        images: Pixels, 0..1.
        features: By the encoder's name, of these pictures.
        grid: (rows, columns) of patches.
        path: The PNG to write.
    """
    images = images[:MAX_IMAGES].cpu()
    tiles: dict[str, Tensor] = {"picture": images}
    for name, encoded in features.items():
        encoded = encoded[:MAX_IMAGES].cpu().float()
        if len(encoded) > 1:
            encoded = encoded - encoded.mean(dim=0)
        colours = principal_colours(encoded)  # [B, N, 3]
        tiles[_short(name)] = colours.transpose(1, 2).unflatten(2, grid)
    return _draw_tiles(
        tiles,
        "Patch features less the mean of their position: first three principal components as red, green, blue",
        path,
    )


def _draw_tiles(rows: Mapping[str, Float[Tensor, "b 3 h w"]], title: str, path: Path) -> Path:
    """Draw one row of pictures a name, without pyplot, whose state belongs to the caller."""
    first = next(iter(rows.values()))
    num_columns = len(first)
    tile_height = _TILE_INCHES * first.shape[-2] / first.shape[-1]
    margin_left, margin_top = 1.3, 0.42
    width, height = margin_left + num_columns * _TILE_INCHES, margin_top + len(rows) * tile_height
    figure = Figure(figsize=(max(width, 6.0), height), dpi=_DPI)
    width = figure.get_figwidth()
    gap = 0.03
    for row, (name, pictures) in enumerate(rows.items()):
        bottom = height - margin_top - (row + 1) * tile_height
        middle = (bottom + tile_height / 2) / height
        figure.text((margin_left - 0.1) / width, middle, name, ha="right", va="center", size=9)
        for column, picture in enumerate(pictures):
            left = margin_left + column * _TILE_INCHES
            box = (left + gap) / width, (bottom + gap) / height, (_TILE_INCHES - 2 * gap) / width
            axes = figure.add_axes((*box, (tile_height - 2 * gap) / height))
            axes.imshow(picture.permute(1, 2, 0).numpy(), interpolation="nearest", aspect="auto")
            axes.set_axis_off()
    figure.text(0.1 / width, 1 - 0.21 / height, title, ha="left", va="center", size=10, weight="bold")
    figure.savefig(path, facecolor="white")
    return path


def _short(name: str) -> str:
    """The end of a path, which tells runs apart, in lines of at most 16 letters."""
    if len(name) <= 16:
        return name
    lines = []
    for part in name.split("/")[-3:]:
        lines.append(part if len(part) <= 16 else f"{part[:15]}…")
    return "\n".join(lines)
