"""From a picture to normalised pixels, for training and for evaluation."""

import math
from collections.abc import Callable, Sequence

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from d2v.data.normalisation import IMAGENET
from d2v.data.keyed_randomness import python_follows_torch
from d2v.errors import UserError

Transform = Callable[[Image.Image], Tensor]

_EVAL_CROP = 224 / 256
_LARGE = 384
_LARGEST_RATIO = 4 / 3
_LOG_RATIO = math.log(_LARGEST_RATIO)
_CROP_ATTEMPTS = 10


class ToPixels:
    """RGB picture to float32 [3, H, W], ``(x / 255 - mean) / std`` per channel."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.scale = torch.tensor([1 / (255 * s) for s in std]).view(3, 1, 1)
        self.shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)]).view(3, 1, 1)

    def __call__(self, image: Image.Image) -> Tensor:
        # About half the time of torchvision's pil_to_tensor, which goes through numpy and a contiguous uint8 copy.
        rows = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(image.height, image.width, 3)
        pixels = torch.empty(3, image.height, image.width).copy_(rows.permute(2, 0, 1))
        return torch.addcmul(self.shift, pixels, self.scale, out=pixels)


class TrainTransform:
    """Colour jitter (if any), random resized crop, horizontal flip; for fine-tuning RandAugment and random erasing too.

    data2vec 2.0: crops of 20 to 100 % of the area, no jitter (fairseq ``mae_image_dataset.py``). data2vec 1.0: crops of
    8 to 100 %, jitter 0.4, as in BEiT (``beit/datasets.py``). Both bicubic, aspect ratios 3:4 to 4:3. The jitter comes
    before the crop, as in BEiT, since its contrast refers to the whole picture. RandAugment comes after the flip and
    erasing after the normalisation, as in timm, whose they are (``transforms_imagenet_train``).

    Args:
        image_size: (height, width) in pixels.
        min_crop_scale: smallest share of the area that a crop keeps.
        flip: probability of a horizontal flip.
        color_jitter: strength of the changes in brightness, contrast and saturation; 0: none.
        mean: of each channel, for values in [0, 1].
        std: of each channel.
        rand_augment: timm's words for it, such as "rand-m9-mstd0.5-inc1"; None: none.
        random_erasing: probability that a rectangle is replaced by noise.

    Raises:
        UserError: ``rand_augment`` is none of timm's.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        min_crop_scale: float,
        flip: float,
        color_jitter: float,
        mean: Sequence[float] = IMAGENET.mean,
        std: Sequence[float] = IMAGENET.std,
        rand_augment: str | None = None,
        random_erasing: float = 0.0,
    ) -> None:
        self.image_size = image_size
        self.min_crop_scale = min_crop_scale
        self.flip = flip
        self.jitter = v2.ColorJitter(color_jitter, color_jitter, color_jitter) if color_jitter else None
        self.rand_augment = make_rand_augment(rand_augment, image_size, mean) if rand_augment else None
        self.to_pixels = ToPixels(mean, std)
        self.erase = make_random_erasing(random_erasing) if random_erasing else None
        self.smallest_side = math.ceil(max(image_size) / math.sqrt(min_crop_scale))
        """Sides that a picture needs so that no square crop has to be enlarged."""

    def __call__(self, image: Image.Image) -> Tensor:
        if self.jitter is not None:
            image = self.jitter(image)
        height, width = self.image_size
        # One step of PIL for crop and resize; unlike cropping first, the filter sees the pixels around the box.
        box = random_crop_box(image.width, image.height, self.min_crop_scale)
        image = image.resize((width, height), Image.Resampling.BICUBIC, box=box)
        if torch.rand(()).item() < self.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.rand_augment is None and self.erase is None:
            return self.to_pixels(image)
        with python_follows_torch():
            if self.rand_augment is not None:
                image = self.rand_augment(image)
            pixels = self.to_pixels(image)
            return pixels if self.erase is None else self.erase(pixels)


def make_rand_augment(words: str, image_size: tuple[int, int], mean: Sequence[float]) -> Callable:
    """timm's RandAugment, which draws from the global generators of Python and numpy, with the settings that timm's own
    training gives it: empty corners are filled with the mean, pictures move by up to 45% of their side.

    Raises:
        UserError: ``words`` say nothing that timm knows.
    """
    from timm.data.auto_augment import rand_augment_transform  # here, because it takes seconds to import

    settings = {
        "translate_const": int(min(image_size) * 0.45),
        "img_mean": tuple(min(255, round(255 * channel)) for channel in mean),
        "interpolation": Image.Resampling.BICUBIC,
    }
    try:
        return rand_augment_transform(words, settings)
    except (AssertionError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"data.rand_augment is {words}: expected timm's words for it, such as rand-m9-mstd0.5-inc1; or null"
        ) from error


def make_random_erasing(probability: float) -> Callable:
    """timm's random erasing in its mode "pixel": noise of each pixel's own, in one rectangle."""
    from timm.data.random_erasing import RandomErasing

    return RandomErasing(probability, mode="pixel", device="cpu")


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
        mean: as for ``TrainTransform``.
        std: as for ``TrainTransform``.
        eval_crop: the share; None: 224/256, and all from 384 pixels on, as BEiT has it (``beit/datasets.py``).
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        mean: Sequence[float] = IMAGENET.mean,
        std: Sequence[float] = IMAGENET.std,
        eval_crop: float | None = None,
    ) -> None:
        if eval_crop is None:
            eval_crop = _EVAL_CROP if min(image_size) < _LARGE else 1.0
        self.image_size = image_size
        self.margin = 1 / eval_crop
        self.to_pixels = ToPixels(mean, std)
        self.smallest_side = math.ceil(max(image_size) * self.margin)

    def __call__(self, image: Image.Image) -> Tensor:
        height, width = self.image_size
        ratio = max(round(height * self.margin) / image.height, round(width * self.margin) / image.width)
        size = [max(1, round(image.height * ratio)), max(1, round(image.width * ratio))]
        image = F.resize(image, size, InterpolationMode.BICUBIC)
        return self.to_pixels(F.center_crop(image, [height, width]))
