"""Pictures in the items of a data set of the user's own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from d2v.data.sources.own_datasets import entry
from d2v.errors import BrokenSample
from d2v.regular_files import read_regular

_NAMES = (
    "image", "img", "picture", "photo", "pixel_values", "pixels", "inputs", "x", "data", "file_name", "path", "file",
)  # fmt: skip
_LARGEST_CHANNELS = 4
_OVERSHOOT = 0.1  # of floats from 0 to 1 that were resized
_LARGEST_NORMALISED = 8.0
_LARGEST = 1e6


def picture_in(item: Any) -> bytes | Image.Image | Tensor:
    """The picture of an item, which is one or a tuple that begins with one or a dict with one.

    Arrays and tensors are pictures if they hold whole numbers, or floats from 0 to 1 (as torchvision's ``ToTensor``
    makes them) or to 255; other floats are normalised already and stay a tensor, float32 [3, H, W].

    Raises:
        BrokenSample: there is none.
    """
    if isinstance(item, Mapping):
        item = entry(item, _NAMES)
    elif isinstance(item, tuple | list) and item:
        item = item[0]
    if isinstance(item, Image.Image | bytes):
        return item
    if isinstance(item, str | Path):
        try:
            return read_regular(item)
        except OSError as error:
            raise BrokenSample(f"{item}: {error.strerror or error}") from error
    if isinstance(item, np.ndarray):
        item = torch.from_numpy(item.astype(np.int32) if item.dtype == np.uint16 else item)
    if not isinstance(item, Tensor):
        raise BrokenSample(
            f"it holds no picture but {type(item).__name__}; return a PIL picture, an array, a tensor or the path of a "
            f"file, alone, first in a tuple, or in a dict under {' or '.join(_NAMES[:3])}"
        )
    return _from_tensor(item)


def _from_tensor(pixels: Tensor) -> Image.Image | Tensor:
    shape = list(pixels.shape)
    if pixels.ndim == 2:
        pixels = pixels[None]
    if pixels.ndim == 3 and pixels.shape[0] > _LARGEST_CHANNELS >= pixels.shape[2]:
        pixels = pixels.permute(2, 0, 1)
    if pixels.ndim != 3 or pixels.shape[0] not in (1, 3, 4) or not pixels.numel():
        raise BrokenSample(
            f"its picture has the shape {shape}; expected [H, W], [C, H, W] or [H, W, C] with C 1, 3 or 4"
        )
    if pixels.is_floating_point():
        low, high = float(pixels.min()), float(pixels.max())  # NaN where there is one
        if not max(high, -low) <= _LARGEST:
            raise BrokenSample(f"its picture holds values from {low:.3g} to {high:.3g}: not finite, or no colours")
        if low < -_OVERSHOOT or 1 + _OVERSHOOT < high <= _LARGEST_NORMALISED:
            return pixels.float()
        if high <= _LARGEST_NORMALISED:
            pixels = pixels * 255
    elif pixels.dtype == torch.bool:
        pixels = pixels * 255
    elif pixels.dtype != torch.uint8 and pixels.max() > 255:
        pixels = pixels / 257  # of 16 bits
    grey_or_colour = pixels.round().clamp(0, 255).byte().permute(1, 2, 0).squeeze(2)
    return Image.fromarray(grey_or_colour.contiguous().cpu().numpy())
