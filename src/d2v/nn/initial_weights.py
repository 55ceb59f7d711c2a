"""What weights are before the first step: each part draws its own, as the official code of its recipe does."""

from typing import Literal

import torch
from torch import Tensor, nn

WeightInit = Literal["torch", "bert", "beit"]
"""torch: as torch's layers start by themselves. bert: N(0, 0.02) for linear layers and embeddings, zero for biases
(fairseq ``init_bert_params``). beit: the same cut at one deviation, which leaves 0.0108 of it, and for patches too
(data2vec_vision ``modeling_cyclical.py``, ``trunc_normal_``)."""


def init_weights(module: nn.Module, how: WeightInit, std: float = 0.02) -> None:
    """Draw the weights of all linear layers and embeddings of a module, of patches too if ``how`` is beit.

    Args:
        module: Changed in place.
        how: See :data:`WeightInit`.
        std: In place of 0.02.
    """
    if how == "torch":
        return
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding) or (how == "beit" and isinstance(part, nn.Conv2d)):
            draw(part.weight, how, std)
            if not isinstance(part, nn.Embedding) and part.bias is not None:
                nn.init.zeros_(part.bias)


@torch.no_grad()
def draw(values: Tensor, how: Literal["bert", "beit"] = "bert", std: float = 0.02) -> Tensor:
    """New values of a parameter, in place."""
    if how == "bert":
        return values.normal_(std=std)
    # By the inverse of the distribution: torch's `trunc_normal_` draws until none is outside, 16 s for a ViT-B.
    within = 0.6826894921370859  # share of a normal within one deviation
    return values.uniform_(-within, within).erfinv_().mul_(2**0.5 * std).clamp_(-std, std)
