"""Inputs with which an encoder is traced and checked, and which of their sizes vary."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from d2v.errors import UserError
from d2v.model.encoder import Encoder
from d2v.nn.feature_extractor import ConvFeatureExtractor, PatchEmbedding, TokenEmbedding

Example = tuple[Tensor, ...]

_ANY_SIZE = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}


@dataclass(frozen=True)
class ExampleInputs:
    """Of one kind of feature extractor."""

    described: str
    """What the inputs are, in Markdown."""
    make: Callable[[int, int], Example]
    """From a number of samples and a size, which counts from 0, to random inputs; of two or more samples the last is
    padded, where there is padding."""
    names: tuple[str, ...] = ("x", "padding_mask")
    dynamic: tuple[dict[int, Any], ...] = (_ANY_SIZE, _ANY_SIZE)
    """Of each input, its dimensions of any size."""


def example_inputs(encoder: Encoder) -> ExampleInputs:
    """By the encoder's feature extractor.

    Raises:
        UserError: There is none of this kind.
    """
    extractor = encoder.front.feature_extractor
    if isinstance(extractor, PatchEmbedding):
        return _pictures(extractor)
    if isinstance(extractor, TokenEmbedding):
        return _texts(extractor, getattr(encoder.front, "max_positions", None))
    if isinstance(extractor, ConvFeatureExtractor):
        return _sound(extractor)
    raise UserError(
        f"--format: what {type(encoder.front).__name__} reads is not known; --format safetensors can hold it"
    )


def _pictures(extractor: PatchEmbedding) -> ExampleInputs:
    patch, channels = extractor.patch_size, extractor.proj.in_channels
    rows, columns = torch.export.Dim("rows", min=2, max=4096), torch.export.Dim("columns", min=2, max=4096)
    return ExampleInputs(
        f"`x`: float32 [B, {channels}, H, W], normalised as preprocessor_config.json says (without one by ImageNet's "
        f"mean and deviation); H and W are multiples of {patch}, at least {2 * patch}",
        lambda batch, size: (torch.randn(batch, channels, (3 + size) * patch, (4 + 2 * size) * patch),),
        names=("x",),
        dynamic=({0: torch.export.Dim.DYNAMIC, 2: patch * rows, 3: patch * columns},),
    )


def _texts(extractor: TokenEmbedding, longest: int | None) -> ExampleInputs:
    def make(batch: int, size: int) -> Example:
        length = min(9 + 7 * size, longest or 10**9)
        ids = torch.randint(0, extractor.embedding.num_embeddings, (batch, length))
        return ids, _padding(batch, length, length // 2)

    limit = "" if longest is None else f", N at most {longest}"
    return ExampleInputs(
        f"`x`: int64 [B, N], ids of the tokens of `<s> text </s>`{limit}, N at least 2; `padding_mask`: bool [B, N], "
        "true where `x` is padding (all false: there is none)",
        make,
    )


def _sound(extractor: ConvFeatureExtractor) -> ExampleInputs:
    stride, receptive_field = extractor.stride, extractor.receptive_field

    def make(batch: int, size: int) -> Example:
        length = receptive_field + (9 + 8 * size) * stride + 3 * size + 1
        return torch.randn(batch, length), _padding(batch, length, length - 4 * stride)

    return ExampleInputs(
        "`x`: float32 [B, L], 16 kHz sound, each clip with mean 0 and variance 1, L at least "
        f"{receptive_field + stride}; `padding_mask`: bool [B, L], true where `x` is padding (all false: there is "
        "none)",
        make,
    )


def _padding(batch: int, length: int, kept: int) -> Tensor:
    mask = torch.zeros(batch, length, dtype=torch.bool)
    if batch > 1:
        mask[-1, kept:] = True
    return mask
