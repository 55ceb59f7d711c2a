"""What features depend on: kept in each file of them, and compared before one is continued or searched."""

import json
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import torch

from d2v.data.encoder_inputs import Inputs
from d2v.model.encoder import Encoder

# Where a checkpoint and inputs lie says nothing of what they are.
_PLACES = ("checkpoint", "input")


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
    return "none" if value is None else ",".join(map(str, value)) if isinstance(value, list) else str(value)
