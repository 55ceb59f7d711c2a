"""RandAugment, and all that is random in the pictures of the shipped recipes."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from PIL import Image

from d2v.data.samples import keyed_randomness
from d2v.errors import UserError
from d2v.modalities.vision import rand_augment
from d2v.modalities.vision.data import ImageNetDataModule
from d2v.modalities.vision.decoding import Picture
from d2v.modalities.vision.rand_augment import RandAugment
from d2v.modalities.vision.transforms import TrainTransform

CONFIGS = Path(__file__).parents[2] / "configs"
FILL = (124, 116, 104)

# Means of red, green, blue, and of all values times their place modulo 7, of the picture below after each operation of
# timm 1.0.31 (timm.data.auto_augment, Pillow 13.0, magnitude 6, bicubic, the same fill), in both directions.
TIMM = {
    ("auto_contrast", 0.6): (135.37, 105.47, 129.00, 368.71),
    ("equalize", 0.6): (127.49, 126.29, 127.58, 380.31),
    ("invert", 0.6): (128.97, 148.97, 126.00, 403.71),
    ("posterize", 0.6): (94.31, 72.50, 97.56, 263.75),
    ("solarize", 0.6): (86.50, 86.39, 67.31, 240.14),
    ("solarize_add", 0.6): (158.13, 149.15, 161.42, 467.77),
    ("color", 0.6): (132.24, 100.89, 134.01, 366.20),
    ("color", -0.6): (119.40, 110.20, 120.76, 349.36),
    ("contrast", 0.6): (132.27, 100.77, 133.80, 365.71),
    ("contrast", -0.6): (119.58, 110.38, 120.95, 350.14),
    ("brightness", 0.6): (183.50, 159.29, 174.26, 515.88),
    ("brightness", -0.6): (57.48, 48.31, 58.85, 164.18),
    ("sharpness", 0.6): (126.14, 105.97, 129.01, 360.14),
    ("sharpness", -0.6): (125.96, 105.80, 128.88, 359.69),
    ("rotate", 0.6): (129.21, 109.59, 126.86, 364.81),
    ("rotate", -0.6): (128.93, 109.59, 129.89, 368.79),
    ("shear_x", 0.6): (128.75, 109.19, 127.76, 365.18),
    ("shear_x", -0.6): (128.79, 105.50, 125.83, 359.64),
    ("shear_y", 0.6): (125.09, 109.19, 124.05, 358.97),
    ("shear_y", -0.6): (126.44, 105.50, 123.58, 354.83),
    ("translate_x", 0.6): (135.91, 113.55, 126.33, 375.49),
    ("translate_x", -0.6): (123.04, 107.19, 119.50, 350.16),
    ("translate_y", 0.6): (129.54, 113.55, 120.03, 362.30),
    ("translate_y", -0.6): (124.70, 107.19, 121.12, 352.39),
}


def striped_picture(side: int = 32) -> Image.Image:
    y, x = np.mgrid[0:side, 0:side]
    channels = [(5 * x + 3 * y) % 200 + 20, (x * y) % 160 + 40, (7 * x + 11 * y) % 256]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def test_each_operation_does_what_timms_does() -> None:
    operations = dict(rand_augment._OPERATIONS)
    assert set(operations) == {name for name, _ in TIMM}
    places = np.arange(32 * 32).reshape(32, 32, 1) % 7
    for (name, strength), expected in TIMM.items():
        values = np.asarray(operations[name](striped_picture(), strength, FILL), dtype=np.float64)
        found = (*values.mean(axis=(0, 1)), (values * places).mean())
        assert found == pytest.approx(expected, abs=0.3), (name, strength)


def test_the_strongest_and_the_weakest_make_pictures_too() -> None:
    image = striped_picture(8)
    for name, operation in rand_augment._OPERATIONS:
        for strength in (-1.0, 0.0, 1.0):
            if strength >= 0 or name in rand_augment._TWO_SIDED:
                changed = operation(image, strength, FILL)
                assert (changed.size, changed.mode) == ((8, 8), "RGB")
    assert np.asarray(rand_augment._posterize(striped_picture(), 1.0, FILL)).max() == 128, "one bit is left"


def test_operations_and_magnitudes_are_drawn_as_in_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of fifteen with replacement, each applied with probability one half, N(9, 0.5) cut at 10, either sign."""
    seen: list[tuple[str, float]] = []

    def spy(name: str) -> rand_augment.Operation:
        def operation(image: Image.Image, strength: float, fill: rand_augment.Fill) -> Image.Image:
            seen.append((name, strength))
            return image

        return operation

    monkeypatch.setattr(rand_augment, "_OPERATIONS", [(name, spy(name)) for name, _ in rand_augment._OPERATIONS])
    augment = RandAugment()
    torch.manual_seed(0)
    for _ in range(15000):
        augment(Image.new("RGB", (2, 2)))
    assert len(seen) == pytest.approx(15000, rel=0.03)
    counts = Counter(name for name, _ in seen)
    assert len(counts) == 15
    assert min(counts.values()) > 0.85 * 1000
    assert max(counts.values()) < 1.15 * 1000
    one_sided = torch.tensor([strength for name, strength in seen if name not in rand_augment._TWO_SIDED])
    two_sided = torch.tensor([strength for name, strength in seen if name in rand_augment._TWO_SIDED])
    assert one_sided.min() > 0.6
    assert (one_sided == 1).float().mean() == pytest.approx(0.0228, abs=0.006), "two deviations above 9"
    assert two_sided.abs().median() == pytest.approx(0.9, abs=0.005)
    assert (two_sided < 0).float().mean() == pytest.approx(0.5, abs=0.02)
    assert two_sided.abs()[two_sided.abs() < 0.9].std() == pytest.approx(0.05 * 0.603, abs=0.003), "half a normal"


def test_magnitude_zero_and_probability_zero() -> None:
    image = striped_picture()
    assert RandAugment(prob=0.0)(image) is image
    for settings, message in (
        ({"magnitude": 11.0}, "magnitude must lie between 0 and 10"),
        ({"magnitude_std": -1.0}, "magnitude_std must be 0"),
        ({"prob": 2.0}, "prob must lie between 0 and 1"),
        ({"num_ops": -1}, "num_ops must be 0"),
    ):
        with pytest.raises(ValueError, match=message):
            RandAugment(**settings)


def picture_recipes() -> dict[str, tuple[str, dict[str, Any]]]:
    """Name and data settings of the shipped picture recipes, one for each kind of augmentation."""
    kinds: dict[str, tuple[str, dict[str, Any]]] = {}
    for path in sorted(CONFIGS.rglob("*.yaml")):
        data = (yaml.safe_load(path.read_text()) or {}).get("data") or {}
        settings = data.get("init_args", {})
        if str(data.get("class_path")).endswith("ImageNetDataModule"):
            names = ("min_crop_scale", "flip", "color_jitter", "augment", "random_erasing")
            kind = json.dumps([settings.get(name) for name in names])
            kinds.setdefault(kind, (path.name, settings))
    return kinds


RECIPES = picture_recipes()


def test_the_finetuning_recipes_augment() -> None:
    augmented = [name for name, settings in RECIPES.values() if settings.get("augment")]
    assert augmented, "else the test below proves little"
    assert all(settings["random_erasing"] == 0.25 for _, settings in RECIPES.values() if settings.get("augment"))


@pytest.mark.parametrize(("name", "settings"), RECIPES.values(), ids=[name for name, _ in RECIPES.values()])
def test_a_shipped_recipe_draws_thousands_of_pictures(name: str, settings: dict[str, Any]) -> None:
    """The recipe's own augmentation on tiny pictures: nothing that it can draw ends the run.

    Where operations are drawn, too, there are many combinations; elsewhere crop, flip and jitter alone vary."""
    parser = ArgumentParser()
    parser.add_class_arguments(ImageNetDataModule, "data")
    data = parser.instantiate(parser.parse_object({"data": {**settings, "image_size": 4}})).data
    image = striped_picture(5)
    pixels = torch.zeros(())
    for sample in range(20_000 if settings.get("augment") else 4_000):
        with keyed_randomness(0, 0, sample):
            pixels = data.train_transform(Picture(image))
        if sample % 1000 == 0:
            assert pixels.isfinite().all()
    assert pixels.shape == (3, 4, 4)


def test_any_transform_of_pictures_by_class_path() -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(ImageNetDataModule, "data")

    def build(class_path: str, **init_args: Any) -> TrainTransform:
        augment = {"class_path": class_path, "init_args": init_args}
        config = parser.parse_object({"data": {"root": "x", "image_size": 8, "augment": augment}})
        transform: TrainTransform = parser.instantiate(config).data.train_transform
        return transform

    transform = build("torchvision.transforms.v2.TrivialAugmentWide")
    assert transform(Picture(striped_picture())).shape == (3, 8, 8)
    assert type(transform.augment).__name__ == "TrivialAugmentWide"
    before = torch.get_rng_state()
    with pytest.raises(UserError, match=r"torchvision\.\S+ToImage, which returns torchvision\S+Image: name a"):
        build("torchvision.transforms.v2.ToImage")
    with pytest.raises(UserError, match="makes a picture of mode RGB and 4 x 4 pixels of an RGB picture of 8 x 8"):
        build("torchvision.transforms.v2.CenterCrop", size=4)
    assert torch.equal(before, torch.get_rng_state())
