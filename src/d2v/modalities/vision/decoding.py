"""Encoded pictures: which formats there are, and pixels, decoded when it is known which of them are wanted."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError, features
from torch import Tensor
from torchvision.io import ImageReadMode

from d2v.data.sources.source import Medium
from d2v.errors import BrokenSample
from d2v.modalities.vision.color_jitter import Change
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

_JPEG = b"\xff\xd8\xff"
_ORIENTATION = 0x0112  # of EXIF
_TURNED = (5, 6, 7, 8)  # orientations that exchange width and height
_REDUCTIONS = (8, 4, 2)  # by which a JPEG can be made smaller while it is decoded, without its higher frequencies
_SPARE = 2  # times the pixels that are asked for, of each side, are left
_SOME = 2**15  # pixels at least, in whole rows, of which a picture's mean grey is computed


class Picture:
    """A picture of which only the header is read until its pixels are asked for, where it is a JPEG.

    Args:
        data: a whole file, or a picture that was opened already.

    Raises:
        BrokenSample: the bytes are no picture, are truncated or unpack to more than PIL deems safe. Of a JPEG some of
            this only shows when pixels are asked for.
    """

    def __init__(self, data: bytes | Image.Image) -> None:
        self._jpeg: bytes | None = None
        self._orientation = 1
        image: Image.Image
        if isinstance(data, bytes):
            with _naming_damage(data):
                image = _open(data)
                if image.format == "JPEG" and image.mode in ("RGB", "L"):
                    self._jpeg = data
                    if _may_be_rotated(image):
                        self._orientation = image.getexif().get(_ORIENTATION, 1)
        if self._jpeg is None:
            image = decode_image(data)
            self._image = image
        self.size = image.size
        """Width and height in pixels, upright."""
        if self._orientation in _TURNED:
            self.size = (image.height, image.width)

    def image(self) -> Image.Image:
        """All of it, RGB and upright."""
        if self._jpeg is None:
            return self._image
        return as_image(self.pixels())

    def pixels(self) -> UInt8[Tensor, "3 h w"]:
        """The same as a tensor, colours of a pixel side by side in memory."""
        if self._jpeg is None:
            return as_pixels(self._image)
        if self._orientation == 1:
            encoded = torch.frombuffer(bytearray(self._jpeg), dtype=torch.uint8)
            try:  # the values of Pillow, in two thirds of the time; the function around it warns of its own removal
                return torch.ops.image.decode_jpeg(encoded, ImageReadMode.RGB.value, False)
            except (AttributeError, RuntimeError):  # Pillow says what is wrong, or can do what torchvision cannot
                pass
        return as_pixels(decode_image(self._jpeg))

    def crop(
        self,
        box: tuple[int, int, int, int],
        height: int,
        width: int,
        change: Change | None = None,
    ) -> UInt8[Tensor, "3 {height} {width}"]:
        """Part of it, resized (bicubic, with the antialiasing of Pillow); colours side by side in memory.

        A JPEG is decoded at a half, a quarter or an eighth of its size where the sides of the part are then still twice
        as long as asked for. That differs from decoding all by 0.5 to 1 of 255 on average (600 pictures of ImageNet).

        Args:
            box: left, top, right, bottom.
            height: of the result.
            width: likewise.
            change: of the part before it is resized.
        """
        left, top, right, bottom = box
        reduction = self._reduction(right - left, bottom - top, width, height)
        if reduction > 1:
            assert self._jpeg is not None
            pixels = as_pixels(decode_image(self._jpeg, reduction=reduction))
        else:
            pixels = self.pixels()
        x, y = left // reduction, top // reduction
        part = pixels[:, y : -(-bottom // reduction), x : -(-right // reduction)]
        if change is not None:
            part = change(part, pixels[:, :: max(1, pixels[0].numel() // _SOME)])
        if reduction > 1:
            inner = (left / reduction - x, top / reduction - y, right / reduction - x, bottom / reduction - y)
            return as_pixels(as_image(part).resize((width, height), Image.Resampling.BICUBIC, inner))
        # Of bytes that lie so, torch resizes in a quarter of Pillow's time.
        part = part[None].contiguous(memory_format=torch.channels_last)
        return F.interpolate(part, (height, width), mode="bicubic", antialias=True)[0]

    def _reduction(self, box_width: int, box_height: int, width: int, height: int) -> int:
        if self._jpeg is not None:
            for reduction in _REDUCTIONS:
                if min(box_width / width, box_height / height) >= _SPARE * reduction:
                    return reduction
        return 1


def as_pixels(image: Image.Image) -> UInt8[Tensor, "3 h w"]:
    """Of an RGB picture; colours of a pixel stay side by side in memory."""
    # torchvision goes through numpy, in twice the time.
    rows = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return rows.view(image.height, image.width, 3).permute(2, 0, 1)


def as_image(pixels: UInt8[Tensor, "3 h w"]) -> Image.Image:
    """The other way round."""
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def decode_image(data: bytes | Image.Image, smallest_side: int | None = None, reduction: int = 1) -> Image.Image:
    """Decode to RGB, upright by EXIF. Transparent pixels are laid on white, 16-bit grey is scaled to 8 bit.

    Args:
        data: a whole file, or a picture that was opened already.
        smallest_side: pixels that both sides of a JPEG may be reduced to while it is decoded (in powers of two, by
            leaving out frequencies), which saves most of the time for photographs of many megapixels.
        reduction: 2, 4 or 8, by which both sides of a JPEG are reduced in this way.

    Raises:
        BrokenSample: if the bytes are no picture, are truncated or unpack to more than PIL deems safe.
    """
    with _naming_damage(data):
        image = data if isinstance(data, Image.Image) else _open(data)
        if smallest_side is not None:
            image.draft(None, (smallest_side, smallest_side))
        elif reduction > 1:
            image.draft(None, (image.width // reduction, image.height // reduction))
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image) if _may_be_rotated(image) else image)


def _open(data: bytes) -> Image.Image:
    """Read the header."""
    # Pillow would try three other formats before, which takes as long as to decode a picture of 32 pixels.
    return Image.open(io.BytesIO(data), formats=("JPEG",) if data.startswith(_JPEG) else None)


@contextmanager
def _naming_damage(data: bytes | Image.Image) -> Iterator[None]:
    """Whatever Pillow stumbles over in here is a BrokenSample."""
    try:
        yield
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
