"""Inputs with which an encoder is traced and checked, and which of their sizes vary."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from d2v.errors import UserError
from d2v.model.encoder import Encoder
from d2v.nn.feature_extractor import ConvFeatureExtractor, PatchEmbedding, TokenEmbedding

Example = tuple[Tensor, ...]


class ExampleInputs:
    """Of one kind of feature extractor."""

    names: tuple[str, ...] = ("x", "padding_mask")
    described: str
    """What the inputs are, in Markdown."""

    @abstractmethod
    def make(self, batch: int, size: int) -> Example:
        """Random inputs; of two or more samples the last is padded, where there is padding. ``size`` counts from 0."""

    @abstractmethod
    def dynamic(self) -> tuple[dict[int, Any], ...]:
        """Of each input, its dimensions of any size."""


class _Pictures(ExampleInputs):
    names = ("x",)

    def __init__(self, extractor: PatchEmbedding) -> None:
        self.patch, self.channels = extractor.patch_size, extractor.proj.in_channels
        self.described = (
            f"`x`: float32 [B, {self.channels}, H, W], normalised as preprocessor_config.json says (without one "
            f"by ImageNet's mean and deviation); H and W are multiples of {self.patch}, at least {2 * self.patch}"
        )

    def make(self, batch: int, size: int) -> Example:
        rows, columns = 3 + size, 4 + 2 * size
        return (torch.randn(batch, self.channels, rows * self.patch, columns * self.patch),)

    def dynamic(self) -> tuple[dict[int, Any], ...]:
        rows, columns = (torch.export.Dim(name, min=2, max=4096) for name in ("rows", "columns"))
        return ({0: torch.export.Dim.DYNAMIC, 2: self.patch * rows, 3: self.patch * columns},)


class _Sequences(ExampleInputs):
    def dynamic(self) -> tuple[dict[int, Any], ...]:
        any_size = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
        return any_size, any_size

    @staticmethod
    def padding(batch: int, length: int, kept: int) -> Tensor:
        mask = torch.zeros(batch, length, dtype=torch.bool)
        if batch > 1:
            mask[-1, kept:] = True
        return mask


class _Texts(_Sequences):
    def __init__(self, extractor: TokenEmbedding, longest: int | None) -> None:
        self.vocab_size, self.longest = extractor.embedding.num_embeddings, longest
        limit = "" if longest is None else f", N at most {longest}"
        self.described = (
            f"`x`: int64 [B, N], ids of the tokens of `<s> text </s>`{limit}, N at least 2; `padding_mask`: bool "
            "[B, N], true where `x` is padding (all false: there is none)"
        )

    def make(self, batch: int, size: int) -> Example:
        length = min(9 + 7 * size, self.longest or 10**9)
        ids = torch.randint(0, self.vocab_size, (batch, length))
        return ids, self.padding(batch, length, length // 2)


class _Sound(_Sequences):
    def __init__(self, extractor: ConvFeatureExtractor) -> None:
        self.stride, self.receptive_field = extractor.stride, extractor.receptive_field
        self.described = (
            "`x`: float32 [B, L], 16 kHz sound, each clip with mean 0 and variance 1, L at least "
            f"{self.receptive_field + self.stride}; `padding_mask`: bool [B, L], true where `x` is padding (all false: "
            "there is none)"
        )

    def make(self, batch: int, size: int) -> Example:
        length = self.receptive_field + (9 + 8 * size) * self.stride + 3 * size + 1
        return torch.randn(batch, length), self.padding(batch, length, length - 4 * self.stride)


def example_inputs(encoder: Encoder) -> ExampleInputs:
    """By the encoder's feature extractor.

    Raises:
        UserError: There is none of this kind.
    """
    extractor = encoder.front.feature_extractor
    if isinstance(extractor, PatchEmbedding):
        return _Pictures(extractor)
    if isinstance(extractor, TokenEmbedding):
        return _Texts(extractor, getattr(encoder.front, "max_positions", None))
    if isinstance(extractor, ConvFeatureExtractor):
        return _Sound(extractor)
    raise UserError(
        f"--format: what {type(encoder.front).__name__} reads is not known; --format safetensors can hold it"
    )
