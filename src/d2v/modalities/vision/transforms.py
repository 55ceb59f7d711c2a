"""From the bytes of a picture to normalised pixels, for training and for evaluation."""

import io
import math
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError, features
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from d2v.data.normalisation import IMAGENET
from d2v.data.samples import keyed_randomness
from d2v.data.sources.source import Medium
from d2v.errors import BrokenSample, UserError
from d2v.modalities.vision.items import picture_in

_USUAL_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jfif")
# Formats that Pillow recognises, and that it hands to other programs or reads no picture of.
_NO_PICTURES = ("BUFR", "EPS", "FLI", "GBR", "GRIB", "HDF5", "IPTC", "MPEG", "WMF")


def _endings() -> tuple[str, ...]:
    """What Pillow decodes here, the usual endings first."""
    found = list(_USUAL_ENDINGS)
    for name, kind in sorted(Image.registered_extensions().items()):
        decodes = kind in (*Image.OPEN, "MPO") and kind not in _NO_PICTURES
        if name not in found and decodes and (kind != "JPEG2000" or features.check("jpg_2000")):
            found.append(name)
    return tuple(found)


IMAGES = Medium(
    "images",
    _endings(),
    feature="Image",
    from_item=picture_in,
    unreadable=(".heic", ".heif", ".jxl", ".dng", ".nef", ".cr2", ".cr3", ".arw", ".raf", ".orf", ".rw2", ".svg"),
    conversion="To use pictures in them, convert them to .png: mogrify -format png {}",
)

# Up to twice its limit Pillow decodes a picture and warns; beyond that it refuses, and the picture is a broken sample.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)

Transform = Callable[[Image.Image], Tensor]
Augment = Callable[[Image.Image], Image.Image]

Transforms = Callable | list[Callable]

_EVAL_CROP = 224 / 256
_LARGE = 384
_LARGEST_RATIO = 4 / 3
_LOG_RATIO = math.log(_LARGEST_RATIO)
_CROP_ATTEMPTS = 10
_LONGEST_SIDE = 16_384  # of a picture that is resized whole before its centre is cropped
_MARGIN = 8  # pixels around the crop that a bicubic filter may see


class ToPixels:
    """RGB picture to float32 [3, H, W], ``(x / 255 - mean) / std`` per channel."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.scale = torch.tensor([1 / (255 * s) for s in std]).view(3, 1, 1)
        self.shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)]).view(3, 1, 1)

    def __call__(self, image: Image.Image) -> Tensor:
        # About half the time of torchvision's pil_to_tensor, which goes through numpy and a contiguous uint8 copy.
        rows = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(image.height, image.width, 3)
        return self.normalise(torch.empty(3, image.height, image.width).copy_(rows.permute(2, 0, 1)))

    def normalise(self, pixels: Tensor) -> Tensor:
        """Float pixels from 0 to 255, in place."""
        return torch.addcmul(self.shift, pixels, self.scale, out=pixels)


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
        mean: of each channel, for values in [0, 1].
        std: of each channel.
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
        mean: Sequence[float] = IMAGENET.mean,
        std: Sequence[float] = IMAGENET.std,
        augment: Augment | None = None,
        random_erasing: float = 0.0,
    ) -> None:
        self.image_size = image_size
        self.min_crop_scale = min_crop_scale
        self.flip = flip
        self.jitter = v2.ColorJitter(color_jitter, color_jitter, color_jitter) if color_jitter else None
        self.augment = augment
        if augment is not None:
            check_augment(augment, image_size)
        self.to_pixels = ToPixels(mean, std)
        self.erase = None
        if random_erasing:
            self.erase = v2.RandomErasing(random_erasing, (0.02, 1 / 3), (0.3, 1 / 0.3), value="random", inplace=True)
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
        if self.augment is not None:
            image = self.augment(image)
        pixels = self.to_pixels(image)
        if self.erase is not None:
            pixels = self.erase(pixels)
        return pixels


class OwnTransform:
    """A transform of the user's in place of crop and flip: from an RGB picture to one, or to a tensor [3, H, W].

    Pictures and whole numbers are normalised, and so are floats that range from 0 to 1, which is found out with a black
    and a white picture; other floats are normalised already.

    Args:
        transform: one, or several that follow each other.
        image_size: (height, width) in pixels that it must give.
        mean: as for ``TrainTransform``.
        std: as for ``TrainTransform``.

    Raises:
        UserError: it fails, or gives something else.
    """

    smallest_side = None

    def __init__(
        self,
        transform: Transforms,
        image_size: tuple[int, int],
        mean: Sequence[float] = IMAGENET.mean,
        std: Sequence[float] = IMAGENET.std,
    ) -> None:
        self.transform = v2.Compose(transform) if isinstance(transform, list) else transform
        self.image_size = image_size
        self.to_pixels = ToPixels(mean, std)
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

    def __call__(self, image: Image.Image) -> Tensor:
        return self._pixels(self.transform(image))

    def _pixels(self, made: Image.Image | Tensor) -> Tensor:
        if isinstance(made, Image.Image):
            return self.to_pixels(made.convert("RGB"))
        if not isinstance(made, Tensor):
            raise TypeError(f"it returns {_class_path(made)} and no picture or tensor")
        made = made.as_subclass(Tensor)
        if not made.is_floating_point():
            return self.to_pixels.normalise(made.float())
        if self.normalises:
            return made.float()
        return self.to_pixels.normalise(made.float() * 255)


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
        if max(image.size) * ratio > _LONGEST_SIDE:  # a strip one pixel high would fill the memory
            most = [math.ceil(side / ratio) + _MARGIN for side in self.image_size]
            image = F.center_crop(image, [min(image.height, most[0]), min(image.width, most[1])])
        size = [max(1, round(image.height * ratio)), max(1, round(image.width * ratio))]
        image = F.resize(image, size, InterpolationMode.BICUBIC)
        return self.to_pixels(F.center_crop(image, [height, width]))


def decode_image(data: bytes | Image.Image, smallest_side: int | None = None) -> Image.Image:
    """Decode to RGB, upright by EXIF. Transparent pixels are laid on white, 16-bit grey is scaled to 8 bit.

    Args:
        data: a whole file, or a picture that was opened already.
        smallest_side: pixels that both sides of a JPEG may be reduced to while it is decoded (in powers of two, by
            leaving out frequencies), which saves most of the time for photographs of many megapixels.

    Raises:
        BrokenSample: if the bytes are no picture, are truncated or unpack to more than PIL deems safe.
    """
    try:
        image = data if isinstance(data, Image.Image) else Image.open(io.BytesIO(data))
        if smallest_side is not None:
            image.draft(None, (smallest_side, smallest_side))
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image) if _may_be_rotated(image) else image)
    except BrokenSample:
        raise
    except UnidentifiedImageError as error:  # whose text is the address of the buffer
        raise BrokenSample("it is no picture" if data else "the file is empty") from error
    except Image.DecompressionBombError as error:
        raise BrokenSample(str(error)) from error
    except Exception as error:  # PIL's decoders raise whatever a broken file makes them stumble over
        truncated = "truncated" in str(error).lower()
        raise BrokenSample("it is truncated" if truncated else f"it is damaged ({error})") from error


def shrink(image: Image.Image, side: int) -> Image.Image:
    """The picture with a shorter side of at most ``side`` pixels and the same aspect ratio."""
    ratio = side / min(image.size)
    if ratio >= 1:
        return image
    return image.resize((round(image.width * ratio), round(image.height * ratio)), Image.Resampling.BICUBIC)


def _may_be_rotated(image: Image.Image) -> bool:
    return any(key in image.info for key in ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")) or (
        image.format == "TIFF"
    )


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # 16 bit, which convert() would clip at 255
        grey = np.clip(np.asarray(image, dtype=np.int64), 0, 65535)
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise BrokenSample("pixels are 32-bit floats of unknown range; convert the file to 8 or 16 bit")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, "white")
        canvas.alpha_composite(image)
        image = canvas
    return image.convert("RGB")
