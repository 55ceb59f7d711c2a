"""RandAugment with the fifteen operations and the strengths that data2vec's fine-tuning recipes use."""

from collections.abc import Callable

import torch
from PIL import Image, ImageEnhance, ImageOps

Fill = tuple[int, int, int]
Operation = Callable[[Image.Image, float, Fill], Image.Image]

_MAX_MAGNITUDE = 10.0


class RandAugment:
    """Distort a picture with operations drawn at random (RandAugment, arXiv 1909.13719).

    The operations and their strengths are those that timm calls ``rand-m9-mstd0.5-inc1``, the setting of BEiT's and
    data2vec's fine-tuning; torchvision's RandAugment has other operations and no jitter of the magnitude. Everything
    random is drawn from torch's global generator.

    Args:
        num_ops: operations for each picture, drawn independently.
        magnitude: how strong they are, from 0 (not at all) to 10.
        magnitude_std: standard deviation of the normal noise on the magnitude of each operation.
        prob: probability that an operation that was drawn is also applied.
        fill: RGB colour, 0 to 255, of what a shifted or rotated picture leaves empty; the default is ImageNet's mean.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        num_ops: int = 2,
        magnitude: float = 9.0,
        magnitude_std: float = 0.5,
        prob: float = 0.5,
        fill: Fill = (124, 116, 104),
    ) -> None:
        if num_ops < 0:
            raise ValueError(f"num_ops must be 0 or more, not {num_ops}")
        if not 0 <= magnitude <= _MAX_MAGNITUDE:
            raise ValueError(f"magnitude must lie between 0 and 10, not {magnitude}")
        if magnitude_std < 0:
            raise ValueError(f"magnitude_std must be 0 or more, not {magnitude_std}")
        if not 0 <= prob <= 1:
            raise ValueError(f"prob must lie between 0 and 1, not {prob}")
        self.num_ops = num_ops
        self.magnitude = magnitude
        self.magnitude_std = magnitude_std
        self.prob = prob
        self.fill = fill

    def __call__(self, image: Image.Image) -> Image.Image:
        for _ in range(self.num_ops):
            which, applied, sign = torch.rand(3).tolist()
            noise = torch.randn(()).item()
            if applied >= self.prob:
                continue
            magnitude = self.magnitude + self.magnitude_std * noise
            strength = min(max(magnitude, 0.0), _MAX_MAGNITUDE) / _MAX_MAGNITUDE
            name, operation = _OPERATIONS[int(which * len(_OPERATIONS))]
            if name in _TWO_SIDED and sign < 0.5:
                strength = -strength
            image = operation(image, strength, self.fill)
        return image


def _auto_contrast(image: Image.Image, strength: float, fill: Fill) -> Image.Image:
    return ImageOps.autocontrast(image)


def _equalize(image: Image.Image, strength: float, fill: Fill) -> Image.Image:
    return ImageOps.equalize(image)


def _invert(image: Image.Image, strength: float, fill: Fill) -> Image.Image:
    return ImageOps.invert(image)


def _posterize(image: Image.Image, strength: float, fill: Fill) -> Image.Image:
    # At full strength timm keeps no bit, which paints the picture black; Pillow 13 refuses to.
    return ImageOps.posterize(image, max(1, 4 - int(4 * strength)))


def _solarize(image: Image.Image, strength: float, fill: Fill) -> Image.Image:
    return ImageOps.solarize(image, 256 - int(256 * strength))


def _solarize_add(image: Image.Image, strength: float, fill: Fill) -> Image.Image:
    """Brighten the darker half of the values."""
    values = list(range(256))
    for value in range(128):
        values[value] = min(255, value + int(110 * strength))
    return image.point(values * 3)


def _enhance(enhancer: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    def operation(image: Image.Image, strength: float, fill: Fill) -> Image.Image:
        return enhancer(image).enhance(1 + 0.9 * strength)

    return operation


def _rotate(image: Image.Image, strength: float, fill: Fill) -> Image.Image:
    return image.rotate(30 * strength, Image.Resampling.BICUBIC, fillcolor=fill)


def _affine(image: Image.Image, matrix: tuple[float, ...], fill: Fill) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=fill)


def _shear_x(image: Image.Image, strength: float, fill: Fill) -> Image.Image:
    return _affine(image, (1, 0.3 * strength, 0, 0, 1, 0), fill)


def _shear_y(image: Image.Image, strength: float, fill: Fill) -> Image.Image:
    return _affine(image, (1, 0, 0, 0.3 * strength, 1, 0), fill)


def _translate_x(image: Image.Image, strength: float, fill: Fill) -> Image.Image:
    return _affine(image, (1, 0, 0.45 * strength * image.width, 0, 1, 0), fill)


def _translate_y(image: Image.Image, strength: float, fill: Fill) -> Image.Image:
    return _affine(image, (1, 0, 0, 0, 1, 0.45 * strength * image.height), fill)


# All take the strength from 0 to 1; the second table's also its negative, for the opposite direction.
_ONE_SIDED: dict[str, Operation] = {
    "auto_contrast": _auto_contrast,
    "equalize": _equalize,
    "invert": _invert,
    "posterize": _posterize,
    "solarize": _solarize,
    "solarize_add": _solarize_add,
}
_TWO_SIDED: dict[str, Operation] = {
    "color": _enhance(ImageEnhance.Color),
    "contrast": _enhance(ImageEnhance.Contrast),
    "brightness": _enhance(ImageEnhance.Brightness),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "rotate": _rotate,
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
}
_OPERATIONS = [*_ONE_SIDED.items(), *_TWO_SIDED.items()]
