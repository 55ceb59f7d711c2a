"""Tiny parts without a modality: tokens go in as tokens."""

from collections.abc import Callable
from typing import Any

import encoders
import pytest
import torch
from torch import Tensor, nn

from d2v.model.encoder import Encoder
from d2v.model.front_end import FrontEnd
from d2v.model.masked_input import DropMasked, ReplaceMasked
from d2v.nn.positional import ConvPositions
from d2v.nn.transformer import Transformer
from d2v.types import Batch, TokenSequence

WIDTH = 16


class Project(nn.Module):
    """A feature extractor of vectors [B, N, D], with a buffer (that no state dict holds) and a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(WIDTH, WIDTH)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> TokenSequence:
        return TokenSequence(self.proj(x), (x.shape[1],), padding_mask)


def perturb(module: nn.Module) -> None:
    """Move every trainable parameter off its initial value: zeros and ones hide mistakes."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)


@pytest.fixture
def token_encoder() -> Callable[..., Encoder]:
    """Makes an encoder of vectors."""

    def make(masked_input: str = "drop", mixing: bool = False, num_cls: int = 0, **transformer: Any) -> Encoder:
        torch.manual_seed(0)
        hidden = DropMasked() if masked_input == "drop" else ReplaceMasked(WIDTH)
        positions = ConvPositions(WIDTH, 1, 5, 2) if mixing else None
        prenet_depth = transformer.pop("prenet_depth", 0)
        encoder = Encoder(
            lambda trunk: FrontEnd(
                trunk, Project(), hidden, positions=positions, num_cls=num_cls, prenet_depth=prenet_depth
            ),
            Transformer(WIDTH, 2, 2, **transformer),
        )
        perturb(encoder)
        return encoder.eval()

    return make


@pytest.fixture
def vision_encoder() -> Callable[..., Encoder]:
    """Makes a small encoder of pictures of 6 x 6 patches of 4 pixels."""

    def make(**changes: Any) -> Encoder:
        torch.manual_seed(0)
        encoder = encoders.vision_encoder(
            **{"image_size": 24, "patch_size": 4, "width": WIDTH, "depth": 2, "num_heads": 2, **changes}
        )
        perturb(encoder)
        return encoder.eval()

    return make


@pytest.fixture
def picture_batch() -> Callable[..., Batch]:
    def make(size: int = 4, side: int = 24) -> Batch:
        generator = torch.Generator().manual_seed(2)
        pixels = torch.randn(size, 3, side, side, generator=generator)
        return Batch(pixels, torch.arange(size), torch.zeros(size, dtype=torch.long))

    return make
