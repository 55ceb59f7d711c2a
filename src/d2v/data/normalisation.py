"""How pixels are normalised: data and encoder must agree, so it is kept among the encoder's assets."""

import json
from collections.abc import Mapping
from typing import NamedTuple

ASSET = "preprocessor_config.json"
"""Name and format are those of Hugging Face's image processors."""


class Normalisation(NamedTuple):
    """``(x - mean) / std`` of red, green and blue in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def to_asset(self) -> str:
        return json.dumps({"image_mean": list(self.mean), "image_std": list(self.std)}, indent=2) + "\n"


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def read_normalisation(assets: Mapping[str, str]) -> Normalisation | None:
    """The normalisation among the assets of an encoder; None if there is none, or none that makes sense."""
    try:
        found = json.loads(assets[ASSET])
        mean, std = tuple(map(float, found["image_mean"])), tuple(map(float, found["image_std"]))
    except (KeyError, TypeError, ValueError):
        return None
    if len(mean) != len(std) or min(std, default=0) <= 0:
        return None
    return Normalisation(mean, std)
