"""Every kind of picture becomes 8-bit RGB, and every kind of damage a BrokenSample."""

import io
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2  # type: ignore[import-untyped]

from d2v.data.samples import keyed_randomness
from d2v.errors import BrokenSample
from d2v.modalities.vision.color_jitter import ColorJitter
from d2v.modalities.vision.decoding import Picture, decode_image


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "JPEG"), ("CMYK", "JPEG"), ("P", "PNG"), ("1", "PNG"), ("RGB", "WEBP"), ("P", "GIF")]
)
def test_modes_become_rgb_of_the_same_size(mode: str, kind: str) -> None:
    image = decode_image(encode(photo().convert(mode), kind))
    assert (image.mode, image.size) == ("RGB", (40, 30))


def test_cmyk_keeps_its_colour() -> None:
    red = decode_image(encode(Image.new("RGB", (16, 16), (200, 30, 30)).convert("CMYK"), "JPEG", quality=95))
    assert np.abs(np.asarray(red)[8, 8].astype(int) - (200, 30, 30)).max() < 6


def test_transparency_is_laid_on_white() -> None:
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    image.putpixel((0, 0), (255, 0, 0, 255))
    pixels = np.asarray(decode_image(encode(image, "PNG")))
    assert pixels[0, 0].tolist() == [255, 0, 0]
    assert pixels[4, 4].tolist() == [255, 255, 255]


def test_sixteen_bit_grey_is_scaled_and_not_clipped() -> None:
    grey = Image.fromarray(np.array([[0, 32896, 65535, 257]], dtype=np.uint16))
    assert np.asarray(decode_image(encode(grey, "PNG")))[0, :, 0].tolist() == [0, 128, 255, 1]


def test_exif_rotation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    data = encode(photo(), "JPEG", exif=exif)
    assert decode_image(data).size == (30, 40)


def test_a_large_jpeg_is_reduced_while_decoding() -> None:
    data = encode(photo(400, 320), "JPEG")
    assert decode_image(data).size == (400, 320)
    assert decode_image(data, smallest_side=100).size == (200, 160)
    assert decode_image(data, smallest_side=500).size == (400, 320)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a picture",
        encode(photo(200, 200), "JPEG")[:5000],
        encode(photo(200, 200), "PNG")[:5000],
        encode(photo(), "JPEG")[:30],
        encode(Image.new("F", (4, 4)), "TIFF"),
    ],
    ids=["empty", "text", "truncated jpeg", "truncated png", "header only", "float"],
)
def test_damage_is_a_broken_sample(data: bytes) -> None:
    with pytest.raises(BrokenSample):
        decode_image(data)


def test_a_decompression_bomb_is_a_broken_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(BrokenSample, match="decompression bomb"):
        decode_image(encode(photo(), "PNG"))


def whole(data: bytes, box: tuple[int, int, int, int]) -> np.ndarray:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    return np.asarray(image.crop(box).resize((40, 32), Image.Resampling.BICUBIC)).astype(int)


@pytest.mark.parametrize(("box", "largest"), [((7, 9, 67, 54), 0.1), ((3, 5, 203, 165), 1.0), ((21, 9, 380, 300), 1.0)])
def test_a_crop_is_decoded_at_no_more_than_it_needs(box: tuple[int, int, int, int], largest: float) -> None:
    smooth = Image.effect_noise((25, 20), 90).convert("RGB").resize((400, 320), Image.Resampling.BICUBIC)
    data = encode(smooth, "JPEG", quality=90)
    pixels = Picture(data).crop(box, 32, 40).permute(1, 2, 0).numpy()
    assert np.abs(whole(data, box) - pixels).mean() < largest
    kept = Picture(Image.open(io.BytesIO(data))).crop(box, 32, 40)  # it was opened already, and is decoded in full
    assert np.abs(whole(data, box) - kept.permute(1, 2, 0).numpy()).mean() < 0.1


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pixels_are_those_of_pillow(mode: str) -> None:
    exif = Image.Exif()
    for orientation in (1, 6):
        exif[0x0112] = orientation
        data = encode(photo(41, 30).convert(mode), "JPEG", exif=exif)
        picture, expected = Picture(data), decode_image(data)
        assert picture.size == expected.size
        assert np.array_equal(picture.image(), expected)
        assert np.array_equal(picture.pixels().permute(1, 2, 0), expected)


def test_damage_may_show_when_pixels_are_asked_for() -> None:
    with pytest.raises(BrokenSample, match="truncated"):
        Picture(encode(photo(200, 200), "JPEG")[:5000]).pixels()


def test_no_warning_and_no_difference_without_torchvisions_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(photo(), "JPEG")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = Picture(data).pixels()
    monkeypatch.setattr(torch.ops, "image", SimpleNamespace())
    assert torch.equal(Picture(data).pixels(), pixels)


@pytest.mark.parametrize("side", [120, 700])
def test_jitter_of_a_crop_is_that_of_pillow_on_the_whole(side: int) -> None:
    """700 pixels: of the mean grey some rows are enough."""
    image = Image.effect_noise((25, 20), 90).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    image = Image.merge("RGB", [image.getchannel(0), image.getchannel(1).point(lambda v: 255 - v), image.getchannel(2)])
    box, reference, equal = (10, 20, 90, 100), v2.ColorJitter(0.4, 0.4, 0.4), 0
    for seed in range(12):
        with keyed_randomness(seed):
            change = ColorJitter(0.4).draw()
        with keyed_randomness(seed):
            expected = np.asarray(reference(image).crop(box)).astype(int)
        pixels = Picture(image).crop(box, 80, 80, change).permute(1, 2, 0).numpy()
        apart = np.abs(expected - pixels)
        assert apart.mean() <= (0 if side == 120 else 0.5)
        equal += int(apart.max() == 0)
    assert equal >= 6
    assert not np.array_equal(expected, np.asarray(image.crop(box)))


def test_jitter_of_a_reduced_picture_is_the_same() -> None:
    smooth = Image.effect_noise((25, 20), 90).convert("RGB").resize((400, 320), Image.Resampling.BICUBIC)
    data, box = encode(smooth, "JPEG", quality=90), (21, 9, 380, 301)
    with keyed_randomness(1):
        change = ColorJitter(0.4).draw()
    reduced = Picture(data).crop(box, 32, 40, change).int()
    whole = Picture(Image.open(io.BytesIO(data))).crop(box, 32, 40, change).int()
    assert (reduced - whole).abs().float().mean() < 1.5
