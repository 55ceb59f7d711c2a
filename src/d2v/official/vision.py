"""What reading a Vision Transformer's tensors needs, whoever trained it."""

import math
from typing import Any

from d2v.checkpoints.layout import StateDict, count, mlp_ratio, tensor
from d2v.errors import UserError


def sizes(weights: StateDict) -> dict[str, Any]:
    """Arguments of a ``VisionEncoder`` that the student's tensors tell.

    Raises:
        UserError: The patch embedding or the first block is missing.
    """
    patches = tensor(weights, "student.feature_extractor.proj.weight", dims=4)  # [D, 3, p, p]
    hidden = len(tensor(weights, "student.transformer.blocks.0.mlp.0.weight", dims=2))  # [hidden, D]
    width, in_channels, patch_size, _ = patches.shape
    return {
        "patch_size": patch_size,
        "in_channels": in_channels,
        "width": width,
        "depth": count(weights, r"student\.transformer\.blocks\.(\d+)\."),
        "mlp_ratio": mlp_ratio(hidden, width),
    }


def image_size(grid: tuple[int, int], patch_size: int) -> int | list[int]:
    """Size in pixels of a grid of patches, as ``VisionEncoder`` takes it."""
    rows, columns = grid
    return rows * patch_size if rows == columns else [rows * patch_size, columns * patch_size]


def square(tokens: int) -> tuple[int, int]:
    """The square grid of so many tokens.

    Raises:
        UserError: They are no square.
    """
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise UserError(f"{tokens} positions are no square: the grid of patches cannot be known")
    return side, side


def shown(student: dict[str, Any]) -> dict[str, Any]:
    """``Imported.sizes`` of a student's recipe."""
    return {"patch": student["init_args"]["patch_size"], "image": student["init_args"]["image_size"]}


def example(width: int) -> str:
    """``Imported.example``."""
    return f"encoder.embed(pixels)  # normalised pixels [B, 3, H, W] -> [B, {width}]"
