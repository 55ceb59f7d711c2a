"""Encoded bytes to an 8-bit RGB picture."""

import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from d2v.data.sources.source import Medium
from d2v.errors import BrokenSample

IMAGES = Medium(
    "images", (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"), feature="Image"
)


def decode_image(data: bytes, smallest_side: int | None = None) -> Image.Image:
    """Decode to RGB, upright by EXIF. Transparent pixels are laid on white, 16-bit grey is scaled to 8 bit.

    Args:
        data: a whole file.
        smallest_side: pixels that both sides of a JPEG may be reduced to while it is decoded (in powers of two, by
            leaving out frequencies), which saves most of the time for photographs of many megapixels.

    Raises:
        BrokenSample: if the bytes are no picture, are truncated or unpack to more than PIL deems safe.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(data))
        if smallest_side is not None:
            image.draft(None, (smallest_side, smallest_side))
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image) if _may_be_rotated(image) else image)
    except BrokenSample:
        raise
    except UnidentifiedImageError as error:  # whose text is the address of the buffer
        raise BrokenSample("it is no picture" if data else "the file is empty") from error
    except Exception as error:  # PIL's decoders raise whatever a broken file makes them stumble over
        raise BrokenSample(str(error) if data else "the file is empty") from error


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
