"""The Transformer block: self-attention and a feed-forward network, in both orders of norm and residual."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from d2v.nn.autocast import autocast_dtype
from d2v.nn.dropout import Dropout, kept
from d2v.nn.layer_norm import LayerNorm


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
        if num_heads < 1 or width % num_heads:
            raise ValueError(f"width {width} is not a multiple of num_heads {num_heads}")
        self.num_heads = num_heads
        self.dropout = Dropout(dropout).p  # which says what is no probability
        self.qkv = nn.Linear(width, 3 * width, bias=key_bias)
        if not key_bias:
            self.query_bias = nn.Parameter(torch.zeros(width))
            self.value_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "b t d"], bias: Float[Tensor, "#b #h #t t"] | None = None
    ) -> Float[Tensor, "b t d"]:
        """Attend; ``bias`` is added to the scores before the softmax (-inf hides a key); see :func:`attention_bias`."""
        batch, length, width = x.shape
        qkv_bias = self.qkv.bias
        if qkv_bias is None:
            qkv_bias = torch.cat([self.query_bias, torch.zeros_like(self.query_bias), self.value_bias])
        qkv = F.linear(x, self.qkv.weight, qkv_bias)  # [B, T, 3D]
        q, k, v = qkv.view(batch, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)  # 3 x [B, H, T, D/H]
        dropout = self.dropout if self.training else 0.0
        if dropout and x.device.type == "cpu" and not torch.compiler.is_compiling():
            x = _attend_on_cpu(q, k, v, bias, dropout)
        else:
            x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
        return self.proj(x.transpose(1, 2).reshape(batch, length, width))


def _attend_on_cpu(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float) -> Float[Tensor, "b h t d"]:
    """Attention with dropout: torch has the plain formula for it on a CPU, and this takes fewer passes."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if bias is None:
        weights = scores.softmax(-1)
    else:
        weights = torch.ops.aten._safe_softmax(scores.add_(bias), -1)  # 0 where all keys are hidden
    return (weights * kept(weights, dropout)) @ v


class BlockOutput(NamedTuple):
    """The two places that data2vec takes targets from (1.0, table 5); a tuple, in which FSDP finds the tensors."""

    ffn: Float[Tensor, "b t d"]
    """Feed-forward output (LayerScale applied), before the residual."""
    end: Float[Tensor, "b t d"]
    """End of the block: what the next block reads."""


class LayerScale(nn.Module):
    """Learned scale of each channel of a residual branch (CaiT, section 2.1)."""

    def __init__(self, width: int, init: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), init))

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        return x * self.gamma


class FeedForward(nn.Sequential):
    """Linear, GELU with dropout, Linear, dropout."""

    def __init__(self, width: int, hidden: int, dropout: float, activation_dropout: float) -> None:
        activation: nn.Module = nn.GELU()
        if activation_dropout > 0:
            activation = nn.Sequential(activation, Dropout(activation_dropout))
        super().__init__(nn.Linear(width, hidden), activation, nn.Linear(hidden, width), Dropout(dropout))


class Block(nn.Module):
    """Self-attention and feed-forward network, each with a residual.

    Args:
        width: D.
        num_heads: H.
        norm_first: Pre-norm (data2vec 1.0 vision) or post-norm (speech, text and everything of 2.0).
        mlp_ratio: Hidden width of the feed-forward network over D.
        eps: Of both layer norms.
        key_bias: See :class:`SelfAttention`.
        layer_scale: Initial LayerScale; None leaves LayerScale out.
        dropout: Dropout of the output of attention and of the feed-forward network.
        attention_dropout: Dropout of the attention weights.
        activation_dropout: Dropout inside the feed-forward network.

    Stochastic depth is set by :func:`spread_drop_path`, which knows how many blocks an input passes.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        norm_first: bool,
        mlp_ratio: float = 4.0,
        eps: float = 1e-6,
        key_bias: bool = True,
        layer_scale: float | None = None,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        activation_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.norm1 = LayerNorm(width, eps=eps)
        self.attention = SelfAttention(width, num_heads, key_bias=key_bias, dropout=attention_dropout)
        self.norm2 = LayerNorm(width, eps=eps)
        hidden = int(width * mlp_ratio)
        if hidden < 1:
            raise ValueError(f"mlp_ratio {mlp_ratio} leaves nothing of width {width}: set it to 4, as is usual")
        self.mlp = FeedForward(width, hidden, dropout, activation_dropout)
        self.scale1: nn.Module = nn.Identity()
        self.scale2: nn.Module = nn.Identity()
        if layer_scale is not None:
            self.scale1, self.scale2 = LayerScale(width, layer_scale), LayerScale(width, layer_scale)
        self.dropout = Dropout(dropout)
        self.drop_path: nn.Module = nn.Identity()

    def forward(self, x: Float[Tensor, "b t d"], bias: Float[Tensor, "#b #h #t t"] | None = None) -> BlockOutput:
        if self.norm_first:
            x = x + self.drop_path(self.scale1(self.dropout(self.attention(self.norm1(x), bias))))
            ffn = self.drop_path(self.scale2(self.mlp(self.norm2(x))))
            return BlockOutput(ffn=ffn, end=x + ffn)
        x = self.norm1(x + self.drop_path(self.scale1(self.dropout(self.attention(x, bias)))))
        ffn = self.scale2(self.mlp(x))
        return BlockOutput(ffn=ffn, end=self.norm2(x + self.drop_path(ffn)))


_ALIGNED = 8  # entries: 16 bytes of bf16, what the fused kernels read at once


def attention_bias(bias: Float[Tensor, "l #b #h #t t"] | None, x: Float[Tensor, "b t d"]) -> Tensor | None:
    """The bias as fused attention wants it, made once for all blocks that ``x`` passes.

    It has the type of the scores, neighbouring keys lie side by side, and each row begins at an aligned address; a bias
    that is anything else sends a GPU to the plain formula, in fp32.
    """
    if bias is None:
        return None
    bias, length = bias.to(autocast_dtype(x)), bias.shape[-1]
    if torch.compiler.is_exporting():  # a program for any length, which nothing may be asked of
        return bias
    return F.pad(bias, (0, -length % _ALIGNED)).contiguous()[..., :length]


class DropPath(nn.Module):
    """Lets samples skip a residual branch (stochastic depth, arXiv 1603.09382): their branch is 0 and the others' is
    divided by the share that is left.

    Args:
        rate: Probability that a sample skips it, below 1.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        # A tensor, so that one compiled block serves all rates.
        self.register_buffer("left", torch.tensor(1 - rate), persistent=False)
        self.left: Tensor

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        if not self.training:
            return x
        stays = torch.rand(len(x), 1, 1, device=x.device) < self.left
        return x * (stays / self.left).to(x.dtype)


def spread_drop_path(blocks: Sequence[Block], last_rate: float) -> None:
    """Let samples skip residual branches (stochastic depth) with a probability that grows linearly over the blocks.

    Args:
        blocks: All that an input passes, in order; changed in place.
        last_rate: Probability in the last of them; the first has 0.
    """
    rates = torch.linspace(0, last_rate, len(blocks), device="cpu").tolist()  # also if the blocks are on meta
    for block, rate in zip(blocks, rates, strict=True):
        # Also with a rate of 0 in the first, so that all are of one structure and are compiled once.
        block.drop_path = DropPath(rate) if last_rate > 0 else nn.Identity()
