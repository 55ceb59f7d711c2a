"""From a picture to the pixels that a model gets, as bytes: for training and for evaluation."""

import math
from collections.abc import Callable

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from d2v.data.normalisation import IMAGENET, Normalisation
from d2v.data.samples import keyed_randomness
from d2v.errors import UserError
from d2v.modalities.vision.color_jitter import ColorJitter
from d2v.modalities.vision.decoding import Picture, as_image, as_pixels

Augment = Callable[[Image.Image], Image.Image]

Transforms = Callable | list[Callable]

_EVAL_CROP = 224 / 256
_LARGE = 384
_LARGEST_RATIO = 4 / 3
_LOG_RATIO = math.log(_LARGEST_RATIO)
_CROP_ATTEMPTS = 10
_LONGEST_SIDE = 16_384  # of a picture that is resized whole before its centre is cropped
_MARGIN = 8  # pixels around the crop that a bicubic filter may see


class TrainTransform:
    """Colour jitter (if any), random resized crop, horizontal flip; in fine-tuning also ``augment`` and erasing.

    data2vec 2.0: crops of 20 to 100 % of the area, no jitter (fairseq ``mae_image_dataset.py``). data2vec 1.0: crops of
    8 to 100 %, jitter 0.4, as in BEiT (``beit/datasets.py``). Both bicubic, aspect ratios 3:4 to 4:3. The jitter comes
    before the crop, as in BEiT, since its contrast refers to the whole picture. ``augment`` comes after the flip and
    erasing after the normalisation, as in timm (``transforms_imagenet_train``), which the published fine-tuning uses.
    Everything random is drawn from torch's global generator.

    Args:
        image_size: (height, width) in pixels.
        min_crop_scale: smallest share of the area that a crop keeps.
        flip: probability of a horizontal flip.
        color_jitter: strength of the changes in brightness, contrast and saturation; 0: none.
        normalisation: of pixels, before some are erased.
        augment: what else happens to the RGB crop; it returns one of the same size. None: nothing.
        random_erasing: probability that a rectangle is replaced by noise, of 2% to a third of the area (arXiv
            1708.04896).

    Raises:
        UserError: ``augment`` returns anything else.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        min_crop_scale: float,
        flip: float,
        color_jitter: float,
        normalisation: Normalisation = IMAGENET,
        augment: Augment | None = None,
        random_erasing: float = 0.0,
    ) -> None:
        self.image_size = image_size
        self.min_crop_scale = min_crop_scale
        self.flip = flip
        self.color_jitter = color_jitter
        self.jitter = ColorJitter(color_jitter) if color_jitter else None
        self.augment = augment
        if augment is not None:
            check_augment(augment, image_size)
        self.normalisation = normalisation
        self.erase = None
        if random_erasing:
            self.erase = v2.RandomErasing(random_erasing, (0.02, 1 / 3), (0.3, 1 / 0.3), value="random", inplace=True)
        self.smallest_side = math.ceil(max(image_size) / math.sqrt(min_crop_scale))
        """Sides that a picture needs so that no square crop has to be enlarged."""

    def __call__(self, picture: Picture) -> Tensor:
        """Bytes [3, H, W], which are normalised where the batch goes; floats that are, if some are erased."""
        jitter = None if self.jitter is None else self.jitter.draw()
        # What is wanted of the picture is known before it is decoded.
        box = random_crop_box(*picture.size, self.min_crop_scale)
        flipped = torch.rand(()).item() < self.flip
        pixels = picture.crop(box, *self.image_size, change=jitter)
        if flipped:
            pixels = pixels.flip(2)
        if self.augment is not None:
            pixels = as_pixels(self.augment(as_image(pixels)))
        if self.erase is not None:
            pixels = self.erase(self.normalisation.apply(pixels))
        return pixels


class OwnTransform:
    """A transform of the user's in place of crop and flip: from an RGB picture to one, or to a tensor [3, H, W].

    Pictures and bytes stay bytes, which are normalised where the batch goes. Floats that range from 0 to 1, which is
    found out with a black and a white picture, are normalised here; other floats are normalised already.

    Args:
        transform: one, or several that follow each other.
        image_size: (height, width) in pixels that it must give.
        normalisation: of pixels.

    Raises:
        UserError: it fails, or gives something else.
    """

    def __init__(
        self,
        transform: Transforms,
        image_size: tuple[int, int],
        normalisation: Normalisation = IMAGENET,
    ) -> None:
        self.transform = v2.Compose(transform) if isinstance(transform, list) else transform
        self.image_size = image_size
        self.normalisation = normalisation
        self.normalises = False
        names = " and ".join(map(_class_path, transform if isinstance(transform, list) else [transform]))
        ranges: list[float] = []
        for grey in (0, 255):
            picture = Image.new("RGB", (2 * image_size[1], 2 * image_size[0]), (grey, grey, grey))
            try:
                with keyed_randomness(0):
                    made = self.transform(picture)
                    pixels = self._pixels(made)
            except Exception as error:  # it is somebody else's code
                raise UserError(f"data.transform is {names}: it fails with an RGB picture: {error}") from error
            if isinstance(made, Tensor) and made.is_floating_point():
                ranges += [float(made.min()), float(made.max())]
            if list(pixels.shape) != [3, *image_size]:
                raise UserError(
                    f"data.transform is {names}, which makes pixels {list(pixels.shape)} of a picture; they must be "
                    f"[3, {image_size[0]}, {image_size[1]}]: let it crop or resize to data.image_size"
                )
        self.normalises = bool(ranges) and not (min(ranges) >= 0 and max(ranges) <= 1)

    def __call__(self, picture: Picture) -> Tensor:
        return self._pixels(self.transform(picture.image()))

    def _pixels(self, made: Image.Image | Tensor) -> Tensor:
        if isinstance(made, Image.Image):
            return as_pixels(made.convert("RGB"))
        if not isinstance(made, Tensor):
            raise TypeError(f"it returns {_class_path(made)} and no picture or tensor")
        made = made.as_subclass(Tensor)
        if made.dtype == torch.uint8:
            return made
        if not made.is_floating_point():
            return self.normalisation.apply(made)
        if self.normalises:
            return made.float()
        return self.normalisation.apply(made * 255)


def check_augment(augment: Augment, image_size: tuple[int, int]) -> None:
    """Try ``augment`` on a grey picture, before a worker meets what it returns.

    Raises:
        UserError: It does not return an RGB picture of the same size.
    """
    height, width = image_size
    with keyed_randomness(0):
        image = augment(Image.new("RGB", (width, height), (128, 128, 128)))
    name = f"data.augment is {_class_path(augment)}"
    if not isinstance(image, Image.Image):
        raise UserError(
            f"{name}, which returns {_class_path(image)}: name a transform from PIL picture to PIL picture, such as "
            "torchvision.transforms.v2.TrivialAugmentWide; d2v crops, converts and normalises by itself"
        )
    if image.mode != "RGB" or image.size != (width, height):
        raise UserError(
            f"{name}, which makes a picture of mode {image.mode} and {image.width} x {image.height} pixels of an RGB "
            f"picture of {width} x {height}: name one that keeps the size and the channels"
        )


def _class_path(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def random_crop_box(width: int, height: int, min_scale: float) -> tuple[int, int, int, int]:
    """Box (left, top, right, bottom) of a random resized crop, distributed as in torchvision.

    The area is uniform between ``min_scale`` and 1, the logarithm of the aspect ratio uniform between those of 3:4 and
    4:3; ten attempts to fit, then the largest central box of such a ratio. One draw of all random numbers in place of
    torchvision's up to forty, which cost as much as decoding a small picture.
    """
    draws = torch.rand(_CROP_ATTEMPTS, 4, dtype=torch.float64).tolist()
    for area_draw, ratio_draw, left_draw, top_draw in draws:
        area = width * height * (min_scale + (1 - min_scale) * area_draw)
        ratio = math.exp(_LOG_RATIO * (2 * ratio_draw - 1))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(left_draw * (width - w + 1)), int(top_draw * (height - h + 1))
            return left, top, left + w, top + h
    w = min(width, round(height * _LARGEST_RATIO))
    h = min(height, round(width * _LARGEST_RATIO))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


class EvalTransform:
    """Resize (bicubic) so that the crop takes a share of the tighter side, then crop the centre.

    Args:
        image_size: (height, width) in pixels.
        eval_crop: the share; None: 224/256, and all from 384 pixels on, as BEiT has it (``beit/datasets.py``).
    """

    def __init__(self, image_size: tuple[int, int], eval_crop: float | None = None) -> None:
        if eval_crop is None:
            eval_crop = _EVAL_CROP if min(image_size) < _LARGE else 1.0
        self.image_size = image_size
        self.margin = 1 / eval_crop

    def __call__(self, picture: Picture) -> UInt8[Tensor, "3 h w"]:
        image = picture.image()  # decoded in full and resized by Pillow, as in the published evaluations
        height, width = self.image_size
        ratio = max(round(height * self.margin) / image.height, round(width * self.margin) / image.width)
        if max(image.size) * ratio > _LONGEST_SIDE:  # a strip one pixel high would fill the memory
            most = [math.ceil(side / ratio) + _MARGIN for side in self.image_size]
            image = F.center_crop(image, [min(image.height, most[0]), min(image.width, most[1])])
        size = [max(1, round(image.height * ratio)), max(1, round(image.width * ratio))]
        image = F.resize(image, size, InterpolationMode.BICUBIC)
        return as_pixels(F.center_crop(image, [height, width]))
