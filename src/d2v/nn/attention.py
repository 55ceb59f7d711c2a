"""Multi-head self-attention on torch's fused kernels."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class SelfAttention(nn.Module):
    """Softmax attention of each token to all others of its row.

    Args:
        width: D, a multiple of ``num_heads``.
        num_heads: H.
        key_bias: Whether keys have a bias. It never changes the softmax; BEiT and data2vec 1.0 vision leave it out,
            so their checkpoints hold one vector for queries and one for values.
        dropout: Dropout of the attention weights.
    """

    def __init__(self, width: int, num_heads: int, *, key_bias: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"width {width} is not a multiple of num_heads {num_heads}")
        self.num_heads = num_heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width, bias=key_bias)
        if not key_bias:
            self.query_bias = nn.Parameter(torch.zeros(width))
            self.value_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "b t d"], bias: Float[Tensor, "#b #h #t t"] | None = None
    ) -> Float[Tensor, "b t d"]:
        """Attend; ``bias`` is added to the scores before the softmax (-inf hides a key)."""
        batch, length, width = x.shape
        qkv = F.linear(x, self.qkv.weight, self._qkv_bias())  # [B, T, 3D]
        q, k, v = qkv.view(batch, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)  # 3 x [B, H, T, D/H]
        x = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=None if bias is None else bias.to(q.dtype),
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.proj(x.transpose(1, 2).reshape(batch, length, width))

    def _qkv_bias(self) -> Tensor:
        if self.qkv.bias is not None:
            return self.qkv.bias
        return torch.cat([self.query_bias, torch.zeros_like(self.query_bias), self.value_bias])
