"""How pixels are normalised: data and encoder must agree, so it lies among the encoder's assets."""

import json
from collections.abc import Mapping
from typing import NamedTuple

ASSET = "preprocessor_config.json"
"""Named, and written, as Hugging Face's image processors do it."""


class Normalisation(NamedTuple):
    """``(x - mean) / std`` of red, green and blue in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def to_asset(self) -> str:
        return json.dumps({"image_mean": list(self.mean), "image_std": list(self.std)}, indent=2) + "\n"


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def read_normalisation(assets: Mapping[str, str]) -> Normalisation | None:
    """What the assets of an encoder say; None if they say nothing, or nothing that makes sense."""
    try:
        found = json.loads(assets[ASSET])
        values = [tuple(float(value) for value in found[key]) for key in ("image_mean", "image_std")]
    except (KeyError, TypeError, ValueError):
        return None
    mean, std = values
    return Normalisation(mean, std) if len(mean) == len(std) > 0 and min(std) > 0 else None
