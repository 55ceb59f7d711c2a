"""What a front end of somebody's own can get wrong, and what it remembers."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from d2v.model.encoder import Encoder
from d2v.model.front_end import FrontEnd
from d2v.model.masked_input import DropMasked
from d2v.nn.positional import RelativePositionBias
from d2v.nn.transformer import Transformer
from d2v.types import TokenSequence


class Vectors(nn.Module):
    def __init__(self, width: int, result: Any = None) -> None:
        super().__init__()
        self.proj = nn.Linear(4, width)
        self.result = result

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Any:
        tokens = self.proj(x)
        return tokens if self.result == "tensor" else TokenSequence(tokens, (x.shape[1],))


class Own(FrontEnd):
    def __init__(self, trunk: Transformer, scale: float = 1.0, **more: Any) -> None:
        super().__init__(trunk, Vectors(more.pop("width", trunk.width), more.pop("result", None)), DropMasked(), **more)


def own(**arguments: Any) -> Encoder:
    return Encoder(lambda trunk: Own(trunk, **arguments), Transformer(8, 2, 2))


def test_arguments_that_are_handed_on_are_remembered() -> None:
    encoder = own(scale=2.0, num_cls=1, prenet_depth=1)
    assert encoder.recipe["front"]["init_args"] == {"scale": 2.0, "num_cls": 1, "prenet_depth": 1}


def test_what_a_checkpoint_could_not_hold_is_refused() -> None:
    with pytest.raises(TypeError, match="scale is a float64; a checkpoint can hold plain values only"):
        own(scale=np.float64(0.5))


def test_a_wrong_extractor_is_named() -> None:
    with pytest.raises(TypeError, match="Vectors returned a Tensor; it must return a TokenSequence"):
        own(result="tensor")(torch.randn(1, 3, 4))
    with pytest.raises(ValueError, match=r"Vectors returned tokens \[1, 3, 6\]; they must be \[batch, tokens, 8\]"):
        own(width=6)(torch.randn(1, 3, 4))


@pytest.mark.parametrize(("prenet_depth", "num_tables", "fits"), [(1, 2, False), (1, 3, True), (0, 1, True)])
def test_bias_tables_are_one_or_as_many_as_blocks(prenet_depth: int, num_tables: int, fits: bool) -> None:
    encoder = own(prenet_depth=prenet_depth)
    encoder.front.attention_bias = RelativePositionBias((1, 3), 2, num_tables)
    sequence = TokenSequence(torch.randn(1, 3, 8), (1, 3))
    if fits:
        assert encoder.encode(sequence).tokens.shape == (1, 3, 8)
    else:
        with pytest.raises(ValueError, match="attention_bias has 2 tables for 3 blocks, prenet included"):
            encoder.encode(sequence)
