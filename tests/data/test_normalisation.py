"""Pixels are normalised in one way from pretraining to the exported model."""

import json
from pathlib import Path

import pytest
import torch
from encoders import vision_encoder
from PIL import Image

from d2v.data.normalisation import ASSET, IMAGENET, Normalisation, normalised, read_normalisation
from d2v.modalities.vision.data import ImageNetDataModule
from d2v.modalities.vision.inputs import open_inputs
from d2v.model.encoder import Encoder

HALF = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for name in ("train/a/1.png", "train/b/2.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new("RGB", (16, 16), (255, 0, 128)).save(tmp_path / name)
    return tmp_path


def data(root: Path, **settings: object) -> ImageNetDataModule:
    return ImageNetDataModule(str(root), batch_size=2, image_size=16, num_workers=0, **settings)  # type: ignore[arg-type]


def pixels_of(module: ImageNetDataModule, encoder: Encoder) -> torch.Tensor:
    pixels = module.eval_dataset("train")[0, 0].inputs  # type: ignore[index]
    return normalised(pixels, encoder.assets)[:, 0, 0]


def test_an_encoder_keeps_what_it_was_trained_with(pictures: Path) -> None:
    encoder = vision_encoder(image_size=16, patch_size=4, width=16, depth=1, num_heads=2)
    module = data(pictures)
    module.adapt_to(encoder)
    assert read_normalisation(encoder.assets) == IMAGENET
    given = data(pictures, mean=HALF.mean, std=HALF.std)
    given.adapt_to(encoder)
    assert read_normalisation(encoder.assets) == HALF
    expected = torch.tensor([1.0, -1.0, 2 * 128 / 255 - 1])
    torch.testing.assert_close(pixels_of(given, encoder), expected)
    module.adapt_to(encoder)  # which does not say how: the encoder does
    torch.testing.assert_close(pixels_of(module, encoder), expected)
    read = open_inputs(str(pictures), encoder).read(0, 0, None)
    torch.testing.assert_close(normalised(read, encoder.assets)[:, 0, 0], expected)


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", '{"image_mean": [0.5], "image_std": [0.5, 0.5]}', '{"image_mean": [0.5], "image_std": [0]}',
     '{"image_mean": 1, "image_std": 1}', '{"image_mean": [], "image_std": []}'],
)  # fmt: skip
def test_what_makes_no_sense_says_nothing(text: str) -> None:
    assert read_normalisation({ASSET: text}) is None


def test_bytes_are_normalised_as_the_loading_processes_did() -> None:
    pixels = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    scale = torch.tensor([1 / (255 * std) for std in IMAGENET.std]).view(3, 1, 1)
    shift = torch.tensor([-m / s for m, s in zip(IMAGENET.mean, IMAGENET.std, strict=True)]).view(3, 1, 1)
    before = torch.addcmul(shift, pixels.float(), scale)
    assert torch.equal(normalised(torch.stack([pixels, pixels]), {})[1], before)
    assert torch.equal(normalised(pixels[None].contiguous(memory_format=torch.channels_last), {})[0], before)
    floats = torch.randn(2, 3, 4, 4)
    assert normalised(floats, {}) is floats


def test_it_is_written_as_it_is_read() -> None:
    assert read_normalisation({ASSET: HALF.to_asset()}) == HALF
    assert json.loads(HALF.to_asset()) == {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
