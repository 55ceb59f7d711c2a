"""Inputs with which an encoder is traced and checked when it is exported, and which of their sizes vary."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Size = int | tuple[int, int, int]
"""A fixed size; or (step, least, most): a multiple of ``step``, at least ``least`` and at most ``most`` times it."""


@dataclass(frozen=True)
class ExampleInputs:
    """What an exported program is called with."""

    described: str
    """In Markdown, for the card of the program."""
    make: Callable[[int, int], tuple[Tensor, ...]]
    """From a number of samples and a size, counted from 0, to random inputs. Of several samples the last is padded,
    where there is padding."""
    dynamic: tuple[dict[int, Any], ...]
    """Of each input, its dimensions that may have any size."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the inputs."""
        return ("x", "padding_mask")[: len(self.dynamic)]

    @classmethod
    def unpadded(cls, described: str, shape: Sequence[Size]) -> "ExampleInputs":
        """Inputs ``x``, float32 [B, *shape], that have one size in a batch."""
        varying = [dim for dim, size in enumerate(shape) if isinstance(size, tuple)]

        def make(batch: int, size: int) -> tuple[Tensor]:
            sizes: list[Any] = list(shape)
            for number, dim in enumerate(varying):  # no two of them alike
                step, least, _ = sizes[dim]
                sizes[dim] = step * (least + 1 + number + (number + 1) * size)
            return (torch.randn(batch, *sizes),)

        dynamic: dict[int, Any] = {0: torch.export.Dim.DYNAMIC}
        for dim in varying:
            step, least, most = shape[dim]  # type: ignore[misc]
            dynamic[dim + 1] = step * torch.export.Dim(f"size{dim}", min=least, max=most)
        return cls(f"`x`: float32 {described}", make, (dynamic,))

    @classmethod
    def padded(
        cls,
        described: str,
        values: Callable[[int, int], Tensor],
        length: Callable[[int], int],
        kept: Callable[[int], int],
    ) -> "ExampleInputs":
        """Sequences ``x`` [B, L] or [B, L, C] of any length with their ``padding_mask``.

        Args:
            described: ``x`` alone.
            values: From B and L to ``x``.
            length: From a size, counted from 0, to L.
            kept: From L to what is no padding of the last sample.
        """

        def make(batch: int, size: int) -> tuple[Tensor, Tensor]:
            x = values(batch, length(size))
            padding_mask = torch.zeros(x.shape[:2], dtype=torch.bool)
            if batch > 1:
                padding_mask[-1, kept(length(size)) :] = True
            return x, padding_mask

        any_size = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
        padding = "`padding_mask`: bool [B, L], true where `x` is padding (all false: there is none)"
        return cls(f"`x`: {described}; {padding}", make, (any_size, any_size))
