"""What the student must predict: normalised, averaged outputs of the teacher's top blocks (1.0, section 3.3)."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from d2v.types import EncoderOutput

Norm = Literal["layer", "instance"]


class TopKTargets(nn.Module):
    """Mean of the normalised outputs of the top K blocks, in fp32.

    Args:
        top_k: K, how many of the last blocks are averaged.
        source: Feed-forward output before the residual ("ffn"), or end of the block ("end"); 1.0, table 5.
        layer_norm: Norm of each block's output before the mean: over the features of a token ("layer"), or of each
            feature over the tokens of a sample ("instance"). Neither has parameters.
        mean_norm: Norm of the mean; None: none.
    """

    def __init__(
        self,
        top_k: int,
        source: Literal["ffn", "end"] = "ffn",
        layer_norm: Norm | None = "instance",
        mean_norm: Norm | None = None,
    ) -> None:
        super().__init__()
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, not {top_k}")
        self.top_k = top_k
        self.source = source
        self.layer_norm = layer_norm
        self.mean_norm = mean_norm

    @torch.no_grad()
    def forward(self, teacher: EncoderOutput) -> Float[Tensor, "b n d"]:
        """Targets of all tokens.

        Raises:
            ValueError: The teacher has fewer than ``top_k`` blocks.
        """
        layers = teacher.ffn_outputs if self.source == "ffn" else teacher.layers
        if len(layers) < self.top_k:
            raise ValueError(f"targets.top_k is {self.top_k}, but the teacher has only {len(layers)} blocks")
        mean = torch.zeros_like(layers[-1], dtype=torch.float32)
        for layer in layers[-self.top_k :]:
            mean += normalise(layer.float(), self.layer_norm, teacher.padding_mask)
        return normalise(mean / self.top_k, self.mean_norm, teacher.padding_mask)


def normalise(
    x: Float[Tensor, "b n d"], norm: Norm | None, padding_mask: Bool[Tensor, "b n"] | None
) -> Float[Tensor, "b n d"]:
    """Zero mean and unit variance, over features or over a sample's tokens that are no padding."""
    if norm is None:
        return x
    if norm == "layer":
        return F.layer_norm(x, x.shape[-1:])
    if padding_mask is None:
        return F.instance_norm(x.transpose(1, 2)).transpose(1, 2)
    valid = (~padding_mask)[..., None].to(x.dtype)  # [B, N, 1]
    count = valid.sum(dim=1, keepdim=True)
    centred = (x - (x * valid).sum(dim=1, keepdim=True) / count) * valid
    return centred * torch.rsqrt(centred.square().sum(dim=1, keepdim=True) / count + 1e-5)  # F.instance_norm's eps
