"""Random brightness, contrast and saturation of part of a picture, as if the whole was changed."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

Change = Callable[[UInt8[Tensor, "3 h w"], UInt8[Tensor, "3 rows width"]], UInt8[Tensor, "3 h w"]]
"""Of part of a picture, given some rows of the whole besides."""

_KINDS = ("brightness", "contrast", "saturation")
_CONTRAST = 1
_AS_IT_IS = Image.frombytes("L", (256, 1), bytes(range(256)))


class ColorJitter:
    """Draws of torchvision's ColorJitter, for the part of a picture that is used.

    The values are those of Pillow bit for bit, but for the grey to which contrast refers: the mean of the whole picture
    as it is then, rounded to a whole number, which is that of some of its rows here.

    Args:
        strength: of all three; factors lie within 1 - strength and 1 + strength.
    """

    def __init__(self, strength: float) -> None:
        self._draws = v2.ColorJitter(strength, strength, strength)

    def draw(self) -> Change:
        """A change, drawn from torch's generator."""
        return functools.partial(_changed, self._draws.make_params([]))


def _changed(params: dict[str, Any], part: Tensor, rows: Tensor) -> Tensor:
    data, size = _bytes(part), (part.shape[2], part.shape[1])
    sample, sample_size = _bytes(rows), (rows.shape[2], rows.shape[1])
    tone = _AS_IT_IS  # what becomes of each value of any channel: several changes of that kind are done in one
    order = [number for number in params["fn_idx"].tolist() if number < len(_KINDS)]  # the fourth is hue
    for place, number in enumerate(order):
        kind, grey = _KINDS[number], 0
        factor = params[f"{kind}_factor"]
        if kind == "saturation":
            data = _saturated(_toned(data, tone), size, factor)
            if _CONTRAST in order[place:]:
                sample = _saturated(_toned(sample, tone), sample_size, factor)
            tone = _AS_IT_IS
            continue
        if number == _CONTRAST:
            grey = int(np.asarray(_image(_toned(sample, tone), sample_size).convert("L")).mean() + 0.5)
        tone = Image.blend(Image.new("L", tone.size, grey), tone, factor)
    pixels = torch.frombuffer(_toned(data, tone), dtype=torch.uint8)
    return pixels.view(part.shape[1], part.shape[2], 3).permute(2, 0, 1)


def _bytes(pixels: Tensor) -> bytearray:
    return bytearray(pixels.permute(1, 2, 0).contiguous().numpy())


def _image(data: bytearray, size: tuple[int, int]) -> Image.Image:
    return Image.frombuffer("RGB", size, data, "raw", "RGB", 0, 1)


def _toned(data: bytearray, tone: Image.Image) -> bytearray:
    return data if tone is _AS_IT_IS else data.translate(tone.tobytes())


def _saturated(data: bytearray, size: tuple[int, int], factor: float) -> bytearray:
    image = _image(data, size)
    return bytearray(Image.blend(image.convert("L").convert("RGB"), image, factor).tobytes())
