"""A layer norm that does not leave the type of autocast."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from d2v.nn.autocast import autocast_dtype


class LayerNorm(nn.LayerNorm):
    """The same numbers as torch's, and under bf16 autocast bf16 in and out, where autocast on a GPU would take fp32.

    Mean and variance are computed in fp32 by torch's kernel either way; what is rounded is what the matrix product
    behind the norm would round. In post-norm blocks the sums of the residuals are then bf16, too (half the memory and
    traffic); in pre-norm blocks they have the type of what comes in. In fp16, whose range is narrow, nothing changes.
    """

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        dtype = autocast_dtype(x)
        if dtype != torch.bfloat16:
            return super().forward(x)
        weight: Tensor | None = self.weight
        bias: Tensor | None = self.bias
        if weight is not None:
            weight = weight.to(dtype)
        if bias is not None:
            bias = bias.to(dtype)
        with torch.autocast(x.device.type, enabled=False):
            return F.layer_norm(x.to(dtype), self.normalized_shape, weight, bias, self.eps)
