"""How pixels are normalised: data and encoder must agree, so it is kept among the encoder's assets."""

import functools
import json
from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

ASSET = "preprocessor_config.json"
"""Name and format are those of Hugging Face's image processors."""


class Normalisation(NamedTuple):
    """``(x - mean) / std`` of red, green and blue in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def apply(self, pixels: Tensor) -> Float[Tensor, "*b c h w"]:
        """Of pixels from 0 to 255, bytes or others, where they lie."""
        scale, shift = _constants(self, pixels.device)
        floats = torch.empty(pixels.shape, device=pixels.device).copy_(pixels)
        return torch.addcmul(shift, floats, scale, out=floats)

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


def normalised(inputs: Tensor, assets: Mapping[str, str]) -> Tensor:
    """Inputs of an encoder with these assets: pictures travel as bytes, a quarter of what floats take, up to here."""
    if inputs.dtype != torch.uint8:
        return inputs
    return (read_normalisation(assets) or IMAGENET).apply(inputs)


@functools.lru_cache(maxsize=16)
def _constants(normalisation: Normalisation, device: torch.device) -> tuple[Tensor, Tensor]:
    """Factor and summand [C, 1, 1] of each channel; made once, since a device waits for what comes from the host."""
    mean, std = normalisation
    scale = torch.tensor([1 / (255 * s) for s in std], device=device).view(-1, 1, 1)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device).view(-1, 1, 1)
    return scale, shift
