"""A folder of tiny pictures whose class can be seen, shared by the tests of picture classification."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("blue", "green", "red")


def write_pictures(root: Path, num_train: int = 24, num_val: int = 6, side: int = 20) -> Path:
    """``train`` and ``val`` with a folder a class: noise, one channel of which is brighter."""
    generator = np.random.default_rng(0)
    for split, count in (("train", num_train), ("val", num_val)):
        for number in range(count):
            label = number % 3
            pixels = generator.integers(0, 120, (side, side + 4, 3), dtype=np.uint8)
            pixels[..., 2 - label] += 100
            folder = root / split / CLASSES[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{split}_{number:03d}.png")
    return root
