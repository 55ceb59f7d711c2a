"""What features depend on. Each file keeps it, and it is compared before a file is continued or searched."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from hashlib import blake2b
from typing import Any, Literal

import torch

from d2v.data.encoder_inputs import Inputs
from d2v.model.encoder import Encoder, Layer, Pooling

# Paths, which may change while the content stays the same.
_PLACES = ("checkpoint", "input", "space_folder")


@dataclass(frozen=True)
class FeatureOptions:
    """What features depend on, besides the inputs and the weights of the encoder."""

    weights: Literal["student", "teacher"] = "student"
    layer: Layer = None
    pool: Pooling = "mean"
    precision: Literal["32", "bf16"] = "32"
    chunk_seconds: float = 30.0
    overlap_seconds: float = 5.0
    image_size: tuple[int, int] | None = None
    """Height and width of pictures in pixels; None: what the encoder was trained with."""

    @classmethod
    def of_file(cls, settings: Mapping[str, Any]) -> "FeatureOptions":
        """The options that the features in a file were made with."""
        return cls(**{field.name: settings[field.name] for field in fields(cls)})

    @property
    def autocast(self) -> torch.dtype | None:
        """Precision for autocast; None: that of the weights."""
        return torch.bfloat16 if self.precision == "bf16" else None


SPACE_OPTIONS = FeatureOptions(layer="mean", pool="none")
"""What the projections of a shared space take: of all layers, before they are pooled over parts."""


def all_settings(
    encoder: Encoder, inputs: Inputs, device: torch.device, options: FeatureOptions, checkpoint: str, root: str
) -> dict[str, Any]:
    """All that the features depend on, as plain values to be kept in their file."""
    from d2v import __version__

    values = asdict(options)
    values["image_size"] = None if inputs.image_size is None else list(inputs.image_size)
    if inputs.sample_rate is None:
        values["chunk_seconds"] = values["overlap_seconds"] = None
    return {
        "version": __version__,
        "checkpoint": checkpoint,
        "checkpoint_digest": encoder_digest(encoder),
        "input": root,
        "input_digest": inputs_digest(inputs),
        **values,
        "device": device.type,
    }


def encoder_digest(encoder: Encoder) -> str:
    """Hash of an encoder's class, arguments, weights and assets; it does not depend on where they were loaded from."""
    digest = blake2b(json.dumps([encoder.recipe, encoder.assets], sort_keys=True).encode(), digest_size=12)
    for name, value in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def inputs_digest(inputs: Inputs) -> str:
    """Hash of the inputs: of their names and content, or of the size and time of files."""
    digest = blake2b(inputs.fingerprint().encode(), digest_size=12)
    for name in inputs.names:
        digest.update(f"{name}\0".encode())
    return digest.hexdigest()


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """One phrase for each setting that differs; none if the features are the same."""
    found = []
    for name in dict.fromkeys([*one, *other]):
        if name in _PLACES or one.get(name) == other.get(name):
            continue
        if name.endswith("_digest"):
            found.append(f"another content of --{name.removesuffix('_digest')}")
        else:
            found.append(f"{name} {_shown(one.get(name))} in place of {_shown(other.get(name))}")
    return found


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value)
