"""Pixels are normalised in one way from pretraining to the exported model."""

import json
from pathlib import Path

import pytest
import torch
from encoders import vision_encoder
from PIL import Image

from d2v.data.normalisation import ASSET, IMAGENET, Normalisation, read_normalisation
from d2v.modalities.vision.data import ImageNetDataModule
from d2v.modalities.vision.inputs import open_inputs

HALF = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for name in ("train/a/1.png", "train/b/2.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new("RGB", (16, 16), (255, 0, 128)).save(tmp_path / name)
    return tmp_path


def data(root: Path, **settings: object) -> ImageNetDataModule:
    return ImageNetDataModule(str(root), batch_size=2, image_size=16, num_workers=0, **settings)  # type: ignore[arg-type]


def pixels_of(module: ImageNetDataModule) -> torch.Tensor:
    return module.eval_dataset("train")[0, 0].inputs[:, 0, 0]


def test_an_encoder_keeps_what_it_was_trained_with(pictures: Path) -> None:
    encoder = vision_encoder(image_size=16, patch_size=4, width=16, depth=1, num_heads=2)
    module = data(pictures)
    module.adapt_to(encoder)
    assert read_normalisation(encoder.assets) == IMAGENET
    given = data(pictures, mean=HALF.mean, std=HALF.std)
    given.adapt_to(encoder)
    assert read_normalisation(encoder.assets) == HALF
    expected = torch.tensor([1.0, -1.0, 2 * 128 / 255 - 1])
    torch.testing.assert_close(pixels_of(given), expected)
    module.adapt_to(encoder)  # which does not say how: the encoder does
    torch.testing.assert_close(pixels_of(module), expected)
    torch.testing.assert_close(open_inputs(str(pictures), encoder).read(0, 0, None)[:, 0, 0], expected)


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", '{"image_mean": [0.5], "image_std": [0.5, 0.5]}', '{"image_mean": [0.5], "image_std": [0]}',
     '{"image_mean": 1, "image_std": 1}', '{"image_mean": [], "image_std": []}'],
)  # fmt: skip
def test_what_makes_no_sense_says_nothing(text: str) -> None:
    assert read_normalisation({ASSET: text}) is None


def test_it_is_written_as_it_is_read() -> None:
    assert read_normalisation({ASSET: HALF.to_asset()}) == HALF
    assert json.loads(HALF.to_asset()) == {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
