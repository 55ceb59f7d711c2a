"""From a checkpoint and inputs to features, as `d2v embed` computes them and `d2v search` needs them of its queries."""

import math
import os
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from d2v.errors import UserError

if TYPE_CHECKING:  # nothing heavy is imported before the arguments are known to be right
    import torch

    from d2v.data.inputs import Inputs
    from d2v.features.pieces import Lengths
    from d2v.model.encoder import Encoder, Layer, Pooling

# Tokens of pictures that are encoded at once; a processor is fastest on batches that fit its cache.
_PATCHES_CPU, _PATCHES_GPU = 4_096, 65_536


@dataclass(frozen=True)
class FeatureOptions:
    """What features of an input depend on, beside its content and the encoder's."""

    weights: Literal["student", "teacher"]
    layer: "Layer"
    pool: "Pooling"
    precision: Literal["32", "bf16"]
    chunk_seconds: float
    overlap_seconds: float
    image_size: tuple[int, int] | None
    """Height and width in pixels; None: that of the encoder, or no pictures."""

    @classmethod
    def of(cls, values: Any) -> "FeatureOptions":
        """From parsed arguments, or an object with attributes of the same names."""
        return cls(**{name: getattr(values, name) for name in cls.__dataclass_fields__})


def bound_memory() -> None:
    """Have oneDNN keep what it prepares for a convolution of a few shapes only; before the first convolution.

    Each length of sound is a shape of its own, and it keeps a thousand: about 12 MB each for a small encoder.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8")


def open_inputs(encoder: "Encoder", root: str, options: FeatureOptions) -> "Inputs":
    """By the module ``inputs`` of the folder that the encoder's class lies in: one modality, one folder.

    Raises:
        UserError: There are no such inputs, or the modality has no such module.
    """
    class_path = encoder.recipe["front"]["class_path"]
    package = class_path.rpartition(".")[0].rpartition(".")[0]
    if find_spec(f"{package}.inputs") is None:
        raise UserError(f"--checkpoint: nothing here reads what {class_path} encodes; a module {package}.inputs would")
    inputs = import_module(f"{package}.inputs").open_inputs(root, encoder)
    if options.image_size is not None:
        inputs.resize(*options.image_size)
    return inputs


def plan_lengths(inputs: "Inputs", device: "torch.device", options: FeatureOptions) -> "Lengths | int":
    """Of pieces and batches; a processor is fastest on batches that fit its cache.

    Raises:
        UserError: The pieces that are asked for are too short for their overlap.
    """
    from d2v.features.pieces import Lengths

    on_cpu = device.type == "cpu"
    if (rate := inputs.sample_rate) is not None:
        chunk, overlap = options.chunk_seconds, options.overlap_seconds
        if not 0 <= overlap < chunk < math.inf:
            raise UserError(
                f"--chunk_seconds {chunk:g} and --overlap_seconds {overlap:g}: a piece must be longer than what it "
                "shares with the next, and that not below 0"
            )
        return Lengths(round(chunk * rate), round(overlap * rate), (15 if on_cpu else 60) * rate, 600 * rate)
    if inputs.longest is not None:
        # The first token of a piece is never kept if two or more are shared.
        return Lengths(inputs.longest, max(2, inputs.longest // 4), 2_048 if on_cpu else 32_768, 2**18)
    return max(1, (_PATCHES_CPU if on_cpu else _PATCHES_GPU) // (inputs.num_parts or _PATCHES_GPU))


def settings_of(
    encoder: "Encoder", inputs: "Inputs", device: "torch.device", options: FeatureOptions, checkpoint: str, root: str
) -> dict[str, Any]:
    """All that the features depend on, as plain values: what a file of them records."""
    from d2v import __version__
    from d2v.features.settings import encoder_digest, inputs_digest

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


def default_workers(device: "torch.device") -> int:
    """Processes that read files: on a CPU one, since its cores are wanted for the encoder, on a GPU up to eight."""
    from d2v.data.cores import available_cores

    cores = available_cores()
    return max(1, cores // 8) if device.type == "cpu" else max(1, min(8, cores - 1))
