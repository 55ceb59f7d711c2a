"""What features depend on: kept in each file of them, and compared before one is continued or searched."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from hashlib import blake2b
from typing import Any, Literal

import torch

from d2v.data.encoder_inputs import Inputs
from d2v.model.encoder import Encoder, Layer, Pooling

# Where a checkpoint and inputs lie says nothing of what they are.
_PLACES = ("checkpoint", "input")


@dataclass(frozen=True)
class FeatureOptions:
    """What features of an input depend on, beside its content and the encoder's."""

    weights: Literal["student", "teacher"] = "student"
    layer: Layer = None
    pool: Pooling = "mean"
    precision: Literal["32", "bf16"] = "32"
    chunk_seconds: float = 30.0
    overlap_seconds: float = 5.0
    image_size: tuple[int, int] | None = None
    """Height and width in pixels; None: that of the encoder, or no pictures."""

    @classmethod
    def of_file(cls, settings: Mapping[str, Any]) -> "FeatureOptions":
        """Those that the features in a file were made with."""
        return cls(**{field.name: settings[field.name] for field in fields(cls)})

    @property
    def autocast(self) -> torch.dtype | None:
        """Precision to compute in where autocast sees fit; None: that of the weights."""
        return torch.bfloat16 if self.precision == "bf16" else None


def all_settings(
    encoder: Encoder, inputs: Inputs, device: torch.device, options: FeatureOptions, checkpoint: str, root: str
) -> dict[str, Any]:
    """All that the features depend on, as plain values: what a file of them records."""
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
    """Of the class, the arguments, the weights and the assets of an encoder, wherever it was loaded from."""
    digest = blake2b(json.dumps([encoder.recipe, encoder.assets], sort_keys=True).encode(), digest_size=12)
    for name, value in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def inputs_digest(inputs: Inputs) -> str:
    """Of the names and the content of inputs: for files, of when they were written and how large they are."""
    digest = blake2b(inputs.fingerprint().encode(), digest_size=12)
    for name in inputs.names:
        digest.update(f"{name}\0".encode())
    return digest.hexdigest()


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Which settings are not the same, a phrase each; none if features are the same."""
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
